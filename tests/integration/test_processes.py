"""Real processes: MONAI's bundle runner, kill -9 and Ctrl-C, resume, another working directory, two ranks, a wheel."""

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_lgg.bundle import bundles_dir, find_bundle, prepare_run
from monai_lgg.splits import read_split
from tests.conftest import TINY

REPOSITORY = Path(__file__).parents[2]
#: Seconds after which a process counts as hanging; most of them may go by in imports.
HANGS = 900
CLI = [sys.executable, "-m", "monai_lgg.cli"]
MONAI = [sys.executable, "-m", "monai.bundle", "run"]
#: Programs that stop in the middle, say so, and wait for a signal: a training in its second epoch, after two of three
#: steps, and a prediction when its first case is finished.
TRAINING_HELD_IN_EPOCH_2 = """
import time
from torch.optim.optimizer import register_optimizer_step_post_hook
from monai_lgg.cli import main
steps = []
def hold(*_):
    steps.append(1)
    if len(steps) == 5:
        print("held", flush=True)
        time.sleep(3600)
register_optimizer_step_post_hook(hold)
main()
"""
PREDICTION_HELD_AFTER_A_CASE = """
import signal, threading
from monai_lgg import saving
from monai_lgg.cli import main
released, replace = threading.Event(), saving.replace_folder
def interrupt(*args):
    released.set()
    signal.default_int_handler(*args)
def hold(*args):
    replace(*args)
    print("held", flush=True)
    released.wait()
signal.signal(signal.SIGINT, interrupt)
saving.replace_folder = hold
main()
"""
TINY_ARGS = ["--image_size", "[64,64]", "--network_def#features", "[8,8,8,8,8,8]", "--show_progress", "False"]


def start(args: list[object], folder: Path) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [str(arg) for arg in args],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        # a background job of a shell ignores SIGINT, and its children would too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )


def call(args: list[object], folder: Path, code: int = 0) -> str:
    process = start(args, folder)
    output = process.communicate(timeout=HANGS)[0]
    assert process.returncode == code, output
    return output


def held(program: str, args: list[object], folder: Path) -> "subprocess.Popen[str]":
    """``monai-lgg`` with these arguments, stopped in the middle by one of the programs above."""
    process = start([sys.executable, "-c", program, *args], folder)
    said = []
    while "held\n" not in said:
        said.append((process.stdout or pytest.fail("no output")).readline())
        assert said[-1], f"it ended before it could be stopped: {said}"
    return process


def end(process: "subprocess.Popen[str]", how: signal.Signals) -> None:
    process.send_signal(how)
    output = process.communicate(timeout=HANGS)[0]
    assert process.returncode == (-signal.SIGKILL if how is signal.SIGKILL else 130), output


def train_args(phantoms: Path, run: Path, epochs: int) -> list[object]:
    settings = [word for setting in TINY for word in ("--set", setting)]
    return ["train", "unet_cosine", "--data", phantoms, "-o", run, "--epochs", epochs, "-q", *settings]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_training_ends_like_an_uninterrupted_one(
    phantoms: Path, tmp_path: Path, how: signal.Signals
) -> None:
    call([*CLI, *train_args(phantoms, tmp_path / "whole", 3)], tmp_path)
    stopped = tmp_path / "stopped"
    end(held(TRAINING_HELD_IN_EPOCH_2, train_args(phantoms, stopped, 3), tmp_path), how)
    assert torch.load(stopped / "models" / "checkpoint.pt", weights_only=True)["progress"]["epoch"] == 1
    call([*CLI, *train_args(phantoms, stopped, 3)], tmp_path)
    first, second = (
        torch.load(tmp_path / name / "models" / "checkpoint.pt", weights_only=True) for name in ("whole", "stopped")
    )
    assert first["progress"] == second["progress"]
    assert first["best_model"] == second["best_model"]
    for name, weights in first["network"].items():
        torch.testing.assert_close(second["network"][name], weights, rtol=0, atol=0, msg=name)
    best = [torch.load(tmp_path / name / "models" / "model.pt", weights_only=True) for name in ("whole", "stopped")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    assert points_of(stopped) == points_of(tmp_path / "whole"), "TensorBoard has a gap, or a point twice"


def points_of(run: Path) -> dict[str, list[tuple[int, object]]]:
    """Tag -> (step, what was written) of all event files of a run; of times and settings only the step."""
    events = EventAccumulator(
        str(run / "eval"), size_guidance=dict.fromkeys(("images", "scalars", "tensors", "histograms"), 0)
    )
    events.Reload()
    tags = events.Tags()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]}
    scalars["slices_per_second"] = [(step, 0) for step, _ in scalars["slices_per_second"]]
    images = {tag: [(event.step, event.encoded_image_string) for event in events.Images(tag)] for tag in tags["images"]}
    histograms = {tag: [(event.step, event.histogram_value) for event in events.Histograms(tag)]
                  for tag in tags["histograms"]}  # fmt: skip
    others = {tag: [(event.step, 0) for event in events.Tensors(tag)] for tag in tags["tensors"]}
    return {**scalars, **images, **histograms, **others}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_prediction_goes_on(run: Path, phantoms: Path, tmp_path: Path, how: signal.Signals) -> None:
    out = tmp_path / "out"
    args = ["predict", phantoms, "--bundle", run, "-o", out, "-q"]
    end(held(PREDICTION_HELD_AFTER_A_CASE, args, tmp_path), how)
    finished = {path.parent.name for path in out.glob("[!.]*/result.json")}
    assert 1 <= len(finished) < 10
    for name in finished:  # whole: every slice has its mask
        assert len(list((out / name).glob("*_mask.tif"))) == 6
    assert f"{10 - len(finished)} done, {len(finished)} skipped, 0 failed" in call([*CLI, *args], tmp_path)
    assert not list(out.glob(".*"))


def test_monai_bundle_runner_from_a_foreign_folder(phantoms: Path, tmp_path: Path) -> None:
    root = tmp_path / "my bundle"
    prepare_run(find_bundle("unet_cosine"), root, {})
    here = tmp_path / "elsewhere"
    common = ["--bundle_root", root, "--dataset_dir", phantoms, *TINY_ARGS]
    config = root / "configs"
    call([*MONAI, "training", "--config_file", config / "train.json", "--max_epochs", 1, *common], here)
    files = f"['{config}/train.json','{config}/evaluate.json']"
    call([*MONAI, "evaluating", "--config_file", files, *common], here)
    assert (root / "eval" / "test" / "summary.json").is_file()
    inference = ["--config_file", config / "inference.json", *common[:-2], "--output_format", "nifti"]
    call([*MONAI, "inferring", *inference], here)
    assert len(list((root / "eval" / "predictions").glob("*/*_mask.nii.gz"))) == 10
    assert not list(here.iterdir())


def test_wrong_bundle_root_is_refused(phantoms: Path, tmp_path: Path) -> None:
    config = bundles_dir() / "unet_cosine" / "configs" / "train.json"
    here = tmp_path / "elsewhere"
    output = call([*MONAI, "training", "--config_file", config, "--dataset_dir", phantoms], here, code=1)
    assert "has no configs/metadata.json" in output
    assert not list(here.iterdir())


def train_in_ranks(count: int, phantoms: Path, folder: Path, bundle: str, *settings: object) -> Path:
    """An epoch by so many processes; the folder of the run."""
    root = folder / "ranks"
    prepare_run(find_bundle(bundle), root, {})
    files = f"['{root}/configs/train.json','{root}/configs/multi_gpu_train.json']"
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", "-m", "monai.bundle"]
    args = ["run", "training", "--config_file", files, "--bundle_root", root, "--dataset_dir", phantoms]
    call([sys.executable, *torchrun, *args, "--max_epochs", 1, *settings], folder)
    return root


def test_two_ranks_on_a_cpu(phantoms: Path, tmp_path: Path) -> None:
    root = train_in_ranks(2, phantoms, tmp_path, "unet_cosine", *TINY_ARGS)
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    assert not any(name.startswith("module.") for name in state)
    assert len(list((root / "eval").glob("events*"))) == 1
    # the ranks' weights evaluate without them
    call([*CLI, "evaluate", root, "--data", phantoms, "-q", "--set", "image_size=[64,64]",
          "--set", "network_def#features=[8,8,8,8,8,8]"], tmp_path)  # fmt: skip


def test_two_ranks_share_what_an_epoch_draws(phantoms: Path, tmp_path: Path) -> None:
    """Of 20 slices each of two ranks draws 10, in 3 batches of 4, which is how long the schedule is."""
    drawn = ["--slices_per_epoch", 20, "--batch_size", 4, "--image_size", "[64,64]", "--crop_size", "[64,64]"]
    root = train_in_ranks(2, phantoms, tmp_path, "unet_25d", *drawn, "--pretrained_weights", "$None")
    state = torch.load(root / "models" / "checkpoint.pt", map_location="cpu", weights_only=True)
    assert state["progress"]["iteration"] == state["lr_scheduler"]["total_steps"] == 3


def test_tensorboard_has_what_people_watch(run: Path) -> None:
    points = points_of(run)
    assert [step for step, _ in points["train_loss"]] == [1, 2, 3, 4, 5, 6]  # iterations, three an epoch
    of_an_epoch = ["train_loss_epoch", "learning_rate", "slices_per_second", "train_slice_dice", "train_slice_iou",
                   "val_mean_dice", "val_mean_iou", "val_loss", "kept_model/epoch", "dice_per_patient",
                   "validation"]  # fmt: skip
    for tag in of_an_epoch:
        assert [step for step, _ in points[tag]] == [1, 2], tag
    (validated,) = read_split(run / "eval" / "split.json").part("validation")
    assert [step for step, _ in points[f"outlines/{validated}"]] == [1, 2]
    assert {"settings/text_summary", "config/train.json/text_summary"} <= set(points)
    assert [value for _, value in points["learning_rate"]] == pytest.approx([1e-3, 0.5e-3])  # cosine over two epochs


def test_wheel_holds_the_bundles_and_runs_from_there(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy, so that no earlier build in the checkout leaks in
    for name in ("monai_lgg", "bundles"):
        shutil.copytree(REPOSITORY / name, source / name)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    call([*pip, "-w", tmp_path, source], tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    configs = site / "monai_lgg" / "bundles" / "unet_cosine" / "configs"
    assert sorted(path.name for path in configs.iterdir()) == sorted(
        path.name for path in (bundles_dir() / "unet_cosine" / "configs").iterdir()
    )
    shipped = Path("bundles", "unet_25d", "models")
    for name in ("model.pt", "split.json", "reference.json", "manifest.json", "NOTICE"):
        assert (site / "monai_lgg" / shipped / name).read_bytes() == (REPOSITORY / shipped / name).read_bytes()
    for pattern in ("*.py", "*.j2"):
        sources = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "monai_lgg").rglob(pattern)}
        assert sources == {path.relative_to(site) for path in (site / "monai_lgg").rglob(pattern)}
    assert not (site / "monai_lgg" / "bundles" / "common").exists()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "from monai_lgg.bundle import find_bundle; print(find_bundle('unet_cosine'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert str(site) in done.stdout
