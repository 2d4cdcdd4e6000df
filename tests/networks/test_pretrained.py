import hashlib
import io
import logging
import pickle
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn

from monai_lgg.networks import pretrained
from monai_lgg.networks.pretrained import cache_dir, load_encoder_weights


class Encoder(nn.Module):
    """Two layers in the names of a ResNet."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(2)


def state() -> dict[str, torch.Tensor]:
    weights = Encoder().state_dict()
    weights["conv1.weight"] = torch.arange(2 * 3 * 9, dtype=torch.float32).reshape(2, 3, 3, 3)
    weights["bn1.running_mean"] = torch.tensor([5.0, 6.0])
    weights["fc.weight"] = torch.ones(7, 2)
    weights["fc.bias"] = torch.ones(7)
    return weights


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def is_loaded(encoder: Encoder) -> bool:
    return torch.equal(encoder.conv1.weight, state()["conv1.weight"]) and encoder.bn1.running_mean.tolist() == [5, 6]


class Server(ThreadingHTTPServer):
    """Answers with ``body`` and ``code``; counts what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.code, self.promised, self.asked = b"", 200, None, 0

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/models/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(self.server.code)
        self.send_header("Content-Length", str(self.server.promised or len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_arguments: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MONAI_LGG_CACHE", str(tmp_path / "a cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "a cache"


# --- local files


def test_local_file(tmp_path: Path) -> None:
    encoder = Encoder()
    assert load_encoder_weights(encoder, write(tmp_path / "weights.pth", saved(state())))
    assert is_loaded(encoder)
    assert encoder.state_dict().keys() == Encoder().state_dict().keys()


def test_path_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "weights.pth", saved(state()))
    assert load_encoder_weights(Encoder(), "~/weights.pth")


def test_missing_file_is_an_error_and_not_a_training_from_scratch(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights at .*absent\.pth; give the path of a state_dict"):
        load_encoder_weights(Encoder(), str(tmp_path / "absent.pth"))


@pytest.mark.parametrize("digits", [8, 20, 64])
def test_hash_in_full_or_its_beginning(tmp_path: Path, digits: int) -> None:
    content = saved(state())
    path = write(tmp_path / "weights.pth", content)
    assert load_encoder_weights(Encoder(), path, sha256(content)[:digits].upper())


def test_wrong_hash_names_both_and_leaves_the_users_file(tmp_path: Path) -> None:
    content, encoder = saved(state()), Encoder()
    path = write(tmp_path / "weights.pth", content)
    with pytest.raises(ValueError, match=rf"SHA-256 is {sha256(content)}, expected 01234567\.\.\.; fetch"):
        load_encoder_weights(encoder, path, "01234567")
    assert Path(path).read_bytes() == content
    assert not is_loaded(encoder)


def test_hash_in_the_name(tmp_path: Path) -> None:
    content = saved(state())
    assert load_encoder_weights(Encoder(), write(tmp_path / f"net-{sha256(content)[:8]}.pth", content))
    with pytest.raises(ValueError, match=r"expected 7cdf4587"):
        load_encoder_weights(Encoder(), write(tmp_path / "resnext50_32x4d-7cdf4587.pth", content))


def test_given_hash_goes_before_the_one_in_the_name(tmp_path: Path) -> None:
    content = saved(state())
    assert load_encoder_weights(Encoder(), write(tmp_path / "net-00000000.pth", content), sha256(content))


@pytest.mark.parametrize("value", ["0123456", "0123456g", "0" * 65, ""])
def test_what_is_no_hash(tmp_path: Path, value: str) -> None:
    with pytest.raises(ValueError, match=rf"SHA-256 '{value}': give 8 to 64 hex digits"):
        load_encoder_weights(Encoder(), write(tmp_path / "weights.pth", saved(state())), value)


# --- what is in the file


class Code:
    """Runs when it is unpickled: makes the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (self.folder,)  # type: ignore[return-value]


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_never_runs(tmp_path: Path, zipped: bool) -> None:
    evil = {**state(), "conv1.weight": Code(tmp_path / "ran")}
    path = write(tmp_path / "weights.pth", saved(evil) if zipped else pickle.dumps(evil, protocol=2))
    with pytest.raises(ValueError, match=r"not a file of tensors alone \(UnpicklingError\); code in it is never run"):
        load_encoder_weights(Encoder(), path)
    assert not (tmp_path / "ran").exists()


def test_the_code_would_run(tmp_path: Path) -> None:
    """So the test above can fail."""
    pickle.loads(pickle.dumps(Code(tmp_path / "ran")))
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", saved(state())[:200]])
def test_other_content(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match="not a file of tensors alone"):
        load_encoder_weights(Encoder(), write(tmp_path / "weights.pth", content))


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"a": torch.ones(1)}, "epoch": 3}, torch.ones(3)])
def test_not_a_plain_state_dict(tmp_path: Path, content: object) -> None:
    with pytest.raises(ValueError, match=r"not a plain state_dict .* save model\.state_dict\(\)"):
        load_encoder_weights(Encoder(), write(tmp_path / "weights.pth", saved(content)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bn1.weight": None, "bn1.bias": None}, r"layer bn1\.weight is missing"),
        ({"bn1.bias": torch.ones(3)}, r"layer bn1\.bias is 3, expected 2"),
        ({"conv1.weight": torch.ones(2, 3, 5, 5)}, r"layer conv1\.weight is 2 x 3 x 5 x 5, expected 2 x 3 x 3 x 3"),
        ({"conv1.weight": torch.ones(2, 1, 3, 3)}, r"layer conv1\.weight is 2 x 1 x 3 x 3, expected 2 x 3 x 3 x 3"),
        ({"conv1.weight": torch.tensor(1.0)}, r"layer conv1\.weight is a single number"),
        ({"layer5.weight": torch.ones(3)}, r"layer layer5\.weight has no place"),
    ],
)
def test_another_network(tmp_path: Path, change: dict[str, torch.Tensor | None], message: str) -> None:
    other = {name: value for name, value in {**state(), **change}.items() if value is not None}
    encoder, before = Encoder(), torch.zeros(2)
    with pytest.raises(ValueError, match=f"weights .*: of another network .*{message}.*; give those of this encoder"):
        load_encoder_weights(encoder, write(tmp_path / "weights.pth", saved(other)))
    assert torch.equal(encoder.bn1.running_mean, before)


def test_old_files_have_no_counters(tmp_path: Path) -> None:
    old, encoder = state(), Encoder()
    del old["bn1.num_batches_tracked"]
    assert load_encoder_weights(encoder, write(tmp_path / "weights.pth", saved(old)))
    assert is_loaded(encoder)


@pytest.mark.parametrize(
    ("channels", "source", "scale"),
    [(2, [0, 1], 3 / 2), (4, [0, 1, 2, 0], 3 / 4), (7, [0, 1, 2, 0, 1, 2, 0], 3 / 7)],
)
def test_more_channels_repeat_in_turn(tmp_path: Path, channels: int, source: list[int], scale: float) -> None:
    encoder = Encoder(channels)
    load_encoder_weights(encoder, write(tmp_path / "weights.pth", saved(state())))
    expected = torch.stack([state()["conv1.weight"][:, channel] * scale for channel in source], dim=1)
    torch.testing.assert_close(encoder.conv1.weight.data, expected)


def test_one_channel_sees_a_grey_image_as_three_did(tmp_path: Path) -> None:
    path, grey = write(tmp_path / "weights.pth", saved(state())), torch.rand(1, 1, 8, 8)
    three, one = Encoder(3), Encoder(1)
    load_encoder_weights(three, path)
    load_encoder_weights(one, path)
    torch.testing.assert_close(one.conv1(grey), three.conv1(grey.expand(1, 3, 8, 8)))


# --- downloads


def test_download_once_then_the_cache(server: Server, cache: Path) -> None:
    server.body = saved(state())
    for _ in range(2):
        encoder = Encoder()
        assert load_encoder_weights(encoder, server.url("net.pth"), sha256(server.body))
        assert is_loaded(encoder)
    assert server.asked == 1
    assert [path.name for path in cache.iterdir()] == ["net.pth"]


def test_hash_in_the_name_of_a_url(server: Server, cache: Path) -> None:
    server.body = saved(state())
    assert load_encoder_weights(Encoder(), server.url(f"net-{sha256(server.body)[:8]}.pth?download=1"))
    assert [path.name for path in cache.iterdir()] == [f"net-{sha256(server.body)[:8]}.pth"]


def test_wrong_hash_removes_the_download(server: Server, cache: Path) -> None:
    server.body = saved(state())
    with pytest.raises(ValueError, match=f"SHA-256 is {sha256(server.body)}, expected 7cdf4587"):
        load_encoder_weights(Encoder(), server.url("net-7cdf4587.pth"))
    assert list(cache.iterdir()) == []


def test_damaged_cache_is_fetched_again(server: Server, cache: Path) -> None:
    server.body = saved(state())
    cache.mkdir()
    write(cache / "net.pth", server.body[:-1])
    assert load_encoder_weights(Encoder(), server.url("net.pth"), sha256(server.body))
    assert (cache / "net.pth").read_bytes() == server.body


def test_a_download_needs_a_hash(server: Server) -> None:
    with pytest.raises(ValueError, match="a download needs its SHA-256; give weights_sha256"):
        load_encoder_weights(Encoder(), server.url("net.pth"))
    assert server.asked == 0


def from_scratch(encoder: Encoder, url: str, caplog: pytest.LogCaptureFixture) -> str:
    """The one line that says so; the encoder stays as it was."""
    before = encoder.conv1.weight.clone()
    with caplog.at_level(logging.DEBUG):
        assert load_encoder_weights(encoder, url, "0" * 64) is False
    assert torch.equal(encoder.conv1.weight, before)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "\n" not in message
    assert message.startswith(f"no weights from {url} (")
    assert message.endswith("): the encoder is trained from scratch")
    return message


def test_nobody_listens(caplog: pytest.LogCaptureFixture, cache: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert "refused" in from_scratch(Encoder(), f"http://127.0.0.1:{port}/net.pth", caplog)
    assert list(cache.iterdir()) == []


def test_unknown_host(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setenv("no_proxy", "*")
    assert "not known" in from_scratch(Encoder(), "https://weights.invalid/net.pth", caplog)


def test_silent_server(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "timed out" in from_scratch(Encoder(), f"http://127.0.0.1:{silent.getsockname()[1]}/net.pth", caplog)


def test_connection_lost(server: Server, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    server.body, server.promised = b"half", 8
    from_scratch(Encoder(), server.url("net.pth"), caplog)
    assert list(cache.iterdir()) == []


def test_server_in_trouble(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.code = 503
    assert "503" in from_scratch(Encoder(), server.url("net.pth"), caplog)


def test_no_such_file_on_the_server(server: Server) -> None:
    server.code = 404
    with pytest.raises(FileNotFoundError, match=r"no weights at http://.*/net\.pth \(HTTP 404\); correct the address"):
        load_encoder_weights(Encoder(), server.url("net.pth"), "0" * 64)


@pytest.mark.parametrize("url", ["http://127.0.0.1:port/net.pth", "http://127.0.0.1/a net.pth"])
def test_not_an_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"weights .*: not an address \(.*\); correct it"):
        load_encoder_weights(Encoder(), url, "0" * 64)


def test_other_schemes() -> None:
    with pytest.raises(ValueError, match=r"s3:// is not supported; give a local path or an https URL"):
        load_encoder_weights(Encoder(), "s3://bucket/net.pth")


def test_names_of_urls_stay_in_the_cache(server: Server, cache: Path) -> None:
    server.body = saved(state())
    assert load_encoder_weights(Encoder(), server.url(".."), sha256(server.body))
    assert [path.name for path in cache.iterdir()] == ["weights.pth"]


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == tmp_path / "a cache"
    monkeypatch.delenv("MONAI_LGG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "monai-lgg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "monai-lgg"


def test_a_cache_that_cannot_be_made_is_an_error(server: Server, tmp_path: Path) -> None:
    """Not a training from scratch, which would be another recipe."""
    (tmp_path / "a cache").write_text("a file")
    server.body = saved(state())
    with pytest.raises(OSError, match=r"cache folder .*a cache cannot be made .*; set MONAI_LGG_CACHE to another"):
        load_encoder_weights(Encoder(), server.url("net.pth"), sha256(server.body))
