import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from monai_lgg.cli import main
from monai_lgg.io.dicom import find_dicom
from monai_lgg.io.dicom.geometry import resample
from monai_lgg.io.dicom.studies import dicom_records
from monai_lgg.io.dicom.volume import read_dicom_case
from monai_lgg.phantom import make_patient
from monai_lgg.phantom_dicom import GAIN, PLANES, own_affine, write_study

SIZE = (40, 32)


@pytest.mark.parametrize("plane", PLANES)
def test_a_study_shows_the_phantom_in_its_place(tmp_path: Path, plane: str) -> None:
    """What is read back, brought onto the phantom's own grid, is the phantom, but for two interpolations."""
    patient = make_patient(0, size=SIZE, slices=16)
    write_study(tmp_path / "p", patient, plane=plane)
    (record,) = dicom_records(find_dicom([tmp_path]))
    pixels, meta = read_dicom_case(record["image"])
    facts = json.loads(record["dicom"])["facts"]
    assert [facts[name]["series_number"] for name in ("pre", "flair", "post")] == [3, 2, 4]
    assert facts["flair"]["plane"] == ("axial" if plane == "oblique" else plane)
    for channel in range(3):
        image = patient.image[..., channel].transpose(2, 1, 0) * float(GAIN)
        found = resample(pixels[..., channel], meta["affine"], own_affine(patient), image.shape)
        alike = correlation(found, image)
        assert alike > 0.85, channel
        assert all(correlation(np.flip(found, axis), image) < alike - 0.01 for axis in range(3)), channel


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one[..., 3:-3].ravel(), other[..., 3:-3].ravel())[0, 1])


def test_command(tmp_path: Path) -> None:
    options = ["--patients", "3", "--size", "32", "40", "--slices", "4", "--format", "dicom", "-q"]
    result = CliRunner().invoke(main, ["data", "synth", str(tmp_path / "in"), *options])
    assert result.exit_code == 0, result.output
    assert "3 synthetic patients" in result.output
    found = [json.loads(record["dicom"])["facts"] for record in dicom_records(find_dicom([tmp_path]))]
    lacking = sorted(tuple(name for name in ("pre", "post") if facts[name] is None) for facts in found)
    assert lacking == [(), (), ("pre",)]  # patient 2 of a cycle has no pre-contrast series
    result = CliRunner().invoke(main, ["data", "synth", str(tmp_path / "in"), *options])
    assert "exists; choose another folder or delete this one" in result.output
    result = CliRunner().invoke(main, ["data", "synth", str(tmp_path / "x"), "--patients", "1", "--plane", "coronal"])
    assert "--plane goes with --format dicom" in result.output
