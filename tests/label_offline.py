"""Run in a network namespace of its own: serves, infers and stops, and prints what happened as JSON; or runs tests.

python -m tests.label_offline FOLDER BUNDLE
python -m tests.label_offline pytest TESTS...
"""

import fcntl
import json
import socket
import struct
import sys
from pathlib import Path

import pytest

from monai_lgg.label_app.studies import PATTERNS
from tests.label_server import LabelServer

#: Of linux/sockios.h and net/if.h.
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1


def raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))


def outside() -> str:
    """What an attempt to reach an address of the documentation range says."""
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=2).close()
    except OSError as error:
        return str(error.strerror)
    return "reached"


def main(folder: Path, bundle: Path) -> None:
    raise_loopback()
    studies = folder / "studies"
    image = sorted(studies.glob(PATTERNS[0]))[0].name.removesuffix(".nii.gz")
    with LabelServer(folder / "offline.log", studies, "--bundles", bundle, "--no-scoring") as server:
        models = list(server.client.info()["models"])
        mask, params = server.client.infer(bundle.name, image, {})
        code = server.stop()
    facts = {"outside": outside(), "models": models, "mask": mask, "version": params["version"], "exit": code}
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "pytest":
        raise_loopback()
        sys.exit(pytest.main(sys.argv[2:]))
    main(Path(sys.argv[1]), Path(sys.argv[2]))
