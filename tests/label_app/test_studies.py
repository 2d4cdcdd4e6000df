import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from monai_lgg.cases import read_labels, read_patient
from monai_lgg.cli import main
from monai_lgg.io.nifti import spacing_known
from monai_lgg.io.reader import CaseReader
from monai_lgg.label_app.studies import (
    LABELS,
    Pair,
    check_label,
    check_plain,
    export_patients,
    patients_of,
    prepare_studies,
)
from monai_lgg.phantom import write_patients


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients of 3 slices, not square."""
    root = tmp_path_factory.mktemp("source")
    write_patients(root, 3, seed=1, size=(40, 56), slices=3)
    return root


def save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def test_prepared_volumes_are_flair_with_labels_of_0_and_1(source: Path, tmp_path: Path) -> None:
    done = prepare_studies(source, tmp_path)
    assert len(done.patients) == 3
    assert (done.written, done.kept, done.failed) == (6, 0, {})
    for folder in (item for item in source.iterdir() if item.is_dir()):
        patient = read_patient(folder)
        image, label = (nib.load(tmp_path / part / f"{patient.name}.nii.gz") for part in ("", LABELS))
        slices = np.stack([tifffile.imread(item.image)[..., 1] for item in patient.slices], axis=-1)
        voxels = np.asanyarray(image.dataobj)
        assert voxels.dtype == np.uint8
        assert voxels.shape == (56, 40, 3)  # columns to the left, rows reversed to anterior: see io/nifti.py
        np.testing.assert_array_equal(voxels[:, ::-1].transpose(1, 0, 2), slices)
        mask = np.asanyarray(label.dataobj)
        np.testing.assert_array_equal(mask[:, ::-1].transpose(1, 0, 2), read_labels(patient))
        assert set(np.unique(mask)) == {0, 1}
        assert not spacing_known(image.header)
        assert nib.aff2axcodes(image.affine) == ("L", "A", "S")


def test_prepared_slices_are_the_files_with_all_channels(source: Path, tmp_path: Path) -> None:
    prepare_studies(source, tmp_path, slices=True, labelled=1)
    names = sorted(path.name for path in tmp_path.glob("*.tif"))
    assert len(names) == 9
    labels = sorted((tmp_path / LABELS).iterdir())
    assert [path.name for path in labels] == names[:3]  # of the first patient
    for name in names:
        own = source / name.rpartition("_")[0] / name
        assert (tmp_path / name).read_bytes() == own.read_bytes()
    for path in labels:
        own = source / path.name.rpartition("_")[0] / f"{path.stem}_mask.tif"
        np.testing.assert_array_equal(tifffile.imread(path), tifffile.imread(own) // 255)


def test_what_is_there_is_never_written_over(source: Path, tmp_path: Path) -> None:
    prepare_studies(source, tmp_path, labelled=2)
    corrected = next((tmp_path / LABELS).iterdir())
    corrected.write_bytes(b"by hand")
    again = prepare_studies(source, tmp_path)
    assert (again.written, again.kept) == (1, 5)  # the third patient's label
    assert corrected.read_bytes() == b"by hand"


def test_prepare_command_goes_on_after_a_broken_patient(source: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(source, data)
    broken = sorted(item for item in data.iterdir() if item.is_dir())[0]
    next(broken.glob("*_2.tif")).write_bytes(b"II*\0 cut")
    result = CliRunner().invoke(main, ["label", "prepare", str(data), str(tmp_path / "studies"), "-q"])
    assert result.exit_code == 1
    assert f"{broken.name}: " in result.output
    assert "not a readable TIFF" in result.output
    assert "2 patients: 4 files written, 0 kept" in result.output
    empty = CliRunner().invoke(main, ["label", "prepare", str(tmp_path / "studies"), str(tmp_path / "other"), "-q"])
    assert empty.exit_code == 1
    assert "no patient folders" in empty.output


OBLIQUE = np.array([[0.85, 0.1, 0.5, -90], [-0.12, 0.88, 0.3, -100], [-0.2, -0.1, 4.9, -30], [0, 0, 0, 1.0]])


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    image = save(tmp_path / "a.nii.gz", np.ones((6, 5, 4), np.int16), OBLIQUE)
    label = np.zeros((6, 5, 4), np.uint8)
    check_label(image, save(tmp_path / "good.nii.gz", label, OBLIQUE), "a")
    with pytest.raises(ValueError, match=r"label of a: .* label of 5 x 5 x 4 voxels, but image a.nii.gz of 6 x 5 x 4"):
        check_label(image, save(tmp_path / "shape.nii.gz", label[:5], OBLIQUE), "a")
    moved = OBLIQUE.copy()
    moved[0, 3] += 3
    with pytest.raises(ValueError, match=r"its corners lie up to 3.0 mm from those of image"):
        check_label(image, save(tmp_path / "place.nii.gz", label, moved), "a")
    with pytest.raises(ValueError, match="2 channels; a label has one"):
        check_label(image, save(tmp_path / "channels.nii.gz", np.stack([label, label], axis=-1), OBLIQUE), "a")
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b cut")
    with pytest.raises(ValueError, match=r"label of a: .*not a readable NIfTI"):
        check_label(image, tmp_path / "cut.nii.gz", "a")
    with pytest.raises(ValueError, match=r"seg.nrrd: unknown format; save labels as .nii.gz"):
        check_label(image, tmp_path / "seg.nrrd", "a")


def test_a_label_of_a_prepared_volume_on_a_mirrored_grid_is_refused(source: Path, tmp_path: Path) -> None:
    prepare_studies(source, tmp_path, labelled=0)
    image = next(tmp_path.glob("*.nii.gz"))
    label = np.ones(nib.load(image).shape, np.uint8)
    affine = nib.load(image).affine
    check_label(image, save(tmp_path / "labels" / "same.nii.gz", label, affine), "l")  # as 3D Slicer saves it
    mirrored = nib.as_closest_canonical(nib.Nifti1Image(label, affine)).affine
    with pytest.raises(ValueError, match=r"its corners lie up to .* voxels from"):
        check_label(image, save(tmp_path / "labels" / "mirrored.nii.gz", label, mirrored), "l")


def test_a_label_of_an_image_without_a_place_may_lie_anywhere(tmp_path: Path) -> None:
    """Viewers make up a place for such an image, and save the label there."""
    label = np.ones((6, 5, 4), np.uint8)
    image = nib.Nifti1Image(label, None)
    nib.save(image, tmp_path / "a.nii.gz")
    place = np.diag([-1, -1, 1, 1.0])
    check_label(tmp_path / "a.nii.gz", save(tmp_path / "l.nii.gz", label, place), "l")


def test_slices_belong_to_their_patient_and_volumes_stand_alone() -> None:
    names = ["p_2.tif", "p_1.tif", "TCGA_CS_4941_19960909.nii.gz", "TCGA_CS_4941_20000101.nii.gz", "other.tif"]
    found = patients_of([Pair(Path(name), Path(name)) for name in names])
    assert {name: [pair.image.name for pair in pairs] for name, pairs in found.items()} == {
        "p": ["p_1.tif", "p_2.tif"],
        "TCGA_CS_4941_19960909": ["TCGA_CS_4941_19960909.nii.gz"],
        "TCGA_CS_4941_20000101": ["TCGA_CS_4941_20000101.nii.gz"],
        "other": ["other.tif"],
    }


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_exported_volumes_are_what_the_network_sees(tmp_path: Path, kind: type) -> None:
    """An array with another value in each voxel, through an affine with swapped axes, worked out by hand."""
    voxels = np.arange(6 * 5 * 4).reshape(6, 5, 4).astype(kind)
    sagittal = np.array([[0, 0, 3.0, -90], [1.0, 0, 0, -100], [0, -1.0, 0, -30], [0, 0, 0, 1]])
    image = save(tmp_path / "a.nii.gz", voxels, sagittal)
    label = save(tmp_path / "labels" / "a.nii.gz", (voxels > 50).astype(np.uint8) * 255, sagittal)
    names, failed = export_patients([Pair(image, label)], tmp_path / "out")
    assert (names, failed) == (["a"], {})
    patient = read_patient(tmp_path / "out" / "a")
    written, _ = CaseReader().get_data([str(item.image) for item in patient.slices])
    # voxel (i, j, k) lies at x = 3k, y = i, z = -j; rows go to posterior (-y), columns to left (-x), slices up (z)
    expected = voxels.transpose(0, 2, 1)[::-1, ::-1, ::-1]
    assert written.dtype == (np.float32 if kind is np.float64 else kind)
    np.testing.assert_array_equal(written, np.stack([expected] * 3, axis=-1))
    np.testing.assert_array_equal(read_labels(patient), expected > 50)


def test_slices_stay_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (2, 10, 1, 11, 9):
        for folder, value in ((tmp_path, number), (tmp_path / LABELS, 255 * (number > 9))):
            folder.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / f"p_{number}.tif", np.full((8, 8), value, np.uint8))
    pairs = [Pair(path, tmp_path / LABELS / path.name) for path in tmp_path.glob("*.tif")]
    assert export_patients(pairs, tmp_path / "out") == (["p"], {})
    patient = read_patient(tmp_path / "out" / "p")
    images, _ = CaseReader().get_data([str(item.image) for item in patient.slices])
    assert images[0, 0, :, 0].tolist() == [1, 2, 9, 10, 11]
    assert read_labels(patient)[0, 0].tolist() == [False, False, False, True, True]


def test_a_bad_pair_is_left_out_with_its_reason(source: Path, tmp_path: Path) -> None:
    prepare_studies(source, tmp_path)
    pairs = [Pair(path, tmp_path / LABELS / path.name) for path in sorted(tmp_path.glob("*.nii.gz"))]
    pairs[1].image.write_bytes(b"\x1f\x8b cut")
    names, failed = export_patients(pairs, tmp_path / "out")
    assert len(names) == 2
    assert list(failed) == [pairs[1].image.name]
    assert "not a readable NIfTI" in failed[pairs[1].image.name]


@pytest.mark.parametrize("name", ["TCGA_CS_4941", "P 1", "scan.2", "Müller-1", "a+b (2)@3"])
def test_plain_names(name: str) -> None:
    check_plain("image", name)


@pytest.mark.parametrize("name", ["", "..", "../a", "a/b", ".hidden", "a\\b", "/etc", "a\n"])
def test_names_that_are_paths_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"label tag .* is no plain name; give letters"):
        check_plain("label tag", name)
