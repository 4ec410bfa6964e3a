"""LiDAR metrics: by hand, against dense and brute-force computations, and on a real scan."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from diffalign.rewards import load_reward
from diffalign.rewards import pointclouds as clouds
from diffalign.rewards import pointmetrics as metrics

pytest.importorskip("scipy")
SCAN = Path(__file__).resolve().parents[3] / "shared/data/lidar/000123.ply"


@pytest.fixture(scope="module")
def scan():
    if not SCAN.exists():
        pytest.skip(f"{SCAN} is not here")
    return clouds.read(SCAN)


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    cloud = rng.uniform(-55, 55, (3000, 3))
    cloud[:3] = [[50, 50, 50], [-50, 0, 50], [10, 10, -10]]  # on the edges of the grid, and of its cells
    return cloud, cloud[::2] + rng.normal(0, 1, (1500, 3))


# By hand --------------------------------------------------------------------------------------------------------------------------------


def test_chamfer_by_hand():
    a, b = np.array([[0.0, 0, 0], [2, 0, 0]]), np.array([[0.0, 0, 0], [0, 3, 4]])
    # a to b: 0 and 2; b to a: 0 and 5
    assert metrics.chamfer(a, b) == metrics.chamfer(b, a) == (1 + 2.5) / 2
    assert metrics.mean_distance(a, b) == 1 and metrics.mean_distance(b, a) == 2.5


def test_precision_recall_and_f_by_hand():
    reference = np.array([[0.0, 0, 0], [10, 0, 0]])
    prediction = np.array([[0.0, 0, 0.06], [0.0, 0, 0.08], [0, 0, 5], [0, 0, 9]])
    precision, recall, f = metrics.precision_recall(prediction, reference, np.array([0.05, 0.06, 0.07, 0.10]))
    assert precision.tolist() == [0, 0, 25, 50]  # strictly nearer than the threshold: 0.06 is not
    assert recall.tolist() == [0, 0, 50, 50]
    assert f.tolist() == [0, 0, pytest.approx(100 / 3), 50]
    assert metrics.area(np.full(100, 25.0)) == 25 and metrics.area(np.linspace(0, 100, 100)) == pytest.approx(50)
    assert metrics.f_score(reference, reference) == 100


def test_jsd_by_hand():
    column = np.array([[0.1, 0.1, 0.1], [0.1, 0.1, 0.7]])  # one column of the grid, two voxels
    twice = np.array([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [0.1, 0.1, 0.7]])
    apart = np.array([[20.1, 0.1, 0.1]])
    assert metrics.jsd(column, twice, "bev") == 0  # the same voxels are occupied, whatever their points
    p, q = np.array([1 / 2, 1 / 2]), np.array([2 / 3, 1 / 3])
    m = (p + q) / 2
    assert metrics.jsd(column, twice, "3d") == pytest.approx(np.sqrt((p @ np.log(p / m) + q @ np.log(q / m)) / 2))
    for kind in metrics.JSD_KINDS:
        assert metrics.jsd(column, apart, kind) == pytest.approx(np.sqrt(np.log(2)))


def test_pooled_iou_is_not_the_mean():
    voxel = lambda *x: np.array([[0.25 + 0.5 * i, 0.25, 0.25] for i in x])  # noqa: E731
    counts = [metrics.iou_counts(voxel(0, 1), voxel(1, 2)), metrics.iou_counts(voxel(5), voxel(5))]
    assert [count.tolist() for count in counts] == [[1, 1, 1], [1, 0, 0]]
    assert metrics.pooled_iou(counts) == 2 / 4
    assert [metrics.pooled_iou([count]) for count in counts] == [1 / 3, 1]


def test_the_legacy_grid_ends_at_25_10_and_5_metres():
    for voxel_size, edge in ((0.5, 25), (0.2, 10), (0.1, 5)):
        inside, outside = np.array([[edge - 0.6, 0, 0]]), np.array([[edge + 0.6, 0, 0]])
        both = np.concatenate([inside, outside])
        assert metrics.voxel_iou(inside, both, voxel_size, "legacy") == 1
        assert metrics.voxel_iou(inside, both, voxel_size, "full") == 0.5
        with pytest.raises(ValueError, match="no voxel of the grid"):
            metrics.voxel_iou(outside, outside, voxel_size, "legacy")


# Against other computations -------------------------------------------------------------------------------------------------------------


def dense(points, voxel_size):
    return np.histogramdd(points, bins=int(100 / voxel_size), range=[(-50, 50)] * 3)[0]


def test_sparse_histograms_equal_dense_ones(pair):
    from scipy.spatial.distance import jensenshannon

    for voxel_size in (2.0, 4.0):
        flat = [dense(points, voxel_size) for points in pair]
        assert metrics.jsd(*pair, "3d", voxel_size) == pytest.approx(jensenshannon(*(grid.ravel() for grid in flat)), abs=1e-12)
        columns = [(grid > 0).sum(-1).ravel() for grid in flat]
        assert metrics.jsd(*pair, "bev", voxel_size) == pytest.approx(jensenshannon(*columns), abs=1e-12)
        assert 0.1 < metrics.jsd(*pair, "bev", voxel_size) < metrics.jsd(*pair, "3d", voxel_size)
        for mode in metrics.IOU_MODES:
            a, b = (dense(points if mode == "full" else np.round(points / voxel_size), voxel_size) > 0 for points in pair)
            assert metrics.voxel_iou(*pair, voxel_size, mode) == (a & b).sum() / (a | b).sum()
    assert metrics.voxel_iou(*pair, 4.0) != metrics.voxel_iou(*pair, 4.0, "legacy")


def test_cells_are_histogramdds(pair):
    cloud = pair[0]
    found, counts = np.unique(metrics.cells(cloud, 2.0), return_counts=True)
    grid = dense(cloud, 2.0).ravel()
    assert found.tolist() == np.flatnonzero(grid).tolist() and counts.tolist() == grid[grid > 0].tolist()


# The real scan --------------------------------------------------------------------------------------------------------------------------


def test_identical_clouds(scan):
    assert scan.shape == (125_773, 3)
    assert metrics.chamfer(scan, scan) == 0 and metrics.jsd(scan, scan, "bev") == metrics.jsd(scan, scan, "3d") == 0
    assert [metrics.voxel_iou(scan, scan, size, mode) for size in metrics.IOU_VOXELS for mode in metrics.IOU_MODES] == [1] * 6
    assert metrics.f_score(scan, scan) == 100


def test_a_translation_of_30_cm(scan):
    moved = scan + [0.3, 0, 0]
    assert 0.05 < metrics.chamfer(moved, scan) <= 0.3
    # Points more than 60 cm apart: every nearest neighbour is the point itself.
    _, first = np.unique(np.floor(scan / 2), axis=0, return_index=True)
    sparse = np.floor(scan[first] / 2) * 2
    assert metrics.chamfer(sparse + [0.3, 0, 0], sparse) == pytest.approx(0.3, abs=1e-12)


def test_the_tree_equals_brute_force(scan):
    rng = np.random.default_rng(0)
    a, b = (scan[rng.choice(len(scan), 5000, replace=False)] for _ in range(2))
    apart = torch.cdist(torch.from_numpy(a), torch.from_numpy(b), compute_mode="donot_use_mm_for_euclid_dist").numpy()
    assert metrics.nearest(a, b).tolist() == pytest.approx(apart.min(1).tolist(), abs=1e-12)
    assert metrics.chamfer(a, b) == pytest.approx((apart.min(1).mean() + apart.min(0).mean()) / 2, abs=1e-12)


def test_a_whole_scan_is_quick(scan):
    other = scan + np.random.default_rng(0).normal(0, 0.1, scan.shape)
    start = time.process_time()
    found = [metrics.chamfer(other, scan, workers=2), metrics.jsd(other, scan, "bev"), metrics.jsd(other, scan, "3d")]
    found += [metrics.voxel_iou(other, scan, size, mode) for size in metrics.IOU_VOXELS for mode in metrics.IOU_MODES]
    assert time.process_time() - start < 10  # 5 s on two cores; docs/rewards.md has what was measured
    assert 0.05 < found[0] < 0.1 and all(0 < value < 1 for value in found)


def test_the_rewards_of_the_scan_against_itself(scan):
    for name, best in (("lidar-chamfer", 0), ("lidar-iou", 1), ("lidar-jsd-bev", 0)):
        assert load_reward(name).score([SCAN], SCAN).tolist() == [best]


# Files ----------------------------------------------------------------------------------------------------------------------------------

POINTS = np.array([[1.5, -2.0, 3.25], [0.0, 4.5, -1.0], [7.0, 8.0, 9.0]])
HEADER = "ply\nformat {}\ncomment made by hand\nelement vertex 3\nproperty {} x\nproperty uchar intensity\nproperty {} y\nproperty {} z\n"


def test_ply_in_every_encoding(tmp_path):
    faces = "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    text = HEADER.format("ascii 1.0", "float", "float", "float") + faces + "".join(f"{x} 7 {y} {z}\n" for x, y, z in POINTS) + "3 0 1 2\n"
    (tmp_path / "a.ply").write_text(text)
    assert clouds.read(tmp_path / "a.ply").tolist() == POINTS.tolist()
    for order, word in (("<", "little"), (">", "big")):
        for code, kind in (("f4", "float"), ("f8", "double")):
            table = np.zeros(3, np.dtype([("x", order + code), ("i", "u1"), ("y", order + code), ("z", order + code)]))
            table["x"], table["y"], table["z"] = POINTS.T
            head = HEADER.format(f"binary_{word}_endian 1.0", kind, kind, kind) + faces
            (tmp_path / "b.ply").write_bytes(head.encode() + table.tobytes() + b"\x03" + bytes(12))
            assert clouds.read(tmp_path / "b.ply").tolist() == POINTS.tolist(), (word, kind)


def test_an_element_before_the_vertices_is_skipped(tmp_path):
    camera = "element camera 2\nproperty float f\nproperty short g\n"
    head = "ply\nformat {} 1.0\n" + camera + "element vertex 3\nproperty double x\nproperty double y\nproperty double z\nend_header\n"
    (tmp_path / "b.ply").write_bytes(head.format("binary_little_endian").encode() + bytes(12) + POINTS.tobytes())
    (tmp_path / "a.ply").write_text(head.format("ascii") + "1 2\n3 4\n" + "".join("{} {} {}\n".format(*point) for point in POINTS))
    assert clouds.read(tmp_path / "a.ply").tolist() == clouds.read(tmp_path / "b.ply").tolist() == POINTS.tolist()


def test_kitti_and_numpy(tmp_path):
    np.c_[POINTS, [0.1, 0.2, 0.3]].astype("<f4").tofile(tmp_path / "scan.bin")
    np.save(tmp_path / "scan.npy", POINTS.astype(np.float32))
    for sample in (tmp_path / "scan.bin", str(tmp_path / "scan.npy"), POINTS, torch.from_numpy(POINTS), np.c_[POINTS, POINTS]):
        found = clouds.read(sample)
        assert found.dtype == np.float64 and found.tolist() == POINTS.tolist()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"obj\n", "does not start with 'ply'"),
        (b"ply\nformat ascii 1.0\n", "no end_header"),
        (b"ply\nformat zip 1.0\nend_header\n", "'zip' is not ascii"),
        (b"ply\nformat ascii 1.0\nelement vertex x\n", "not understood: element vertex x"),
        (b"ply\nformat ascii 1.0\nend_header\n", "has no vertices"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n", "have x, and x, y, z"),
        (HEADER.format("ascii 1.0", "float", "float", "float").encode() + b"end_header\n1 2 3 4\n1 2", "3 vertices were .*, 1 could"),
        (HEADER.format("binary_little_endian 1.0", "float", "float", "float").encode() + b"end_header\n" + bytes(20), "3 .*, 1 could"),
        (b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\nproperty float z\nend_header\n", "no points"),
    ],
)
def test_a_broken_ply_is_named(tmp_path, content, said):
    (tmp_path / "broken.ply").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        clouds.read(tmp_path / "broken.ply")


def test_what_is_no_cloud_is_named(tmp_path):
    (tmp_path / "scan.bin").write_bytes(bytes(20))
    (tmp_path / "scan.pcd").write_bytes(b"")
    wrong = (
        (tmp_path / "scan.bin", "16 bytes a point"),
        (tmp_path / "scan.pcd", "read from .ply, .bin"),
        (np.zeros((3, 2)), r"\(N, 3 or more\)"),
        (np.zeros(3), "numbers, got"),
        (np.array([[0, np.nan, 0], [1, 1, 1]]), "1 of 2 points are not finite"),
        (np.zeros((0, 3)), "no points"),
    )
    for sample, said in wrong:
        with pytest.raises(ValueError, match=said):
            clouds.read(sample)
    with pytest.raises(FileNotFoundError):
        clouds.read(tmp_path / "nowhere.npy")


def test_ground_truth_is_cropped_moved_and_seen():
    pose = np.array([[0.0, -1, 0, 100], [1, 0, 0, 200], [0, 0, 1, 0], [0, 0, 0, 1]])  # a quarter turn to the left, at (100, 200, 0)
    local = np.array([[1.0, 0, 0], [1, 0, 4.4], [1, 0, -3.9], [30, 0, 0], [49, 0, 0], [51, 0, 0]])
    world = local @ pose[:3, :3].T + pose[:3, 3]
    scan = np.array([[0.0, 0, 0], [30, 1, 0], [60, 0, 0]])
    # too high, outside 50 m; the voxels around the scan start at (-5, -5, -5), so x = 49 lies in a voxel without a point of the scan
    assert clouds.ground_truth(world, pose, scan).round(9).tolist() == [[1, 0, 0], [1, 0, -3.9], [30, 0, 0]]
    with pytest.raises(ValueError, match="no point within 50"):
        clouds.ground_truth(world, pose, scan[2:])


# Rewards --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lidar-chamfer", "lidar-jsd-bev", "lidar-jsd-3d", "lidar-iou", "lidar-emd", "lidar-f-score"])
def test_the_nearer_cloud_scores_higher(name, tmp_path):
    rng = np.random.default_rng(0)
    reference = rng.uniform(-8, 8, (400, 3))
    np.save(tmp_path / "reference.npy", reference)
    near, far = reference + rng.normal(0, 0.05, reference.shape), reference + rng.normal(0, 1, reference.shape)
    reward = load_reward(name)
    exact, first, second = reward.score([reference, near, far], [reference] * 3).tolist()
    assert exact == (100 if name == "lidar-f-score" else 1 if name == "lidar-iou" else 0)
    assert exact > first > second
    for one in (reference, tmp_path / "reference.npy", str(tmp_path / "reference.npy"), torch.from_numpy(reference)):
        assert reward.score([near, far], one).tolist() == [first, second]
    assert reward.modality == "lidar" and reward.state()["max_range"] == 50


def test_settings_of_the_rewards():
    rng = np.random.default_rng(0)
    a = rng.uniform(-40, 40, (500, 3))
    b = a + rng.normal(0, 0.3, a.shape)
    inside, wanted = (cloud[np.linalg.norm(cloud, axis=1) < 50] for cloud in (a, b))
    assert len(inside) < len(a) and len(wanted) < len(b)
    value = lambda name, **options: float(load_reward(name, **options).score([a], [b]))  # noqa: E731
    assert value("lidar-chamfer") == pytest.approx(-metrics.chamfer(inside, wanted))
    assert value("lidar-chamfer", max_range=None) == pytest.approx(-metrics.chamfer(a, b))
    assert value("lidar-iou", voxel_size=2.0, mode="legacy") == pytest.approx(metrics.voxel_iou(inside, wanted, 2.0, "legacy"))
    assert value("lidar-jsd-3d", voxel_size=5.0) == pytest.approx(-metrics.jsd(inside, wanted, "3d", 5.0))
    assert load_reward("lidar-iou", mode="legacy").state()["mode"] == "legacy"


def test_mistakes_with_rewards_are_named():
    cloud = np.zeros((2, 3))
    reward = load_reward("lidar-iou")
    wrong = (
        (cloud, [cloud], "got one"),
        ([cloud], None, "compares clouds with references"),
        ([cloud], [cloud, cloud], "1 clouds and 2 references"),
    )
    for samples, references, said in wrong:
        with pytest.raises(ValueError, match=said):
            reward.score(samples, references)
    with pytest.raises(ValueError, match="has no option method; it has max_range, voxel_size, mode"):
        load_reward("lidar-iou", method="exact")
    with pytest.raises(ValueError, match="allowed are full, legacy"):
        load_reward("lidar-iou", mode="old").score([cloud], [cloud])
    with pytest.raises(ValueError, match="none within 50"):
        load_reward("lidar-jsd-bev", max_range=None).score([cloud + 60], [cloud])
    with pytest.raises(ValueError, match="no weights"):
        load_reward("lidar-iou", "x")
    with pytest.raises(ValueError, match="0 and 2 points: neither may be empty"):
        load_reward("lidar-iou").score([cloud + 60], [cloud])  # nothing is left within 50 m
