import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch

from monai_lgg import robustness
from monai_lgg.bundle import find_bundle, prepare_run
from monai_lgg.inference import CaseResult
from monai_lgg.perturbations import PERTURBATIONS, Volume, reoriented
from monai_lgg.robustness import chosen_patients, measure_robustness, read_prediction, read_volume, write_volume
from monai_lgg.robustness_rows import Row, read_rows, summary_rows
from monai_lgg.splits import save_split, split_patients

GEOMETRY = ["mirrored", "upside_down", "slices_reversed", "reoriented", "fewer_slices", "matrix_size"]


class BrightFlair(torch.nn.Module):
    """Stands in for a trained network: tumour where FLAIR (scaled so that the head's median is -1/3) is bright."""

    def __init__(self, level: float = 0.4) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(level))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image[:, 1:2] - self.level) * 50


@pytest.fixture
def threshold_bundle(tmp_path: Path) -> Path:
    """unet_cosine with a network that thresholds FLAIR, so that geometry can be checked pixel by pixel."""
    folder = tmp_path / "threshold bundle"
    prepare_run(find_bundle("unet_cosine"), folder, {"amp": False})
    config = folder / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["network_def"] = {"_target_": f"{__name__}.BrightFlair"}
    config.write_text(json.dumps(content))
    (folder / "models").mkdir()
    torch.save(BrightFlair().state_dict(), folder / "models" / "model.pt")
    return folder


def pattern(rows: int = 40, columns: int = 56, slices: int = 5) -> np.ndarray:
    """Asymmetric in every axis: an L in one corner that grows with the slice."""
    mask = np.zeros((rows, columns, slices), bool)
    for k in range(slices):
        mask[2 : 6 + k, 3:5, k] = True
        mask[2:4, 3 : 12 + k, k] = True
    return mask


def write_patient(root: Path, name: str, mask: np.ndarray, truth: np.ndarray | None = None) -> Path:
    """FLAIR is bright in ``mask``; the mask files hold ``truth``, by default the same."""
    folder = root / name
    folder.mkdir(parents=True)
    truth = mask if truth is None else truth
    for k in range(mask.shape[2]):
        image = np.full((*mask.shape[:2], 3), 40, np.uint8)
        image[..., 1] = np.where(mask[..., k], 250, 60)
        image[:2] = 0  # background: the rest is head
        tifffile.imwrite(folder / f"{name}_{k + 1}.tif", image, photometric="rgb")
        tifffile.imwrite(folder / f"{name}_{k + 1}_mask.tif", truth[..., k].astype(np.uint8) * 255)
    return folder


def as_files(given: list[str], change: Any = lambda mask: mask) -> Any:
    """A prediction that returns ``change`` of the bright FLAIR, without any network; keeps what it was given."""

    def predict(records: list[dict[str, Any]], bundle: Path, output: Path, **_: Any) -> list[CaseResult]:
        results = []
        for record in records:
            slices = [tifffile.imread(path) for path in record["image"]]
            flair = np.stack([page[..., 1] if page.ndim == 3 else page for page in slices], axis=-1)
            folder = output / record["case"]
            folder.mkdir(parents=True)
            mask = change(flair > 200)
            for k in range(mask.shape[2]):
                tifffile.imwrite(folder / f"{record['case']}_{k + 1}_mask.tif", mask[..., k].astype(np.uint8) * 255)
            given.append(record["case"])
            results.append(CaseResult(record["case"], "done"))
        return results

    return predict


def by_name(rows: list[Row]) -> dict[tuple[str, str], Row]:
    return {(row.perturbation, row.level): row for row in rows}


def test_moved_volumes_give_exactly_the_moved_mask(threshold_bundle: Path, tmp_path: Path) -> None:
    """Through files, the reader, the network and the writer: every voxel of every geometry."""
    truth = pattern()
    truth[30:, 40:, 2:] = True  # what the network cannot see
    write_patient(tmp_path / "data", "p 1", pattern(), truth)
    out = tmp_path / "out"
    rows = measure_robustness(threshold_bundle, tmp_path / "data", ["p 1"], GEOMETRY, output=out, device="cpu")
    overlap = 2 * pattern().sum() / (pattern().sum() + truth.sum())
    assert [row.error for row in rows] == [""] * len(rows)
    assert len(rows) == 1 + 3 + 3 * 3
    for row in rows:
        if row.perturbation == "matrix_size":  # pixels that are half tumour: to this network all are, of masks each 2nd
            assert row.agreement > {"0.5 x": 0.8, "1.5 x": 0.93, "2 x": 0.99}[row.strength]
            continue
        assert row.agreement == 1, row
        assert row.dice_clean == pytest.approx(overlap)
        if row.perturbation != "fewer_slices":
            assert row.dice == pytest.approx(overlap)
            assert row.difference == 0
            assert (row.voxels, row.voxels_truth) == (pattern().sum(), truth.sum())
    found = by_name(rows)
    every_third, true_third = pattern()[..., ::3].sum(), truth[..., ::3].sum()
    assert found["fewer_slices", "medium"].dice == pytest.approx(2 * every_third / (every_third + true_third))
    assert found["matrix_size", "medium"].voxels == pytest.approx(4 * pattern().sum(), rel=0.02)
    assert sorted(path.name for path in out.iterdir()) == ["robustness.csv", "robustness.md", "rows.csv"]


def test_intensities_that_scaling_undoes(threshold_bundle: Path, tmp_path: Path) -> None:
    write_patient(tmp_path / "data", "p", pattern())
    names = ["scale_offset", "raw_16bit", "flair_only", "pre_post_swapped"]
    rows = measure_robustness(threshold_bundle, tmp_path / "data", ["p"], names, output=tmp_path / "o", device="cpu")
    agreements = {key: row.agreement for key, row in by_name(rows).items()}
    hot = agreements.pop(("raw_16bit", "strong"))
    assert set(agreements.values()) == {1.0}
    assert 0.8 < hot < 1  # the hot voxels themselves


def test_rows_are_not_done_again(threshold_bundle: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    given: list[str] = []
    write_patient(data, "a", pattern())
    options = {"output": out, "predict": as_files(given)}
    first = measure_robustness(threshold_bundle, data, ["a"], ["mirrored"], **options)
    assert given == ["clean_only", "mirrored_only"]
    assert measure_robustness(threshold_bundle, data, ["a"], ["mirrored"], **options) == first
    assert len(given) == 2
    more = measure_robustness(threshold_bundle, data, ["a"], ["upside_down", "mirrored"], **options)
    assert given[2:] == ["clean_only", "upside_down_only"]  # the clean one to compare with
    assert [row.perturbation for row in more] == ["clean", "upside_down", "mirrored"]
    assert more[::2] == first
    torch.save(BrightFlair(0.5).state_dict(), threshold_bundle / "models" / "model.pt")
    other = measure_robustness(threshold_bundle, data, ["a"], ["mirrored"], **options)
    assert given[4:] == ["clean_only", "mirrored_only"]
    assert other[0].weights != first[0].weights
    shutil.rmtree(data / "a")
    write_patient(data, "a", pattern()[:, ::-1])
    measure_robustness(threshold_bundle, data, ["a"], ["mirrored"], **options)
    assert given[6:] == ["clean_only", "mirrored_only"]
    assert len(read_rows(out / "rows.csv")) == 7


def test_an_interrupted_measurement_keeps_each_batch(
    threshold_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    given: list[str] = []
    write_patient(data, "a", pattern())
    monkeypatch.setattr(robustness, "BATCH", 2)
    sound = as_files(given)

    def killed(*args: Any, **kwargs: Any) -> list[CaseResult]:
        if len(given) >= 2:
            raise KeyboardInterrupt
        return sound(*args, **kwargs)

    names = ["mirrored", "upside_down", "slices_reversed"]
    with pytest.raises(KeyboardInterrupt):
        measure_robustness(threshold_bundle, data, ["a"], names, output=out, predict=killed)
    assert [row.perturbation for row in read_rows(out / "rows.csv").values()] == ["clean", "mirrored"]
    measure_robustness(threshold_bundle, data, ["a"], names, output=out, predict=sound)
    assert given[2:] == ["clean_only", "upside_down_only", "slices_reversed_only"]


def test_what_fails_says_why_and_stops_nothing(
    threshold_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    given: list[str] = []
    write_patient(data, "good", pattern())
    broken = write_patient(data, "broken", pattern()) / "broken_2.tif"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    mirrored = PERTURBATIONS["mirrored"]

    def impossible(volume: Volume, _: Any) -> Volume:
        raise ValueError("no left and no right")

    def lost(mask: np.ndarray) -> np.ndarray:
        return mask[..., :-1] if mask[2, 3, -1] else mask  # a slice is lost unless the volume is upside down

    failing = robustness.Perturbation("mirrored", mirrored.words, mirrored.strengths, impossible)
    monkeypatch.setitem(robustness.PERTURBATIONS, "mirrored", failing)
    names = ["mirrored", "upside_down"]
    rows = measure_robustness(
        threshold_bundle, data, ["broken", "good"], names, output=out, predict=as_files(given, lost)
    )
    errors = {(row.patient, row.perturbation): row.error for row in rows}
    assert all("broken_2.tif" in errors["broken", name] for name in ("clean", *names))
    assert errors["good", "mirrored"] == "ValueError: no left and no right"
    assert "5 slices were given, masks came back for [1, 2, 3, 4]" in errors["good", "clean"]
    assert errors["good", "upside_down"] == ""
    upside_down = by_name(rows)["upside_down", "only"]
    assert (upside_down.dice, upside_down.dice_clean, upside_down.agreement) == (1, None, None)
    failed = {row["perturbation"]: row["failed"] for row in summary_rows(rows)}
    assert failed == {"clean": 2, "mirrored": 2, "upside_down": 1}

    broken.write_bytes(whole)
    monkeypatch.setitem(robustness.PERTURBATIONS, "mirrored", mirrored)
    rows = measure_robustness(threshold_bundle, data, ["broken", "good"], names, output=out, predict=as_files(given))
    assert {row.error for row in rows} == {""}
    assert {row.error for row in read_rows(out / "rows.csv").values()} == {""}  # the failed rows are gone
    assert {row.dice for row in rows} == {1}


def test_a_full_disk_stops(threshold_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_patient(tmp_path / "data", "a", pattern())

    def full(*_: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(robustness, "write_volume", full)
    with pytest.raises(OSError, match="No space left"):
        measure_robustness(threshold_bundle, tmp_path / "data", ["a"], ["mirrored"], output=tmp_path / "out")


def test_what_cannot_be_asked_for(threshold_bundle: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    write_patient(data, "a", pattern())
    with pytest.raises(ValueError, match="no perturbation 'fog'; there are flair_only, "):
        measure_robustness(threshold_bundle, data, ["a"], ["fog"], output=out)
    with pytest.raises(ValueError, match=r"no folder for 1 patient.s., first b"):
        measure_robustness(threshold_bundle, data, ["a", "b"], output=out)
    with pytest.raises(ValueError, match="no patients are named"):
        measure_robustness(threshold_bundle, data, [], output=out)
    out.mkdir()
    (out / "rows.csv").write_text("patient,dice\na,1\n")
    with pytest.raises(ValueError, match=r"rows.csv: not the rows of a robustness measurement"):
        measure_robustness(threshold_bundle, data, ["a"], output=out)
    (threshold_bundle / "models" / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match="no weights"):
        measure_robustness(threshold_bundle, data, ["a"], output=tmp_path / "other")


@pytest.mark.parametrize("sequences", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_files_hold_the_volume(tmp_path: Path, sequences: int, dtype: type) -> None:
    voxels = np.arange(sequences * 5 * 7 * 3).reshape(sequences, 5, 7, 3).astype(dtype)
    volume = Volume("case", voxels, np.zeros((5, 7, 3), bool))
    path = write_volume(volume, tmp_path)
    slices = [tifffile.imread(path / f"case_{k + 1}.tif").reshape(5, 7, sequences) for k in range(3)]
    np.testing.assert_array_equal(np.moveaxis(np.stack(slices, axis=2), -1, 0), voxels)
    assert slices[0].dtype == dtype
    turned = reoriented(volume, "RAS")
    image = nib.load(write_volume(turned, tmp_path))
    np.testing.assert_array_equal(
        np.asanyarray(image.dataobj).reshape(7, 5, 3, sequences), np.moveaxis(turned.sequences, 0, -1)
    )
    np.testing.assert_allclose(image.affine, turned.affine)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_a_mask_elsewhere_is_an_error(tmp_path: Path) -> None:
    affine = np.diag([0.9, 0.9, 5, 1])
    volume = Volume("c", np.zeros((3, 4, 5, 2), np.uint8), np.zeros((4, 5, 2), bool), affine)
    (tmp_path / "c").mkdir()
    nib.save(nib.Nifti1Image(np.ones((4, 5, 2), np.uint8), affine), tmp_path / "c" / "c_mask.nii.gz")
    assert read_prediction(tmp_path, volume).all()
    moved = affine.copy()
    moved[2, 3] = 5
    nib.save(nib.Nifti1Image(np.ones((4, 5, 2), np.uint8), moved), tmp_path / "c" / "c_mask.nii.gz")
    with pytest.raises(ValueError, match="c: the mask came back with the affine"):
        read_prediction(tmp_path, volume)


def test_another_size_is_an_error(threshold_bundle: Path, tmp_path: Path) -> None:
    write_patient(tmp_path / "data", "a", pattern())
    predict = as_files([], lambda mask: mask[:-1])
    (row,) = measure_robustness(threshold_bundle, tmp_path / "data", ["a"], [], output=tmp_path / "o", predict=predict)
    assert row.error == "the mask came back as (39, 56, 5), the image is (40, 56, 5)"


def test_volume_of_a_patient(tmp_path: Path) -> None:
    volume = read_volume(write_patient(tmp_path, "p", pattern()))
    assert (volume.case, volume.sequences.shape, volume.affine) == ("p", (3, 40, 56, 5), None)
    np.testing.assert_array_equal(volume.mask, pattern())
    np.testing.assert_array_equal(volume.sequences[1] == 250, pattern())


def test_patients_of_a_part(phantoms: Path, tmp_path: Path) -> None:
    split = split_patients(phantoms, (0.5, 0.1, 0.4))
    save_split(split, tmp_path / "split.json")
    test = sorted(split.part("test"))
    assert chosen_patients(phantoms, tmp_path / "split.json") == test
    assert chosen_patients(phantoms, tmp_path / "split.json", patients=2) == test[::2]
    assert len(chosen_patients(phantoms, tmp_path / "none.json", "all", patients=10)) == 10
    with pytest.raises(FileNotFoundError, match="no split at"):
        chosen_patients(phantoms, tmp_path / "none.json")
    with pytest.raises(ValueError, match="5 patients asked for; the test part has 4"):
        chosen_patients(phantoms, tmp_path / "split.json", patients=5)


def test_patients_of_the_training_are_named_as_such(run: Path, phantoms: Path, tmp_path: Path) -> None:
    split = json.loads((run / "eval" / "split.json").read_text())["folds"][0]
    names = [next(iter(split["train"])), next(iter(split["test"]))]
    notes = robustness._notes(run, names)
    assert notes[1] == "1 of the patients were used in the training or its validation."
    assert len(robustness._notes(run, names[1:])) == 1


def test_help_needs_no_torch() -> None:
    code = (
        "import runpy, sys; sys.argv = ['robustness.py', '--help']\n"
        "try: runpy.run_path('scripts/robustness.py', run_name='__main__')\n"
        "except SystemExit as end: print('torch' in sys.modules, 'monai' in sys.modules, end.code)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert "--only NAME" in done.stdout
    assert done.stdout.endswith("False False 0\n")


def test_script(threshold_bundle: Path, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts import robustness as script

    arguments = ["--data", str(phantoms), "--part", "all", "--patients", "1", "--only", "mirrored", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["robustness.py", str(threshold_bundle), *arguments, "-o", str(tmp_path / "out")])
    script.main()
    assert len((tmp_path / "out" / "rows.csv").read_text().splitlines()) == 3
