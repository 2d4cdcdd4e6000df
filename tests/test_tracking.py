"""MLflow by MONAI's own handler, into a file of SQLite; skipped where the extra ``mlflow`` is not installed."""

from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine

from monai_lgg import bundle as bundles
from monai_lgg import tracking
from monai_lgg.errors import deepest
from monai_lgg.handlers import EpochSeed
from monai_lgg.tracking import tracking_settings
from tests.conftest import TINY


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    pytest.importorskip("sqlalchemy")
    return pytest.importorskip("mlflow", reason='the extra is not installed: pip install "monai-lgg[mlflow]"')


def runs_of(mlflow: Any, folder: Path) -> list[Any]:
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlruns.db'}")
    return list(client.search_runs([client.get_experiment_by_name("monai-lgg").experiment_id]))


def history(mlflow: Any, folder: Path, run: Any, name: str) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlruns.db'}")
    return [(entry.step, entry.value) for entry in client.get_metric_history(run.info.run_id, name)]


def test_interrupted_training_is_one_run_with_all_its_figures(
    mlflow: Any, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train() -> None:
        bundles.train(
            bundles.find_bundle("unet_cosine"),
            phantoms,
            tmp_path / "first",
            settings=(*TINY, "max_epochs=2"),
            progress=False,
            tracking="mlflow",
        )

    class StopInTheSecond(EpochSeed):
        def __call__(self, engine: Engine) -> None:
            if engine.state.epoch == 2:
                raise RuntimeError("stopped")
            super().__call__(engine)

    with monkeypatch.context() as patch:
        patch.setattr("monai_lgg.handlers.EpochSeed", StopInTheSecond)
        with pytest.raises(RuntimeError, match=r"trainer'\]\.run") as caught:
            train()
        assert str(deepest(caught.value)) == "stopped"
    (run,) = runs_of(mlflow, tmp_path)
    assert (run.info.run_name, run.info.status) == ("first", "RUNNING")
    train()
    (run,) = runs_of(mlflow, tmp_path)
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    for name in ("train_loss_epoch", "train_slice_dice", "train_slice_iou", "val_mean_dice", "val_mean_iou", "val_loss",
                 "learning_rate", "slices_per_second"):  # fmt: skip
        assert [step for step, _ in history(mlflow, tmp_path, run, name)] == [1, 2], name
    assert history(mlflow, tmp_path, run, "learning_rate")[0][1] == pytest.approx(1e-3)
    assert run.data.params["network_def/features"] == "[8, 8, 8, 8, 8, 8]"
    assert run.data.params["max_epochs"] == "2"
    assert "dataset_dir" not in run.data.params
    files = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlruns.db'}").list_artifacts(run.info.run_id)
    assert [file.path for file in files] == ["executed.json"]

    train()  # finished: no second run of the same name
    assert len(runs_of(mlflow, tmp_path)) == 1


def test_no_statistics_are_sent_to_the_makers_of_mlflow(
    mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry = pytest.importorskip("mlflow.telemetry.utils")
    monkeypatch.setattr(telemetry, "_IS_IN_CI_ENV_OR_TESTING", False)
    assert not telemetry.is_telemetry_disabled()
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "x")  # so that what is set below is undone
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    tracking_settings(tmp_path / "run", "mlflow")
    assert telemetry.is_telemetry_disabled()


def test_names_on_a_server_are_of_one_machine_and_path(
    mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(run: Path) -> str:
        settings = tracking_settings(run, "mlflow")
        assert settings is not None
        return str(settings["configs"]["run_name"])

    assert name(tmp_path / "a" / "first") == "first"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert name(tmp_path / "a" / "first") == name(tmp_path / "a" / "first") != name(tmp_path / "b" / "first")
    assert name(tmp_path / "a" / "first").startswith("first ")


def test_another_tracker(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tracking 'aim' is not known; use mlflow"):
        tracking_settings(tmp_path, "aim")


def test_packages_that_are_not_installed(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is made."""
    monkeypatch.setattr(tracking, "optional_import", lambda name: (None, name != "mlflow"))
    with pytest.raises(ImportError, match=r'needs mlflow: pip install "monai-lgg\[mlflow\]"'):
        bundles.train(bundles.find_bundle("unet_cosine"), phantoms, tmp_path / "run", tracking="mlflow")
    assert not (tmp_path / "run").exists()
