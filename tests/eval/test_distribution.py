"""Distances of sets of features: closed forms by hand, identities, and the libraries whose numbers they must give."""

import json

import numpy as np
import pytest
import torch

from diffalign.eval.distances.distribution import Gaussian, cmmd, frechet, frechet_extrapolated, inception_score, kid, vendi
from diffalign.eval.distances.frechet import root, squared_distance

DISTANCES = [frechet, lambda a, b: kid(a, b, subset_size=len(a)), cmmd]


def normal(n, d, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(size=(n, d)) @ np.diag(np.linspace(0.3, 2, d)) + shift


def with_moments(mean, covariance, n, seed=0):
    """(n, d) features whose sample mean and covariance (ddof 1) are exactly these."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T @ np.linalg.cholesky(covariance).T + mean


class Given(torch.nn.Module):
    """A feature network for torchmetrics that gets features instead of images."""

    def __init__(self, d):
        super().__init__()
        self.num_features = d

    def forward(self, features):
        return features


# Frechet -------------------------------------------------------------------------------------------------------------------------------


def test_frechet_of_two_gaussians_by_hand():
    """Covariances that commute: |gap|^2 + sum (s_a - s_b)^2 = 25 + (1 - 3)^2 + (2 - 4)^2. Others, 2 x 2: tr (AB)^1/2 =
    sqrt(tr AB + 2 sqrt(det AB)); for A = (2 1; 1 2), B = diag(1, 3) it is sqrt(8 + 2 * 3)."""
    a, b = with_moments([0, 0], np.diag([1.0, 4.0]), 50), with_moments([3, 4], np.diag([9.0, 16.0]), 70, seed=1)
    assert frechet(a, b).value == pytest.approx(33, rel=1e-12)
    a, b = with_moments([1, 1], [[2.0, 1.0], [1.0, 2.0]], 20), with_moments([1, 1], np.diag([1.0, 3.0]), 30)
    assert frechet(a, b).value == pytest.approx(8 - 2 * 14**0.5, rel=1e-11)


def test_frechet_of_lines():
    """Rank 1: along the same axis the deviations 2 and 3 differ by 1; on two axes nothing overlaps and 4 + 9 remain."""

    def line(axis, deviation):
        return Gaussian(np.zeros(4), deviation * np.eye(4)[:, [axis]])

    assert squared_distance(line(0, 2), line(0, 3)) == pytest.approx(1, abs=1e-12)
    assert squared_distance(line(0, 2), line(1, 3)) == pytest.approx(13, abs=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 6), (8, 9, 20), (8, 300, 20)])
def test_frechet_is_the_published_formula_at_every_rank(n, m, d):
    """tr (C_a C_b)^1/2 as scipy's matrix root has it, where fewer images than dimensions make it singular, too."""
    sqrtm = pytest.importorskip("scipy.linalg").sqrtm
    a, b = normal(n, d), normal(m, d, seed=1, shift=0.2)
    product = np.cov(a.T) @ np.cov(b.T)
    gap = a.mean(0) - b.mean(0)
    wanted = gap @ gap + np.trace(np.cov(a.T) + np.cov(b.T)) - 2 * np.trace(sqrtm(product)).real
    assert frechet(a, b).value == pytest.approx(wanted, rel=1e-6)  # the root of a singular matrix is good to about sqrt(eps)
    values = np.linalg.eigvals(product)
    wanted = gap @ gap + np.trace(np.cov(a.T) + np.cov(b.T)) - 2 * np.sqrt(values.real.clip(0)).sum()
    assert frechet(a, b).value == pytest.approx(wanted, rel=1e-6)


def test_frechet_is_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance
    a, b = normal(120, 7), normal(90, 7, seed=1, shift=0.3)
    theirs = fid(feature=Given(7)).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(a), real=True)
    theirs.update(torch.from_numpy(b), real=False)
    assert frechet(a, b).value == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_frechet_against_published_statistics(tmp_path):
    """An .npz with mu and sigma, as pytorch-fid and clean-fid write them, gives what the features give."""
    a, b = normal(60, 5), normal(80, 5, seed=1)
    np.savez(tmp_path / "data.npz", mu=b.mean(0), sigma=np.cov(b.T))
    found = frechet(a, Gaussian.read(tmp_path / "data.npz"))
    assert found.value == pytest.approx(frechet(a, b).value, rel=1e-10) and found.n == (60, None)
    np.savez(tmp_path / "other.npz", mean=b.mean(0))
    with pytest.raises(ValueError, match="lacks mu, sigma"):
        Gaussian.read(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="no covariance: its smallest eigenvalue is -1"):
        root(np.diag([1.0, -1.0]))


def test_the_bias_of_few_images_is_said_and_extrapolated_away():
    """Two samples of one Gaussian have the distance 0; 200 of 10 dimensions measure clearly more, the line ends below a fifth of it."""
    pairs = [(normal(200, 10, seed=2 * i), normal(200, 10, seed=2 * i + 1)) for i in range(20)]
    plain = np.mean([frechet(a, b).value for a, b in pairs])
    lines = [frechet_extrapolated(a, b, smallest=50, both=True, seed=i) for i, (a, b) in enumerate(pairs)]
    assert plain > 0.2 and abs(np.mean([line.value for line in lines])) < 0.2 * plain
    one = lines[0]
    assert one.settings["sizes"][0] == 50 and one.settings["sizes"][-1] == 200 and one.settings["slope"] > 0
    assert one.settings["at_all"] == pytest.approx(frechet(*pairs[0]).value, rel=1e-9)
    assert "biased upwards with 200 images" in frechet(*pairs[0]).caution and "extrapolated from 200" in one.caution
    assert "do not span the 10 dimensions" in frechet(pairs[0][0][:9], pairs[0][1]).caution
    assert frechet_extrapolated(*pairs[0], smallest=8).caution.startswith("the line starts at 8 images")


def test_the_extrapolated_line_is_the_least_squares_one():
    a, b = normal(40, 3), Gaussian.of(normal(500, 3, seed=1))
    found = frechet_extrapolated(a, b, points=3, smallest=20, seed=5)
    rng = np.random.default_rng(5)
    values = [frechet(a[rng.permutation(40)[:size]], b).value for size in (20, 30, 40)]
    design = np.stack([np.ones(3), 1 / np.array([20, 30, 40])], axis=1)
    assert found.value == pytest.approx(np.linalg.lstsq(design, np.array(values), rcond=None)[0][0], rel=1e-9)
    assert found.settings["r2"] == pytest.approx(np.corrcoef(design[:, 1], values)[0, 1] ** 2, rel=1e-9)
    assert found.n == (40, 500)


# KID and CMMD --------------------------------------------------------------------------------------------------------------------------


def test_kid_by_hand():
    """d = 1, X = (0, 1), Y = (0, 2), k = (xy + 1)^3: within 1 and 1; between (1 + 1 + 1 + 27) / 4; 1 + 1 - 2 * 7.5 = -13."""
    found = kid([[0.0], [1.0]], [[0.0], [2.0]])
    assert (found.value, found.spread, found.settings["subset_size"], found.settings["subsets"]) == (-13, None, 2, 1)
    assert "subsets of 2 images" in found.caution


def test_kid_has_no_bias():
    """Over 400 pairs of samples of one Gaussian the mean is 0 within four of its standard errors, with 10 images each."""
    values = [kid(normal(10, 4, seed=2 * i), normal(10, 4, seed=2 * i + 1)).value for i in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20


def test_kid_is_torchmetrics_on_whole_sets():
    metric = pytest.importorskip("torchmetrics.image.kid").KernelInceptionDistance
    a, b = normal(40, 6), normal(40, 6, seed=1, shift=0.5)
    theirs = metric(feature=Given(6), subsets=2, subset_size=40).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(a), real=True)
    theirs.update(torch.from_numpy(b), real=False)
    assert kid(a, b).value == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


def test_kid_draws_the_subsets_of_torch_fidelity():
    theirs = pytest.importorskip("torch_fidelity.metric_kid").kid_features_to_metric
    a, b = normal(60, 6), normal(50, 6, seed=1, shift=0.5)
    wanted = theirs(torch.from_numpy(a), torch.from_numpy(b), kid_subsets=7, kid_subset_size=20, verbose=False)
    found = kid(a, b, subsets=7, subset_size=20)
    assert found.value == pytest.approx(wanted["kernel_inception_distance_mean"], rel=1e-12)
    assert found.spread == pytest.approx(wanted["kernel_inception_distance_std"], rel=1e-10)


def test_cmmd_by_hand():
    """Two equal axes against two equal other ones: |x - y|^2 = 2, so 1000 (1 + 1 - 2 exp(-2 / 200)). Lengths do not matter."""
    a, b = np.array([[1.0, 0], [5, 0]]), np.array([[0, 2.0], [0, 0.1]])
    assert cmmd(a, b).value == pytest.approx(2000 * (1 - np.exp(-0.01)), rel=1e-12)
    both = np.eye(2)  # aa = (1 + exp(-0.01)) / 2 = ab with the same set; without the diagonal exp(-0.01) each
    found = cmmd(both, both)
    assert found.value == pytest.approx(0, abs=1e-9)
    assert found.settings["unbiased"] == pytest.approx(1000 * (2 * np.exp(-0.01) - (1 + np.exp(-0.01))), rel=1e-9)
    assert "bias from few images" in found.caution


def test_cmmd_says_its_bias_and_needs_no_square_of_memory(monkeypatch):
    a, b = normal(300, 8), normal(200, 8, seed=1, shift=1.0)
    whole = cmmd(a, b)
    monkeypatch.setattr("diffalign.eval.distances.distribution.ROWS", 64)
    assert cmmd(a, b).value == pytest.approx(whole.value, rel=1e-10)
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b))

    def kernel(p, q):
        return np.exp(-(np.square(p[:, None] - q[None]).sum(-1)) / 200)

    kernels = kernel(x, x), kernel(y, y), kernel(x, y)
    assert whole.value == pytest.approx(1000 * (kernels[0].mean() + kernels[1].mean() - 2 * kernels[2].mean()), rel=1e-9)
    apart = [k[~np.eye(len(k), dtype=bool)].mean() for k in kernels[:2]]
    assert whole.settings["unbiased"] == pytest.approx(1000 * (sum(apart) - 2 * kernels[2].mean()), rel=1e-9)
    assert whole.caution == "" and whole.n == (300, 200)


# What all distances have in common -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", DISTANCES, ids=["frechet", "kid", "cmmd"])
def test_distances_are_symmetric_and_blind_to_order(distance):
    a, b = normal(50, 6), normal(50, 6, seed=1, shift=0.4)
    shuffled = np.random.default_rng(9).permutation(50)
    assert distance(a, b).value > 0
    assert distance(b, a).value == pytest.approx(distance(a, b).value, rel=1e-9)
    assert distance(a[shuffled], b[shuffled[::-1]]).value == pytest.approx(distance(a, b).value, rel=1e-9)
    assert distance(a, b).value < distance(a, b + 0.4).value


@pytest.mark.parametrize("n", [5, 40])  # fewer and more than dimensions
def test_equal_sets_have_no_distance(n):
    a = normal(n, 12)
    assert frechet(a, a).value == pytest.approx(0, abs=1e-9)
    assert cmmd(a, a).value == pytest.approx(0, abs=1e-9)
    k = (a @ a.T / 12 + 1) ** 3  # KID leaves the diagonal out within and not between: 2 (mean off the diagonal - mean)
    off = (k.sum() - np.trace(k)) / (n * (n - 1))
    assert kid(a, a).value == pytest.approx(2 * (off - k.mean()), rel=1e-9)


@pytest.mark.parametrize("distance", DISTANCES, ids=["frechet", "kid", "cmmd"])
def test_bad_features_are_refused(distance):
    a = normal(10, 4)
    with pytest.raises(ValueError, match="4 and 3 numbers"):
        distance(a, a[:, :3])
    with pytest.raises(ValueError, match="N at least 2"):
        distance(a[:1], a)
    with pytest.raises(ValueError, match="1 of 10 images"):
        distance(np.where(np.arange(10)[:, None] == 3, np.nan, a), a)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: kid(a, a, subset_size=11), "100 subsets of 11 images from sets of 10 and 10: a subset has 2 to 10"),
        (lambda a: kid(a, a, subset_size=1), "2 to 10"),
        (lambda a: cmmd(a, a, sigma=0.0), "sigma is 0"),
        (lambda a: cmmd(a, 0 * a), "10 of 10 images have features that are all 0"),
        (lambda a: inception_score(a, splits=11), "11 splits of 10"),
        (lambda a: frechet_extrapolated(a, a, smallest=10), "from 10 to 10 images"),
        (lambda a: frechet_extrapolated(a, a[:9], both=True), "equal shapes"),
        (lambda a: vendi(a[:0]), "N at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(10, 4))


# Inception Score and Vendi -------------------------------------------------------------------------------------------------------------


def test_inception_score_by_hand():
    """Sure of one of 4 classes, each as often: 4. The same answer for all images, sure or not: 1. Half of the images sure of one class,
    half of another, with a probability of 3/4: p log p terms give exp(ln 2 - H(3/4)) with H in nats."""
    assert inception_score(np.repeat(np.eye(4) * 1000, 5, axis=0), splits=1).value == pytest.approx(4, rel=1e-12)
    assert inception_score(np.tile([3.0, 1.0, 0.0], (20, 1))).value == pytest.approx(1, rel=1e-12)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    found = inception_score(np.repeat([[np.log(3), 0.0], [0.0, np.log(3)]], 6, axis=0), splits=1)
    assert found.value == pytest.approx(2 * np.exp(-entropy), rel=1e-12) and found.spread is None
    assert "too low with 12 images" in found.caution


def test_inception_score_is_torch_fidelitys():
    theirs = pytest.importorskip("torch_fidelity.metric_isc").isc_features_to_metric
    logits = 3 * normal(103, 9)
    wanted, found = theirs(torch.from_numpy(logits)), inception_score(logits)
    assert found.value == pytest.approx(wanted["inception_score_mean"], rel=1e-12)
    assert found.spread == pytest.approx(wanted["inception_score_std"], rel=1e-10)


def test_inception_score_is_torchmetrics_in_one_split():
    metric = pytest.importorskip("torchmetrics.image.inception").InceptionScore
    logits = 3 * normal(40, 9)
    theirs = metric(feature=Given(9), splits=1).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(logits))
    assert inception_score(logits, splits=1).value == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


def test_vendi_by_hand():
    """Equal images 1; images at right angles their number; three and one of two kinds exp(entropy of 3/4, 1/4), whatever their lengths."""
    assert vendi(np.ones((6, 3))).value == pytest.approx(1, abs=1e-9)
    assert vendi(np.eye(5)[:4]).value == pytest.approx(4, rel=1e-12)
    two = np.array([[2.0, 0], [1, 0], [3, 0], [0, 7]])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert vendi(two).value == pytest.approx(np.exp(entropy), rel=1e-12)
    assert "close to its largest possible value, 4" in vendi(np.eye(5)[:4]).caution and vendi(np.ones((6, 3))).caution == ""


def test_vendi_takes_the_smaller_matrix_and_counts_kinds():
    """Repeating every image changes no share; 3 x 8 images of 12 dimensions take the other matrix than 8 do. Order does not matter."""
    a = normal(8, 12)
    assert vendi(np.repeat(a, 3, axis=0)).value == pytest.approx(vendi(a).value, rel=1e-9)
    assert vendi(a[::-1]).value == pytest.approx(vendi(a).value, rel=1e-9) and 1 < vendi(a).value < 8


def test_vendi_is_the_package():
    package = pytest.importorskip("vendi_score.vendi")
    for n in (7, 40):
        a = normal(n, 12)
        assert vendi(a).value == pytest.approx(package.score_X(a), rel=1e-8)
    assert vendi(a).value == pytest.approx(package.score_dual(a), rel=1e-8)


def test_measures_say_their_numbers():
    found = kid(normal(30, 4), normal(25, 4, seed=1), subsets=3, subset_size=20)
    assert str(found).startswith("kid ") and "+-" in str(found) and "(n = 30 and 25); caution: subsets of 20" in str(found)
    assert json.loads(json.dumps(found.to_json()))["n"] == [30, 25]
    assert kid(normal(30, 4), normal(25, 4, seed=1), subsets=3, subset_size=20) == found
    assert kid(normal(30, 4), normal(25, 4, seed=1), subsets=3, subset_size=20, seed=1).value != found.value
