import csv
import errno
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from monai.inferers import SimpleInferer

from monai_lgg import inference, saving
from monai_lgg.backends import INT8_FILE, BackendError, available
from monai_lgg.bundle import prepare_run
from monai_lgg.cases import read_labels, read_patients
from monai_lgg.inference import predict, write_table
from monai_lgg.inferers import BackendInferer, MirrorInferer
from monai_lgg.io.nifti import spacing_known
from monai_lgg.prediction_inputs import prediction_records, sequences_record
from monai_lgg.saving import measure

FASTEST = next(name for name in ("openvino", "onnxruntime", "torch") if name in available())


class BrightFlair(torch.nn.Module):
    """Stands in for a trained network: tumour where FLAIR (scaled so that the head's median is -1/3) is bright."""

    def __init__(self, level: float = 0.4) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(level))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image[:, 1:2] - self.level) * 50


def make_threshold_bundle(folder: Path) -> Path:
    """unet_cosine with a network that thresholds FLAIR, so that geometry can be checked pixel by pixel."""
    from monai_lgg.bundle import find_bundle

    prepare_run(find_bundle("unet_cosine"), folder, {"amp": False})
    config = folder / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["network_def"] = {"_target_": f"{__name__}.BrightFlair"}
    config.write_text(json.dumps(content))
    (folder / "models").mkdir()
    torch.save(BrightFlair().state_dict(), folder / "models" / "model.pt")
    return folder


@pytest.fixture
def threshold_bundle(tmp_path: Path) -> Path:
    return make_threshold_bundle(tmp_path / "threshold bundle")


def pattern(rows: int, columns: int, slices: int) -> np.ndarray:
    """Asymmetric in every axis: an L in one corner that grows with the slice. (rows, columns, slices) bool."""
    mask = np.zeros((rows, columns, slices), bool)
    for k in range(slices):
        mask[2 : 6 + k, 3:5, k] = True
        mask[2:4, 3 : 12 + k, k] = True
    return mask


def write_patient(root: Path, name: str, mask: np.ndarray) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for k in range(mask.shape[2]):
        image = np.full((*mask.shape[:2], 3), 40, np.uint8)
        image[..., 1] = np.where(mask[..., k], 250, 60)
        image[0, 0] = 0  # background: the rest is head
        tifffile.imwrite(folder / f"{name}_{k + 1}.tif", image, photometric="rgb")
    return folder


def read_masks(folder: Path, case: str, slices: int) -> np.ndarray:
    pages = [tifffile.imread(folder / case / f"{case}_{k + 1}_mask.tif") for k in range(slices)]
    return np.stack(pages, axis=-1)


@pytest.mark.parametrize("size", [(300, 200, 2), (40, 70, 3), (64, 64, 1)])
def test_tiff_folder_to_mask_tiffs_is_pixel_exact(
    threshold_bundle: Path, tmp_path: Path, size: tuple[int, ...]
) -> None:
    mask = pattern(*size)
    folder = write_patient(tmp_path / "in", "p 1", mask)
    results = predict(prediction_records(folder), threshold_bundle, tmp_path / "out")
    assert [result.status for result in results] == ["done"]
    written = read_masks(tmp_path / "out", "p 1", size[2])
    assert written.dtype == np.uint8
    np.testing.assert_array_equal(written, mask * 255)


def test_tiff_folder_to_nifti_comes_back_in_place(threshold_bundle: Path, tmp_path: Path) -> None:
    mask = pattern(40, 70, 3)
    folder = write_patient(tmp_path / "in", "p", mask)
    predict(prediction_records(folder), threshold_bundle, tmp_path / "out", settings={"output_format": "nifti"})
    image = nib.load(tmp_path / "out" / "p" / "p_mask.nii.gz")
    assert not spacing_known(image.header)
    voxels = np.asanyarray(image.dataobj)
    assert voxels.dtype == np.uint8
    assert voxels.shape == (70, 40, 3)  # columns to the left, rows reversed to anterior
    np.testing.assert_array_equal(voxels[:, ::-1].transpose(1, 0, 2), mask)


def test_what_a_folder_has_beside_its_cases_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "in"
    write_patient(root, "p", pattern(16, 16, 2))
    volume = nib.Nifti1Image(np.ones((4, 4, 2), np.uint8), np.eye(4))
    (root / "B" / "deep").mkdir(parents=True)
    (root / "earlier").mkdir()
    for place in ("C.nii.gz", "C_mask.nii.gz", "D_mask.nii", "B/deep/x.nii", "earlier/y_mask.nii.gz"):
        nib.save(volume, root / place)
    (root / "earlier" / "results.csv").touch()
    (root / "data.csv").touch()
    tifffile.imwrite(root / "stack.tif", np.ones((3, 4, 4), np.uint8))
    records = prediction_records(root)
    assert [record["case"] for record in records] == ["p", "C", "D_mask"]
    (line,) = caplog.messages
    assert "not predicted: B, stack.tif (neither" in line
    assert [record["case"] for record in prediction_records(root / "stack.tif")] == ["stack"]


def test_names_lose_their_suffix_whatever_its_case(tmp_path: Path) -> None:
    for name in ("X.NII.GZ", "y.nii", "z.TIF"):
        (tmp_path / name).touch()
    assert [prediction_records(path)[0]["case"] for path in sorted(tmp_path.iterdir())] == ["X", "y", "z"]


AFFINES = {
    "RAS": np.diag([0.9, 0.9, 5.0, 1]),
    "LPS": np.diag([-0.9, -0.9, 5.0, 1]),
    "oblique": np.array([[0.85, 0.1, 0.5, -90], [-0.12, 0.88, 0.3, -100], [-0.2, -0.1, 4.9, -30], [0, 0, 0, 1]]),
    "sagittal": np.array([[0, 0, 3.0, -90], [1.0, 0, 0, -100], [0, -1.0, 0, -30], [0, 0, 0, 1]]),
}


def test_a_bundle_that_changes_the_spacing_gives_masks_on_the_grid_of_the_input(
    threshold_bundle: Path, tmp_path: Path
) -> None:
    config = threshold_bundle / "configs" / "inference.json"
    content = json.loads(config.read_text())
    steps = content["preprocessing"]["transforms"]
    steps.insert(2, {"_target_": "Spacingd", "keys": "image", "pixdim": [1.0, 1.0, 1.0], "mode": "bilinear"})
    config.write_text(json.dumps(content))
    mask = pattern(40, 50, 6)
    image = np.where(mask, 250, 60).astype(np.int16)
    image[0, 0] = 0  # background: the rest is head
    nib.save(nib.Nifti1Image(image, AFFINES["oblique"]), tmp_path / "a.nii.gz")
    (result,) = predict(prediction_records(tmp_path / "a.nii.gz"), threshold_bundle, tmp_path / "out")
    assert result.status == "done", result.error
    found = nib.load(tmp_path / "out" / "a" / "a_mask.nii.gz")
    np.testing.assert_allclose(found.affine, AFFINES["oblique"], atol=1e-5)
    voxels = np.asanyarray(found.dataobj) > 0
    assert 2 * (voxels & mask).sum() / (voxels.sum() + mask.sum()) > 0.9
    assert (tmp_path / "out" / "a" / "overlay.png").is_file()


@pytest.mark.parametrize("name", AFFINES)
def test_nifti_to_mask_keeps_the_geometry(threshold_bundle: Path, tmp_path: Path, name: str) -> None:
    mask = pattern(40, 50, 6)
    voxels = np.where(mask, 900, 100).astype(np.int16)
    voxels[0, 0, 0] = 0
    source = nib.Nifti1Image(voxels, AFFINES[name])
    source.header.set_xyzt_units("mm")
    nib.save(source, tmp_path / "scan.nii.gz")
    results = predict(prediction_records(tmp_path / "scan.nii.gz"), threshold_bundle, tmp_path / "out")
    assert results[0].status == "done", results[0].error
    image = nib.load(tmp_path / "out" / "scan" / "scan_mask.nii.gz")
    np.testing.assert_allclose(image.affine, AFFINES[name], atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), mask)
    result = json.loads((tmp_path / "out" / "scan" / "result.json").read_text())
    assert result["voxels"] == mask.sum()
    assert result["volume_ml"] == pytest.approx(mask.sum() * abs(np.linalg.det(AFFINES[name][:3, :3])) / 1000, abs=1e-3)
    assert result["components"] == 1


def test_nifti_to_tiff_slices_in_display_order(threshold_bundle: Path, tmp_path: Path) -> None:
    mask = pattern(40, 50, 3)  # RAS: first axis to the right, second to anterior
    voxels = np.where(mask, 900, 100).astype(np.int16)
    voxels[0, 0, 0] = 0
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "s.nii")
    predict(
        prediction_records(tmp_path / "s.nii"), threshold_bundle, tmp_path / "o", settings={"output_format": "tiff"}
    )
    shown = read_masks(tmp_path / "o", "s", 3)
    np.testing.assert_array_equal(shown, mask[::-1, ::-1].transpose(1, 0, 2) * 255)


def test_three_volumes_and_flair_alone_give_the_same_case(threshold_bundle: Path, tmp_path: Path) -> None:
    mask = pattern(32, 40, 2)
    flair = np.where(mask, 900, 100).astype(np.float32)
    flair[0, 0, 0] = 0
    for name, voxels in (("flair", flair), ("pre", flair * 0 + 7), ("four", np.stack([flair * 0, flair, flair], -1))):
        nib.save(nib.Nifti1Image(voxels, AFFINES["LPS"]), tmp_path / f"{name}.nii.gz")
    records = [
        sequences_record(tmp_path / "flair.nii.gz", pre=tmp_path / "pre.nii.gz"),
        {**sequences_record(tmp_path / "flair.nii.gz"), "case": "alone"},
        *prediction_records(tmp_path / "four.nii.gz"),
    ]
    results = predict(records, threshold_bundle, tmp_path / "out", settings={"save_probabilities": True})
    assert [result.status for result in results] == ["done"] * 3
    for case in ("flair", "alone", "four"):
        voxels = np.asanyarray(nib.load(tmp_path / "out" / case / f"{case}_mask.nii.gz").dataobj)
        np.testing.assert_array_equal(voxels, mask)
        probability = nib.load(tmp_path / "out" / case / f"{case}_prob.nii.gz").get_fdata()
        np.testing.assert_array_equal(probability >= 0.5, mask)


def test_a_bad_case_stops_nothing_and_finished_ones_are_skipped(threshold_bundle: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    write_patient(root, "a", pattern(32, 40, 2))
    bad = write_patient(root, "b", pattern(32, 40, 2)) / "b_2.tif"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    write_patient(root, "c", pattern(32, 40, 2))
    (root / "c" / "other_1.tif").write_text("a file of another patient")
    write_patient(root, "d", np.zeros((32, 40, 1), bool))
    results = {result.case: result for result in predict(prediction_records(root), threshold_bundle, out)}
    assert {name: result.status for name, result in results.items()} == {
        "a": "done", "b": "failed", "c": "failed", "d": "done"
    }  # fmt: skip
    assert "b_2.tif" in results["b"].error
    assert "truncated" in results["b"].error
    assert "other_1.tif" in results["c"].error
    assert sorted(path.name for path in out.iterdir()) == ["a", "d", "results.csv"]

    bad.write_bytes(whole)
    before = (out / "a" / "result.json").stat().st_mtime_ns
    results = {result.case: result.status for result in predict(prediction_records(root), threshold_bundle, out)}
    assert results == {"a": "skipped", "b": "done", "c": "failed", "d": "skipped"}
    assert (out / "a" / "result.json").stat().st_mtime_ns == before
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert [row["case"] for row in rows] == ["a", "b", "c", "d"]
    assert rows[0]["voxels"] == str(pattern(32, 40, 2).sum())
    assert rows[3]["voxels"] == "0"
    assert rows[0]["volume_ml"] == ""  # TIFF: spacing unknown, so no millilitres

    results = {r.case: r.status for r in predict(prediction_records(root), threshold_bundle, out, overwrite=True)}
    assert results == {"a": "done", "b": "done", "c": "failed", "d": "done"}


def test_each_case_is_predicted_once(threshold_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    save = saving.SaveCased._save

    def counted(self: saving.SaveCased, record: dict, probability: object) -> None:
        saved.append(record["case"])
        save(self, record, probability)

    monkeypatch.setattr(saving.SaveCased, "_save", counted)
    for name in "abc":
        write_patient(tmp_path / "in", name, pattern(32, 40, 1))
    predict(prediction_records(tmp_path / "in"), threshold_bundle, tmp_path / "out")
    assert saved == ["a", "b", "c"]


def test_only_the_same_input_and_settings_are_skipped(threshold_bundle: Path, tmp_path: Path) -> None:
    for patient in ("one", "two"):
        write_patient(tmp_path / patient, "p", pattern(32, 40, 1))
    out, records = tmp_path / "out", prediction_records(tmp_path / "one" / "p")
    assert predict(records, threshold_bundle, out)[0].status == "done"
    assert predict(records, threshold_bundle, out)[0].status == "skipped"
    (other,) = predict(prediction_records(tmp_path / "two" / "p"), threshold_bundle, out)
    assert (other.status, "made from other input" in other.error) == ("failed", True)
    (changed,) = predict(records, threshold_bundle, out, settings={"threshold": 0.9})
    assert "made from other settings; use --overwrite" in changed.error
    torch.save(BrightFlair(0.5).state_dict(), threshold_bundle / "models" / "model.pt")
    assert "made from other weights" in predict(records, threshold_bundle, out)[0].error
    assert predict(records, threshold_bundle, out, overwrite=True)[0].status == "done"


def test_masks_of_another_int8_network_are_not_the_same(threshold_bundle: Path, tmp_path: Path) -> None:
    file, other = threshold_bundle / INT8_FILE, tmp_path / "other.zip"
    file.write_bytes(b"one")
    other.write_bytes(b"two")
    int8 = {"precision": "int8"}
    first = inference._made_by(threshold_bundle, int8, ensemble=False)
    assert inference._made_by(threshold_bundle, int8, ensemble=False) == first
    own = inference._made_by(threshold_bundle, {**int8, "int8_file": str(other)}, ensemble=False)
    file.write_bytes(b"two")
    again = inference._made_by(threshold_bundle, int8, ensemble=False)
    assert first["int8_sha256"] != again["int8_sha256"] == own["int8_sha256"]
    assert "int8_sha256" not in inference._made_by(threshold_bundle, {}, ensemble=False)


def test_slices_missing_in_between_are_flagged(threshold_bundle: Path, tmp_path: Path) -> None:
    folder = write_patient(tmp_path / "in", "p", pattern(32, 40, 6))
    for number in (3, 4):
        for path in folder.glob(f"p_{number}*.tif"):
            path.unlink()
    (folder / "p_1.tif").unlink()  # what is missing at an end nobody can tell
    predict(prediction_records(folder), threshold_bundle, tmp_path / "out")
    flags = json.loads((tmp_path / "out" / "p" / "result.json").read_text())["flags"]
    assert {"name": "missing slices", "reason": "no slice 3 to 4; those beside were taken for neighbours"} in flags


def test_masks_are_named_as_their_images(threshold_bundle: Path, tmp_path: Path) -> None:
    folder = write_patient(tmp_path / "in", "p", pattern(32, 40, 3))
    for number in (1, 2):
        (folder / f"p_{number}.tif").rename(folder / f"p_{number:03}.TIF")
    predict(prediction_records(folder), threshold_bundle, tmp_path / "out")
    masks = {path.name for path in (tmp_path / "out" / "p").glob("*_mask.tif")}
    assert masks == {"p_001_mask.tif", "p_002_mask.tif", "p_3_mask.tif"}


def test_a_case_whose_masks_were_removed_is_done_again(threshold_bundle: Path, tmp_path: Path) -> None:
    for name in "abc":
        write_patient(tmp_path / "data", name, pattern(32, 40, 2))
    records, out = prediction_records(tmp_path / "data"), tmp_path / "out"
    predict(records, threshold_bundle, out)
    (out / "a" / "a_2_mask.tif").unlink()
    (out / "b" / "overlay.png").unlink()  # a picture is no result
    results = {result.case: result.status for result in predict(records, threshold_bundle, out)}
    assert results == {"a": "done", "b": "skipped", "c": "skipped"}
    assert (out / "a" / "a_2_mask.tif").is_file()


def test_a_damaged_result_stops_no_other_case(threshold_bundle: Path, tmp_path: Path) -> None:
    for name in "abc":
        write_patient(tmp_path / "data", name, pattern(32, 40, 1))
    records, out = prediction_records(tmp_path / "data"), tmp_path / "out"
    predict(records, threshold_bundle, out)
    (out / "a" / "result.json").write_text("")
    (out / "b" / "result.json").write_text("[]")
    results = {result.case: result for result in predict(records, threshold_bundle, out)}
    assert {name: result.status for name, result in results.items()} == {"a": "failed", "b": "failed", "c": "skipped"}
    for name in "ab":
        assert f"{name}/result.json is damaged" in results[name].error
        assert "use --overwrite" in results[name].error
    assert {r.status for r in predict(records, threshold_bundle, out, overwrite=True)} == {"done"}


def test_an_input_that_can_be_read_no_more_stops_no_other_case(
    threshold_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write_patient(tmp_path / "data", name, pattern(32, 40, 1))
    records, out = prediction_records(tmp_path / "data"), tmp_path / "out"
    predict(records, threshold_bundle, out)
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "a_1.tif":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    results = {result.case: result for result in predict(records, threshold_bundle, out)}
    assert {name: result.status for name, result in results.items()} == {"a": "failed", "b": "skipped"}
    assert "a_1.tif" in results["a"].error


def test_tables_go_before_finished_cases_are_done_again(threshold_bundle: Path, tmp_path: Path) -> None:
    write_patient(tmp_path / "data", "a", pattern(32, 40, 1))
    records, out = prediction_records(tmp_path / "data"), tmp_path / "out"
    predict(records, threshold_bundle, out)
    (out / "manifest.json").write_text("{}")
    seen = []

    def watch(todo: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        seen.extend(sorted(path.name for path in out.iterdir()))
        yield from todo

    predict(records, threshold_bundle, out, overwrite=True, progress=watch)
    assert seen == ["a"]
    assert (out / "results.csv").is_file()


def test_an_interrupted_overwrite_keeps_the_rows_of_what_it_left(threshold_bundle: Path, tmp_path: Path) -> None:
    for name in ("TCGA_A", "TCGA_B", "TCGA_C"):
        write_patient(tmp_path / "data", name, pattern(32, 48, 2))
    records, out = prediction_records(tmp_path / "data"), tmp_path / "out"
    predict(records, threshold_bundle, out)

    def stop(todo: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        yield from todo[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(records, threshold_bundle, out, overwrite=True, progress=stop)
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert [row["case"] for row in rows] == ["TCGA_A", "TCGA_B", "TCGA_C"]
    assert {row["status"] for row in rows} == {"skipped"}
    assert all(int(row["voxels"]) > 0 for row in rows)


def test_a_changed_input_or_configuration_is_noticed(threshold_bundle: Path, tmp_path: Path) -> None:
    folder, out = write_patient(tmp_path, "p", pattern(32, 40, 1)), tmp_path / "out"
    predict(prediction_records(folder), threshold_bundle, out)
    config = threshold_bundle / "configs" / "inference.json"
    config.write_text(config.read_text().replace('"threshold": 0.5', '"threshold": 0.6'))
    (result,) = predict(prediction_records(folder), threshold_bundle, out)
    assert "made from other configuration of the bundle; use --overwrite" in result.error
    predict(prediction_records(folder), threshold_bundle, out, overwrite=True)
    write_patient(tmp_path / "other", "p", pattern(32, 44, 1))
    (folder / "p_1.tif").write_bytes((tmp_path / "other" / "p" / "p_1.tif").read_bytes())
    (result,) = predict(prediction_records(folder), threshold_bundle, out)
    assert "made from other content of the input" in result.error


def test_large_cases_go_one_by_one(threshold_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """b is large: c is not read before b is written."""
    for name, depth in (("a", 1), ("b", 5), ("c", 1), ("d", 1)):
        write_patient(tmp_path / "in", name, pattern(32, 40, depth))
    monkeypatch.setattr(inference, "LARGE", 3 * 32 * 40 * 4)
    seen: list[str] = []
    for name in ("read", "write"):
        monkeypatch.setattr(inference._Line, name, noted(getattr(inference._Line, name), name, seen))
    results = predict(prediction_records(tmp_path / "in"), threshold_bundle, tmp_path / "out")
    assert [result.status for result in results] == ["done"] * 4
    assert seen.index("write b") < seen.index("read c")
    np.testing.assert_array_equal(read_masks(tmp_path / "out", "b", 5) > 0, pattern(32, 40, 5))


def noted(work: Callable[..., Any], name: str, seen: list[str]) -> Callable[..., Any]:
    def wrapped(self: Any, item: Any) -> Any:
        result = work(self, item)
        seen.append(f"{name} {item['case'] if isinstance(item, dict) else item.record['case']}")
        return result

    return wrapped


def test_a_bad_mask_beside_the_images_fails_no_prediction(
    threshold_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_patient(tmp_path, "p", pattern(32, 40, 1))
    tifffile.imwrite(folder / "p_1_mask.tif", np.zeros((30, 40), np.uint8))
    (result,) = predict(prediction_records(folder), threshold_bundle, tmp_path / "out")
    assert result.status == "done"
    assert "p: its own masks are not drawn: masks of (30, 40, 1), images of (32, 40, 1)" in caplog.text


def test_a_backend_that_cannot_be_used_stops_all(threshold_bundle: Path, tmp_path: Path) -> None:
    for name in "ab":
        write_patient(tmp_path / "in", name, pattern(32, 40, 1))
    with pytest.raises(BackendError, match="no INT8 file"):
        predict(prediction_records(tmp_path / "in"), threshold_bundle, tmp_path / "out", settings={"precision": "int8"})


def test_names_of_cases_are_never_evaluated(threshold_bundle: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """MONAI evaluates texts of a configuration that begin with $."""
    monkeypatch.chdir(tmp_path)
    write_patient(Path("."), "$open('x','w')", pattern(32, 40, 1))
    (result,) = predict(prediction_records(Path("$open('x','w')")), threshold_bundle, tmp_path / "out")
    assert result.status == "done"
    assert not (tmp_path / "x").exists()


def test_an_ensemble_averages_probabilities(threshold_bundle: Path, tmp_path: Path) -> None:
    """One network finds the pattern, two find nothing: all probabilities are 0 or 1, so their mean is 1/3 there."""
    record = prediction_records(write_patient(tmp_path / "in", "p", pattern(40, 50, 3)))
    with pytest.raises(FileNotFoundError, match="predict without an ensemble, or make one"):
        predict(record, threshold_bundle, tmp_path / "out", ensemble=True)
    levels = {f"networks.{k}.level": torch.tensor(level) for k, level in enumerate([0.4, 2.0, 2.0])}
    torch.save(levels, threshold_bundle / "models" / "ensemble.pt")
    for threshold, found in ((0.3, True), (0.4, False)):
        out = tmp_path / str(threshold)
        predict(record, threshold_bundle, out, ensemble=True, settings={"threshold": threshold})
        np.testing.assert_array_equal(read_masks(out, "p", 3) > 0, pattern(40, 50, 3) & found)
    facts = json.loads((out / "p" / "result.json").read_text())["made_from"]
    assert facts["weights_sha256"] == saving.weights_sha256(threshold_bundle, ensemble=True)
    assert predict(record, threshold_bundle, out, settings={"threshold": 0.4})[0].status == "failed"


def test_masks_among_the_inputs_are_no_cases(tmp_path: Path) -> None:
    for name in ("p_1.tif", "p_1_mask.tif"):
        tifffile.imwrite(tmp_path / name, np.zeros((4, 5), np.uint8))
    records = prediction_records([tmp_path / "p_1.tif", tmp_path / "p_1_mask.tif"])
    assert [record["case"] for record in records] == ["p_1"]
    with pytest.raises(ValueError, match="only masks"):
        prediction_records(tmp_path / "p_1_mask.tif")
    with pytest.raises(ValueError, match="separate sequences are given as"):
        sequences_record(tmp_path / "p_1.tif")


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (np.full((8, 8, 2), np.nan, np.float32), "NaN"),
        (np.zeros((8, 8, 2, 2), np.float32), "2 channels"),
        (np.zeros((8, 8, 2, 4), np.float32), "4 channels"),
    ],
)
def test_bad_volumes(threshold_bundle: Path, tmp_path: Path, voxels: np.ndarray, message: str) -> None:
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "v.nii")
    (result,) = predict(prediction_records(tmp_path / "v.nii"), threshold_bundle, tmp_path / "out")
    assert result.status == "failed"
    assert message in result.error
    assert "v.nii" in result.error


def test_float_tiff_with_nan_and_black_volume(threshold_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nan"
    folder.mkdir()
    tifffile.imwrite(folder / "nan_1.tif", np.full((8, 9, 3), np.nan, np.float32), photometric="rgb")
    black = tmp_path / "black.nii"
    nib.save(nib.Nifti1Image(np.zeros((30, 20, 3), np.int16), np.eye(4)), black)
    failed, done = predict(prediction_records([folder, black]), threshold_bundle, tmp_path / "out")
    assert (failed.status, done.status) == ("failed", "done")
    assert "NaN" in failed.error
    assert json.loads((tmp_path / "out" / "black" / "result.json").read_text())["voxels"] == 0


def test_different_geometry(threshold_bundle: Path, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 2), np.float32), np.eye(4)), tmp_path / "f.nii")
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 3), np.float32), np.eye(4)), tmp_path / "p.nii")
    record = sequences_record(tmp_path / "f.nii", post=tmp_path / "p.nii")
    (result,) = predict([record], threshold_bundle, tmp_path / "out")
    assert "geometry differs" in result.error


def test_no_space_left_stops_and_keeps_finished_cases(
    threshold_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    for name in "ab":
        write_patient(root, name, pattern(32, 40, 1))
    write = saving.write_tiff

    def full(path: Path, *args: object) -> None:
        if path.parent.name.startswith(".b."):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(saving, "write_tiff", full)
    with pytest.raises(OSError, match="No space left"):
        predict(prediction_records(root), threshold_bundle, out)
    assert sorted(path.name for path in out.iterdir()) == ["a", "results.csv"]


def ct_volume() -> np.ndarray:
    """A head in Hounsfield units: skull 900 +- 150, ventricles 8, grey matter 37, white 28, all with noise of 4."""
    rng = np.random.default_rng(0)
    x, y, z = (np.abs(axis - (axis.max() / 2)) for axis in np.indices((64, 64, 12)).astype(float))
    radius = np.sqrt((x / 22) ** 2 + (y / 28) ** 2 + (z / 9) ** 2)
    units = np.select([radius < 0.25, radius < 0.65, radius < 0.85], [8.0, 28.0, 37.0], -1000.0)
    units[radius < 1] += rng.normal(0, 4, (radius < 1).sum())
    skull = (radius >= 0.85) & (radius < 1)
    units[skull] = rng.normal(900, 150, skull.sum())
    return units.round().astype(np.int16)


def test_ct_in_hounsfield_units_is_flagged(threshold_bundle: Path, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(ct_volume(), np.diag([3.0, 3.0, 12.0, 1.0])), tmp_path / "ct.nii.gz")
    (result,) = predict(prediction_records(tmp_path / "ct.nii.gz"), threshold_bundle, tmp_path / "out")
    assert result.status == "done", result.error
    flags = {
        flag["name"]: flag["reason"]
        for flag in json.loads((tmp_path / "out" / "ct" / "result.json").read_text())["flags"]
    }
    assert "as in CT and in no MR" in flags["CT"]
    (row,) = csv.DictReader((tmp_path / "out" / "results.csv").open())
    assert "CT" in row["flags"].split(";")


def test_a_full_disk_leaves_no_probe_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk an empty file can be made, but not filled."""

    def full(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\); choose another"):
        inference.check_writable(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"backend": FASTEST, "precision": "fp32"}),
        ({"backend": "torch"}, {"backend": "torch", "precision": "fp32"}),
        ({"backend": "torch", "precision": "bf16"}, {"backend": "torch", "precision": "bf16"}),
    ],
)
def test_the_result_says_what_ran_the_network(
    threshold_bundle: Path, tmp_path: Path, settings: dict[str, str], expected: dict[str, str]
) -> None:
    records = prediction_records(write_patient(tmp_path / "in", "a", pattern(32, 64, 1)))
    assert predict(records, threshold_bundle, tmp_path / "out", settings=settings)[0].status == "done"
    content = json.loads((tmp_path / "out" / "a" / "result.json").read_text())
    assert {name: content[name] for name in expected} == expected
    assert predict(records, threshold_bundle, tmp_path / "out", settings=settings)[0].status == "skipped"


def test_what_ran_a_network_without_a_backend_is_unknown() -> None:
    evaluator = SimpleNamespace(inferer=SimpleInferer(), state=SimpleNamespace(device="cpu"))
    assert inference.run_by(evaluator) == {"backend": None, "precision": None}
    evaluator.inferer = MirrorInferer(BackendInferer(SimpleInferer()))
    assert inference.run_by(evaluator) == {"backend": None, "precision": None}  # no slice yet
    evaluator.state.device = "cuda:0"
    assert inference.run_by(evaluator) == {"backend": "torch", "precision": "fp16"}


def test_output_that_cannot_be_written(threshold_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    record = prediction_records(write_patient(tmp_path / "in", "a", pattern(32, 40, 1)))
    with pytest.raises(OSError, match=r"output folder .*file.out cannot be written"):
        predict(record, threshold_bundle, tmp_path / "file" / "out")


def test_a_foreign_folder_is_not_replaced(threshold_bundle: Path, tmp_path: Path) -> None:
    record = prediction_records(write_patient(tmp_path / "in", "a", pattern(32, 40, 1)))
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "thesis.txt").write_text("mine")
    (result,) = predict(record, threshold_bundle, tmp_path / "out", overwrite=True)
    assert "no result of monai-lgg" in result.error
    assert (tmp_path / "out" / "a" / "thesis.txt").read_text() == "mine"


def test_inputs(tmp_path: Path, phantoms: Path) -> None:
    assert len(prediction_records(phantoms)) == 10
    with pytest.raises(FileNotFoundError, match="does not exist"):
        prediction_records(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no patient folders"):
        prediction_records(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="unknown format"):
        prediction_records(tmp_path / "notes.txt")
    patient = next(phantoms.glob("TCGA*"))
    with pytest.raises(ValueError, match=f"two cases are named {patient.name}"):
        prediction_records([patient, patient])
    for name in ("results.csv", "manifest.json"):
        write_patient(tmp_path / "odd" / name, name, pattern(32, 40, 1))
        with pytest.raises(ValueError, match=rf"a case is named {name} \(.*\), as the output's own; rename it"):
            prediction_records(tmp_path / "odd" / name)


def test_overlay_and_truth(run: Path, phantoms: Path, tmp_path: Path) -> None:
    patient = read_patients(phantoms)[0]
    (result,) = predict(prediction_records(phantoms / patient.name), run, tmp_path / "out")
    assert result.status == "done", result.error
    import matplotlib.image

    picture = matplotlib.image.imread(tmp_path / "out" / patient.name / "overlay.png")
    cyan = (np.abs(picture[..., :3] - np.array([0, 200, 255]) / 255) < 0.1).all(axis=-1)
    assert read_labels(patient).any()
    assert cyan.sum() > 20  # the truth is drawn where masks exist


def test_measure_counts_26_connected_components() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True  # touch at a corner: one
    mask[3, 3, 3] = True
    meta = {"spacing_known": True, "original_affine": np.diag([2.0, 2.0, 5.0, 1])}
    assert measure(mask, meta) == {
        "voxels": 3, "volume_ml": 0.06, "longest_axial_diameter_mm": 2.0, "components": 2, "spacing_mm": [2.0, 2.0, 5.0]
    }  # fmt: skip
    unknown = measure(mask, {**meta, "spacing_known": False})
    assert unknown["longest_axial_diameter_mm"] is unknown["volume_ml"] is unknown["spacing_mm"] is None


@pytest.mark.parametrize(("unit", "volume_ml"), [(0, 0.06), (1, 6e7), (2, 0.06)])
def test_volume_knows_the_unit_of_length(unit: int, volume_ml: float) -> None:
    meta = {"spacing_known": True, "original_affine": np.diag([2.0, 2.0, 5.0, 1]), "xyzt_units": unit}
    assert measure(np.ones((1, 1, 3), bool), meta)["volume_ml"] == pytest.approx(volume_ml)


def test_table_of_no_cases(tmp_path: Path) -> None:
    write_table(tmp_path, [])
    assert (tmp_path / "results.csv").read_text().startswith("case,status")


def test_a_run_with_a_setting_of_its_training_alone_predicts(threshold_bundle: Path, tmp_path: Path) -> None:
    overrides = threshold_bundle / "configs" / "overrides.json"
    overrides.write_text(json.dumps({**json.loads(overrides.read_text()), "train#inferer#amp": False}))
    patient = write_patient(tmp_path, "P_1", pattern(20, 24, 2))
    (result,) = predict(prediction_records(patient), threshold_bundle, tmp_path / "out", device="cpu")
    assert result.status == "done"
