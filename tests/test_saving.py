import hashlib
import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from monai_lgg.quality import uncertainty
from monai_lgg.reference import Range, Reference, save_reference
from monai_lgg.saving import SaveCased, from_display, to_display, weights_sha256, write_manifest

SIZE = (20, 16, 6)
#: Rows to posterior, columns to the patient's left: (row, column, slice) as on screen.
DISPLAY = np.array([[0, -1.0, 0, 0], [-1.0, 0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1]])


def record(case: str = "P_1", nifti: bool = False, values: np.ndarray | None = None, axes: str | None = None) -> dict:
    """A case of the evaluator after its post-processing: all head but for a frame of background."""
    rng = np.random.default_rng(0)
    probability = np.zeros(SIZE, np.float32) if values is None else values.astype(np.float32)
    size = probability.shape
    image = np.full((3, *size), -1, np.float32)
    image[:, 1:-1, 1:-1] = rng.uniform(-0.8, 0.2, (3, size[0] - 2, size[1] - 2, size[2]))
    affine = np.diag([-2.0, -2.0, 5.0, 1]) if nifti else DISPLAY
    if axes is not None:
        affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(axes), size)
    meta = {
        "filename_or_obj": f"/in/{case}.nii" if nifti else f"/in/{case}_1.tif",
        "spacing_known": nifti,
        "original_affine": affine,
        "affine": affine,
        "qform_code": int(nifti),
        "sform_code": int(nifti),
        "xyzt_units": 2 if nifti else 0,
    }
    pred = MetaTensor(torch.as_tensor(probability)[None], affine=torch.as_tensor(affine), meta=meta)
    shown = np.stack([to_display(channel, affine) for channel in image])
    return {"case": case, "image": torch.as_tensor(shown), "pred": pred}


def block(value: float = 0.9) -> np.ndarray:
    values = np.zeros(SIZE)
    values[5:9, 4:8, 2:4] = value
    return values


def result(folder: Path, case: str = "P_1") -> dict:
    content: dict = json.loads((folder / case / "result.json").read_text())
    return content


def test_result_has_confidence_and_flags(tmp_path: Path) -> None:
    values = block()
    values[0, 2:10, 2] = 0.6  # a second part, at the front edge
    SaveCased("pred", str(tmp_path), overlay=False)(record(values=values))
    found = result(tmp_path)
    expected = 2 * (32 * 0.9 + 8 * 0.6) / (32 * 0.9 + 8 * 0.6 + 40)
    assert found["confidence"] == pytest.approx(expected, abs=1e-4)
    assert found["largest_probability"] == 0.9
    assert [flag["name"] for flag in found["flags"]] == ["border", "several components"]
    assert found["flags"][0]["reason"].startswith("the mask reaches the front edge of the image")


def test_no_tumour_has_no_confidence(tmp_path: Path) -> None:
    SaveCased("pred", str(tmp_path), overlay=False)(record(values=block(0.25)))
    found = result(tmp_path)
    assert (found["confidence"], found["largest_probability"]) == (None, 0.25)
    assert [flag["name"] for flag in found["flags"]] == ["no tumour"]


def test_sides_are_those_of_the_display(tmp_path: Path) -> None:
    """In this NIfTI the first axis runs to the patient's left, so its end is the right edge of the picture."""
    values = np.zeros(SIZE)
    values[-4:, 6:10, 2:4] = 1
    SaveCased("pred", str(tmp_path), overlay=False)(record(nifti=True, values=values))
    reasons = [flag["reason"] for flag in result(tmp_path)["flags"]]
    assert reasons == ["the mask reaches the right edge of the image; tumour beyond it is not in the image"]


def test_low_confidence_is_a_setting(tmp_path: Path) -> None:
    for level, names in ((0.95, ["low confidence"]), (0.9, [])):
        SaveCased("pred", str(tmp_path), overlay=False, low_confidence=level)(record(values=block()))  # 0.947
        assert [flag["name"] for flag in result(tmp_path)["flags"]] == names


def test_uncertainty_and_probabilities_as_nifti(tmp_path: Path) -> None:
    values = block(0.75)
    SaveCased("pred", str(tmp_path), uncertainty=True, probabilities=True, overlay=False)(
        record(nifti=True, values=values)
    )
    assert {path.name for path in (tmp_path / "P_1").iterdir()} == {
        "P_1_mask.nii.gz", "P_1_prob.nii.gz", "P_1_uncertainty.nii.gz", "result.json"
    }  # fmt: skip
    image = nib.load(tmp_path / "P_1" / "P_1_uncertainty.nii.gz")
    assert image.get_data_dtype() == np.float32
    np.testing.assert_allclose(image.get_fdata(), uncertainty(values), atol=1e-6)
    assert image.get_fdata().max() == pytest.approx(0.25 * 2 + 0.75 * math.log2(4 / 3))
    np.testing.assert_allclose(nib.load(tmp_path / "P_1" / "P_1_prob.nii.gz").get_fdata(), values, atol=1e-6)


def test_uncertainty_as_tiff_and_a_name_with_braces(tmp_path: Path) -> None:
    SaveCased("pred", str(tmp_path), uncertainty=True, overlay=False)(record("p{1}", values=block(0.5)))
    pages = [tifffile.imread(tmp_path / "p{1}" / f"p{{1}}_{k}_uncertainty.tif") for k in range(1, 7)]
    assert pages[0].dtype == np.float32
    np.testing.assert_allclose(np.stack(pages, axis=-1), block(1.0))


def test_without_options_no_maps_are_written(tmp_path: Path) -> None:
    SaveCased("pred", str(tmp_path), overlay=False)(record(nifti=True, values=block()))
    assert {path.name for path in (tmp_path / "P_1").iterdir()} == {"P_1_mask.nii.gz", "result.json"}


def test_reference_file(tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    save_reference(
        path, Reference(10, {"head rows": Range(180, 5, 170, 190), "head slices": Range(6, 1, 5, 8)}, {}, {})
    )
    SaveCased("pred", str(tmp_path), overlay=False, reference_file=str(path))(record(values=block()))
    (flag,) = result(tmp_path)["flags"]
    assert flag == {
        "name": "unusual geometry",
        "reason": "unlike the training data: 18 px from the head's front to its back, training 170 to 190",
    }
    save = SaveCased("pred", str(tmp_path), overlay=False, reference_file=str(tmp_path / "none.json"))
    save(record("other", values=block()))
    assert result(tmp_path, "other")["flags"] == []


def test_output_that_is_not_finite(tmp_path: Path) -> None:
    values = block()
    values[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"P_1: the network's output is not finite; try --precision fp32"):
        SaveCased("pred", str(tmp_path), overlay=False)(record(values=values))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.0}, "threshold 1.0 is not between 0 and 1"),
        ({"threshold": math.nan}, "threshold nan"),
        ({"low_confidence": 1.5}, "low_confidence 1.5 is not in 0 to 1"),
        ({"output_format": "png"}, "'png' is not one of auto, tiff, nifti, dicomseg"),
        ({"seg_type": "labelmap"}, "seg_type 'labelmap' is not one of binary, fractional"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SaveCased("pred", str(tmp_path), **settings)


def test_manifest(tmp_path: Path) -> None:
    bundle = tmp_path / "my bundle"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "models").mkdir()
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"name": "A U-Net", "version": "0.2.0"}))
    assert weights_sha256(bundle) is None
    (bundle / "models" / "model.pt").write_bytes(b"weights")
    path = write_manifest(tmp_path, bundle, {"threshold": 0.4}, {"done": 2, "skipped": 1, "failed": 0})
    content = json.loads(path.read_text())
    assert path == tmp_path / "manifest.json"
    assert content["bundle"] == {
        "folder": "my bundle",
        "name": "A U-Net",
        "version": "0.2.0",
        "weights_sha256": hashlib.sha256(b"weights").hexdigest(),
    }
    assert content["options"] == {"threshold": 0.4}
    assert content["cases"] == {"done": 2, "skipped": 1, "failed": 0}
    assert content["date_utc"].endswith("+00:00")
    assert {"torch", "monai", "monai-lgg", "Python", "system"} <= set(content["environment"])
    assert content["environment"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert str(tmp_path) not in path.read_text()


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL"])
def test_display_is_what_monai_calls_pls_and_there_is_a_way_back(axes: str) -> None:
    volume = np.random.default_rng(0).random((3, 4, 5))
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(axes), volume.shape)
    image = MetaTensor(torch.as_tensor(volume)[None], affine=torch.as_tensor(affine))
    shown = to_display(volume, affine)
    np.testing.assert_array_equal(shown, Orientation(axcodes="PLS", labels=None)(image)[0])
    np.testing.assert_array_equal(from_display(shown, affine), volume)


def test_a_cyst_is_filled_in_the_slices_as_acquired(tmp_path: Path) -> None:
    """The hole is open along the first axis of the file, which holds the slices here, and closed within each."""
    values = np.zeros((4, 5, 6))
    values[1:3, 1:4, 1:4] = 0.9
    values[1:3, 2, 2] = 0.1
    for fill, voxels in ((False, 16), (True, 18)):
        SaveCased("pred", str(tmp_path), overlay=False, fill_holes=fill)(record(values=values, axes="SAL"))
        assert result(tmp_path)["voxels"] == voxels
