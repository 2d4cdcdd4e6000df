"""Shape features tested against the genomic clusters.

Source: Buda, Saha, Mazurowski 2019, Comput. Biol. Med. 109, arXiv 1906.03720: each feature is split at its median,
Fisher's exact test is made on the table of halves by clusters, and 1/BEVR is scored by how well it tells RNASeq
cluster 2 from the others.
"""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_lgg.clinical import CLUSTERS, Matched, match_patients, read_clinical, some_names
from monai_lgg.io.atomic import atomic_text
from monai_lgg.shape import FEATURES, Shape, mask_folders, measure_masks

AUC_CLUSTERS = "RNASeqCluster"
AUC_LABEL = "2"
#: The paper's own threshold: 0.05 over the ten hypotheses that it tested.
SIGNIFICANT = 0.005
#: Tables whose probability exceeds the observed one's by less than this share count as equally probable.
_EQUAL = 1e-7


@dataclass(frozen=True)
class Association:
    """Fisher's exact test of a feature, split at its median, against one clustering.

    Args:
        patients: with a cluster and a defined feature.
        blank: patients whose cluster is a blank cell.
        undefined: patients whose feature is undefined (those with blank cells too).
        median: of the feature over all patients that have a row, whatever their clusters.
        above: cluster -> (patients above the median, patients of the cluster).
        p_value: NaN when there are fewer than two clusters, or no patients on one side of the median.
    """

    feature: str
    clusters: str
    patients: int
    blank: int
    undefined: int
    median: float
    above: dict[str, tuple[int, int]]
    p_value: float


@dataclass(frozen=True)
class ShapeReport:
    """Features of all patients and what they go with.

    Args:
        auc: of 1/BEVR for RNASeq cluster 2; NaN without patients on both sides.
        auc_patients: in the cluster, and in the others.
    """

    shapes: tuple[Shape, ...]
    matched: Matched
    associations: tuple[Association, ...]
    auc: float
    auc_patients: tuple[int, int]

    @property
    def undefined(self) -> dict[str, list[str]]:
        """Feature -> the patients for whom it is undefined."""
        return {
            feature: [shape.patient for shape in self.shapes if math.isnan(getattr(shape, feature))]
            for feature in FEATURES
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON: undefined values are None."""
        return {
            "patients": [_without_nan(asdict(shape)) for shape in self.shapes],
            "undefined": self.undefined,
            "without_row": list(self.matched.without_row),
            "without_masks": list(self.matched.without_masks),
            "associations": [_without_nan(asdict(association)) for association in self.associations],
            "auc": {
                "score": "1/bevr",
                "clusters": AUC_CLUSTERS,
                "label": AUC_LABEL,
                **_without_nan({"auc": self.auc}),
                "patients": self.auc_patients[0],
                "others": self.auc_patients[1],
            },
        }


def report_shapes(
    masks: str | Path, clinical: str | Path, progress: Callable[[int, int], None] | None = None
) -> ShapeReport:
    """Measure all masks below a folder and test the features against the clusters of a clinical table.

    Args:
        masks: as for :func:`monai_lgg.shape.measure_masks`.
        clinical: as for :func:`monai_lgg.clinical.read_clinical`.
    Raises:
        FileNotFoundError, ValueError: what those two, or matching their patients, raise.
    """
    matched = match_patients(read_clinical(clinical), [folder.name for folder in mask_folders(masks)])
    shapes = measure_masks(masks, progress)
    values = {name: {shape.patient: getattr(shape, name) for shape in shapes} for name in FEATURES}
    tests = [associate(name, values[name], matched.rows, clusters) for name in FEATURES for clusters in CLUSTERS]
    inverse = {patient: 1 / ratio for patient, ratio in values["bevr"].items()}
    auc, inside, outside = cluster_auc(inverse, matched.rows, AUC_CLUSTERS, AUC_LABEL)
    return ShapeReport(tuple(shapes), matched, tuple(tests), auc, (inside, outside))


def associate(
    feature: str, values: Mapping[str, float], rows: Mapping[str, Mapping[str, str]], clusters: str
) -> Association:
    """Test one feature against one clustering.

    Args:
        feature: name for the result.
        values: folder name -> feature, NaN where undefined; of at least the patients in ``rows``.
        rows: folder name -> cells, as in :class:`Matched`.
        clusters: column of the clustering.
    """
    defined = {name: values[name] for name in rows if not math.isnan(values[name])}
    median = float(np.median(list(defined.values()))) if defined else math.nan
    known = {name: value for name, value in defined.items() if rows[name][clusters]}
    above: dict[str, tuple[int, int]] = {}
    for label in sorted({rows[name][clusters] for name in known}):
        members = [value for name, value in known.items() if rows[name][clusters] == label]
        above[label] = (sum(value > median for value in members), len(members))
    counts = np.array([[high, size - high] for high, size in above.values()]).reshape(-1, 2).T
    testable = counts.shape[1] > 1 and counts.sum(axis=1).all()
    return Association(
        feature=feature,
        clusters=clusters,
        patients=len(known),
        blank=sum(not row[clusters] for row in rows.values()),
        undefined=len(rows) - len(defined),
        median=median,
        above=above,
        p_value=fisher_p(counts) if testable else math.nan,
    )


def fisher_p(counts: np.ndarray) -> float:
    """Two-sided p value of Fisher's exact test (Freeman and Halton's for more than two columns).

    Exact, where scipy.stats.fisher_exact draws random tables once a table is larger than 2 x 2. The columns are
    enumerated in two halves that meet at the sum of the first row, so that hundreds of patients take no time.

    Args:
        counts: whole numbers, (2, K).
    Returns:
        Share of the tables with the same margins that are at most as probable as this one.
    """
    sizes = counts.sum(axis=0)
    half = len(sizes) // 2
    left, right = _weights_by_sum(sizes[:half]), _weights_by_sum(sizes[half:])
    limit = (1 + _EQUAL) * math.prod(_weight(int(n), int(k)) for n, k in zip(sizes, counts[0], strict=True))
    extreme = total = 0.0
    for first, weights in left.items():
        others = np.sort(right.get(int(counts[0].sum()) - first, np.empty(0)))
        upto = np.concatenate([[0.0], np.cumsum(others)])
        extreme += float(weights @ upto[np.searchsorted(others, limit / weights, side="right")])
        total += float(weights.sum() * upto[-1])
    return min(extreme / total, 1.0)


def _weight(size: int, part: int) -> float:
    """Chance of ``part`` heads in ``size`` throws; their product is proportional to a table's probability."""
    return math.comb(size, part) / 2**size


def _weights_by_sum(sizes: np.ndarray) -> dict[int, np.ndarray]:
    """Sum of the first row -> weights of all the ways to fill it from columns of these sizes."""
    sums, weights = np.zeros(1, dtype=int), np.ones(1)
    for size in sizes.tolist():
        sums = np.add.outer(sums, np.arange(size + 1)).ravel()
        weights = np.multiply.outer(weights, [_weight(size, part) for part in range(size + 1)]).ravel()
    return {int(one): weights[sums == one] for one in np.unique(sums)}


def roc_auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Chance that a positive scores above a negative, ties counted half; NaN without positives or negatives."""
    if not (len(positive) and len(negative)):
        return math.nan
    pairs = np.subtract.outer(positive, negative)
    return float((np.count_nonzero(pairs > 0) + np.count_nonzero(pairs == 0) / 2) / pairs.size)


def cluster_auc(
    scores: Mapping[str, float], rows: Mapping[str, Mapping[str, str]], clusters: str, label: str
) -> tuple[float, int, int]:
    """ROC AUC of a score for one cluster against the others; blank cells and NaN scores are left out.

    Returns:
        The AUC (NaN without patients on both sides), patients of the cluster, patients of the others.
    """
    known = [name for name in rows if rows[name][clusters] and not math.isnan(scores[name])]
    inside = np.array([scores[name] for name in known if rows[name][clusters] == label])
    outside = np.array([scores[name] for name in known if rows[name][clusters] != label])
    return roc_auc(inside, outside), len(inside), len(outside)


def save_tables(report: ShapeReport, folder: Path) -> None:
    """Write ``shape.csv`` (a row a patient, its clusters included) and ``associations.csv`` (a row a test)."""
    blank = dict.fromkeys(CLUSTERS, "")
    patients = [{**asdict(shape), **report.matched.rows.get(shape.patient, blank)} for shape in report.shapes]
    tests = [{**asdict(test), "above": _above_in_words(test)} for test in report.associations]
    atomic_text(folder / "shape.csv", _csv(patients))
    atomic_text(folder / "associations.csv", _csv(tests))


def report_text(report: ShapeReport) -> str:
    """The figures that people look at first, as lines of text."""
    matched, tests = report.matched, report.associations
    lines = [f"{len(report.shapes)} patients, {len(matched.rows)} with a row in the clinical table"]
    for what, names in (
        ("without a row, in shape.csv only", matched.without_row),
        ("in the table without masks", matched.without_masks),
        *((f"{feature.upper()} undefined", names) for feature, names in report.undefined.items()),
    ):
        if names:
            lines.append(f"{what}: {len(names)} ({some_names(names)})")
    titles = [clusters.removesuffix("Cluster") for clusters in CLUSTERS]
    known = {test.clusters: len(matched.rows) - test.blank for test in tests}
    lines += [
        f"\nFisher's exact test of each feature, split at its median; p (* below {SIGNIFICANT}, the paper's threshold)",
        _table_row("", titles),
        *(
            _table_row(feature.upper(), [_p_value(test.p_value) for test in tests if test.feature == feature])
            for feature in FEATURES
        ),
        _table_row("known", [str(known[clusters]) for clusters in CLUSTERS]),
        f"\nabove the median, by {AUC_CLUSTERS}",
        *(f"{test.feature.upper():8s}{_above_in_words(test)}" for test in tests if test.clusters == AUC_CLUSTERS),
        f"\nAUC of 1/BEVR for {AUC_CLUSTERS} {AUC_LABEL} ({report.auc_patients[0]} patients) against the others "
        f"({report.auc_patients[1]}): {'-' if math.isnan(report.auc) else f'{report.auc:.3f}'} "
        "(paper, 110 patients: 0.78 manual, 0.80 automatic masks)",
    ]
    return "\n".join(lines)


def _table_row(title: str, cells: Sequence[str]) -> str:
    """Numbers end one place before the column does: there stands the * of a p value."""
    return (f"{title:8s}" + "".join(f"{cell if cell.endswith('*') else f'{cell} ':>13s}" for cell in cells)).rstrip()


def _p_value(value: float) -> str:
    if math.isnan(value):
        return "-"
    text = f"{value:.4f}" if value >= 0.0001 else "<0.0001"
    return f"{text}*" if value < SIGNIFICANT else text


def _above_in_words(test: Association) -> str:
    return "; ".join(f"{label}: {high} of {size}" for label, (high, size) in test.above.items())


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _csv_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
