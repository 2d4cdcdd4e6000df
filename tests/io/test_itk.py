"""The core installs only parts of ITK; MONAI's own ITK reader and writer must work with them."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import ITKReader, ITKWriter


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_itk_parts_read_and_write(tmp_path: Path, suffix: str) -> None:
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.diag([2.0, 3.0, 4.0, 1])
    writer = ITKWriter(output_dtype=np.int16)
    writer.set_data_array(voxels, channel_dim=None)
    writer.set_metadata({"affine": affine, "original_affine": affine})
    writer.write(str(tmp_path / f"v{suffix}"))
    reader = ITKReader()
    array, meta = reader.get_data(reader.read(str(tmp_path / f"v{suffix}")))
    np.testing.assert_array_equal(array, voxels)
    np.testing.assert_allclose(np.abs(np.diag(meta["affine"])), [2, 3, 4, 1])
    if suffix == ".nii.gz":
        np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "v.nii.gz").dataobj), voxels)
