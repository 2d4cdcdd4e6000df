from pathlib import Path

import pytest

from monai_lgg.clinical import CLUSTERS, match_patients, read_clinical

TWO = ("RNASeqCluster", "CNCluster")


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_columns_in_any_order_and_blank_cells(tmp_path):
    table = write(
        tmp_path / "data.csv",
        "CNCluster,gender,Patient,RNASeqCluster",
        "3,2,TCGA_CS_4941,2",
        ",1, TCGA_CS_4942 ,NA",
        "",
        "1.0,1,TCGA_CS_4943,R2",
    )

    assert read_clinical(table, TWO) == {
        "TCGA_CS_4941": {"RNASeqCluster": "2", "CNCluster": "3"},
        "TCGA_CS_4942": {"RNASeqCluster": "", "CNCluster": ""},
        "TCGA_CS_4943": {"RNASeqCluster": "R2", "CNCluster": "1"},
    }


def test_byte_order_mark_and_windows_lines(tmp_path):
    table = tmp_path / "data.csv"
    table.write_bytes(b"\xef\xbb\xbfPatient,CNCluster\r\na,1\r\n")

    assert read_clinical(table, ("CNCluster",)) == {"a": {"CNCluster": "1"}}


def test_all_clusters_are_needed_by_default(tmp_path):
    table = write(tmp_path / "data.csv", "Patient,RNASeqCluster,CNCluster", "a,1,2")

    with pytest.raises(ValueError, match="no column MethylationCluster, miRNACluster, RPPACluster, Onco") as error:
        read_clinical(table)
    assert "its header is Patient, RNASeqCluster, CNCluster." in str(error.value)
    assert len(CLUSTERS) == 7


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["patient_id,RNASeqCluster,CNCluster", "a,1,2"], "no column Patient; its header is patient_id"),
        (["Patient;RNASeqCluster;CNCluster", "a;1;2"], "no column Patient, RNASeqCluster, CNCluster.*comma-separated"),
        (["Patient,CNCluster,RNASeqCluster,CNCluster", "a,1,2,3"], "column CNCluster is there twice"),
        (["Patient,RNASeqCluster,CNCluster", "a,1,2", "b,1", "c,2,2"], "line 3: 2 cells, the header has 3"),
        (["Patient,RNASeqCluster,CNCluster", "a,1,2", "b,1,1", "a,1,2"], "line 4: patient a has a row already"),
        (["Patient,RNASeqCluster,CNCluster", "a,1,2", ",1,1"], "line 3: no patient id"),
        (["Patient,RNASeqCluster,CNCluster"], "has a header and no rows"),
        (['{"patients": 81}'], "no column Patient.*its header is {.patients.: 81}"),
        (["Patient,RNASeqCluster,CNCluster", 'a,"1"x,2'], "not a CSV text file"),
        ([""], "its header is empty"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, lines, message):
    table = write(tmp_path / "data.csv", *lines)

    with pytest.raises(ValueError, match=message):
        read_clinical(table, TWO)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff", b"II*\0\x08\0\0\0", "Patient".encode("utf-16")])
def test_files_that_are_no_text(tmp_path, content):
    (tmp_path / "data.csv").write_bytes(content)

    with pytest.raises(ValueError, match=r"data.csv: not a CSV text file .*save the table as CSV"):
        read_clinical(tmp_path / "data.csv")


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.csv does not exist"):
        read_clinical(tmp_path / "absent.csv")
    with pytest.raises(FileNotFoundError, match=r"is no file; give the data.csv"):
        read_clinical(tmp_path)


def test_rows_are_found_with_and_without_the_date():
    rows = {"TCGA_CS_4941": {"x": "1"}, "TCGA_CS_4942_19970222": {"x": "2"}, "TCGA_CS_5": {"x": "3"}}
    folders = ["TCGA_CS_4941_19960909", "TCGA_CS_4942_19970222", "TCGA_CS_49_19990101", "TCGA_DU_0000_19990101"]

    matched = match_patients(rows, folders)
    assert matched.rows == {"TCGA_CS_4941_19960909": {"x": "1"}, "TCGA_CS_4942_19970222": {"x": "2"}}
    assert matched.without_row == ("TCGA_CS_49_19990101", "TCGA_DU_0000_19990101")
    assert matched.without_masks == ("TCGA_CS_5",)


def test_the_longest_id_wins():
    matched = match_patients({"a": {"x": "short"}, "a_b": {"x": "long"}}, ["a_b_1999"])

    assert matched.rows == {"a_b_1999": {"x": "long"}}
    assert matched.without_masks == ("a",)


def test_nobody_has_a_row():
    with pytest.raises(ValueError, match=r"none of the 2 patients \(a_1, b_1\) has a row .*\(TCGA-CS-4941\)"):
        match_patients({"TCGA-CS-4941": {}}, ["a_1", "b_1"])


def test_two_folders_for_one_row():
    with pytest.raises(ValueError, match="a_1996, a_1997: all fit the row of a; keep one"):
        match_patients({"a": {}}, ["a_1996", "a_1997"])
