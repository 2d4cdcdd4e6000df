"""Which series is FLAIR and which are T1 before and after contrast medium: by sequence parameters, then by name.

Times decide against a name: a "T1 FLAIR" has a short inversion time, a "STIR" a shorter one.
"""

import re

from monai_lgg.io.dicom.headers import Header

#: ms. FLAIR nulls fluid: about 2500 after a TR of 9000, in 3D with a shorter TR about 1650.
FLAIR_INVERSION = (1400.0, 3200.0)
FLAIR_REPETITION = 4000.0
FLAIR_ECHO = 60.0
#: ms. With this repetition time an inversion of unknown time is no STIR.
FLAIR_SURE_REPETITION = 6500.0
#: ms. Above these a spin echo is no T1; magnetization-prepared gradient echoes (MPRAGE) repeat at up to 3000.
T1_ECHO = 35.0
T1_REPETITION = 1300.0
T1_PREPARED_REPETITION = 3500.0
T1_INVERSION = 1300.0

_FLAIR = re.compile(r"flair|dark.?fluid|fluid.?att|\btirm", re.I)
_T1 = re.compile(r"(?<![a-z0-9])t1(?!\d)|mp.?rage|\bspgr|bravo|\bvibe|\btfe|fspgr|\btfl", re.I)
_OTHER = re.compile(
    r"diff|dwi|dti|adc\b|ep2d|perf|pwi|\bdsc|\bdce|\basl|bold|fmri|angio|\bmra|\btof|\bswi|\bswan|t2.?star|t2\*|\bmip\b|"
    r"\bminip|\bsub\b|subtr|localizer|localiser|\bloc\b|scout|survey|spectro|\bcsi|\bsvs|field.?map|b0.?map|t1.?map",
    re.I,
)
_AFTER = re.compile(r"\bpost(?!er)|[+&]\s?(c|gd|gad|km)\b|\bc\+|\bce\b|\bgd\b|gado|contrast|\bkm\b|t1c\b", re.I)
_BEFORE = re.compile(r"\bpre\b|\bpre.?(c|gd|km|contrast)\b|nativ|without|w/o|\bohne|\bno\b|non.?contrast", re.I)
_NO_AGENT = frozenset({"", "NO", "NONE", "N", "0", "NIL", "OHNE", "WITHOUT"})
_LOCALIZER = frozenset({"LOCALIZER", "LOCALISER", "SCOUT"})
_COMPUTED = frozenset({"SUBTRACT", "SUBTRACTION", "SUB", "MIP", "MINIP", "PROJECTION IMAGE", "ADC", "MOSAIC", "MAX_IP"})


def is_localizer(header: Header) -> bool:
    return bool(_LOCALIZER & set(header.image_type))


def is_derived(header: Header) -> bool:
    """Made of other images, for example a reformatted series."""
    return "DERIVED" in header.image_type


def is_flair(header: Header) -> bool:
    """Long inversion, repetition and echo times; where times are missing, the name."""
    if not _usable(header):
        return False
    echo, repetition, inversion = header.echo_time, header.repetition_time, header.inversion_time
    if inversion and not FLAIR_INVERSION[0] <= inversion <= FLAIR_INVERSION[1]:
        return False
    if (echo and echo < FLAIR_ECHO) or (repetition and repetition < FLAIR_REPETITION):
        return False
    if echo and repetition and (inversion or ("IR" in header.scanning_sequence and repetition > FLAIR_SURE_REPETITION)):
        return True
    return bool(_FLAIR.search(_name(header))) and not _T1.search(_name(header))


def t1_role(header: Header) -> str | None:
    """``pre`` or ``post`` for a T1-weighted series before or after contrast medium, None for another."""
    if not _usable(header) or not _is_t1(header):
        return None
    return "post" if has_contrast(header) else "pre"


def has_contrast(header: Header) -> bool:
    """A series named as before contrast is that; else the agent that the header names, or the series' name."""
    name = _name(header)
    if _BEFORE.search(name):
        return False
    return header.contrast.strip().upper() not in _NO_AGENT or bool(_AFTER.search(name))


def _is_t1(header: Header) -> bool:
    echo, repetition, inversion = header.echo_time, header.repetition_time, header.inversion_time
    named = bool(_T1.search(_name(header)))
    if inversion and inversion >= T1_INVERSION:
        return False
    if echo and echo > T1_ECHO:
        return False
    prepared = bool(inversion) or named
    if repetition and repetition > (T1_PREPARED_REPETITION if prepared else T1_REPETITION):
        return False
    if named:
        return True
    # without the name: short times of a spin echo or of an inversion-prepared sequence; a plain gradient echo may
    # be T2*, angiography or a localizer
    spin = "SE" in header.scanning_sequence
    return bool(echo and repetition) and (spin or bool(inversion))


def _usable(header: Header) -> bool:
    return not (
        is_localizer(header)
        or _COMPUTED & set(header.image_type)
        or "EP" in header.scanning_sequence
        or _OTHER.search(_name(header))
    )


def _name(header: Header) -> str:
    """Underscores are letters to a regular expression, but not to those who name series."""
    return f"{header.description} {header.protocol}".replace("_", " ")


def in_words(header: Header, images: int, description: bool = False) -> str:
    """A series as messages name it: number and parameters; what people typed (it may hold a name) only if asked for."""
    facts = ["/".join(header.scanning_sequence)] if header.scanning_sequence else []
    times = (("TR", header.repetition_time), ("TE", header.echo_time), ("TI", header.inversion_time))
    facts += [f"{name} {value:g} ms" for name, value in times if value]
    facts.append(f"{images} image{'' if images == 1 else 's'}")
    number = "?" if header.series_number is None else header.series_number
    title = f" {header.description!r}" if description and header.description else ""
    return f"series {number}{title} ({', '.join(facts)})"
