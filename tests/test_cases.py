from pathlib import Path

import numpy as np
import pytest
import tifffile

from monai_lgg.cases import (
    Patient,
    Slice,
    data_root,
    institution_of,
    intensity_range,
    parse_slice_name,
    patient_folders,
    read_labels,
    read_patient,
    read_patients,
    slice_records,
    volume_ranges,
    volume_records,
)


def write_slices(folder: Path, numbers: list[int], masks: bool = True) -> Path:
    """4x3 px slices; the mask of slice n has n % 3 tumour pixels in its first row."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        tifffile.imwrite(folder / f"{folder.name}_{number}.tif", np.full((4, 3, 3), number, np.uint8))
        mask = np.zeros((4, 3), np.uint8)
        mask[0, : number % 3] = 255
        if masks:
            tifffile.imwrite(folder / f"{folder.name}_{number}_mask.tif", mask)
    return folder


def test_ranges_are_of_the_three_sequences_that_the_network_gets(tmp_path):
    """FLAIR's where FLAIR stands in: for a contrast sequence of one grey, and where there is nothing else."""
    rng = np.random.default_rng(0)
    for name, channels in (("grey", 1), ("missing", 3)):
        (tmp_path / name).mkdir()
        for number in (1, 2):
            pixels = rng.integers(0, 200, (8, 8, channels), dtype=np.uint8)
            if channels == 3:
                pixels[..., 0] = 0
            tifffile.imwrite(tmp_path / name / f"{name}_{number}.tif", pixels.squeeze())
    grey = volume_ranges(read_patient(tmp_path / "grey"))
    assert grey == [grey[0]] * 3
    pre, flair, post = volume_ranges(read_patient(tmp_path / "missing"))
    assert pre == flair != post


def test_a_folder_that_may_not_be_listed_is_told(tmp_path, monkeypatch):
    for name in ("p", "q"):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / f"{name}_1.tif", np.zeros((4, 3), np.uint8))
    listing = Path.iterdir

    def refused(path):
        if path.name == "q":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    assert [folder.name for folder in patient_folders(tmp_path)] == ["p", "q"]
    with pytest.raises(PermissionError, match="q"):
        read_patient(tmp_path / "q")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TCGA_DU_5849_19950405_7.tif", ("TCGA_DU_5849_19950405", 7, False)),
        ("TCGA_DU_5849_19950405_7_mask.tif", ("TCGA_DU_5849_19950405", 7, True)),
        ("p_012.TIFF", ("p", 12, False)),
        ("a\nb_1.tif", ("a\nb", 1, False)),
        ("p_1.tif\n", None),
        ("p.tif", None),
        ("p_x.tif", None),
        ("p_1.png", None),
        ("p_1_seg.tif", None),
    ],
)
def test_slice_name(name, expected):
    assert parse_slice_name(name) == expected


@pytest.mark.parametrize(
    ("patient", "institution"),
    [("TCGA_DU_5849_19950405", "DU"), ("patient_7", "unknown"), ("A_DU_5849_1995", "unknown")],
)
def test_institution(patient, institution):
    assert institution_of(patient) == institution
    assert Patient(patient, ()).institution == institution


def test_data_root_may_hold_the_public_folder(tmp_path):
    assert data_root(tmp_path) == tmp_path
    (tmp_path / "kaggle_3m").mkdir()
    assert data_root(tmp_path) == tmp_path / "kaggle_3m"
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        data_root(tmp_path / "absent")


def test_slices_are_in_numeric_order(tmp_path):
    patient = read_patient(write_slices(tmp_path / "p", [10, 2, 1]))

    assert [item.number for item in patient.slices] == [1, 2, 10]
    assert patient.slices[2].label == tmp_path / "p" / "p_10_mask.tif"
    assert patient.has_labels


def test_patient_without_masks(tmp_path):
    patient = read_patient(write_slices(tmp_path / "p", [1, 2], masks=False))

    assert not patient.has_labels
    assert patient.slices[0].label is None
    assert volume_records([patient], labels=False)[0]["slices"] == ["1", "2"]
    with pytest.raises(ValueError, match=r"p: slice 1 has no mask \(p_1_mask.tif\); add it"):
        slice_records([patient])
    with pytest.raises(ValueError, match="p: slice 1 has no mask"):
        volume_records([patient])


def test_hidden_and_foreign_kinds_of_files_are_passed_over(tmp_path):
    folder = write_slices(tmp_path / "p", [1])
    (folder / "._p_2.tif").write_bytes(b"")
    (folder / "notes.txt").write_text("")

    assert [item.number for item in read_patient(folder).slices] == [1]


def test_file_of_another_patient(tmp_path):
    folder = write_slices(tmp_path / "p", [1])
    (folder / "q_2.tif").write_bytes(b"")

    with pytest.raises(ValueError, match="file of patient q in the folder of p; move it"):
        read_patient(folder)


@pytest.mark.parametrize("other", ["p_01.tif", "p_1.tiff", "p_01_mask.tif"])
def test_slice_number_used_twice(tmp_path, other):
    folder = write_slices(tmp_path / "p", [1])
    (folder / other).write_bytes(b"")

    with pytest.raises(ValueError, match="slice number 1 is used twice"):
        read_patient(folder)


def test_folder_without_images(tmp_path):
    folder = write_slices(tmp_path / "p", [1])
    (folder / "p_1.tif").unlink()

    with pytest.raises(ValueError, match=r"no slices named p_<number>\.tif; check the layout"):
        read_patient(folder)


def test_patients_are_sorted_and_can_be_chosen(tmp_path):
    for name in ("c", "a", "b"):
        write_slices(tmp_path / name, [1])
    (tmp_path / "notes").mkdir()
    (tmp_path / ".cache").mkdir()

    assert [folder.name for folder in patient_folders(tmp_path)] == ["a", "b", "c"]
    assert [patient.name for patient in read_patients(tmp_path)] == ["a", "b", "c"]
    assert [patient.name for patient in read_patients(tmp_path, ["c", "a"])] == ["c", "a"]
    with pytest.raises(ValueError, match=r"no folder for 2 patient\(s\), first x"):
        read_patients(tmp_path, ["x", "a", "y"])


def test_no_patients(tmp_path):
    with pytest.raises(ValueError, match="no patient folders in the layout"):
        read_patients(tmp_path)


def test_records(tmp_path):
    patients = [read_patient(write_slices(tmp_path / name, [1, 2, 3])) for name in ("p", "q")]
    numbers = {"p": [1, 3]}

    records = slice_records(patients, numbers)
    assert [(record["patient"], record["slice"]) for record in records] == [("p", 1), ("p", 3)]
    assert records[1]["image"] == str(tmp_path / "p" / "p_3.tif")
    assert records[1]["label"] == str(tmp_path / "p" / "p_3_mask.tif")
    assert len(slice_records(patients)) == 6

    (volume,) = volume_records(patients, numbers)
    assert (volume["case"], volume["slices"]) == ("p", ["1", "3"])
    assert volume["label"] == [record["label"] for record in records]
    assert [record["case"] for record in volume_records(patients)] == ["p", "q"]


def test_labels_are_a_volume(tmp_path):
    labels = read_labels(read_patient(write_slices(tmp_path / "p", [1, 2, 3])))

    assert (labels.shape, labels.dtype) == ((4, 3, 3), bool)
    assert labels.sum(axis=(0, 1)).tolist() == [1, 2, 0]


def test_labels_of_two_sizes(tmp_path):
    folder = write_slices(tmp_path / "p", [1, 2])
    tifffile.imwrite(folder / "p_2_mask.tif", np.zeros((5, 3), np.uint8))

    with pytest.raises(ValueError, match=r"p: masks have the shapes \[\(4, 3\), \(5, 3\)\]"):
        read_labels(read_patient(folder))


def test_label_missing():
    with pytest.raises(ValueError, match="p: slice 1 has no mask"):
        read_labels(Patient("p", (Slice(1, Path("p_1.tif"), None),)))


@pytest.mark.parametrize("seed", range(4))
def test_intensity_range_of_bytes_equals_that_of_the_same_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    channel = (rng.gamma(2.0, 20, (13, 17, 5)) * (rng.random((13, 17, 5)) < 0.6)).clip(0, 255).astype(np.uint8)
    assert intensity_range(channel) == pytest.approx(intensity_range(channel.astype(np.float32)), rel=1e-6)


@pytest.mark.parametrize("value", [0, 7])
def test_intensity_range_of_constant_bytes(value: int) -> None:
    assert intensity_range(np.full((2, 3, 4), value, np.uint8)) == (value, value)


def noisy_scan(offset: float, noise: float) -> np.ndarray:
    """Half air, a third dark tissue of 100 and bright tissue of 700, over an offset."""
    clean = np.repeat([0.0, 100.0, 700.0], [5000, 4000, 1000])
    return clean + offset + np.random.default_rng(0).normal(0, noise, clean.shape)


def test_noise_in_the_air_is_no_head() -> None:
    """Tissue's median is 100 above the air; the minimum of the noise lies 35 below it."""
    low, high = intensity_range(noisy_scan(200, 10))
    assert low == pytest.approx(200, abs=10)
    assert (high - low) / 3 == pytest.approx(100, rel=0.15)


def test_a_head_that_fills_the_field_of_view_has_its_minimum_as_background() -> None:
    values = np.linspace(50, 150, 1001)
    assert intensity_range(values)[0] == 50
