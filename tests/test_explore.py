from pathlib import Path

import numpy as np
import pytest
import tifffile

from monai_lgg.explore import BINS, GRID, PatientFacts, choose_samples, explore, to_grid
from monai_lgg.phantom import write_patients


def write(folder: Path, number: int, image: np.ndarray, mask: np.ndarray | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / f"{folder.name}_{number}.tif", image)
    if mask is not None:
        tifffile.imwrite(folder / f"{folder.name}_{number}_mask.tif", mask.astype(np.uint8) * 255)


def head(rows: int, columns: int, value: int = 100, channels: int = 3) -> np.ndarray:
    """A block of one grey that fills the middle half, the other sequences darker by 20 and 40."""
    image = np.zeros((rows, columns, channels), np.uint8)
    image[rows // 4 : -rows // 4, columns // 4 : -columns // 4] = [value - 20, value, value - 40][:channels]
    return image


def tumour(rows: int, columns: int, top: int, left: int, side: int = 4) -> np.ndarray:
    mask = np.zeros((rows, columns), bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Patients of every awkward kind: sizes differ, one slice, no masks, grey, missing sequence, broken."""
    root = tmp_path / "mixed"
    for number in (1, 2, 3):
        mask = tumour(64, 64, 20, 18, 4 * (number - 1))
        write(root / "TCGA_AA_0001_2000", number, head(64, 64), mask)
    write(root / "TCGA_BB_0002_2000", 7, head(40, 80), tumour(40, 80, 12, 50))
    for number in (1, 2, 3):
        write(root / "TCGA_BB_0003_2000", number, head(64, 64))
    grey = head(32, 32)[..., 0]
    write(root / "TCGA_CC_0004_2000", 1, grey, np.zeros((32, 32), bool))
    same = head(64, 64)
    same[..., 2] = same[..., 1]
    write(root / "TCGA_CC_0005_2000", 1, same, tumour(64, 64, 30, 30))
    broken = root / "TCGA_DD_0006_2000"
    write(broken, 1, head(64, 64))
    (broken / f"{broken.name}_1.tif").write_bytes(b"II*\0nothing")
    return root


def facts_of(root: Path) -> dict[str, PatientFacts]:
    return {facts.name[8:12]: facts for facts in explore(root).patients}


def test_facts_by_hand(mixed: Path) -> None:
    facts = facts_of(mixed)
    assert list(facts) == ["0001", "0002", "0003", "0004", "0005"]
    first = facts["0001"]
    assert (first.slices, first.size, first.tumour_slices, first.tumour_voxels) == (3, (64, 64), 2, 16 + 64)
    assert (first.largest, first.missing, first.institution) == (3, (), "AA")
    assert (facts["0002"].slices, facts["0002"].size, facts["0002"].largest) == (1, (40, 80), 7)
    assert (facts["0003"].tumour_slices, facts["0003"].tumour_voxels, facts["0003"].largest) == (None, None, 2)
    assert (facts["0004"].tumour_voxels, facts["0004"].missing) == (0, ("pre-contrast", "post-contrast"))
    assert facts["0005"].missing == ("post-contrast",)


def test_cohort_by_hand(mixed: Path) -> None:
    found = explore(mixed)
    assert found.sizes == {(64, 64): 3, (40, 80): 1, (32, 32): 1}
    assert found.volumes == [80, 16, 16]
    assert [len(names) for names in found.missing.values()] == [3, 1, 1]
    assert list(found.missing) == [(), ("post-contrast",), ("pre-contrast", "post-contrast")]
    assert found.report.patients == 6


def test_one_unreadable_patient_is_a_finding(mixed: Path) -> None:
    found = explore(mixed)
    assert list(found.unread) == ["TCGA_DD_0006_2000"]
    assert "none of 1 slices is readable" in found.unread["TCGA_DD_0006_2000"]
    assert [finding.where for finding in found.report.errors if finding.kind == "unreadable"] == [
        "TCGA_DD_0006_2000/TCGA_DD_0006_2000_1.tif"
    ]


def test_one_unreadable_slice_is_left_out(mixed: Path) -> None:
    name = "TCGA_AA_0001_2000"
    (mixed / name / f"{name}_3.tif").write_bytes(b"")
    (mixed / name / f"{name}_1_mask.tif").write_bytes(b"")
    first = facts_of(mixed)["0001"]
    assert (first.slices, first.tumour_slices, first.tumour_voxels) == (2, 1, 16)


def test_mask_of_another_size_is_left_out(mixed: Path) -> None:
    name = "TCGA_BB_0002_2000"
    tifffile.imwrite(mixed / name / f"{name}_7_mask.tif", np.full((9, 9), 255, np.uint8))
    assert facts_of(mixed)["0002"].tumour_voxels is None


def test_two_patients_in_one_folder_are_a_finding(mixed: Path) -> None:
    name = "TCGA_AA_0001_2000"
    tifffile.imwrite(mixed / name / "other_1.tif", head(8, 8))
    found = explore(mixed)
    assert "file of patient other" in found.unread[name]


def test_intensities_inside_the_head(mixed: Path) -> None:
    found = explore(mixed)
    width = 256 / BINS
    for sequence, value in (("pre-contrast", 80), ("FLAIR", 100), ("post-contrast", 60)):
        share = found.histograms[sequence, "AA"]
        assert share.sum() == pytest.approx(1)
        assert share.argmax() == int(value / width)
    assert ("post-contrast", "CC") not in found.histograms  # one has only FLAIR, the other a copy of it
    assert ("pre-contrast", "CC") in found.histograms


def test_every_patient_counts_the_same(tmp_path: Path) -> None:
    for number in range(1, 6):
        write(tmp_path / "TCGA_AA_0001_2000", number, head(64, 64, 100))
    write(tmp_path / "TCGA_AA_0002_2000", 1, head(64, 64, 200))
    share = explore(tmp_path).histograms["FLAIR", "AA"]
    assert share[25] == pytest.approx(share[50], rel=0.1)


def test_other_pixel_types_are_scaled(tmp_path: Path) -> None:
    image = head(64, 64).astype(np.uint16) * 300
    write(tmp_path / "P", 1, image)
    found = explore(tmp_path)
    assert found.patients[0].scaled
    assert found.histograms["FLAIR", "unknown"].argmax() == BINS - 1  # FLAIR is the brightest


def test_black_images(tmp_path: Path) -> None:
    write(tmp_path / "P", 1, np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), bool))
    write(tmp_path / "Q", 1, np.zeros((16, 16, 3), np.uint16), np.zeros((16, 16), bool))
    found = explore(tmp_path)
    assert (len(found.patients), found.histograms, found.heads.any()) == (2, {}, False)


def test_map_of_tumour_location(mixed: Path) -> None:
    found = explore(mixed)
    assert found.tumours.max() <= 3
    rows, columns = np.nonzero(found.tumours)
    assert found.tumours[int(13.5 / 40 * GRID), int(52 / 80 * GRID)] >= 1  # of the 40 x 80 patient
    assert found.tumours[int(21 / 64 * GRID), int(19 / 64 * GRID)] == 1
    assert rows.min() >= int(12 / 40 * GRID)
    assert columns.max() <= int(54 / 80 * GRID)


def test_mean_head(mixed: Path) -> None:
    heads = explore(mixed).heads
    assert heads[GRID // 2, GRID // 2] == 1
    assert heads[0, 0] == 0


def test_to_grid_keeps_the_place() -> None:
    mask = np.zeros((4, 8), bool)
    mask[0, 7] = True
    grid = to_grid(mask)
    wanted = np.zeros((GRID, GRID), bool)
    wanted[: GRID // 4, GRID * 7 // 8 :] = True
    np.testing.assert_array_equal(grid, wanted)


def some(name: str, voxels: int | None) -> PatientFacts:
    return PatientFacts(name, 1, (8, 8), 1, voxels, 1, (), False)


def test_samples_have_every_institution_and_are_in_order_of_volume() -> None:
    patients = [some(f"TCGA_AA_{n}_2000", 10 * n) for n in range(20)]
    patients += [some("TCGA_BB_1_2000", 75), some("TCGA_CC_1_2000", None)]
    chosen = choose_samples(patients, 8)
    volumes = [facts.tumour_voxels or 0 for facts in chosen]
    assert len(chosen) == 8
    assert volumes == sorted(volumes)
    assert {facts.institution for facts in chosen} == {"AA", "BB", "CC"}
    assert volumes[-1] == 190
    assert choose_samples(patients[:2], 8) == patients[:2]
    assert choose_samples([], 8) == []


def test_progress_reaches_the_end(mixed: Path) -> None:
    steps: list[tuple[int, int]] = []
    explore(mixed, lambda done, total: steps.append((done, total)))
    assert steps[-1] == (12, 12)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_one_patient_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import tracemalloc

    import monai_lgg.explore as module

    write_patients(tmp_path, 6, seed=1, size=(128, 128), slices=8)
    monkeypatch.setattr(module, "check_data", lambda root, progress: None)  # it has threads
    peaks = []
    for count in (2, 6):
        folders = module.patient_folders(tmp_path)[:count]
        monkeypatch.setattr(module, "patient_folders", lambda root, folders=folders: folders)
        explore(tmp_path)  # imports
        gc.collect()
        tracemalloc.start()
        explore(tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        monkeypatch.undo()
        monkeypatch.setattr(module, "check_data", lambda root, progress: None)
    assert peaks[1] < 1.3 * peaks[0]


def test_no_data(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no patient folders in the layout"):
        explore(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        explore(tmp_path / "absent")


def test_images_of_four_channels_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "P", 1, np.full((16, 16, 4), 90, np.uint8))
    assert "1 page(s) of 4 channel(s); a slice has one page of 1 or 3" in explore(tmp_path).unread["P"]
