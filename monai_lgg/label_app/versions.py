"""Versions of a bundle's weights: number 0 are its own, and each training on corrected labels adds the next."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from monai_lgg.io.atomic import partial_folder, remove_leftovers

WEIGHTS = Path("models") / "model.pt"
#: In the folder of a version: from what and on what it was trained.
FACTS = "version.json"


class Versions:
    """The versions of one bundle, each a whole bundle in a folder of its own below ``folder``.

    Args:
        bundle: whose weights are version 0, if it has any. Nothing is ever written to it.
        folder: of the versions that were trained; made when it is needed.
    """

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.bundle = bundle
        self.parent = folder

    @property
    def name(self) -> str:
        return self.bundle.name

    def numbers(self) -> list[int]:
        """Of the versions that are whole, in ascending order."""
        found = [int(path.name) for path in self.parent.glob("[0-9]*") if path.name.isdigit()] if self._exists else []
        trained = sorted(number for number in found if number > 0 and (self.parent / str(number) / WEIGHTS).is_file())
        return ([0] if (self.bundle / WEIGHTS).is_file() else []) + trained

    def latest(self) -> int:
        """The version in use unless another is asked for.

        Raises:
            FileNotFoundError: there is none.
        """
        numbers = self.numbers()
        if not numbers:
            raise FileNotFoundError(
                f"model {self.name} has no weights yet; label images and train it, or serve a trained run"
            )
        return numbers[-1]

    def folder(self, number: int) -> Path:
        """A version as a bundle.

        Raises:
            ValueError: there is no such version.
        """
        if number not in self.numbers():
            known = ", ".join(map(str, self.numbers())) or "none"
            raise ValueError(f"model {self.name} has no version {number}; it has: {known}")
        return self.bundle if number == 0 else self.parent / str(number)

    def add(self, make: Callable[[Path], None]) -> int:
        """Let ``make`` build the next version in an empty folder; the version appears only when whole.

        Returns:
            Its number.
        Raises:
            RuntimeError: ``make`` kept no weights.
        """
        self.parent.mkdir(parents=True, exist_ok=True)
        self.remove_leftovers()
        number = max(self.numbers(), default=0) + 1
        with partial_folder(self.parent / str(number)) as partial:
            make(partial)
            if not (partial / WEIGHTS).is_file():
                raise RuntimeError(f"{self.name}: the training kept no weights, so no version was added")
            while True:
                try:
                    partial.rename(self.parent / str(number))
                    return number
                except OSError:  # another training was quicker
                    if not (self.parent / str(number)).exists():
                        raise
                    number += 1

    @contextmanager
    def scans(self) -> Iterator[Path]:
        """A new folder for copies of scans; what a killed process leaves is removed by :meth:`remove_leftovers`."""
        with partial_folder(self.parent / "scans") as folder:
            yield folder

    def remove_leftovers(self) -> None:
        """Of trainings that were killed, copies of scans among them."""
        remove_leftovers(self.parent)

    @property
    def _exists(self) -> bool:
        return self.parent.is_dir()
