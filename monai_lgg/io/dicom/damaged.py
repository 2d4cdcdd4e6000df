"""Files that cannot be read: what they still tell, and which studies and series may have lost an image with them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import FileDataset
from pydicom.uid import UID_dictionary

from monai_lgg.io.dicom import MAGIC, NAMED, first_bytes
from monai_lgg.io.dicom.headers import IMAGES, Header, unvalidated

_SERIES = 0x0020000E
_TELLING = (0x00080016, 0x0020000D, _SERIES)


@dataclass(frozen=True)
class Damaged:
    """A file, or a folder that cannot be listed. ``study`` and ``series`` are UIDs, empty where they are lost too."""

    path: str
    study: str = ""
    series: str = ""

    @property
    def folder(self) -> str:
        return str(Path(self.path).parent)


def damaged(path: str) -> Damaged | None:
    """What is left of a file whose header cannot be read.

    Returns:
        None when that is no loss: it says that it is no MR image (a DICOMDIR, a report), or nothing shows that it ever
        was a DICOM file.
    """
    try:
        claims = first_bytes(path)[128:132] == MAGIC or path.lower().endswith(NAMED)
    except OSError:
        return Damaged(path)
    left = _left(path)
    kind = str(left.get("SOPClassUID") or left.file_meta.get("MediaStorageSOPClassUID") or "")
    if kind in UID_dictionary and kind not in IMAGES:
        return None
    found = Damaged(path, str(left.get("StudyInstanceUID") or ""), str(left.get("SeriesInstanceUID") or ""))
    return found if claims or kind in IMAGES or found.study or found.series else None


def _left(path: str) -> FileDataset:
    """The header as far as the UID of the series; empty where that part is damaged."""
    with unvalidated(), open(path, "rb") as file:
        try:
            data = pydicom.filereader.read_partial(
                file, lambda tag, kind, length: tag > _SERIES, force=True, specific_tags=list(_TELLING)
            )
            str([element.value for element in data])  # read lazily, so errors come late
            return data
        except Exception:  # pydicom lets the errors of its parts through
            return FileDataset(path, {}, file_meta=pydicom.dataset.FileMetaDataset())


def by_study(lost: Iterable[Damaged], headers: Sequence[Header]) -> dict[str, list[Damaged]]:
    """Damaged files of each study (UID).

    A file that does not tell its study counts for all studies in the nearest folder that has any, or below it.

    Args:
        headers: of all readable files.
    """
    of_series = {header.series: header.study for header in headers}
    below: dict[str, set[str]] = defaultdict(set)
    for folder, study in {(str(Path(header.path).parent), header.study) for header in headers}:
        for parent in (folder, *map(str, Path(folder).parents)):
            below[parent].add(study)
    found: dict[str, list[Damaged]] = defaultdict(list)
    for item in lost:
        near = next((below[str(parent)] for parent in Path(item.path).parents if str(parent) in below), set())
        study = item.study or of_series.get(item.series, "")
        for name in {study} if study else near:
            found[name].append(item)
    return found


def may_belong(item: Damaged, series: Sequence[Header], study: Sequence[Header]) -> bool:
    """Whether a damaged file of a study may be an image of one of its series.

    Its header decides; where that is lost, its folder does. A series that is one multi-frame file, or has all images
    that its header speaks of, misses none.
    """
    first = series[0]
    if first.enhanced or (first.images_in_acquisition and len(series) >= first.images_in_acquisition):
        return False
    if item.series:
        return item.series == first.series
    own = {str(Path(header.path).parent) for header in series}
    others = {str(Path(header.path).parent) for header in study if header.series != first.series}
    return item.folder in own or (len(own) > 1 and item.folder not in others)
