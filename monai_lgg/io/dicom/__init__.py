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
MAGIC = b"DICM"
#: Little-endian group number with which files without a preamble begin: meta information, or identification.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
#: Implicit VR: the length of the first element; longer than this is no header.
_LONGEST_FIRST = 256
#: Names that say that a file is something else; it is not opened to find out.
_OTHER = (".tif", ".tiff", ".nii", ".nii.gz", ".csv", ".json", ".png", ".jpg", ".jpeg", ".txt", ".html", ".pdf", ".zip")
#: Names that say that a file is DICOM: where its content does not, it is damaged.
NAMED = (".dcm", ".dicom", ".ima")


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """By content: the magic word, or (files without a preamble) a plausible first element."""
    try:
        return _is_dicom(first_bytes(path))
    except OSError:
        return False


def first_bytes(path: str | os.PathLike[str]) -> bytes:
    """Raises:
    OSError: the file cannot be opened or read.
    """
    with open(path, "rb") as file:
        return file.read(132)


def _is_dicom(start: bytes) -> bool:
    if start[128:132] == MAGIC:
        return True
    if start[:2] not in _FIRST_GROUPS or len(start) < 132:
        return False
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return explicit or int.from_bytes(start[4:8], "little") <= _LONGEST_FIRST


def find_dicom(paths: Iterable[Path]) -> list[str]:
    """DICOM files among the paths and in the folders below them, each once; links to folders are not followed.

    Beside DICOM files in a path, what may have been one is listed too, to be told of: files that cannot be opened, or
    are DICOM by their name only, and folders that cannot be listed.
    """
    found: dict[str, None] = {}
    for path in paths:
        here, lost = _found(path)
        found |= dict.fromkeys([*here, *lost] if here else [])
    return list(found)


def _found(path: Path) -> tuple[list[str], list[str]]:
    """DICOM files, and what may have been one."""
    here: list[str] = []
    lost: list[str] = []
    for file in _files(path, lost):
        if file.name.startswith(".") or file.name.lower().endswith(_OTHER):
            continue
        try:
            if _is_dicom(first_bytes(file)):
                here.append(str(file.resolve()))
            elif file.name.lower().endswith(NAMED):
                lost.append(str(file.resolve()))
        except OSError:
            lost.append(str(file.absolute()))
    return here, lost


def _files(path: Path, unlisted: list[str]) -> Iterable[Path]:
    if path.is_file():
        yield path
    for folder, folders, names in os.walk(path, onerror=lambda error: unlisted.append(str(error.filename))):
        folders.sort()
        yield from (Path(folder) / name for name in sorted(names) if _may_be_opened(Path(folder) / name))


def _may_be_opened(path: Path) -> bool:
    """Not of pipes and devices, which would keep a reader waiting. A link that leads nowhere is a file that is lost."""
    try:
        return path.is_file() or (path.is_symlink() and not path.exists())
    except OSError:  # the folder cannot be searched
        return True


def require_dicom() -> None:
    """Raises:
    ImportError: the packages of the extra are not installed.
    """
    missing = [name for name in ("pydicom", "highdicom") if find_spec(name) is None]
    if missing:
        raise ImportError(f'DICOM needs {" and ".join(missing)}: pip install "monai-lgg[dicom]"')
