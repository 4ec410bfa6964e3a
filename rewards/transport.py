"""Earth mover's distance (1-Wasserstein with Euclidean cost, metres) of point clouds: exact, log-domain Sinkhorn, and the released variant.

    EMD(a, b) = min_{P >= 0, P 1 = a, P' 1 = b} sum_ij P_ij |x_i - y_j|

A cloud of 10^5 points is too large for any of them, so it first becomes a weighted histogram (``histogram``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffalign.extras import require

METHODS = ("exact", "sinkhorn", "distillationdpo")
MAX_PAIRS = 2 * 10**8  # entries of a cost matrix: 1.6 GB in float64
RELEASED = {"voxel_size": 0.5, "epsilon": 1e-3, "floor": 1e-9, "iterations": 3000, "tolerance": 1e-4, "max_voxels": 130_000}


class Transport(NamedTuple):
    """The EMD from both sides: ``cost``, of a plan with exactly the wanted marginals, and ``bound``, a proven lower bound."""

    cost: float
    bound: float


def histogram(points: np.ndarray, voxel_size: float, place: str = "centroid") -> tuple[np.ndarray, np.ndarray]:
    """(M, 3) and (M,): the occupied voxels, placed at the mean of their points or at their "centre", and the share of points in each.

    Moving the points to their voxels' places changes an EMD by at most the mean distance they are moved, on either side.
    """
    if place not in ("centroid", "centre"):
        raise ValueError(f"place is '{place}'; allowed are centroid, centre")
    index, inverse, counts = np.unique(np.floor(points / voxel_size), axis=0, return_inverse=True, return_counts=True)
    places = (index + 0.5) * voxel_size
    if place == "centroid":
        inverse = inverse.reshape(-1)
        places = np.stack([np.bincount(inverse, points[:, axis], len(counts)) / counts for axis in range(3)], axis=1)
    return places, counts / counts.sum()


def emd(
    a: np.ndarray, b: np.ndarray, *, method: str = "exact", voxel_size: float = 1.0, gap: float = 1e-3, device: str | torch.device = "cpu"
) -> float:
    """The EMD of two clouds (N, 3), (M, 3) in metres, between their voxel histograms (places: centroids).

    ``method``: "exact" (to a relative ``gap``), "sinkhorn" (an upper bound, see there; the one that a GPU ``device`` speeds up), or
    "distillationdpo" (which has its own settings and is no EMD).

    *Deviates:* happyw1nd/DistillationDPO takes the centres of 0.5 m voxels.
    Errors: ValueError for an unknown method, an empty cloud, or clouds too large for the method.
    """
    if method not in METHODS:
        raise ValueError(f"emd: method is '{method}'; allowed are {', '.join(METHODS)}")
    if not (len(a) and len(b)):
        raise ValueError(f"emd of clouds of {len(a)} and {len(b)} points: neither may be empty")
    if method == "distillationdpo":
        return distillationdpo(a, b)
    sides = (*histogram(a, voxel_size), *histogram(b, voxel_size))
    return (exact(*sides, gap=gap) if method == "exact" else sinkhorn(*sides, device=device)).cost


def exact(x: np.ndarray, a: np.ndarray, y: np.ndarray, b: np.ndarray, *, gap: float = 1e-9, neighbours: int = 8) -> Transport:
    """The EMD of weighted points x (N, 3), a (N,) and y (M, 3), b (M,); weights sum to 1.

    Equal weights and N = M: scipy's assignment, which is optimal there. Otherwise the linear program by column generation: it starts
    with the pairs of ``neighbours`` nearest places and one feasible plan, and takes in the pairs of negative reduced cost until the lower
    bound that its dual solution proves is within ``gap`` (relative) of the cost. scipy solves each program (HiGHS).
    """
    optimize, sparse = require("scipy.optimize", extra="rewards"), require("scipy.sparse", extra="rewards")
    tree = require("scipy.spatial", extra="rewards").KDTree
    cost, n, m = _cost(x, y).numpy(), len(x), len(y)
    if n == m and np.allclose(a, 1 / n, rtol=1e-12) and np.allclose(b, 1 / n, rtol=1e-12):
        rows, columns = optimize.linear_sum_assignment(cost)
        return Transport(*[float(cost[rows, columns].mean())] * 2)
    near_y = tree(y).query(x, list(range(1, min(neighbours, m) + 1)))[1] + np.arange(n)[:, None] * m
    near_x = tree(x).query(y, list(range(1, min(neighbours, n) + 1)))[1] * m + np.arange(m)[:, None]
    pairs = np.unique(np.concatenate([near_y.reshape(-1), near_x.reshape(-1), _any_plan(a, b)]))  # i * M + j
    while True:
        i, j = np.divmod(pairs, m)
        marginals = sparse.csc_array((np.ones(2 * len(pairs)), (np.r_[i, n + j], np.tile(np.arange(len(pairs)), 2))), (n + m, len(pairs)))
        found = optimize.linprog(cost[i, j], A_eq=marginals[:-1], b_eq=np.r_[a, b][:-1], method="highs-ds")  # the last row follows
        if not found.success:
            raise ValueError(f"the linear program of {n} x {m} places was not solved: {found.message}")
        potential = found.eqlin.marginals[:n]
        bound = _bound(torch.from_numpy(cost), torch.from_numpy(potential), a, b)
        reduced = cost - potential[:, None] - np.r_[found.eqlin.marginals[n:], 0.0]
        best = np.concatenate([np.arange(n) * m + reduced.argmin(1), reduced.argmin(0) * m + np.arange(m)])
        fresh = np.setdiff1d(best[reduced.reshape(-1)[best] < 0], pairs)
        if found.fun - bound <= gap * abs(found.fun) or not len(fresh):
            return Transport(float(found.fun), min(bound, float(found.fun)))
        pairs = np.union1d(pairs, fresh)


def sinkhorn(
    x: np.ndarray, a: np.ndarray, y: np.ndarray, b: np.ndarray, *, epsilon: float = 0.05, iterations: int = 1000, tolerance: float = 1e-5,
    device: str | torch.device = "cpu",
) -> Transport:  # fmt: skip
    """The EMD of weighted points between two proven bounds, by entropic regularisation in the log domain (arXiv:1306.0895).

        f_i = -eps log sum_j b_j exp((g_j - C_ij) / eps),  g_j likewise,   P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)

    eps is halved from the largest distance down to ``epsilon`` metres, 20 sweeps a level; at ``epsilon`` the sweeps go on until the row
    sums of P differ from a by less than ``tolerance`` in total, or for ``iterations``. Sweeps are over-relaxed (1.9, arXiv:1711.01851),
    plain again once that stops helping. P is then rounded to the exact marginals (arXiv:1705.09634, algorithm 2), which gives ``cost``,
    and the potentials are made feasible, which gives ``bound``. A converged P costs at most ``epsilon * log(min(N, M))`` more than the
    EMD. Nothing underflows at any epsilon; a small one needs many sweeps.
    """
    if not epsilon > 0:
        raise ValueError(f"sinkhorn: epsilon is {epsilon} m; it must be above 0")
    cost, (a_, b_) = _cost(x, y).to(device), (torch.from_numpy(side).to(device) for side in (a, b))
    log_a, log_b = a_.log(), b_.log()
    f, g, relaxation, least, largest = torch.zeros_like(a_), torch.zeros_like(b_), 1.9, float("inf"), float(cost.max())
    halved = [largest / 2**k for k in range(1, 200) if largest / 2**k > epsilon]
    for eps in [*halved, epsilon]:
        for sweep in range(20 if eps > epsilon else iterations):
            wanted = -eps * ((g + eps * log_b - cost) / eps).logsumexp(1)
            if eps == epsilon and sweep > 2:
                off = float((a_ * ((f - wanted) / eps).expm1()).abs().sum())  # the row sums of P are a exp((f - wanted) / eps)
                if off < tolerance:
                    break
                least = min(least, off)
                relaxation = relaxation if off < 10 * least else 1.0
            pull = relaxation if sweep > 2 else 1.0
            f = f + pull * (wanted - f)
            wanted = -eps * (((f + eps * log_a)[:, None] - cost) / eps).logsumexp(0)
            g = g + pull * (wanted - g)
    f = -eps * ((g + eps * log_b - cost) / eps).logsumexp(1)
    plan = ((f[:, None] + g - cost) / eps + log_a[:, None] + log_b).exp_()
    plan *= (a_ / plan.sum(1)).clamp(max=1)[:, None]
    plan *= (b_ / plan.sum(0)).clamp(max=1)
    short_a, short_b = (a_ - plan.sum(1)).clamp(min=0), (b_ - plan.sum(0)).clamp(min=0)
    rest = short_a @ cost @ short_b / short_a.sum() if float(short_a.sum()) > 0 else 0.0
    return Transport(float((plan * cost).sum() + rest), _bound(cost, f, a, b))


def distillationdpo(a: np.ndarray, b: np.ndarray) -> float:
    """What happyw1nd/DistillationDPO (utils/EMD.py) reports as EMD, to compare with its tables. It is not one.

    Voxels of 0.5 m at their centres; ``K = exp(-C / 0.001) + 1e-9``; u = a / Kv, v = b / K'u, at most 3000 times, until u changes by
    less than 1e-4 in total; the sum of u_i K_ij v_j C_ij. exp(-0.5 / 0.001) is 0, so all voxels that do not coincide are equally near to
    each other, and mass that could move one voxel is spread over the whole scene: the value is far above the EMD.

    Errors: ValueError above 130,000 voxels (upstream skips such scans, and those of value 0, in its mean).
    """
    (x, a), (y, b) = (histogram(points, RELEASED["voxel_size"], "centre") for points in (a, b))
    if len(a) + len(b) > RELEASED["max_voxels"]:
        raise ValueError(f"{len(a)} + {len(b)} voxels: the released code gives no value above {RELEASED['max_voxels']}")
    cost, a, b = _cost(x, y), torch.from_numpy(a), torch.from_numpy(b)
    kernel = (-cost / RELEASED["epsilon"]).exp_().add_(RELEASED["floor"])
    u, v = torch.ones_like(a), torch.ones_like(b)
    for _ in range(RELEASED["iterations"]):
        before, u = u, a / (kernel @ v)
        v = b / (kernel.T @ u)
        if float((u - before).abs().sum()) < RELEASED["tolerance"]:
            break
    return float(u @ kernel.mul_(cost) @ v)


def _cost(x: np.ndarray, y: np.ndarray) -> Tensor:
    """(N, M) float64, metres."""
    if len(x) * len(y) > MAX_PAIRS:
        size = f"{len(x)} x {len(y)} places need a cost matrix of {len(x) * len(y) * 8 / 1e9:.1f} GB"
        raise ValueError(f"{size}; take larger voxels or fewer points")
    exactly = "donot_use_mm_for_euclid_dist"  # the product form loses the small distances
    return torch.cdist(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(y)), compute_mode=exactly)


def _bound(cost: Tensor, f: Tensor, a: np.ndarray, b: np.ndarray) -> float:
    """The dual objective a'f + b'g of potentials with f_i + g_j <= C_ij everywhere (two c-transforms of f): at most the EMD."""
    g = (cost - f[:, None]).amin(0)
    f = (cost - g).amin(1)
    return float(np.dot(a, f.cpu().numpy()) + np.dot(b, g.cpu().numpy()))


def _any_plan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pairs i * M + j of the north-west corner plan, which has the marginals a and b whatever the costs."""
    i = j = 0
    left_a, left_b, pairs = a[0], b[0], [0]
    while i < len(a) - 1 or j < len(b) - 1:
        moved = min(left_a, left_b)
        left_a, left_b = left_a - moved, left_b - moved
        if j == len(b) - 1 or (left_a <= left_b and i < len(a) - 1):
            i, left_a = i + 1, a[i + 1]
        else:
            j, left_b = j + 1, b[j + 1]
        pairs.append(i * len(b) + j)
    return np.array(pairs)
