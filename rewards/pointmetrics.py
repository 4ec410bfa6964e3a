"""How near two point clouds are: Chamfer distance, precision and recall, Jensen-Shannon divergence, voxel IoU. Arrays in, numbers out.

The definitions are those of PRBonn/LiDiff's evaluation (lidiff/utils/metrics.py, histogram_metrics.py), which ScoreLiDAR and
DistillationDPO took over. All distances are Euclidean, in metres and not squared. A cloud is (N, 3); an empty one is a ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from diffalign.extras import require

THRESHOLDS = np.linspace(0.05, 0.10, 100)  # metres; LiDiff's, of precision and recall
RANGE = 50.0  # metres; the histograms' cube is [-RANGE, RANGE]^3
JSD_VOXEL = 0.5  # metres
IOU_VOXELS = (0.5, 0.2, 0.1)  # metres, as reported
IOU_MODES = ("full", "legacy")
JSD_KINDS = ("bev", "3d")


def nearest(points: np.ndarray, others: np.ndarray, workers: int = 1) -> np.ndarray:
    """(N,) metres: from each point to its nearest neighbour among ``others``, by a k-d tree (open3d's compute_point_cloud_distance)."""
    _not_empty(points, others)
    tree = require("scipy.spatial", extra="rewards").KDTree(others)
    return tree.query(points, workers=workers)[0]


def chamfer(prediction: np.ndarray, reference: np.ndarray, workers: int = 1) -> float:
    """``1/2 (mean_p min_r |p - r| + mean_r min_p |r - p|)`` in metres; reports give its mean and standard deviation over scans."""
    return float((nearest(prediction, reference, workers).mean() + nearest(reference, prediction, workers).mean()) / 2)


def mean_distance(prediction: np.ndarray, reference: np.ndarray) -> float:
    """``mean_p min_r |p - r|`` in metres: what LiDiff's tables call RMSE, though no square is taken."""
    return float(nearest(prediction, reference).mean())


def precision_recall(prediction: np.ndarray, reference: np.ndarray, thresholds: np.ndarray = THRESHOLDS) -> tuple[np.ndarray, ...]:
    """Precision, recall and F, each (T,) in percent, at T distance thresholds.

    Precision: the share of predicted points strictly nearer to the reference than the threshold; recall: the share of reference points
    strictly nearer to the prediction; ``F = 2 P R / (P + R)``, 0 where both are 0. F is formed per scan and averaged over scans afterwards.
    """
    to_reference, to_prediction = np.sort(nearest(prediction, reference)), np.sort(nearest(reference, prediction))
    precision = 100 * np.searchsorted(to_reference, thresholds, "left") / len(to_reference)
    recall = 100 * np.searchsorted(to_prediction, thresholds, "left") / len(to_prediction)
    total = precision + recall
    return precision, recall, np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def area(curve: np.ndarray) -> float:
    """The area under a curve over evenly spaced thresholds by Simpson's rule, divided by that of the constant 1."""
    simpson = require("scipy.integrate", extra="rewards").simpson
    return float(simpson(curve) / simpson(np.ones_like(curve)))


def f_score(prediction: np.ndarray, reference: np.ndarray) -> float:
    """The area under F over LiDiff's thresholds (5 to 10 cm), in percent."""
    return area(precision_recall(prediction, reference)[2])


# Histograms: sparse, because a dense grid of 0.1 m has 10^9 cells ---------------------------------------------------------------------


def cells(points: np.ndarray, voxel_size: float, half_range: float = RANGE) -> np.ndarray:
    """(M,) int64: the voxel of every point in [-half_range, half_range]^3, points outside dropped, exactly as ``numpy.histogramdd`` bins
    them (the last voxel holds its right edge). A cell is ``(i * bins + j) * bins + k`` with ``bins = int(2 * half_range / voxel_size)``.
    """
    bins = int(2 * half_range / voxel_size)
    points = points[(np.abs(points) <= half_range).all(1)]
    edges = np.linspace(-half_range, half_range, bins + 1)
    index = np.minimum(np.searchsorted(edges, points, side="right") - 1, bins - 1).astype(np.int64)
    return (index[:, 0] * bins + index[:, 1]) * bins + index[:, 2]


def jsd(prediction: np.ndarray, reference: np.ndarray, kind: str = "bev", voxel_size: float = JSD_VOXEL) -> float:
    """The square root of the Jensen-Shannon divergence of two occupancy histograms over [-50, 50]^3, natural logarithm: in [0, sqrt(ln 2)].

        d(p, q) = sqrt( 1/2 KL(p | m) + 1/2 KL(q | m) ),  m = (p + q) / 2          (scipy.spatial.distance.jensenshannon)

    ``kind``: "3d" counts the points of each voxel (LiDiff's yaml key jsd_noclip_3d); "bev" counts the occupied voxels of each vertical
    column (its key jsd, and what its table reports). Points outside the cube are dropped.

    Errors: ValueError for an unknown kind, and where a cloud has no point inside the cube (upstream: NaN).
    """
    if kind not in JSD_KINDS:
        raise ValueError(f"jsd: kind is '{kind}'; allowed are {', '.join(JSD_KINDS)}")
    bins = int(2 * RANGE / voxel_size)
    sides = []
    for points in (prediction, reference):
        found = cells(points, voxel_size)
        if not len(found):
            raise ValueError(f"a cloud of {len(points)} points has none within {RANGE} m in x, y and z: nothing to compare")
        sides.append(np.unique(np.unique(found) // bins if kind == "bev" else found, return_counts=True))
    keys = np.union1d(sides[0][0], sides[1][0])
    p, q = (np.bincount(np.searchsorted(keys, cell), count, len(keys)) / count.sum() for cell, count in sides)
    middle = (p + q) / 2
    return float(np.sqrt(max((_kl(p, middle) + _kl(q, middle)) / 2, 0.0)))


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())


def iou_counts(prediction: np.ndarray, reference: np.ndarray, voxel_size: float = IOU_VOXELS[0], mode: str = "full") -> np.ndarray:
    """(3,) int64: voxels that are occupied in both clouds, in the reference only, in the prediction only.

    ``mode``: "full", the whole cube [-50, 50]^3 (LiDiff since July 2025); "legacy", LiDiff before and to this day ScoreLiDAR and
    DistillationDPO: the coordinates are divided by the voxel size and rounded, and the result is binned in [-50, 50] *voxels*, so only
    points within 25, 10 and 5 m count at 0.5, 0.2 and 0.1 m. Tables of the two modes must not be compared.
    """
    if mode not in IOU_MODES:
        raise ValueError(f"voxel IoU: mode is '{mode}'; allowed are {', '.join(IOU_MODES)}")
    _not_empty(prediction, reference)
    clouds = (prediction, reference) if mode == "full" else (np.round(prediction / voxel_size), np.round(reference / voxel_size))
    found, wanted = (np.unique(cells(points, voxel_size)) for points in clouds)
    both = len(np.intersect1d(found, wanted, assume_unique=True))
    return np.array([both, len(wanted) - both, len(found) - both], dtype=np.int64)


def pooled_iou(counts: Iterable[np.ndarray]) -> float:
    """IoU over several scans as the tables report it: the counts of ``iou_counts`` are added first (micro average), then divided.

    Errors: ValueError where no scan has an occupied voxel (upstream: 0).
    """
    both, reference_only, prediction_only = (int(part) for part in np.sum(list(counts), axis=0))
    if not both + reference_only + prediction_only:
        raise ValueError("voxel IoU of clouds that occupy no voxel of the grid: 0 / 0")
    return both / (both + reference_only + prediction_only)


def voxel_iou(prediction: np.ndarray, reference: np.ndarray, voxel_size: float = IOU_VOXELS[0], mode: str = "full") -> float:
    """IoU of one scan, in [0, 1]: what a reward needs. Over several scans the published number is ``pooled_iou``."""
    return pooled_iou([iou_counts(prediction, reference, voxel_size, mode)])


def _not_empty(*clouds: np.ndarray) -> None:
    if not all(len(points) for points in clouds):
        raise ValueError(f"point clouds of {' and '.join(str(len(points)) for points in clouds)} points: neither may be empty")
