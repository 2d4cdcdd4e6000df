"""The check must name each fault in small synthetic patients, and go on after it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from monai_lgg.check import KINDS, DataReport, Finding, check_data, head_mask

A, B = "TCGA_AA_0001_20000101", "TCGA_BB_0002_20000102"
SIZE = 48
SLICES = 5


def head_slice(seed: int) -> np.ndarray:
    """A bright disc of radius 18 px in black; the three channels differ."""
    row, column = np.ogrid[:SIZE, :SIZE]
    disc = (row - SIZE // 2) ** 2 + (column - SIZE // 2) ** 2 <= 18**2
    noise = np.random.default_rng(seed).integers(0, 20, (SIZE, SIZE, 3))
    return (disc[..., None] * (np.array([80, 120, 100]) + noise)).astype(np.uint8)


def tumour_slice(number: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if number in (2, 3):
        mask[20:26, 20:30] = 255
    return mask


def path_of(root: Path, patient: str, number: int, mask: bool = False) -> Path:
    return root / patient / f"{patient}_{number}{'_mask' if mask else ''}.tif"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sound patients of five slices, tumour of 60 px in the slices 2 and 3."""
    for place, patient in enumerate((A, B)):
        (tmp_path / patient).mkdir()
        for number in range(1, SLICES + 1):
            tifffile.imwrite(path_of(tmp_path, patient, number), head_slice(100 * place + number))
            tifffile.imwrite(path_of(tmp_path, patient, number, mask=True), tumour_slice(number))
    (tmp_path / "data.csv").write_text("Patient,grade\nTCGA_AA_0001,1\nTCGA_BB_0002,2\n")
    return tmp_path


def edit_image(root: Path, patient: str, number: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = path_of(root, patient, number)
    tifffile.imwrite(path, change(tifffile.imread(path)))


def only_finding(report: DataReport) -> Finding:
    assert len(report.findings) == 1, report.findings
    return report.findings[0]


def test_sound_data_has_no_findings(root):
    calls = []
    report = check_data(root, lambda done, total: calls.append((done, total)))

    assert report.findings == []
    assert (report.patients, report.slices, report.tumour_slices) == (2, 10, 4)
    assert report.tumour_pixel_share == pytest.approx(4 * 60 / (10 * SIZE * SIZE))
    assert report.institutions == {"AA": 1, "BB": 1}
    assert calls == [(1, 2), (2, 2)]
    assert report.to_dict()["errors"] == 0


def test_kaggle_folder_inside_is_found(root, tmp_path_factory):
    outer = tmp_path_factory.mktemp("outer")
    shutil.copytree(root, outer / "kaggle_3m")

    assert check_data(outer).patients == 2


def test_no_patients_at_all(tmp_path):
    (tmp_path / "pictures").mkdir()
    tifffile.imwrite(tmp_path / "pictures" / "scan.tif", head_slice(0))

    with pytest.raises(ValueError, match="no patient folders in the layout"):
        check_data(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_data(tmp_path / "absent")


def test_missing_mask_is_an_error_of_the_slice(root):
    path_of(root, A, 4, mask=True).unlink()
    found = only_finding(check_data(root))

    assert (found.severity, found.kind, found.where) == ("error", "missing-mask", f"{A}/{A}_4.tif")
    assert f"{A}_4_mask.tif" in found.message


def test_patient_without_masks_is_one_warning(root):
    for number in range(1, SLICES + 1):
        path_of(root, A, number, mask=True).unlink()
    report = check_data(root)
    found = only_finding(report)

    assert (found.severity, found.kind, found.where) == ("warning", "no-masks", A)
    assert "case for prediction" in found.message
    assert report.tumour_slices == 2


def test_orphan_mask_and_gap(root):
    path_of(root, A, 3).unlink()
    orphan, gap = check_data(root).findings

    assert (orphan.severity, orphan.kind, orphan.where) == ("error", "orphan-mask", f"{A}/{A}_3_mask.tif")
    assert (gap.severity, gap.kind, gap.items) == ("warning", "gap", ("3",))


def test_a_number_like_a_date_costs_no_memory(root):
    for mask in (False, True):
        path_of(root, A, 3, mask).rename(path_of(root, A, 20260101, mask))
    (gap,) = [found for found in check_data(root).findings if found.kind == "gap"]

    assert gap.items == ("3", "6 to 20260100")
    assert "numbers 3, 6 to 20260100 are missing between 1 and 20260101" in gap.message


def test_first_slices_missing_is_a_gap(root):
    for mask in (False, True):
        path_of(root, A, 1, mask).unlink()
    gap, end = check_data(root).findings

    assert (gap.kind, gap.items) == ("gap", ("1",))
    assert (end.kind, end.items) == ("tumour-at-end", ("2",))


def test_image_of_another_size(root):
    edit_image(root, A, 5, lambda image: image[:40])
    size, mask = check_data(root).findings

    assert (size.severity, size.kind, size.where) == ("error", "size", f"{A}/{A}_5.tif")
    assert "40x48" in size.message
    assert "48x48" in size.message
    assert (mask.severity, mask.kind, mask.where) == ("error", "mask-shape", f"{A}/{A}_5_mask.tif")


@pytest.mark.parametrize("shape", [(40, SIZE), (SIZE, SIZE, 3)])
def test_mask_of_another_shape(root, shape):
    tifffile.imwrite(path_of(root, A, 5, mask=True), np.zeros(shape, np.uint8))
    found = only_finding(check_data(root))

    assert (found.severity, found.kind, found.where) == ("error", "mask-shape", f"{A}/{A}_5_mask.tif")


def test_dtype_is_one_warning_a_patient(root):
    for number in (1, 2):
        edit_image(root, A, number, lambda image: image.astype(np.uint16))
    found = only_finding(check_data(root))

    assert (found.severity, found.kind, found.where) == ("warning", "dtype", A)
    assert found.items == (f"{A}_1.tif", f"{A}_2.tif")
    assert "uint16" in found.message


@pytest.mark.parametrize(("channels", "severity"), [(1, "warning"), (2, "error"), (4, "error")])
def test_channel_count(root, channels, severity):
    def change(image: np.ndarray) -> np.ndarray:
        return image[..., 1] if channels == 1 else np.concatenate([image, image], axis=-1)[..., :channels]

    for number in range(1, SLICES + 1):
        path = path_of(root, A, number)
        extra = {} if channels == 1 else {"planarconfig": "contig", "photometric": "minisblack"}
        tifffile.imwrite(path, change(tifffile.imread(path)), **extra)
    found = only_finding(check_data(root))

    assert (found.severity, found.kind, found.where) == (severity, "channels", A)
    assert len(found.items) == SLICES
    assert f"{channels} channel(s)" in found.message


@pytest.mark.parametrize(
    ("values", "sound"), [((0, 1), True), ((0, 255), True), ((0, 128), False), ((0, 1, 255), False)]
)
def test_mask_values(root, values, sound):
    mask = tumour_slice(1)
    mask[20:25, 20 : 20 + len(values)] = values
    tifffile.imwrite(path_of(root, A, 3, mask=True), mask)
    report = check_data(root)

    if sound:
        assert report.findings == []
    else:
        found = only_finding(report)
        assert (found.severity, found.kind, found.where) == ("error", "mask-values", f"{A}/{A}_3_mask.tif")
        assert str(values[1]) in found.message


@pytest.mark.parametrize("content", ["truncated", "text", "empty", "directory"])
def test_one_unreadable_file_does_not_stop_the_scan(root, content):
    path = path_of(root, A, 1)
    whole = path.read_bytes()
    path.unlink()
    if content == "directory":
        path.mkdir()
    else:
        path.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"not a picture", "empty": b""}[content])
    path_of(root, B, 4, mask=True).unlink()
    bad, missing = check_data(root).findings

    assert (bad.severity, bad.kind, bad.where) == ("error", "unreadable", f"{A}/{A}_1.tif")
    assert "not a readable TIFF" in bad.message
    assert not bad.message.startswith(str(root))
    assert (missing.kind, missing.where) == ("missing-mask", f"{B}/{B}_4.tif")


def test_patient_with_only_unreadable_images(root):
    for number in range(1, SLICES + 1):
        path_of(root, A, number).write_bytes(b"")
    report = check_data(root)

    assert [found.kind for found in report.findings] == ["unreadable"] * SLICES
    assert report.slices == 10


@pytest.mark.parametrize("other", [f"{A}_01.tif", f"{A}_1.tiff", f"{A}_001_mask.tif"])
def test_slice_number_used_twice(root, other):
    source = path_of(root, A, 1, mask="mask" in other)
    shutil.copy(source, root / A / other)
    found = only_finding(check_data(root))

    assert (found.severity, found.kind) == ("error", "duplicate")
    assert {found.where.split("/")[1], found.message.split()[7]} == {other, source.name}


def test_file_of_another_patient(root):
    shutil.copy(path_of(root, B, 1), root / A)
    found = only_finding(check_data(root))

    assert (found.severity, found.kind, found.where) == ("error", "foreign-name", A)
    assert found.items == (f"{B}_1.tif",)
    assert B in found.message


def test_renamed_folder_has_no_images(root):
    (root / A).rename(root / "TCGA_AA_0001_x")
    kinds = [(found.severity, found.kind) for found in check_data(root).findings]

    assert kinds == [("error", "no-images"), ("error", "foreign-name"), ("warning", "data-csv")]


def test_ignored_names_and_folders(root):
    shutil.copy(path_of(root, A, 1), root / A / "overview.tif")
    (root / A / ".hidden_1.tif").write_bytes(b"")
    (root / A / "notes.txt").write_text("x")
    (root / "empty").mkdir()
    empty, unknown = check_data(root).findings

    assert (empty.severity, empty.kind, empty.where) == ("warning", "no-images", "empty")
    assert (unknown.severity, unknown.kind, unknown.items) == ("warning", "unknown-name", ("overview.tif",))


def test_identical_images_across_patients(root):
    for number in (1, 2):
        image = tifffile.imread(path_of(root, A, number))
        tifffile.imwrite(path_of(root, B, number), image, compression="zlib")  # other bytes, same pixels
    for patient in (A, B):
        edit_image(root, patient, 5, np.zeros_like)
    findings = check_data(root).findings
    (found,) = [one for one in findings if one.kind == "identical"]

    assert (found.severity, found.where) == ("warning", f"{A} = {B}")
    assert found.items == (f"{A}_1.tif = {B}_1.tif", f"{A}_2.tif = {B}_2.tif")
    assert {one.kind for one in findings} == {"identical", "near-black"}


@pytest.mark.parametrize(("channel", "sequence"), [(0, "pre-contrast"), (2, "post-contrast")])
def test_missing_sequence(root, channel, sequence):
    def copy_flair(image: np.ndarray) -> np.ndarray:
        image[..., channel] = image[..., 1]
        return image

    for number in range(1, SLICES):
        edit_image(root, A, number, copy_flair)
    assert check_data(root).findings == []  # not while one slice differs

    edit_image(root, A, SLICES, copy_flair)
    found = only_finding(check_data(root))
    assert (found.severity, found.kind, found.where) == ("warning", "missing-sequence", A)
    assert sequence in found.message


def test_near_black_slices_are_one_warning(root):
    for number in (1, 5):
        edit_image(root, A, number, lambda image: image // 10)
    found = only_finding(check_data(root))

    assert (found.severity, found.kind, found.where, found.items) == ("warning", "near-black", A, ("1", "5"))


def test_tumour_outside_the_head(root):
    mask = tumour_slice(1)
    mask[0:4, 0:4] = 255
    mask[20:24, 20:24] = 255
    tifffile.imwrite(path_of(root, A, 3, mask=True), mask)
    found = only_finding(check_data(root))

    assert (found.severity, found.kind, found.where, found.items) == ("warning", "tumour-outside-head", A, ("3",))
    assert "50%" in found.message


def test_head_has_its_holes_filled_and_no_specks():
    flair = head_slice(0)[..., 1]
    flair[20:28, 20:28] = 0
    flair[2, 2] = 255
    head = head_mask(flair, level=12)

    assert head[24, 24]
    assert not head[2, 2]
    assert not head_mask(np.zeros_like(flair), level=12).any()


def test_tumour_in_the_last_slice(root):
    tifffile.imwrite(path_of(root, A, 5, mask=True), tumour_slice(2))
    found = only_finding(check_data(root))

    assert (found.severity, found.kind, found.where, found.items) == ("warning", "tumour-at-end", A, ("5",))


def test_table_and_folders_differ(root):
    (root / "data.csv").write_text("Patient,grade\nTCGA_AA_0001,1\nTCGA_CC_0003,2\nTCGA_CC_0004,\n")
    lost, unlisted = check_data(root).findings

    assert lost.items == ("TCGA_CC_0003", "TCGA_CC_0004")
    assert "2 row(s) without a patient folder" in lost.message
    assert unlisted.items == (B,)
    assert {lost.kind, unlisted.kind} == {"data-csv"}


@pytest.mark.parametrize(("content", "message"), [(None, "missing"), (b"\xff\xfe\x00", "unreadable")])
def test_table_missing_or_unreadable(root, content, message):
    (root / "data.csv").unlink()
    if content is not None:
        (root / "data.csv").write_bytes(content)
    found = only_finding(check_data(root))

    assert (found.severity, found.kind, found.where) == ("warning", "data-csv", "data.csv")
    assert message in found.message


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif("MONAI_LGG_REAL_DATA" not in os.environ, reason="MONAI_LGG_REAL_DATA is not set")
def test_real_data_as_measured():
    """Facts of the public data; holds for any subset of the 110 patients."""
    report = check_data(os.environ["MONAI_LGG_REAL_DATA"])
    both = {"DU_7013", "FG_A60K", "HT_7877", "HT_8105", "HT_A616", "HT_A61B"}
    post = {"DU_6407", "DU_7301", "DU_8165", "FG_7634"}

    def short(kind: str, word: str = "") -> set[str]:
        return {one.where[5:12] for one in report.findings if one.kind == kind and word in one.message}

    assert report.errors == []
    assert {one.kind for one in report.findings} <= {"missing-sequence", "near-black", "tumour-at-end", "data-csv"}
    assert short("missing-sequence", "pre-contrast") <= both
    assert short("missing-sequence", "post-contrast") <= both | post
    assert short("tumour-at-end") <= {"FG_7634", "HT_7692"}
    assert set(KINDS) >= {one.kind for one in report.findings}
