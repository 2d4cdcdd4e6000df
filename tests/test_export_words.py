"""What an exported file says, followed without this package."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn.functional import interpolate

from monai_lgg.bundle import find_bundle
from monai_lgg.cases import read_patients
from monai_lgg.export import export_bundle
from monai_lgg.inference import predict
from monai_lgg.io.tiff import read_tiff
from monai_lgg.phantom import write_patients
from monai_lgg.prediction_inputs import prediction_records
from tests.test_export import load


def by_the_words(forward: Any, facts: dict[str, Any], volume: np.ndarray) -> np.ndarray:
    """The mask (H, W, D) of (H, W, D, 3), by what the metadata of unet_25d say, without this package."""
    scaled = np.empty(volume.shape, np.float32)
    for channel in range(3):
        values = volume[..., channel].astype(np.float64)
        low = values.min()
        tenth, thirtieth, ninetieth = np.percentile(values, (10, 30, 90), method="lower")
        if 4 * (thirtieth - tenth) < ninetieth - thirtieth:
            low = tenth
        above = values[values > low]
        head = above[above > low + 0.1 * (np.percentile(above, 99.5) - low)]
        scaled[..., channel] = np.clip((values - low) / (3 * (np.median(head) - low)) * 2 - 1, -1, 1)
    slices = torch.from_numpy(scaled).permute(2, 3, 0, 1)  # (D, C, H, W)
    heads = (slices > -0.8).any(dim=1).float()
    rows, columns = (torch.nonzero((heads.mean(dim=across) > 0.04).any(dim=0)).ravel() for across in (2, 1))
    window = [slice(max(0, int(of[0]) - 6), int(of[-1]) + 7) for of in (rows, columns)]
    inside = slices[(..., *window)]
    smallest, largest = facts["inferer"]["head_size"]
    extent = max(int(of[-1] - of[0]) + 1 for of in (rows, columns))
    factor = min(max(extent, smallest), largest) / extent
    size = [round(length * factor) for length in inside.shape[-2:]]
    resized = interpolate(inside, size, mode="bilinear", antialias=True)
    box = []  # of all eight slices
    for of, within, length, old in zip((rows, columns), window, size, inside.shape[-2:], strict=True):
        first, end = (int(of[0]) - within.start) * length / old, (int(of[-1]) + 1 - within.start) * length / old
        box.append(slice(max(0, math.floor(first) - 6), min(length, math.ceil(end) + 6)))
    cut = resized[(..., *box)]
    multiple, last = facts["inferer"]["multiple"], len(slices) - 1
    room = [-length % multiple for length in cut.shape[-2:]]
    padded = torch.nn.functional.pad(cut, (0, room[1], 0, room[0]), value=-1.0)
    around = [torch.stack([padded[min(max(k + step, 0), last)] for step in (-1, 0, 1)], 1) for k in range(len(slices))]
    with torch.no_grad():
        found = forward(torch.stack([of.flatten(0, 1) for of in around]))[..., : cut.shape[-2], : cut.shape[-1]]
    of_window = torch.full((len(slices), 1, *size), -15.0)
    of_window[(..., *box)] = found
    logits = torch.full((len(slices), 1, *slices.shape[-2:]), -15.0)
    logits[(..., *window)] = interpolate(of_window, inside.shape[-2:], mode="bilinear", antialias=True)
    points = facts["calibration"]  # numpy ends the line at its points, where the mask is decided already
    score = np.interp(logits.numpy(), points["logits"], points["calibrated"])
    mask = (1 / (1 + np.exp(-score)) >= facts["threshold"])[:, 0].transpose(1, 2, 0)
    filled = np.stack([ndimage.binary_fill_holes(mask[..., k]) for k in range(mask.shape[2])], axis=2)
    labels, count = ndimage.label(filled, np.ones((3, 3, 3)))
    sizes = [int((labels == number).sum()) for number in range(1, count + 1)]
    kept = [number + 1 for number in range(count) if sizes[number] >= facts["component_share"] * max(sizes)]
    return np.isin(labels, kept)


@pytest.mark.parametrize("size", [(96, 112), (256, 240)])
def test_the_words_are_enough_to_get_the_masks_of_predict(size: tuple[int, int], tmp_path: Path) -> None:
    write_patients(tmp_path / "data", 1, seed=5, size=size, slices=8)
    (patient,) = read_patients(tmp_path / "data")
    volume = np.stack([read_tiff(item.image) for item in patient.slices], axis=2)
    (record,) = prediction_records(tmp_path / "data")
    predict([record], find_bundle("unet_25d"), tmp_path / "out", device="cpu", settings={"backend": "torch"})
    masks = [tmp_path / "out" / patient.name / f"{item.image.stem}_mask.tif" for item in patient.slices]
    expected = np.stack([read_tiff(path) > 0 for path in masks], axis=2)
    forward, facts = load(
        export_bundle(find_bundle("unet_25d"), "torchscript", tmp_path / "unet_25d.ts"), "torchscript"
    )
    mask = by_the_words(forward, facts, volume)
    assert expected.sum() > 100
    assert (mask != expected).sum() <= 2
