import csv
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile

from monai_lgg.associations import (
    _p_value,
    associate,
    cluster_auc,
    fisher_p,
    report_shapes,
    report_text,
    roc_auc,
    save_tables,
)
from monai_lgg.clinical import CLUSTERS

# --- Fisher's exact test


def test_tea_tasting_by_hand():
    """Fisher's own example: 3 of 4 cups right. Of the 70 tables, 1 + 16 on either side are at most as probable."""
    assert fisher_p(np.array([[3, 1], [1, 3]])) == pytest.approx(34 / 70)
    assert fisher_p(np.array([[4, 0], [0, 4]])) == pytest.approx(2 / 70)
    assert fisher_p(np.array([[2, 2], [2, 2]])) == pytest.approx(1)


def test_three_columns_by_hand():
    """Columns of 2, first row of 3: ways (2,1,0) and its 6 orders 2 each, (1,1,1) 8; 20 in all."""
    assert fisher_p(np.array([[2, 1, 0], [0, 1, 2]])) == pytest.approx(12 / 20)
    assert fisher_p(np.array([[1, 1, 1], [1, 1, 1]])) == pytest.approx(1)


def test_two_columns_as_scipy():
    from scipy.stats import fisher_exact

    for counts in np.random.default_rng(0).integers(0, 25, (60, 2, 2)):
        assert fisher_p(counts) == pytest.approx(fisher_exact(counts).pvalue, rel=1e-6), counts


def test_more_columns_as_all_tables_one_by_one():
    """Every table with the same margins, by brute force."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        counts = rng.integers(0, 5, (2, 4))
        sizes = counts.sum(axis=0)
        rows = np.stack(np.meshgrid(*(np.arange(n + 1) for n in sizes), indexing="ij"), axis=-1).reshape(-1, 4)
        rows = rows[rows.sum(axis=1) == counts[0].sum()]
        ways = np.array([math.prod(math.comb(int(n), int(k)) for n, k in zip(sizes, row, strict=True)) for row in rows])
        observed = math.prod(math.comb(int(n), int(k)) for n, k in zip(sizes, counts[0], strict=True))
        assert fisher_p(counts) == pytest.approx(ways[ways <= observed].sum() / ways.sum()), counts


def test_more_columns_as_scipy_by_random_tables():
    from scipy.stats import MonteCarloMethod, fisher_exact

    counts = np.array([[8, 10, 5, 9, 2], [3, 12, 3, 7, 9]])
    sampled = fisher_exact(counts, method=MonteCarloMethod(n_resamples=99_999, rng=np.random.default_rng(0))).pvalue

    assert fisher_p(counts) == pytest.approx(sampled, abs=4 * math.sqrt(sampled * (1 - sampled) / 100_000))


def test_order_and_empty_columns_do_not_matter():
    counts = np.array([[8, 10, 5, 0], [3, 12, 9, 0]])
    p_value = fisher_p(counts)

    assert fisher_p(counts[:, :3]) == pytest.approx(p_value)
    assert fisher_p(counts[::-1, ::-1]) == pytest.approx(p_value)


def test_a_large_cohort_is_quick():
    counts = np.random.default_rng(2).integers(30, 60, (2, 6))  # 5e11 tables one by one

    assert 0 < fisher_p(counts) < 1


# --- AUC


def test_auc_by_hand():
    assert roc_auc(np.array([3.0, 1.0]), np.array([2.0, 1.0, 0.0])) == pytest.approx((3 + 1 + 0.5) / 6)
    assert math.isnan(roc_auc(np.array([]), np.array([1.0])))
    assert math.isnan(roc_auc(np.array([1.0]), np.array([])))


def test_auc_as_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    scores, labels = rng.integers(0, 12, 80).astype(float), rng.random(80) > 0.7

    assert roc_auc(scores[labels], scores[~labels]) == pytest.approx(metrics.roc_auc_score(labels, scores))


def test_auc_leaves_out_blank_cells_and_undefined_scores():
    rows = {"a": {"x": "2"}, "b": {"x": "2"}, "c": {"x": "1"}, "d": {"x": ""}, "e": {"x": "3"}, "f": {"x": "2"}}
    scores = {"a": 5.0, "b": 1.0, "c": 2.0, "d": 9.0, "e": 0.0, "f": math.nan, "no row": 7.0}

    assert cluster_auc(scores, rows, "x", "2") == (0.75, 2, 2)


# --- one test


def test_split_at_the_median_of_all():
    """Median 3 of a to e; the patient on it and the one with a blank cell are where they belong."""
    rows = {name: {"x": cluster} for name, cluster in zip("abcde", ["1", "1", "2", "", "2"], strict=True)}
    values = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0, "no row": 100.0}
    test = associate("mf", values, rows, "x")

    assert (test.feature, test.clusters, test.patients, test.blank, test.undefined) == ("mf", "x", 4, 1, 0)
    assert test.median == 3
    assert test.above == {"1": (0, 2), "2": (1, 2)}
    assert test.p_value == pytest.approx(1)


def test_undefined_features_are_counted_and_left_out():
    rows = {name: {"x": cluster} for name, cluster in zip("abcdef", "111222", strict=True)}
    values = {"a": 1.0, "b": 2.0, "c": math.nan, "d": 3.0, "e": 4.0, "f": math.nan}
    test = associate("mf", values, rows, "x")

    assert (test.patients, test.undefined, test.median) == (4, 2, 2.5)
    assert test.above == {"1": (0, 2), "2": (2, 2)}
    assert test.p_value == pytest.approx(2 / 6)


@pytest.mark.parametrize(
    ("clusters", "values"),
    [("1111", [1.0, 2, 3, 4]), ("1122", [5.0, 5, 5, 5]), ("1122", [math.nan] * 4), (["", "", "", ""], [1.0, 2, 3, 4])],
)
def test_nothing_to_test(clusters, values):
    rows = {name: {"x": cluster} for name, cluster in zip("abcd", clusters, strict=True)}

    assert math.isnan(associate("mf", dict(zip("abcd", values, strict=True)), rows, "x").p_value)


# --- the whole


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[Path, Path]:
    """Eight patients, balls (cluster 1) and crosses (cluster 2), then one empty and one without a row."""
    side = np.arange(-12, 13)
    x, y, z = np.meshgrid(side, side, side[7:18], indexing="ij")
    lines = [f"Patient,{','.join(CLUSTERS)}"]
    for index in range(10):
        size = 4 + index // 2 % 4
        ball = x**2 + y**2 + (2 * z) ** 2 <= (size + 3) ** 2
        cross = (abs(z) < 3) & ((abs(x) < 2) & (abs(y) < size + 4) | (abs(y) < 2) & (abs(x) < size + 4))
        mask = cross if index % 2 else ball
        name = f"TCGA_XX_{index:04d}_20000101"
        (tmp_path / "masks" / name).mkdir(parents=True)
        for number in range(mask.shape[-1]):
            pixels = 255 * mask[..., number].astype(np.uint8) * (index != 8)
            tifffile.imwrite(tmp_path / "masks" / name / f"{name}_{number + 1}_mask.tif", pixels)
        if index != 9:
            lines.append(f"TCGA_XX_{index:04d},{index % 2 + 1},1,,{'' if index < 2 else index % 2 + 1},1,1,1")
    lines.append("TCGA_XX_9999,1,1,1,1,1,1,1")
    (tmp_path / "data.csv").write_text("\n".join(lines))
    return tmp_path / "masks", tmp_path / "data.csv"


def test_report(cohort):
    report = report_shapes(*cohort)

    assert len(report.shapes) == 10
    assert report.matched.without_row == ("TCGA_XX_0009_20000101",)
    assert report.matched.without_masks == ("TCGA_XX_9999",)
    assert report.undefined == {name: ["TCGA_XX_0008_20000101"] for name in ("bevr", "mf", "asd")}
    assert (report.auc, report.auc_patients) == (1.0, (4, 4))
    assert [(test.feature, test.clusters) for test in report.associations[6:8]] == [
        ("bevr", "COCCluster"),
        ("mf", "RNASeqCluster"),
    ]
    rnaseq, _, mirna, copies = report.associations[:4]
    assert rnaseq.above == {"1": (4, 4), "2": (0, 4)}
    assert (rnaseq.p_value, rnaseq.undefined, rnaseq.blank) == (pytest.approx(2 / 70), 1, 0)
    assert (copies.p_value, copies.patients, copies.blank) == (pytest.approx(2 / 20), 6, 2)
    assert math.isnan(mirna.p_value)


def test_tables(cohort, tmp_path):
    save_tables(report_shapes(*cohort), tmp_path / "out" / "deep")
    shapes = list(csv.DictReader((tmp_path / "out" / "deep" / "shape.csv").open()))
    tests = list(csv.DictReader((tmp_path / "out" / "deep" / "associations.csv").open()))

    assert [row["patient"][8:12] for row in shapes] == [f"{index:04d}" for index in range(10)]
    assert 0 < float(shapes[0]["bevr"]) < 1
    assert (shapes[2]["RNASeqCluster"], shapes[1]["CNCluster"]) == ("1", "")
    assert (shapes[8]["bevr"], shapes[8]["slice_number"], shapes[8]["RNASeqCluster"]) == ("", "", "1")
    assert (shapes[9]["RNASeqCluster"], shapes[9]["mf"] != "") == ("", True)
    assert len(tests) == 21
    assert tests[0]["above"] == "1: 4 of 4; 2: 0 of 4"
    assert float(tests[0]["p_value"]) == pytest.approx(2 / 70, rel=1e-5)
    assert tests[2]["p_value"] == ""


def test_text(cohort):
    text = report_text(report_shapes(*cohort))

    assert "10 patients, 9 with a row in the clinical table" in text
    assert "without a row, in shape.csv only: 1 (TCGA_XX_0009_20000101)" in text
    assert "in the table without masks: 1 (TCGA_XX_9999)" in text
    assert "BEVR undefined: 1 (TCGA_XX_0008_20000101)" in text
    assert "\nBEVR          0.0286            -            -       0.1000            -" in text
    assert "\nknown              9            9            0            7            9" in text
    assert "BEVR    1: 4 of 4; 2: 0 of 4" in text
    assert "AUC of 1/BEVR for RNASeqCluster 2 (4 patients) against the others (4): 1.000" in text


def test_significant_values_are_marked():
    assert [_p_value(value) for value in (0.00499, 0.005, 0.00001, math.nan)] == ["0.0050*", "0.0050", "<0.0001*", "-"]


def test_other_ids_are_found_out_before_anything_is_measured(cohort, tmp_path):
    masks, clinical = cohort
    clinical.write_text(clinical.read_text().replace("TCGA_XX", "TCGA-XX"))
    calls = []

    with pytest.raises(ValueError, match="none of the 10 patients"):
        report_shapes(masks, clinical, lambda done, total: calls.append(done))
    assert calls == []
