from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from monai_lgg import phantom
from monai_lgg.phantom import PhantomPatient, make_patient, write_patients

HEADER = (
    "Patient,RNASeqCluster,MethylationCluster,miRNACluster,CNCluster,RPPACluster,OncosignCluster,COCCluster,"
    "histological_type,neoplasm_histologic_grade,tumor_tissue_site,laterality,tumor_location,gender,"
    "age_at_initial_pathologic,race,ethnicity,death01"
)
FLAIR = 1


@pytest.fixture(scope="module")
def cohort() -> list[PhantomPatient]:
    return [make_patient(index, size=(128, 128)) for index in range(12)]


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def head_of(patient: PhantomPatient, number: int) -> np.ndarray:
    """Filled outline of the head in one slice."""
    return ndimage.binary_fill_holes(patient.image[number, ..., FLAIR] > 40)


def test_written_layout_is_the_public_one(tmp_path):
    names = write_patients(tmp_path / "kaggle_3m", 2, size=(64, 64), slices=3)

    assert names == ["TCGA_P1_0000_20000101", "TCGA_P2_0001_20000102"]
    expected = {"data.csv"}
    for name in names:
        for number in (1, 2, 3):
            expected |= {f"{name}/{name}_{number}.tif", f"{name}/{name}_{number}_mask.tif"}
    assert set(files_below(tmp_path / "kaggle_3m")) == expected
    assert {path.name for path in (tmp_path / "kaggle_3m").iterdir()} == {*names, "data.csv"}


def test_written_files_hold_the_patient(tmp_path):
    (name,) = write_patients(tmp_path, 1, seed=5, size=(64, 48), slices=4)
    patient = make_patient(0, seed=5, size=(64, 48), slices=4)

    for number in range(4):
        image = tifffile.imread(tmp_path / name / f"{name}_{number + 1}.tif")
        mask = tifffile.imread(tmp_path / name / f"{name}_{number + 1}_mask.tif")
        assert image.dtype == mask.dtype == np.uint8
        np.testing.assert_array_equal(image, patient.image[number])
        np.testing.assert_array_equal(mask, np.where(patient.mask[number], 255, 0))


def test_same_arguments_give_the_same_bytes(tmp_path):
    write_patients(tmp_path / "a", 2, seed=3, size=(64, 64), slices=5)
    write_patients(tmp_path / "b", 2, seed=3, size=(64, 64), slices=5)

    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")


def test_a_patient_does_not_depend_on_how_many_are_written(tmp_path):
    name = write_patients(tmp_path / "few", 2, size=(64, 64), slices=3)[1]
    write_patients(tmp_path / "many", 4, size=(64, 64), slices=3)

    assert files_below(tmp_path / "few" / name) == files_below(tmp_path / "many" / name)
    few = (tmp_path / "few" / "data.csv").read_text().splitlines()
    assert (tmp_path / "many" / "data.csv").read_text().splitlines()[:3] == few


def test_seed_and_index_change_the_pixels():
    reference = make_patient(0, size=(64, 64), slices=2).image

    assert not np.array_equal(reference, make_patient(0, seed=1, size=(64, 64), slices=2).image)
    assert not np.array_equal(reference, make_patient(1, size=(64, 64), slices=2).image)


def test_finished_patients_are_kept_and_missing_ones_added(tmp_path):
    first = write_patients(tmp_path, 1, size=(64, 64), slices=2)[0]
    path = tmp_path / first / f"{first}_2.tif"
    path.write_bytes(b"kept as it is")

    names = write_patients(tmp_path, 2, size=(64, 64), slices=2)

    assert path.read_bytes() == b"kept as it is"
    assert (tmp_path / names[1]).is_dir()


def test_an_interrupted_patient_leaves_no_folder(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(phantom.tifffile, "imwrite", fail)
        with pytest.raises(OSError, match="disk full"):
            write_patients(tmp_path, 1, size=(64, 64), slices=2)
    assert list(tmp_path.iterdir()) == []

    write_patients(tmp_path, 1, size=(64, 64), slices=2)
    assert len(files_below(tmp_path)) == 5


def test_other_arguments_for_an_existing_patient_are_refused(tmp_path):
    write_patients(tmp_path, 1, size=(64, 64), slices=2)

    with pytest.raises(ValueError, match=r"seed 0.*must be.*seed 1.*choose another folder"):
        write_patients(tmp_path, 1, seed=1, size=(64, 64), slices=2)


def test_a_real_cohort_is_never_overwritten(tmp_path):
    (tmp_path / "data.csv").write_text(f"{HEADER}\nTCGA_CS_4941{',1' * 17}\n")

    with pytest.raises(ValueError, match=r"TCGA_CS_4941.*choose an empty folder"):
        write_patients(tmp_path, 1, size=(64, 64), slices=2)
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


def test_table_has_one_plausible_row_for_each_patient(tmp_path):
    names = write_patients(tmp_path, 12, size=(32, 32), slices=1)
    text = (tmp_path / "data.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))

    assert text.splitlines()[0] == HEADER
    assert [row["Patient"] for row in rows] == [name.rsplit("_", 1)[0] for name in names]
    assert all(20 <= int(row["age_at_initial_pathologic"]) <= 75 for row in rows)
    assert 1 <= sum(value == "" for row in rows for value in row.values()) <= 24


@pytest.mark.parametrize(
    ("size", "slices"), [((300, 200), 2), ((64, 64), 3), ((32, 32), 1), ((40, 90), 1), ((256, 256), 1)]
)
def test_any_size_has_image_and_tumour(size, slices):
    patient = make_patient(0, size=size, slices=slices)

    assert patient.image.shape == (slices, *size, 3)
    assert patient.image.dtype == np.uint8
    assert patient.mask.shape == (slices, *size)
    assert patient.mask.dtype == np.bool_
    assert patient.mask.any()


def test_default_number_of_slices_varies(cohort):
    counts = {len(patient.image) for patient in cohort}

    assert len(counts) > 3
    assert min(counts) >= 16
    assert max(counts) <= 28


def test_without_tumour_only_the_tumour_differs():
    with_tumour = make_patient(0, size=(64, 64), slices=16)
    without = make_patient(0, size=(64, 64), slices=16, tumour=False)

    assert not without.mask.any()
    assert without.image.shape == with_tumour.image.shape
    on = with_tumour.mask
    assert with_tumour.image[on, FLAIR].mean() > 1.3 * without.image[on, FLAIR].mean()


def test_mask_lies_inside_the_head(cohort):
    for patient in cohort:
        for number in np.flatnonzero(patient.mask.any(axis=(1, 2))):
            eroded = ndimage.binary_erosion(head_of(patient, number), iterations=3)
            assert not (patient.mask[number] & ~eroded).any(), (patient.name, number)


def test_mask_is_one_body_across_neighbouring_slices(cohort):
    for patient in cohort:
        rows = np.flatnonzero(patient.mask.any(axis=(1, 2)))
        assert ndimage.label(patient.mask)[1] == 1, patient.name
        assert len(rows) >= 2
        assert np.all(np.diff(rows) == 1)


def test_tumour_is_as_frequent_as_in_the_public_data(cohort):
    slices = [patient.mask.any(axis=(1, 2)).mean() for patient in cohort]
    pixels = [patient.mask.mean() for patient in cohort]

    assert 0.2 < np.mean(slices) < 0.45
    assert max(slices) < 0.6
    assert 0.005 < np.mean(pixels) < 0.015
    assert min(pixels) > 0.001


def test_a_threshold_on_flair_does_not_find_the_tumour(cohort):
    flair = np.concatenate([patient.image[..., FLAIR].ravel() for patient in cohort])
    truth = np.concatenate([patient.mask.ravel() for patient in cohort])
    hits = np.bincount(flair[truth], minlength=256)[::-1].cumsum()
    predicted = np.bincount(flair, minlength=256)[::-1].cumsum()

    assert (2 * hits / (predicted + truth.sum())).max() < 0.4


def test_the_tumour_is_brighter_on_flair_and_darker_before_contrast(cohort):
    for patient in cohort:
        rows = np.flatnonzero(patient.mask.any(axis=(1, 2)))
        around = ndimage.binary_dilation(patient.mask[rows], iterations=4) & ~patient.mask[rows]
        image, mask = patient.image[rows].astype(float), patient.mask[rows]
        assert image[mask, FLAIR].mean() > 1.2 * image[around, FLAIR].mean(), patient.name
        if "pre" not in patient.missing:
            assert image[mask, 0].mean() < np.median(image[around, 0]), patient.name


def test_missing_sequences_are_copies_of_flair(cohort):
    for patient in cohort:
        copies = [np.array_equal(patient.image[..., channel], patient.image[..., FLAIR]) for channel in (0, 2)]
        assert copies == ["pre" in patient.missing, "post" in patient.missing], patient.name


def test_each_sequence_is_missing_in_one_of_six(cohort):
    assert sum("pre" in patient.missing for patient in cohort) == 2
    assert sum("post" in patient.missing for patient in cohort) == 2
    assert {patient.missing for patient in cohort[:6]} == {(), ("pre",), ("post",)}
    assert cohort[9].missing == ("pre", "post")


def test_institutions_differ_in_brightness(cohort):
    means = {code: np.mean([p.image.mean() for p in cohort if p.institution == code]) for code in ("P1", "P2", "P3")}

    assert all(patient.name.split("_")[1] == patient.institution for patient in cohort)
    assert means["P1"] > 1.2 * means["P2"]
    assert means["P3"] > 1.2 * means["P2"]


def test_air_is_dark_but_noisy(cohort):
    for patient in cohort:
        corner = patient.image[:, :8, :8]
        assert 0 < corner.mean() < 16
        assert corner.std() > 0.5


def test_some_end_slices_are_nearly_black(cohort):
    black = [patient.image[end].max() < 60 for patient in cohort for end in (0, -1)]

    assert 0 < sum(black) < len(black)


def test_flips_can_be_detected(cohort):
    halves = []
    for patient in cohort:
        head = head_of(patient, len(patient.image) // 2)
        rows, columns = (np.flatnonzero(head.any(axis=axis)) for axis in (1, 0))
        middle_row, middle_column = (rows[0] + rows[-1] + 1) // 2, (columns[0] + columns[-1] + 1) // 2
        front, back = head[:middle_row], head[middle_row:]
        halves.append((front.sum(), back.sum(), back[:, :middle_column].sum(), back[:, middle_column:].sum()))
    front, back, left, right = np.mean(halves, axis=0)

    assert back > 1.02 * front
    assert left > 1.02 * right


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": -1}, "index is -1; it must be at least 0"),
        ({"index": 0, "seed": -2}, "seed is -2; it must be at least 0"),
        ({"index": 0, "size": (31, 64)}, r"size is \(31, 64\).*at least 32 px: use a larger size"),
        ({"index": 0, "slices": 0}, "slices is 0; it must be at least 1: use None"),
    ],
)
def test_bad_arguments_of_one_patient(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_patient(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patients": 0}, "patients is 0; it must be at least 1"),
        ({"patients": 1, "size": (64, 16)}, r"size is \(64, 16\).*at least 32 px"),
        ({"patients": 1, "slices": -3}, "slices is -3; it must be at least 1"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_patients(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_progress_counts_every_patient(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    for _ in range(2):  # the second time they are there already
        write_patients(tmp_path, 2, seed=1, size=(64, 64), slices=1, progress=lambda *of: seen.append(of))
    assert seen == [(1, 2), (2, 2)] * 2
