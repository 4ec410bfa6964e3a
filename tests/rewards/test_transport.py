"""Earth mover's distance: by hand, against scipy's linear program over all pairs, and what the released code computes instead."""

import numpy as np
import pytest

from diffalign.rewards import load_reward, transport

optimize = pytest.importorskip("scipy.optimize")
sparse = pytest.importorskip("scipy.sparse")


def program(x, a, y, b):
    """The whole linear program at once."""
    cost = np.linalg.norm(x[:, None] - y, axis=2)
    n, m = cost.shape
    rows = sparse.vstack([sparse.kron(sparse.eye(n), np.ones((1, m))), sparse.kron(np.ones((1, n)), sparse.eye(m))]).tocsc()
    return optimize.linprog(cost.ravel(), A_eq=rows[:-1], b_eq=np.r_[a, b][:-1], method="highs").fun


def sample(seed, count, spread=6.0, noise=0.0):
    rng = np.random.default_rng(seed)
    points = rng.normal(0, spread, (count, 3)) * [1, 1, 0.1]
    return points + noise * rng.normal(size=points.shape)


@pytest.fixture(scope="module", params=[0, 1])
def weighted(request):
    a, b = sample(request.param, 120), sample(request.param, 140, noise=0.5)[10:]
    return (*transport.histogram(a, 1.5), *transport.histogram(b, 1.5))


def test_by_hand():
    x, y = np.array([[0.0, 0, 0], [3, 0, 0]]), np.array([[0.0, 4, 0]])
    even = np.array([0.5, 0.5])
    assert transport.exact(x, even, y, np.ones(1)).cost == pytest.approx((4 + 5) / 2)
    assert transport.exact(y, np.ones(1), x, even).cost == pytest.approx((4 + 5) / 2)
    # a quarter of the mass moves 3 m
    assert transport.exact(x, np.array([0.75, 0.25]), x, even) == pytest.approx((0.75, 0.75))
    assert transport.exact(x, even, x[::-1], even).cost == 0


def test_the_histogram():
    points = np.array([[0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [-0.1, 0.1, 0.1], [0.2, 0.1, 0.1]])
    places, weights = transport.histogram(points, 0.5)
    assert places.tolist() == [[-0.1, 0.1, 0.1], [pytest.approx(0.2), pytest.approx(0.1), pytest.approx(0.1)]]
    assert weights.tolist() == [0.25, 0.75]
    assert transport.histogram(points, 0.5, "centre")[0].tolist() == [[-0.25, 0.25, 0.25], [0.25, 0.25, 0.25]]


def test_exact_is_the_linear_program(weighted):
    best = program(*weighted)
    found = transport.exact(*weighted)
    assert found.cost == pytest.approx(best, rel=1e-9) and found.bound == pytest.approx(best, rel=1e-8)
    rough = transport.exact(*weighted, gap=0.05)
    assert rough.bound <= best <= rough.cost * (1 + 1e-12) and rough.cost - rough.bound <= 0.05 * rough.cost


def test_equal_weights_are_an_assignment():
    x, y = sample(0, 60), sample(3, 60)
    even = np.full(60, 1 / 60)
    assert transport.exact(x, even, y, even).cost == pytest.approx(program(x, even, y, even), rel=1e-9)


def test_sinkhorn_holds_the_linear_program_between_its_bounds(weighted):
    best = program(*weighted)
    gaps = []
    smaller = np.log(min(len(weighted[0]), len(weighted[2])))  # the most that the entropy of a plan can exceed a product's by
    for epsilon in (0.5, 0.1, 0.05):
        found = transport.sinkhorn(*weighted, epsilon=epsilon)
        assert found.bound - 1e-9 <= best <= found.cost + 1e-9
        assert found.cost - best < epsilon * smaller, (epsilon, best, found)
        gaps.append(found.cost - found.bound)
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.03 * best  # the smaller epsilon, the nearer
    unfinished = transport.sinkhorn(*weighted, epsilon=0.01, iterations=5)
    assert unfinished.bound - 1e-9 <= best <= unfinished.cost + 1e-9  # the bounds hold wherever it stops
    tiny = transport.sinkhorn(*weighted, epsilon=1e-4, iterations=20)
    assert np.isfinite(tiny).all()


def test_clouds_move_by_what_they_are_moved():
    cloud = np.floor(sample(5, 150)) + 0.5
    assert transport.emd(cloud, cloud) == 0
    assert transport.emd(cloud + [2.0, 0, 0], cloud, gap=1e-9) == pytest.approx(2, rel=1e-9)  # whole voxels: its length
    assert transport.emd(cloud[:100], cloud[:100], method="sinkhorn") < 1e-3
    near = float(load_reward("lidar-emd", method="sinkhorn").score([cloud[:100] + [2.0, 0, 0]], [cloud[:100]]))
    assert -2.05 < near <= -2


def test_the_released_code_is_no_emd():
    """The kernel is constant for all places that do not coincide, so the plan is spread over everything."""
    x, y = np.array([[0.25, 0.25, 0.25], [20.25, 0.25, 0.25]]), np.array([[0.75, 0.25, 0.25], [20.75, 0.25, 0.25]])
    spread = (0.5 + 20.5 + 19.5 + 0.5) / 4  # a' C b with all weights equal
    assert transport.emd(x, y, method="distillationdpo") == pytest.approx(spread, rel=1e-9)
    assert transport.emd(x, y, method="exact", voxel_size=0.5) == pytest.approx(0.5)
    assert transport.emd(x, x, method="distillationdpo") == pytest.approx(0, abs=1e-6)


def test_the_released_code_written_out():
    a, b = sample(0, 80), sample(0, 90, noise=0.3)
    sides = [np.unique(np.floor(points / 0.5).astype(int), axis=0, return_counts=True) for points in (a, b)]
    (x, p), (y, q) = (((index + 0.5) * 0.5, count / count.sum()) for index, count in sides)
    cost = np.linalg.norm(x[:, None] - y, axis=2)
    kernel = np.exp(-cost / 0.001) + 1e-9
    u, v = np.ones(len(p)), np.ones(len(q))
    for _ in range(3000):
        last, u = u, p / (kernel @ v)
        v = q / (kernel.T @ u)
        if np.abs(u - last).sum() < 1e-4:
            break
    assert transport.distillationdpo(a, b) == pytest.approx((u[:, None] * kernel * v * cost).sum(), rel=1e-9)


def test_mistakes_are_named():
    cloud = sample(0, 10)
    with pytest.raises(ValueError, match="allowed are exact, sinkhorn, distillationdpo"):
        transport.emd(cloud, cloud, method="fast")
    with pytest.raises(ValueError, match="neither may be empty"):
        transport.emd(cloud, cloud[:0])
    with pytest.raises(ValueError, match="allowed are centroid, centre"):
        transport.histogram(cloud, 1.0, "corner")
    with pytest.raises(ValueError, match="epsilon is 0"):
        transport.sinkhorn(cloud, np.full(10, 0.1), cloud, np.full(10, 0.1), epsilon=0)
    many = np.zeros((20_000, 3))
    with pytest.raises(ValueError, match="20000 x 20000 places need a cost matrix of 3.2 GB"):
        transport.exact(many, np.full(20_000, 5e-5), many, np.full(20_000, 5e-5))
