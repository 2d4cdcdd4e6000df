import json
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile

from monai_lgg.cases import Patient, Slice, institution_of, read_patients
from monai_lgg.splits import (
    PARTS,
    Split,
    count_parts,
    ensure_split,
    fingerprint,
    load_split,
    part_volumes,
    read_split,
    save_split,
    split_folds,
    split_patients,
    split_slices,
    training_slices,
)

SLICES = 3


def write_cohort(root: Path, patients: int) -> Path:
    """Two institutions of equal size; three 6x6 px slices a patient, tumour in slice 2 only, volume 1, 2, 3 ... px."""
    for index in range(patients):
        name = f"TCGA_{'AB'[index % 2] * 2}_{index:04d}_20000101"
        (root / name).mkdir(parents=True)
        for number in range(1, SLICES + 1):
            mask = np.zeros(36, np.uint8)
            if number == 2:
                mask[: index + 1] = 255
            tifffile.imwrite(root / name / f"{name}_{number}.tif", np.zeros((6, 6, 3), np.uint8))
            tifffile.imwrite(root / name / f"{name}_{number}_mask.tif", mask.reshape(6, 6))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """20 patients. Tests must not change it."""
    return write_cohort(tmp_path_factory.mktemp("cohort"), 20)


def edited(split: Split, path: Path, **changes: object) -> Path:
    save_split(split, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


@pytest.mark.parametrize(
    ("fractions", "sizes"),
    [
        ((0.7, 0.1, 0.2), (14, 2, 4)),
        ((0.6, 0.2, 0.2), (12, 4, 4)),
        ((0.8, 0.2, 0), (16, 4, 0)),
        ((1, 0, 0), (20, 0, 0)),
    ],
)
def test_fractions_are_exact_and_parts_disjoint(root, fractions, sizes):
    split = split_patients(root, fractions)
    names = [name for part in PARTS for name in split.part(part)]

    assert tuple(len(split.part(part)) for part in PARTS) == sizes
    assert len(names) == len(set(names)) == 20
    assert all(numbers == [1, 2, 3] for part in PARTS for numbers in split.part(part).values())
    assert (split.level, split.leakage) == ("patient", None)


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_stratified(root, seed):
    split = split_patients(root, (0.6, 0.2, 0.2), seed)
    test = list(split.part("test"))

    for part in PARTS:
        institutions = Counter(institution_of(name) for name in split.part(part))
        assert institutions["AA"] == institutions["BB"]
    for institution in ("AA", "BB"):  # of its two test patients one has a tumour below the median, one above
        halves = [int(name.split("_")[2]) < 10 for name in test if institution_of(name) == institution]
        assert sorted(halves) == [False, True]


def test_the_seed_decides(root):
    assert split_patients(root, seed=1) == split_patients(root, seed=1)
    assert split_patients(root, seed=1).folds != split_patients(root, seed=2).folds
    assert split_folds(root, 4, seed=1) == split_folds(root, 4, seed=1)
    assert split_folds(root, 4, seed=1).folds != split_folds(root, 4, seed=2).folds
    assert split_slices(root, seed=1) == split_slices(root, seed=1)
    assert split_slices(root, seed=1).folds != split_slices(root, seed=2).folds


@pytest.mark.parametrize("make", [split_patients, split_slices])
@pytest.mark.parametrize(
    "fractions", [(0.5, 0.5), (0.5, 0.1, 0.1), (1.2, -0.1, -0.1), (0, 0.5, 0.5), (math.nan, 0.5, 0.5)]
)
def test_bad_fractions(root, make, fractions):
    with pytest.raises(ValueError, match="give training, validation and test, none negative, training above 0, sum 1"):
        make(root, fractions)


def test_too_few_patients(tmp_path):
    write_cohort(tmp_path, 3)

    with pytest.raises(ValueError, match=r"3 patients leave none for validation at a fraction of 0\.1; add patients"):
        split_patients(tmp_path)
    with pytest.raises(ValueError, match=r"9 slices leave none for test at a fraction of 0\.01; add patients"):
        split_slices(tmp_path, (0.79, 0.2, 0.01))


@pytest.mark.parametrize("folds", [2, 3, 7, 20])
def test_each_patient_is_tested_once(root, folds):
    split = split_folds(root, folds)
    tested = Counter(name for fold in split.folds for name in fold["test"])

    assert len(tested) == 20
    assert set(tested.values()) == {1}
    sizes = [len(fold["test"]) for fold in split.folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in split.folds:
        names = [name for part in PARTS for name in fold[part]]
        assert len(names) == len(set(names)) == 20
        assert fold["validation"]


def test_folds_are_stratified(root):
    for fold in split_folds(root, 5).folds:
        assert Counter(institution_of(name) for name in fold["test"]) == {"AA": 2, "BB": 2}


def test_small_cohorts_have_validation_in_each_fold(tmp_path):
    write_cohort(tmp_path, 3)

    split = split_folds(tmp_path, 3)
    assert [[len(fold[part]) for part in PARTS] for fold in split.folds] == [[1, 1, 1]] * 3
    assert not split_folds(tmp_path, 3, validation=0).folds[0]["validation"]
    with pytest.raises(ValueError, match="2 folds of 3 patients leave none for training; add patients"):
        split_folds(tmp_path, 2)


def test_bad_folds(root):
    with pytest.raises(ValueError, match="21 folds of 20 patients; give 2 to 20"):
        split_folds(root, 21)
    with pytest.raises(ValueError, match="1 folds of 20 patients"):
        split_folds(root, 1)
    with pytest.raises(ValueError, match=r"validation share 1\.0: give 0 or more and below 1"):
        split_folds(root, 5, validation=1.0)


def test_unknown_part_and_fold(root):
    split = split_folds(root, 2)

    assert split.part("test", 1) == split.folds[1]["test"]
    with pytest.raises(ValueError, match="part 'val' is not one of train, validation, test"):
        split.part("val")
    with pytest.raises(ValueError, match="fold 2 does not exist; this split has the folds 0 to 1"):
        split.part("test", 2)


def test_slices_are_stratified_by_tumour(root):
    split = split_slices(root, (0.8, 0.1, 0.1))
    rows = {row["part"]: row for row in count_parts(split, root)}
    slices = [(name, number) for part in PARTS for name, numbers in split.part(part).items() for number in numbers]

    assert len(slices) == len(set(slices)) == 60
    assert [rows[part]["slices"] for part in PARTS] == [48, 6, 6]
    assert [rows[part]["tumour_slices"] for part in PARTS] == [16, 2, 2]
    assert split.level == "slice"
    assert split.leakage is not None


def test_slice_level_split_needs_a_test_part(root):
    with pytest.raises(ValueError, match="needs a test part"):
        split_slices(root, (0.8, 0.2, 0))


def patient_of(name: str, rows: list[str]) -> tuple[Patient, np.ndarray]:
    """A patient with one-row masks, one string a slice: '110' are three pixels, two of them tumour."""
    label = np.array([[[pixel == "1" for pixel in row] for row in rows]]).transpose(0, 2, 1)
    return Patient(name, tuple(Slice(n, Path("-"), Path("-")) for n in range(1, len(rows) + 1))), label


def test_fingerprint_depends_on_names_numbers_and_masks():
    patient, label = patient_of("p", ["10", "00"])
    other, other_label = patient_of("p", ["10", "01"])
    renamed, _ = patient_of("q", ["10", "00"])
    renumbered = Patient("p", tuple(Slice(item.number + 1, item.image, item.label) for item in patient.slices))
    prints = [
        fingerprint([patient], [label]),
        fingerprint([other], [other_label]),
        fingerprint([renamed], [label]),
        fingerprint([renumbered], [label]),
    ]

    assert len(set(prints)) == 4
    assert fingerprint([patient], [label.copy()]) == prints[0]


@pytest.mark.parametrize("make", [split_patients, split_slices, lambda root: split_folds(root, 4)])
def test_saved_split_is_the_same_split(root, tmp_path, make):
    split = make(root)
    save_split(split, tmp_path / "new" / "split.json")

    assert load_split(tmp_path / "new" / "split.json", root) == split


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"level": "patient"}', "\x00"])
def test_not_a_split_file(tmp_path, text):
    (tmp_path / "split.json").write_text(text)

    with pytest.raises(ValueError, match=r"split\.json: not a split file of monai-lgg .*; make one with 'data split'"):
        read_split(tmp_path / "split.json")


@pytest.mark.parametrize("changes", [{"level": "voxel"}, {"version": 2}, {"folds": []}, {"folds": [{"train": {}}]}])
def test_unknown_kind_of_split(root, tmp_path, changes):
    with pytest.raises(ValueError, match="not a split file of monai-lgg"):
        read_split(edited(split_patients(root), tmp_path / "split.json", **changes))


def test_unknown_patient(root, tmp_path):
    split = split_patients(root)
    split.folds[0]["train"]["TCGA_XX_0000_20000101"] = [1]
    save_split(split, tmp_path / "split.json")

    with pytest.raises(ValueError, match=r"1 patient\(s\) of the split are not below .*, first TCGA_XX_0000_20000101"):
        load_split(tmp_path / "split.json", root)


def test_unknown_slice(root, tmp_path):
    split = split_patients(root)
    name = next(iter(split.folds[0]["train"]))
    split.folds[0]["train"][name] = [1, 2, 3, 9]
    save_split(split, tmp_path / "split.json")

    with pytest.raises(ValueError, match=rf"{name} has no slices \[9\]; the file was edited, make a new split"):
        load_split(tmp_path / "split.json", root)


def test_patient_in_two_parts(root, tmp_path):
    split = split_patients(root)
    name = next(iter(split.folds[0]["train"]))
    split.folds[0]["test"][name] = [1]
    save_split(split, tmp_path / "split.json")

    with pytest.raises(ValueError, match=f"{name} is in train and in test; a patient may be in one part only"):
        read_split(tmp_path / "split.json")


def test_all_studies_of_a_person_are_in_one_part(tmp_path):
    root = write_cohort(tmp_path / "data", 12)
    for name in ("TCGA_AA_0000_20000101", "TCGA_BB_0005_20000101"):
        for twin in (name.replace("20000101", "20090909"), name.replace("TCGA", "tcga").replace("2000", "1999")):
            shutil.copytree(root / name, root / twin)
            for path in (root / twin).iterdir():
                path.rename(path.with_name(path.name.replace(name, twin)))
    for seed in range(10):
        for split in (split_patients(root, (0.4, 0.3, 0.3), seed), split_folds(root, 4, seed)):
            for fold in split.folds:
                parts = {
                    person: {part for part in PARTS for name in fold[part] if name.upper().startswith(person)}
                    for person in ("TCGA_AA_0000", "TCGA_BB_0005")
                }
                assert [len(found) for found in parts.values()] == [1, 1]
                assert sum(len(fold[part]) for part in PARTS) == 16
    with pytest.raises(ValueError, match="13 folds of 12 patients"):
        split_folds(root, 13)
    split.folds[0]["train"]["TCGA_ZZ_0000_20000101"] = split.folds[0]["test"]["tcga_zz_0000_20010101"] = [1]
    save_split(split, tmp_path / "split.json")
    with pytest.raises(ValueError, match="tcga_zz_0000_20010101 is in train and in test"):
        read_split(tmp_path / "split.json")


def test_copies_under_another_name_are_in_one_part(tmp_path, caplog):
    """Two patients have the images and masks of others; one has the masks of another, and images of its own."""
    root = write_cohort(tmp_path / "data", 12)
    rng = np.random.default_rng(0)
    for path in root.glob("*/*_[0-9].tif"):
        tifffile.imwrite(path, rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    copies = {"COPY_1": "TCGA_AA_0000_20000101", "COPY_2": "TCGA_BB_0005_20000101", "OWN": "TCGA_AA_0002_20000101"}
    for copy, name in copies.items():
        shutil.copytree(root / name, root / copy)
        for path in (root / copy).iterdir():
            path.rename(path.with_name(path.name.replace(name, copy)))
    for path in (root / "OWN").glob("*_[0-9].tif"):
        tifffile.imwrite(path, rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    together = {copy: set() for copy in copies}
    for seed in range(10):
        split = split_patients(root, (0.4, 0.3, 0.3), seed)
        for copy, name in copies.items():
            together[copy].add(len({part for part in PARTS for of in split.part(part) if of in (copy, name)}) == 1)
    assert together == {"COPY_1": {True}, "COPY_2": {True}, "OWN": {True, False}}
    assert "COPY_1 and TCGA_AA_0000_20000101 hold the same images; they stay in one part" in caplog.text

    part = next(part for part in PARTS if "COPY_1" not in split.part(part))
    for of in PARTS:
        split.folds[0][of].pop("COPY_1", None)
    split.folds[0][part]["COPY_1"] = [1, 2, 3]
    save_split(split, tmp_path / "split.json")
    with pytest.raises(ValueError, match=r"COPY_1.* but they hold the same images; make a new split"):
        load_split(tmp_path / "split.json", root)


def test_slice_in_two_parts(root, tmp_path):
    split = split_slices(root)
    name, numbers = next(iter(split.folds[0]["train"].items()))
    split.folds[0]["validation"][name] = [*split.folds[0]["validation"].get(name, []), numbers[0]]
    save_split(split, tmp_path / "split.json")

    with pytest.raises(ValueError, match="is in train and in validation; a slice may be in one part only"):
        read_split(tmp_path / "split.json")


def test_data_with_another_fingerprint(tmp_path):
    root = write_cohort(tmp_path / "data", 10)
    save_split(split_patients(root), tmp_path / "split.json")
    mask = next(root.glob("*/*_1_mask.tif"))
    tifffile.imwrite(mask, np.full((6, 6), 255, np.uint8))

    with pytest.raises(ValueError, match=r"made from other data than .* \(fingerprints differ\); make a new split"):
        load_split(tmp_path / "split.json", root)


def test_more_patients_than_in_the_split(tmp_path):
    root = write_cohort(tmp_path / "data", 10)
    save_split(split_patients(root), tmp_path / "split.json")
    write_cohort(tmp_path / "more", 11)
    (extra,) = {path.name for path in (tmp_path / "more").iterdir()} - {path.name for path in root.iterdir()}
    (tmp_path / "more" / extra).rename(root / extra)

    with pytest.raises(ValueError, match="fingerprints differ"):
        load_split(tmp_path / "split.json", root)


def test_ensure_split_makes_one_and_keeps_it(root, tmp_path):
    path = tmp_path / "run" / "split.json"
    made = ensure_split(root, path, seed=3)

    assert made == split_patients(root, seed=3)
    assert ensure_split(root, path, seed=4) == made


def test_records_of_a_part(root, tmp_path):
    path = tmp_path / "split.json"
    numbers = ensure_split(root, path).part("test")
    slices = training_slices(root, path, "test")
    volumes = part_volumes(root, path, "test")

    assert [volume["case"] for volume in volumes] == sorted(numbers)
    assert [(one["patient"], one["slice"]) for one in slices] == [(n, k) for n in sorted(numbers) for k in numbers[n]]


def test_count_parts(root):
    rows = count_parts(split_folds(root, 4), root)

    assert len(rows) == 12
    assert rows[5] == {"fold": 1, "part": "test", "patients": 5, "slices": 15, "tumour_slices": 5}


def test_only_training_makes_a_split(root, tmp_path):
    from monai_lgg.splits import part_volumes

    with pytest.raises(ValueError, match="no split file"):
        part_volumes(root, tmp_path / "none.json", "test")
    assert not (tmp_path / "none.json").exists()
    assert part_volumes(root, tmp_path / "made.json", "validation", make_fractions=(0.6, 0.2, 0.2))
    assert read_split(tmp_path / "made.json").fractions == [0.6, 0.2, 0.2]
    assert len(part_volumes(root, None, "all")) == len(read_patients(root))


def test_a_part_of_slices_carries_the_range_of_its_volume(root, tmp_path):
    from monai_lgg.cases import volume_ranges
    from monai_lgg.splits import part_volumes

    save_split(split_slices(root), tmp_path / "slices.json")
    for record in part_volumes(root, tmp_path / "slices.json", "test"):
        (patient,) = read_patients(root, [record["case"]])
        assert record["intensity_range"] == volume_ranges(patient)
