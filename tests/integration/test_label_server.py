"""The label server as an annotator's viewer meets it: a real process, and MONAI Label's own client."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile

from monai_lgg.inference import predict
from monai_lgg.label_app.studies import LABELS, prepare_studies
from monai_lgg.prediction_inputs import prediction_records
from tests.label_server import PATIENCE, REPOSITORY, LabelServer, environment, threshold_bundle
from tests.test_inference import pattern

pytest.importorskip("monailabel", reason="needs MONAI Label, in the environment of 'make label-test'")

OBLIQUE = np.array([[0.85, 0.1, 0.5, -90], [-0.12, 0.88, 0.3, -100], [-0.2, -0.1, 4.9, -30], [0, 0, 0, 1.0]])


def bright(mask: np.ndarray) -> np.ndarray:
    image = np.where(mask, 250, 60).astype(np.int16)
    image[0, 0] = 0  # background: the rest is head
    return image


@pytest.fixture(scope="module")
def bundles(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bundles")
    return {
        "run": run,
        "threshold": threshold_bundle(root / "threshold"),
        "spacing": threshold_bundle(root / "spacing", spacing=True),
    }


@pytest.fixture(scope="module")
def studies(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten phantoms, four of them labelled, an oblique volume, and a slice with three channels."""
    folder = tmp_path_factory.mktemp("some studies")
    prepare_studies(phantoms, folder, labelled=4)
    nib.save(nib.Nifti1Image(bright(pattern(40, 50, 6)), OBLIQUE), folder / "oblique.nii.gz")
    colour = np.stack([np.full((40, 70), 40), bright(pattern(40, 70, 1))[..., 0], np.full((40, 70), 90)], axis=-1)
    colour[0, 0] = 0
    tifffile.imwrite(folder / "slice.tif", colour.astype(np.uint8), photometric="rgb")
    return folder


@pytest.fixture(scope="module")
def server(bundles: dict[str, Path], studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    for name in ["oblique", *names(studies)]:  # started where the patients' folders are, which are no images
        (log.parent / name).mkdir()
    chosen = [word for bundle in bundles.values() for word in ("--bundles", bundle)]
    with LabelServer(log, studies, *chosen, "--no-scoring") as running:
        yield running
        code = running.stop()
        assert code == 0, log.read_text()
        assert log.read_text().rstrip().endswith("stopped")


def names(studies: Path) -> list[str]:
    return sorted(path.name.removesuffix(".nii.gz") for path in studies.glob("TCGA*.nii.gz"))


def digest(bundle: Path) -> str:
    return hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest()


def voxels(path: str | Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_info(server: LabelServer) -> None:
    info = server.client.info()
    assert info["name"] == "monai-lgg"
    assert list(info["models"]) == list(info["trainers"]) == ["run", "threshold", "spacing"]
    assert info["models"]["run"]["type"] == "segmentation"
    assert info["models"]["run"]["labels"] == {"tumour": 1}
    assert info["models"]["run"]["config"]["version"][:1] == ["latest"]
    assert set(info["strategies"]) == {"first", "random", "epistemic", "tta"}
    assert set(info["scoring"]) == {"dice", "sum", "epistemic", "tta"}
    assert info["datastore"]["total"] == 12
    assert info["datastore"]["completed"] == 4


def test_mask_of_an_oblique_volume_is_in_place(server: LabelServer, tmp_path: Path) -> None:
    path, params = server.client.infer("threshold", "oblique", {})
    image = nib.load(path)
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-5)
    np.testing.assert_array_equal(voxels(path), pattern(40, 50, 6))
    assert (params["model"], params["version"]) == ("threshold", 0)
    assert params["label_names"] == {"tumour": 1}
    assert params["voxels"] == pattern(40, 50, 6).sum()
    assert params["volume_ml"] == pytest.approx(pattern(40, 50, 6).sum() * np.linalg.det(OBLIQUE[:3, :3]) / 1000, 1e-4)


def test_mask_on_another_grid_comes_back(server: LabelServer) -> None:
    """Spacingd changes the grid; the mask is the same but for its edges."""
    path, _ = server.client.infer("spacing", "oblique", {})
    image, truth = nib.load(path), pattern(40, 50, 6)
    assert image.shape == truth.shape
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-5)
    mask = voxels(path)
    assert mask.dtype == np.uint8
    assert 2 * np.logical_and(mask, truth).sum() / (mask.sum() + truth.sum()) > 0.9


def test_mask_of_a_slice_with_three_channels(server: LabelServer) -> None:
    path, params = server.client.infer("threshold", "slice", {})
    mask = tifffile.imread(path)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, pattern(40, 70, 1)[..., 0])
    assert params["volume_ml"] is None


def test_an_uploaded_image(server: LabelServer, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(bright(pattern(30, 20, 2)), np.eye(4)), tmp_path / "new.nii.gz")
    path, _ = server.client.infer("threshold", "", {}, file=str(tmp_path / "new.nii.gz"))
    np.testing.assert_array_equal(voxels(path), pattern(30, 20, 2))


def test_json_alone(server: LabelServer) -> None:
    status, params = server.send("POST", "/infer/threshold?image=oblique&output=json")
    assert status == 200
    assert params["voxels"] == pattern(40, 50, 6).sum()


def test_twenty_at_once_are_all_right(
    server: LabelServer, bundles: dict[str, Path], studies: Path, tmp_path: Path
) -> None:
    chosen = names(studies)
    predict(prediction_records([studies / f"{name}.nii.gz" for name in chosen]), bundles["threshold"], tmp_path)
    expected = {name: voxels(tmp_path / name / f"{name}_mask.nii.gz") for name in chosen}
    assert all(mask.any() for mask in expected.values())
    assert len({mask.tobytes() for mask in expected.values()}) == len(chosen)
    asked = [chosen[k % len(chosen)] for k in range(20)]
    client = server.client
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda name: client.infer("threshold", name, {"version": "0"}), asked))
    for name, (path, params) in zip(asked, answers, strict=True):
        np.testing.assert_array_equal(voxels(path), expected[name], err_msg=name)
        assert params["version"] == 0


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/infer/unknown?image=oblique", 404, "no 'unknown' among the models: run, threshold, spacing"),
        ("/infer/run?image=unknown", 404, "no image 'unknown' among the 12 of the studies"),
        ("/train/unknown", 404, "no 'unknown' among the trainers"),
        ("/batch/infer/unknown", 404, "no 'unknown' among the models"),
        ("/activelearning/unknown", 404, "no 'unknown' among the strategies: first, random, epistemic, tta"),
        ("/scoring/unknown", 404, "no 'unknown' among the scoring: dice, sum, epistemic, tta"),
    ],
)
def test_unknown_names(server: LabelServer, path: str, status: int, message: str) -> None:
    found, answer = server.post(path)
    assert (found, message in answer["detail"]) == (status, True), answer


def test_bad_requests(server: LabelServer, tmp_path: Path, bundles: dict[str, Path]) -> None:
    from monailabel.client.client import MONAILabelClientException

    client = server.client
    for params, message in (({"version": "9"}, "model run has no version 9; it has: 0"), ({"version": "x"}, "'x'")):
        with pytest.raises(MONAILabelClientException) as error:
            client.infer("run", "oblique", params)
        assert "Status: 422" in error.value.msg
        assert message in error.value.msg
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b cut")
    with pytest.raises(MONAILabelClientException) as error:
        client.infer("run", "", {}, file=str(tmp_path / "cut.nii.gz"))
    assert "not a readable NIfTI file" in error.value.msg
    status, answer = server.send("POST", "/infer/run?output=json", *form(Path(__file__), "file"))
    assert (status, "give .nii, .nii.gz or .tif" in answer["detail"]) == (422, True), answer
    elsewhere = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((4, 4, 2), np.uint8), np.eye(4)), elsewhere)
    for path in (elsewhere, tmp_path):
        status, answer = server.post(f"/infer/run?image={path}&output=json")
        assert (status, "no image" in answer["detail"]) == (404, True), answer
    before = digest(bundles["run"])
    for method in ("PUT", "DELETE"):
        status, answer = server.send(method, "/model/run")
        assert (status, "weights are never replaced" in answer["detail"]) == (405, True)
    assert digest(bundles["run"]) == before


def test_save_label_and_those_that_do_not_fit(server: LabelServer, studies: Path, tmp_path: Path) -> None:
    from monailabel.client.client import MONAILabelClientException

    label = np.zeros((40, 50, 6), np.uint8)
    label[3:9, 4:8, 2:4] = 1
    nib.save(nib.Nifti1Image(label, OBLIQUE), tmp_path / "by hand.nii.gz")
    nib.save(nib.Nifti1Image(label[:, :40], OBLIQUE), tmp_path / "other.nii.gz")
    client = server.client
    client.save_label("oblique", str(tmp_path / "by hand.nii.gz"))
    np.testing.assert_array_equal(voxels(studies / LABELS / "oblique.nii.gz"), label)
    with pytest.raises(MONAILabelClientException) as error:
        client.save_label("oblique", str(tmp_path / "other.nii.gz"))
    assert "Status: 422" in error.value.msg
    assert "label of oblique: " in error.value.msg
    assert "of 40 x 40 x 6 voxels, but image oblique.nii.gz of 40 x 50 x 6" in error.value.msg
    np.testing.assert_array_equal(voxels(studies / LABELS / "oblique.nii.gz"), label)
    with pytest.raises(MONAILabelClientException) as error:
        client.save_label("unknown", str(tmp_path / "by hand.nii.gz"))
    assert "image unknown is not in the studies folder" in error.value.msg


def form(path: Path, field: str) -> tuple[bytes, str]:
    """A file as a form, and the type of that content."""
    head = f'--edge\r\nContent-Disposition: form-data; name="{field}"; filename="{path.name}"\r\n\r\n'
    return head.encode() + path.read_bytes() + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge"


def test_nothing_is_written_outside_the_studies_or_over_a_scan(
    server: LabelServer, studies: Path, tmp_path: Path
) -> None:
    image, label, script = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", tmp_path / "c.nii.gz"
    nib.save(nib.Nifti1Image(bright(pattern(40, 50, 6)), np.eye(4)), image)
    nib.save(nib.Nifti1Image(np.ones((40, 50, 6), np.uint8), OBLIQUE), label)
    script.write_text("rm -rf /")
    before = {path: path.read_bytes() for path in studies.parent.rglob("*.nii.gz")}
    for method, path, file, field, message in [
        ("PUT", "/datastore/image?image=../escaped", image, "file", "image '../escaped' is no plain name"),
        ("PUT", "/datastore/label?image=oblique&tag=../../escaped", label, "label", "'../../escaped' is no plain name"),
        ("PUT", "/datastore/image?image=oblique", image, "file", "image oblique: another one of this name is here"),
        ("PUT", "/datastore/image?image=script", script, "file", "not a readable NIfTI file"),
        ("PUT", "/session/?uncompress=true", image, "files", "archives are not unpacked"),
    ]:
        status, answer = server.send(method, path, *form(file, field))
        assert (status, message in answer["detail"]) == (422, True), answer
    assert {path: path.read_bytes() for path in studies.parent.rglob("*.nii.gz")} == before
    status, _ = server.send("PUT", "/datastore/image?image=oblique", *form(studies / "oblique.nii.gz", "file"))
    assert status == 200  # the same once more


def test_pages_of_other_sites_are_refused(server: LabelServer) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        status, answer = server.send("GET", "/info/", **headers)
        assert status == 403, (headers, answer)
    for headers in ({"Origin": server.url}, {"Host": server.url.replace("http://127.0.0.1", "localhost")}):
        assert server.send("GET", "/info/", **headers)[0] == 200, headers


@pytest.mark.parametrize("page", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere(server: LabelServer, page: str) -> None:
    with urllib.request.urlopen(server.url + page) as answer:
        text = answer.read().decode()
    assert "/infer/{model}" in text
    assert "//" not in text.replace("</", "")
    assert "<script" not in text


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ({"max_epochs": 0}, "max_epochs 0 is not 1 or more"),
        ({"learning_rate": "fast"}, "learning_rate 'fast' is not a number above 0"),
        ({"pretrained": "maybe"}, "pretrained 'maybe': give true or false"),
    ],
)
def test_a_bad_plan_of_training_is_one_line(server: LabelServer, plan: dict[str, object], reason: str) -> None:
    status, _ = server.post("/train/run", plan)
    assert status == 200
    task = server.wait_for("/train/")
    assert task["status"] == "ERROR"
    lines = "\n".join(str(line) for line in task["details"])
    assert f"run was not trained: {reason}" in lines
    assert "Traceback" not in lines


def test_training_adds_a_version_that_is_then_in_use(
    server: LabelServer, bundles: dict[str, Path], studies: Path
) -> None:
    before = digest(bundles["run"])
    image = names(studies)[-1]
    first, params = server.client.infer("run", image, {})
    assert (params["version"], params["weights_sha256"]) == (0, before)
    server.client.train_start("run", {"max_epochs": 1, "learning_rate": 0.01, "val_split": 0.3})
    task = server.wait_for("/train/")
    assert task["status"] == "DONE", task["details"]
    assert digest(bundles["run"]) == before
    second, params = server.client.infer("run", image, {})
    assert params["version"] == 1
    assert params["weights_sha256"] == digest(studies / "models" / "run" / "1") != before
    again, params = server.client.infer("run", image, {"version": "0"})
    assert params["version"] == 0
    np.testing.assert_array_equal(voxels(again), voxels(first))
    info = server.client.info()
    assert info["models"]["run"]["version"] == 1
    assert info["models"]["run"]["config"]["version"] == ["latest", "1", "0"]
    assert info["train_stats"]["run"]["patients"] == {"train": 4, "validation": 1}  # the oblique one is labelled too
    assert 0 <= info["train_stats"]["run"]["best_metric"] <= 1
    assert Path(second).is_file()


def test_masks_of_many_go_on_after_a_corrupt_one(server: LabelServer, studies: Path) -> None:
    (studies / "broken.nii.gz").write_bytes(b"\x1f\x8b cut")  # while the server runs
    deadline = time.monotonic() + PATIENCE
    while "broken" not in server.client.datastore()["objects"]:
        assert time.monotonic() < deadline, "the new file was not noticed"
        time.sleep(0.2)
    status, _ = server.post("/batch/infer/threshold?images=unlabeled", {"device": "cpu", "multi_gpu": True})
    assert status == 200
    task = server.wait_for("/batch/infer")
    assert task["status"] == "DONE", task["details"]
    assert any("not a readable NIfTI" in line for line in task["details"])
    made = {path.name.split(".")[0] for path in (studies / "labels" / "original").iterdir()}
    assert made == {*names(studies)[4:], "slice"}  # the others are labelled by hand


def test_scoring_and_every_strategy(server: LabelServer, bundles: dict[str, Path], studies: Path) -> None:
    labelled = names(studies)[0]
    server.client.infer("run", labelled, {"save_label": True, "label_tag": "original", "version": "0"})
    for method in ("dice", "sum"):
        status, _ = server.post(f"/scoring/{method}?run_sync=true")
        assert status == 200
    truth, proposed = (voxels(studies / "labels" / tag / f"{labelled}.nii.gz") > 0 for tag in ("final", "original"))
    both = truth.sum() + proposed.sum()
    info = server.get(f"/datastore/image/info?image={labelled}")
    assert info["dice"] == (pytest.approx(2 * (truth & proposed).sum() / both) if both else None)
    sums = server.get(f"/datastore/label/info?label={labelled}&tag=final")
    assert (sums["sum"], sums["slices"]) == (truth.sum(), truth.any(axis=(0, 1)).sum())

    server.post("/scoring/epistemic", {"model": "run"})
    task = server.wait_for("/scoring/")
    assert task["status"] == "DONE", task["details"]
    assert server.post("/scoring/tta?run_sync=true")[0] == 200
    unlabelled = [*names(studies)[4:], "slice", "broken"]
    infos = {name: server.get(f"/datastore/image/info?image={name}") for name in unlabelled}
    for method in ("epistemic", "tta"):
        scores = {name: facts[f"{method}_entropy"] for name, facts in infos.items()}
        assert scores.pop("broken") == 0
        assert all(0 < score <= 1 for score in scores.values()), scores
        assert "not a readable NIfTI" in infos["broken"][f"{method}_error"]
        assert server.client.next_sample(method, {})["id"] == max(scores, key=scores.__getitem__)
    assert server.client.next_sample("first", {})["id"] == min(unlabelled)
    assert server.client.next_sample("random", {})["id"] in unlabelled


def wait_for_training(server: LabelServer, models: Path) -> None:
    """Until an epoch of a training is done."""
    deadline = time.monotonic() + PATIENCE
    while not list(models.glob(".*.partial/models/checkpoint.pt")):
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.1)


def test_killed_in_training_the_next_start_serves_the_last_whole_version(
    run: Path, phantoms: Path, tmp_path: Path
) -> None:
    studies, models = tmp_path / "studies", tmp_path / "models of mine"
    prepare_studies(phantoms, studies, labelled=3)
    arguments = (studies.name, "--bundles", run, "--models", models.name, "--no-scoring")  # from where it is started
    with LabelServer(tmp_path / "first.log", *arguments) as server:
        server.client.train_start("run", {"max_epochs": 500})
        wait_for_training(server, models / "run")
        server.kill()
    assert list((models / "run").glob(".1.*.partial"))
    with LabelServer(tmp_path / "second.log", *arguments) as server:
        _, params = server.client.infer("run", names(studies)[0], {})
        assert (params["version"], params["weights_sha256"]) == (0, digest(run))
        server.client.train_start("run", {"max_epochs": 500})
        wait_for_training(server, models / "run")
        left = [path.name for path in (models / "run").glob(".*.partial")]  # .<what>.<machine>.<process>-<any>.partial
        assert len({name.split(".")[-2].split("-")[0] for name in left}) == 1, left  # what the killed one left is gone
        assert server.stop() == 0, server.log.read_text()  # Ctrl-C, with a training under way
    assert [path.name for path in (models / "run").iterdir() if not path.name.startswith(".")] == []


def test_terminated_it_ends_its_training_too(run: Path, phantoms: Path, tmp_path: Path) -> None:
    studies, models = tmp_path / "studies", tmp_path / "models"
    prepare_studies(phantoms, studies, labelled=3)
    with LabelServer(tmp_path / "log", studies, "--bundles", run, "--models", models, "--no-scoring") as server:
        server.client.train_start("run", {"max_epochs": 500})
        wait_for_training(server, models / "run")
        server.process.terminate()
        assert server.process.wait(timeout=PATIENCE) == 0, server.log.read_text()
    epoch = training_epochs(models / "run")
    time.sleep(5)
    assert training_epochs(models / "run") == epoch, "the training goes on without its server"


def training_epochs(folder: Path) -> list[float]:
    return [path.stat().st_mtime for path in folder.glob(".*.partial/models/checkpoint.pt")]


def test_a_damaged_table_of_the_studies_is_named(run: Path, phantoms: Path, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    prepare_studies(phantoms, studies, labelled=1)
    (studies / "datastore_v2.json").write_text('{"objects": {')
    words = ["-m", "monai_lgg.cli", "label", "start", "--studies", studies, "--bundles", run, "--port", "0"]
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, env=environment(), timeout=PATIENCE
    )
    assert done.returncode == 1
    assert "datastore_v2.json is damaged" in done.stderr
    assert "move it away: images and labels are found again" in done.stderr


def test_an_empty_folder_that_is_filled_while_it_is_served(run: Path, phantoms: Path, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    with LabelServer(tmp_path / "server.log", studies, "--bundles", run) as server:  # with scoring: nothing to score
        assert server.client.info()["datastore"]["total"] == 0
        assert server.client.next_sample("random", {}) == {}
        status, answer = server.post("/train/run")
        assert status == 422
        assert "0 patient(s) with a final label; training needs at least 3" in answer["detail"]
        (studies / ".half.nii.gz").write_bytes(b"being written")
        prepare_studies(phantoms, studies, labelled=1)
        deadline = time.monotonic() + PATIENCE
        while server.client.info()["datastore"]["total"] < 10:
            assert time.monotonic() < deadline, "the new files were not noticed"
            time.sleep(0.2)
        assert server.client.info()["datastore"]["total"] == 10
        assert server.client.next_sample("first", {})["id"] == names(studies)[1]
        assert server.stop() == 0, server.log.read_text()


def test_files_that_are_renamed_and_removed_while_they_are_served(run: Path, phantoms: Path, tmp_path: Path) -> None:
    """As rsync and others write, and with nothing after it that would make the server look again."""
    prepare_studies(phantoms, tmp_path / "source", labelled=1)
    image = names(tmp_path / "source")[0]
    studies = tmp_path / "studies"
    (studies / LABELS).mkdir(parents=True)
    untrained = shutil.copytree(run, tmp_path / "untrained", ignore=shutil.ignore_patterns("model.pt"))

    def wait_until(total: int, completed: int) -> None:
        deadline = time.monotonic() + PATIENCE / 4
        while (found := server.client.info()["datastore"])["total"] != total or found["completed"] != completed:
            assert time.monotonic() < deadline, found
            time.sleep(0.2)

    with LabelServer(tmp_path / "server.log", studies, "--bundles", untrained, "--no-scoring") as server:
        for folder, counts in ((Path(), (1, 0)), (LABELS, (1, 1))):
            hidden = studies / folder / f".{image}.part"
            shutil.copyfile(tmp_path / "source" / folder / f"{image}.nii.gz", hidden)
            time.sleep(1)
            hidden.rename(studies / folder / f"{image}.nii.gz")
            wait_until(*counts)
        status, answer = server.post(f"/infer/untrained?image={image}")
        assert (status, "model untrained has no weights yet; label images and train it" in answer["detail"]) == (
            404,
            True,
        )
        (studies / f"{image}.nii.gz").unlink()
        wait_until(0, 0)


def test_without_any_network_but_loopback(run: Path, phantoms: Path, tmp_path: Path) -> None:
    """In a network namespace of its own, in which the loopback device is all there is."""
    allowed = subprocess.run(["unshare", "-rn", "true"], capture_output=True) if shutil.which("unshare") else None
    if allowed is None or allowed.returncode != 0:
        pytest.skip("unshare -rn is not permitted on this machine")
    prepare_studies(phantoms, tmp_path / "studies", labelled=0)
    words = ["unshare", "-rn", sys.executable, "-m", "tests.label_offline", str(tmp_path), str(run)]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=REPOSITORY, env=environment(), timeout=2 * PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert facts["outside"] == "Network is unreachable"
    assert facts["models"] == ["run"]
    assert facts["version"] == 0
    assert facts["exit"] == 0
    assert os.path.isfile(facts["mask"])
