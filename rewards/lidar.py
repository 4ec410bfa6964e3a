"""LiDAR: the metrics of ``pointmetrics`` and ``transport`` as rewards of a cloud against its reference, with a sign: higher is better."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffalign.rewards import pointclouds, pointmetrics, transport
from diffalign.rewards.base import Reward

# id -> (metric(cloud, reference, **settings), the sign that makes higher better, its settings)
METRICS: dict[str, tuple[Callable[..., float], int, dict[str, Any]]] = {
    "lidar-chamfer": (pointmetrics.chamfer, -1, {}),
    "lidar-jsd-bev": (partial(pointmetrics.jsd, kind="bev"), -1, {"voxel_size": pointmetrics.JSD_VOXEL}),
    "lidar-jsd-3d": (partial(pointmetrics.jsd, kind="3d"), -1, {"voxel_size": pointmetrics.JSD_VOXEL}),
    "lidar-iou": (pointmetrics.voxel_iou, 1, {"voxel_size": pointmetrics.IOU_VOXELS[0], "mode": "full"}),
    "lidar-emd": (transport.emd, -1, {"method": "exact", "voxel_size": 1.0, "gap": 1e-3}),
    "lidar-f-score": (pointmetrics.f_score, 1, {}),
}


class LidarReward(Reward):
    """score = sign * metric(cloud, reference); what images' rewards call prompts are the references.

    A cloud or a reference is an array (N, 3 or more columns) in metres, or a file (``pointclouds.read``). ``score`` takes as many
    references as clouds, or one for all.
    """

    modality = "lidar"
    batch_size = 1
    packages = ("numpy", "scipy")

    def __init__(self, name: str, metric: Callable[[np.ndarray, np.ndarray], float], sign: int, max_range: float | None, **base: Any):
        super().__init__(name, max_range=max_range, **base)
        self.metric, self.sign, self.max_range = metric, sign, max_range

    def read(self, sample: Any) -> np.ndarray:
        return pointclouds.read(sample)

    def prepare(self, decoded: np.ndarray) -> np.ndarray:
        return decoded if self.max_range is None else pointclouds.within(decoded, self.max_range)

    def collate(self, prepared: list[np.ndarray]) -> list[np.ndarray]:
        return prepared

    def measure(self, batch: list[np.ndarray], prompts: list[Any]) -> Tensor:
        references = [self.prepare(self.read(wanted)) for wanted in prompts]
        return torch.tensor([self.sign * self.metric(cloud, reference) for cloud, reference in zip(batch, references, strict=True)])

    def _paired(self, samples: Any, prompts: Any) -> tuple[list[Any], list[Any]]:
        if is_one(samples):
            raise ValueError("clouds must be a sequence of clouds, got one: put it in a list")
        if prompts is None:
            raise ValueError(f"reward '{self.name}' compares clouds with references: give as many as clouds, or one for all")
        samples = list(samples)
        prompts = [prompts] * len(samples) if is_one(prompts) else list(prompts)
        if len(prompts) != len(samples):
            raise ValueError(f"{len(samples)} clouds and {len(prompts)} references: give as many of both, or one reference")
        return samples, prompts


def is_one(cloud: Any) -> bool:
    """A single cloud, not a sequence of them."""
    return isinstance(cloud, str | Path) or (isinstance(cloud, np.ndarray | Tensor) and cloud.ndim == 2)


def load(
    name: str, *, weights: str | None, config: Any, device: str | torch.device, dtype: torch.dtype,
    max_range: float | None = pointclouds.MAX_RANGE, voxel_size: float | None = None, mode: str | None = None, method: str | None = None,
    gap: float | None = None,
) -> LidarReward:  # fmt: skip
    """A metric by its id.

        lidar-chamfer    - Chamfer distance, metres                    lidar-jsd-bev   - JSD of occupied columns, in [0, sqrt(ln 2)]
        lidar-iou        voxel IoU of the scan, in [0, 1]              lidar-jsd-3d    - JSD of point counts, in [0, sqrt(ln 2)]
        lidar-emd        - earth mover's distance, metres              lidar-f-score   area under F from 5 to 10 cm, percent

    Args:
        max_range: clouds and references lose the points this many metres or more from the sensor; None keeps all. LiDiff crops its
            predictions so; of what ``pointclouds.ground_truth`` made, nothing is lost.
        voxel_size: metres; of lidar-iou (0.5), lidar-jsd-bev and lidar-jsd-3d (0.5), lidar-emd (1).
        mode: of lidar-iou: full | legacy. method, gap: of lidar-emd: exact (to a relative gap of 0.001) | sinkhorn | distillationdpo.
    The reward's IoU is that of one scan; published tables pool the counts of all scans first (``pointmetrics.pooled_iou``).
    Errors: ValueError for a setting that the metric does not have, weights or a config; those of the metric. ImportError without scipy.
    """
    if weights is not None or config is not None:
        raise ValueError(f"reward '{name}' has no weights and no config")
    metric, sign, own = METRICS[name]
    given = {"voxel_size": voxel_size, "mode": mode, "method": method, "gap": gap}
    given = {option: value for option, value in given.items() if value is not None}
    if unknown := given.keys() - own.keys():
        raise ValueError(f"reward '{name}' has no option {', '.join(sorted(unknown))}; it has {', '.join(['max_range', *own])}")
    settings = own | given
    if name == "lidar-emd":
        settings["device"] = device
    return LidarReward(name, partial(metric, **settings), sign, max_range, device=device, dtype=dtype, **(own | given))
