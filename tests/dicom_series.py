"""Phantom FLAIR series as DICOM, and an Orthanc server for them."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from tests.label_server import PATIENCE

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
#: mm: columns, rows, and from slice to slice.
SPACING = (0.9, 0.9, 5.0)
ORIGIN = (-28.0, -31.0, 12.0)


def write_series(folder: Path, flair: np.ndarray, name: str) -> str:
    """An axial MR series of (slices, rows, columns), one file a slice; returns its SeriesInstanceUID."""
    folder.mkdir(parents=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for k, pixels in enumerate(flair):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item = FileDataset(str(folder / f"{k}.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
        item.is_little_endian, item.is_implicit_VR = True, False
        item.SOPClassUID, item.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = study, series, frame
        item.PatientName, item.PatientID, item.PatientBirthDate, item.PatientSex = f"Phantom^{name}", name, "", ""
        item.StudyDate, item.StudyTime, item.StudyID, item.AccessionNumber = "20000101", "120000", "1", ""
        item.ReferringPhysicianName, item.Manufacturer, item.PositionReferenceIndicator = "", "phantom", ""
        item.Modality, item.SeriesNumber, item.InstanceNumber = "MR", 1, k + 1
        item.SeriesDescription, item.StudyDescription = "AX FLAIR", "Synthetic brain"
        item.ImageType, item.ScanningSequence, item.SequenceVariant = ["ORIGINAL", "PRIMARY", "OTHER"], "SE", "NONE"
        item.ScanOptions, item.MRAcquisitionType, item.EchoTime, item.EchoTrainLength = "", "2D", 120, 1
        item.RepetitionTime, item.InversionTime = 9000, 2500
        item.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        item.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + k * SPACING[2]]
        item.PixelSpacing, item.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        item.Rows, item.Columns = pixels.shape
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated = item.BitsStored = 16
        item.HighBit, item.PixelRepresentation = 15, 0
        item.PixelData = pixels.astype("<u2").tobytes()
        item.save_as(folder / f"{k}.dcm", write_like_original=False)
    return str(series)


class Orthanc:
    """An Orthanc server with its DICOMweb plugin, a context manager.

    Debian's Orthanc cannot be bound to one address; it refuses requests from other machines.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        config = {
            "HttpPort": port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": False,
            "StorageDirectory": str(folder / "orthanc"),
            "IndexDirectory": str(folder / "orthanc"),
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(config))
        with (folder / "orthanc.log").open("w") as log:
            self.process = subprocess.Popen(
                [str(shutil.which("Orthanc")), str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> "Orthanc":
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                self.get("/system")
                return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        raise AssertionError("Orthanc does not answer")

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=PATIENCE)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as answer:
            return json.loads(answer.read())

    def upload(self, folder: Path) -> None:
        for path in sorted(folder.glob("*.dcm")):
            urllib.request.urlopen(
                urllib.request.Request(self.url + "/instances", path.read_bytes()), timeout=PATIENCE
            ).close()

    def segmentations(self) -> list[pydicom.Dataset]:
        """All DICOM SEG objects that are stored."""
        found = []
        for series in self.get("/series?expand"):
            if series["MainDicomTags"]["Modality"] == "SEG":
                for instance in series["Instances"]:
                    with urllib.request.urlopen(f"{self.url}/instances/{instance}/file") as answer:
                        found.append(pydicom.dcmread(pydicom.filebase.DicomBytesIO(answer.read())))
        return found


def mask_of(segmentation: pydicom.Dataset, slices: int) -> np.ndarray:
    """bool, (slices, rows, columns) of a binary SEG, each frame put where its position says."""
    frames = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    mask = np.zeros((slices, segmentation.Rows, segmentation.Columns), bool)
    for pixels, group in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose((x, y), ORIGIN[:2], atol=1e-3)
        mask[round((z - ORIGIN[2]) / SPACING[2])] |= pixels > 0
    return mask
