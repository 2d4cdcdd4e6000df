"""DICOM in and out: which studies lie in a folder, their FLAIR and T1 series as volumes, masks as DICOM SEG.

Headers are read by pydicom, pixels by GDCM through ITK, segmentations are written by highdicom (extra ``dicom``).
Positions and orientations are DICOM's (LPS, mm) in the headers and RAS in every affine, as elsewhere here.

No message of this package holds what identifies a patient (names, UIDs, descriptions, paths) unless it is asked for.
"""

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

#: What a DICOM file with a preamble has at byte 128.
_MAGIC = b"DICM"
#: Little-endian group number with which files without a preamble begin: meta information, or identification.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
#: Implicit VR: the length of the first element; longer than this is no header.
_LONGEST_FIRST = 256
#: Names that say that a file is something else; it is not opened to find out.
_OTHER = (".tif", ".tiff", ".nii", ".nii.gz", ".csv", ".json", ".png", ".jpg", ".jpeg", ".txt", ".html", ".pdf", ".zip")


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """By content: the magic word, or (files without a preamble) a plausible first element."""
    try:
        with open(path, "rb") as file:
            start = file.read(132)
    except OSError:
        return False
    if start[128:132] == _MAGIC:
        return True
    if start[:2] not in _FIRST_GROUPS or len(start) < 132:
        return False
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return explicit or int.from_bytes(start[4:8], "little") <= _LONGEST_FIRST


def find_dicom(paths: Iterable[Path]) -> list[str]:
    """DICOM files among the paths and in the folders below them, each once; links to folders are not followed."""
    found: dict[str, None] = {}
    for path in paths:
        for file in _files(path):
            if not file.name.startswith(".") and not file.name.lower().endswith(_OTHER) and is_dicom(file):
                found[str(file.resolve())] = None
    return list(found)


def _files(path: Path) -> Iterable[Path]:
    if path.is_file():
        yield path
    for folder, folders, names in os.walk(path):
        folders.sort()
        yield from (Path(folder) / name for name in sorted(names) if (Path(folder) / name).is_file())


def require_dicom() -> None:
    """Raises:
    ImportError: the packages of the extra are not installed.
    """
    missing = [name for name in ("pydicom", "highdicom") if find_spec(name) is None]
    if missing:
        raise ImportError(f'DICOM needs the package {" and ".join(missing)}: pip install "monai-lgg[dicom]"')
