"""Phantom patients and one trained run, made once a session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_lgg.phantom import write_patients

SIZE = (64, 64)
#: A network of a few thousand weights on 64 x 64 images: seconds of training, the same code as the real thing.
TINY = ("image_size=[64,64]", "network_def#features=[8,8,8,8,8,8]")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Not the user's, whose graphs may be of another version of the code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONAI_LGG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten patients of 6 slices, 64 x 64, in the public layout, below a path with a space."""
    root = tmp_path_factory.mktemp("phantom data") / "kaggle_3m"
    write_patients(root, 10, seed=3, size=SIZE, slices=6)
    return root


@pytest.fixture(scope="session")
def run(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """unet_cosine trained for two epochs on the phantoms."""
    from monai_lgg import bundle

    folder = tmp_path_factory.mktemp("a run") / "run"
    bundle.train(bundle.find_bundle("unet_cosine"), phantoms, folder, settings=(*TINY, "max_epochs=2"), progress=False)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    path = os.environ.get("MONAI_LGG_REAL_DATA")
    if not path:
        pytest.skip("MONAI_LGG_REAL_DATA is not set")
    return Path(path)
