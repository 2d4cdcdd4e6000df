from dataclasses import replace

import pytest

from monai_lgg.io.dicom.headers import Header, read_header
from monai_lgg.io.dicom.sequences import in_words, is_flair, t1_role
from monai_lgg.phantom_dicom import PLANES
from tests.dicom_files import affine_of, voxels, write


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Header:
    """Says nothing of its sequence."""
    folder = tmp_path_factory.mktemp("plain") / "s"
    path = write(folder, voxels()[..., :1], affine_of(PLANES["axial"]), SeriesDescription="")[0]
    nothing = {"repetition_time": None, "echo_time": None, "inversion_time": None, "scanning_sequence": ()}
    return replace(read_header(str(path)), **nothing)  # type: ignore[arg-type]


def series(plain: Header, text: str, times: tuple[float | None, float | None, float | None], *sequence: str) -> Header:
    repetition, echo, inversion = times
    return replace(
        plain,
        description=text,
        repetition_time=repetition,
        echo_time=echo,
        inversion_time=inversion,
        scanning_sequence=sequence,
    )


NONE = (None, None, None)


@pytest.mark.parametrize(
    ("text", "times", "sequence", "expected"),
    [
        ("t2_tirm_tra_dark-fluid", (9000, 120, 2500), ("SE", "IR"), True),
        ("Sag CUBE", (6002, 130, 1650), ("SE", "IR"), True),  # found by its times alone
        ("serie 4", (11000, 125, None), ("SE", "IR"), True),
        ("AX T2 FLAIR", NONE, (), True),
        ("ax_flair_fs", (9000, 120, None), ("SE",), True),
        ("Ax T1 FLAIR", (2500, 22, 900), ("SE", "IR"), False),
        ("Ax T1 FLAIR", NONE, (), False),
        ("t2_stir_cor", (5000, 70, 150), ("SE", "IR"), False),
        ("t2_tse_tra", (5000, 100, None), ("SE",), False),
        ("t1_mprage", (2000, 3, 900), ("GR", "IR"), False),
        ("FLAIR localizer", NONE, (), False),
        ("ep2d_diff_flair", (9000, 100, 2500), ("EP", "IR"), False),
        ("", NONE, (), False),
    ],
)
def test_flair(plain: Header, text: str, times: tuple, sequence: tuple, expected: bool) -> None:
    assert is_flair(series(plain, text, times, *sequence)) is expected


@pytest.mark.parametrize(
    ("text", "times", "sequence", "agent", "expected"),
    [
        ("t1_se_tra", (500, 10, None), ("SE",), "", "pre"),
        ("t1_se_tra", (500, 10, None), ("SE",), "Gadovist", "post"),
        ("t1_se_tra", (500, 10, None), ("SE",), "NONE", "pre"),
        ("t1_se_tra_KM", (500, 10, None), ("SE",), "", "post"),
        ("AX T1 +C", NONE, (), "", "post"),
        ("AX T1 post gd", NONE, (), "", "post"),
        ("AX T1 pre", NONE, (), "Gadovist", "pre"),  # an agent that was entered for the whole study
        ("t1_mprage_posterior", NONE, (), "", "pre"),
        ("3D sag", (2000, 3, 900), ("GR", "IR"), "", "pre"),
        ("unnamed", (600, 12, None), ("SE",), "", "pre"),
        ("unnamed", (20, 5, None), ("GR",), "", None),  # may be anything
        ("t1_map", (500, 10, None), ("SE",), "", None),
        ("t1_sub", (500, 10, None), ("SE",), "Gadovist", None),
        ("t2_tse", (5000, 100, None), ("SE",), "Gadovist", None),
        ("t10_odd", NONE, (), "", None),
        ("T1 but long echo", (500, 90, None), ("SE",), "", None),
    ],
)
def test_t1(plain: Header, text: str, times: tuple, sequence: tuple, agent: str, expected: str | None) -> None:
    assert t1_role(replace(series(plain, text, times, *sequence), contrast=agent)) == expected


@pytest.mark.parametrize("kind", ["LOCALIZER", "SUBTRACTION", "MIP", "PROJECTION IMAGE", "ADC"])
def test_images_made_of_others_and_localizers_are_neither(plain: Header, kind: str) -> None:
    of = ("DERIVED", "SECONDARY", kind)
    assert not is_flair(replace(series(plain, "FLAIR", (9000, 120, 2500)), image_type=of))
    assert t1_role(replace(series(plain, "T1", (500, 10, None)), image_type=of)) is None


def test_description_is_only_told_when_asked_for(plain: Header) -> None:
    header = series(plain, "Doe FLAIR", (9000, 120, 2500), "SE", "IR")
    assert in_words(header, 24) == "series 3 (SE/IR, TR 9000 ms, TE 120 ms, TI 2500 ms, 24 images)"
    assert in_words(header, 1, True).startswith("series 3 'Doe FLAIR' (SE/IR, ")
