"""Diversity within prompts by hand, LPIPS against torchmetrics, and images that come twice."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.eval.distances.distribution import vendi
from diffalign.eval.distances.diversity import duplicates, lpips_diversity, near_duplicates, pairwise_diversity, vendi_diversity
from diffalign.eval.distances.lpips import LPIPS, NETWORKS, load_lpips, lpips, read_heads
from diffalign.eval.stats.compare import compare, mean_ci
from tests.rewards import tiny

SIDE = 64


def test_mean_distance_of_pairs_by_hand():
    """Prompt a: (3, 0), (0, 4), (-3, 0): cosines 0, -1, 0, so distances 1, 2, 1; lengths 5, 6, 5. Prompt b: equal directions, 1 and 3 apart
    in length. Prompt c has one image and does not count."""
    features, prompts = [[3, 0], [1, 0], [0, 4], [-3, 0], [4, 0], [2, 2]], ["a", "b", "a", "a", "b", "c"]
    found = pairwise_diversity(features, prompts)
    assert found.per_prompt == pytest.approx({"a": 4 / 3, "b": 0.0}, abs=1e-12) and found.value == pytest.approx(2 / 3)
    assert (found.n_prompts, found.n_images, found.images_per_prompt, found.left_out) == (2, 5, (2, 3), 1)
    assert "2 prompts" in found.caution and json.loads(json.dumps(found.to_json()))["left_out"] == 1
    found = pairwise_diversity(features, prompts, distance="euclidean")
    assert found.per_prompt == pytest.approx({"a": 16 / 3, "b": 3.0}) and found.metric == "euclidean"


def test_the_interval_is_over_prompts():
    rng = np.random.default_rng(0)
    features, prompts = rng.normal(size=(160, 5)), np.repeat(np.arange(40), 4)
    found = pairwise_diversity(features, prompts)
    assert found.ci == mean_ci(list(found.per_prompt.values())) and found.ci[0] < found.value < found.ci[1] and found.caution == ""
    order = rng.permutation(160)
    shuffled = pairwise_diversity(features[order], prompts[order])
    assert shuffled.per_prompt == pytest.approx(found.per_prompt)


def test_a_model_that_varies_less_is_seen():
    """Images of a prompt around a common point, closer together in one model: it loses every prompt."""
    rng = np.random.default_rng(1)
    middle, noise, prompts = np.repeat(rng.normal(size=(40, 8)), 4, axis=0), rng.normal(size=(160, 8)), np.repeat(np.arange(40), 4)
    for measure in (pairwise_diversity, vendi_diversity):
        base, collapsed = measure(middle + noise, prompts), measure(middle + 0.1 * noise, prompts)
        assert compare(list(collapsed.per_prompt.values()), list(base.per_prompt.values())).win_rate == 0


def test_vendi_of_prompts():
    """Four images at right angles count as 4, four equal ones as 1."""
    features, prompts = np.concatenate([np.eye(6)[:4], np.ones((4, 6))]), ["a"] * 4 + ["b"] * 4
    found = vendi_diversity(features, prompts)
    assert found.per_prompt == pytest.approx({"a": 4.0, "b": 1.0}, abs=1e-9) and found.value == pytest.approx(2.5)
    uneven = vendi_diversity(features[:7], prompts[:7])
    assert "prompts have 3 to 4 images" in uneven.caution and uneven.per_prompt["b"] == pytest.approx(vendi(features[4:7]).value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: pairwise_diversity(x, ["a"] * 3), "4 images and 3 prompts"),
        (lambda x: pairwise_diversity(x, list("abcd")), "none of the 4 prompts has two images"),
        (lambda x: pairwise_diversity(x, ["a"] * 4, distance="lpips"), "allowed are cosine, euclidean"),
        (lambda x: pairwise_diversity(0 * x, ["a"] * 4), "4 of 4 images have features that are all 0"),
        (lambda x: near_duplicates(x, threshold=2.0), "threshold is 2.0"),
        (lambda x: near_duplicates(x, ["a"], threshold=0.9), "4 images and 1 prompts"),
        (lambda x: load_lpips("alexnet"), "known: alex, squeeze, vgg"),
    ],
)
def test_bad_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0).normal(size=(4, 3)))


# LPIPS ---------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def squeeze_folder(tmp_path, monkeypatch):
    """torch.hub's folder with random weights of the smallest network under their published name; torchvision looks there, too."""
    models = pytest.importorskip("torchvision.models")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(models.squeezenet1_1(weights=None).state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    return folder


def stack(number: int) -> torch.Tensor:
    return torch.stack([tiny.pixels(image) for image in tiny.images(number, size=(SIDE, SIDE))])


def test_lpips_is_torchmetrics(squeeze_folder):
    """The public function of torchmetrics, which finds the same file; the images' diversity is the mean over their three pairs."""
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips").learned_perceptual_image_patch_similarity
    pixels = stack(3)
    i, j = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
    wanted = theirs(pixels[i], pixels[j], net_type="squeeze", reduction="none", normalize=True)
    network = load_lpips("squeeze")
    torch.testing.assert_close(lpips(network, pixels[i], pixels[j]), wanted, rtol=1e-4, atol=1e-6)
    found = lpips_diversity(torch.cat([pixels, pixels[:1], pixels[:1]]), ["a"] * 3 + ["b"] * 2, network)
    assert found.per_prompt["a"] == pytest.approx(float(wanted.mean()), rel=1e-4) and found.per_prompt["b"] == pytest.approx(0, abs=1e-9)
    assert load_lpips("squeeze", str(squeeze_folder)).settings == network.settings


@pytest.mark.parametrize("name", ["alex", "vgg"])
def test_layers_and_heads_of_the_larger_networks(name):
    """Against torchmetrics' module with random networks, whose layers stand in torchvision's order."""
    module = pytest.importorskip("torchmetrics.functional.image.lpips")._LPIPS
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = module(pretrained=True, net=name, pnet_rand=True)
    layers = [layer for part in theirs.net.children() for layer in part]
    taps = NETWORKS[name][2]
    assert len(layers) == max(taps) + 1
    own = LPIPS(torch.nn.Sequential(*layers), taps, read_heads(name, len(taps)), {}).eval()
    pixels = stack(2)
    wanted = theirs(pixels[:1], pixels[1:], normalize=True).flatten()
    torch.testing.assert_close(lpips(own, pixels[:1], pixels[1:]), wanted, rtol=1e-4, atol=1e-6)


def test_lpips_weights_that_are_not_there_or_do_not_fit(squeeze_folder, tmp_path):
    pytest.importorskip("torchmetrics")
    with pytest.raises(FileNotFoundError, match="'lpips-alex' needs alexnet-owt-7be5be79.pth .*give a copy as weights=PATH"):
        load_lpips("alex", str(tmp_path))
    with pytest.raises(ValueError, match="does not fit ModuleDict: .*missing"):
        load_lpips("alex", str(squeeze_folder / "squeezenet1_1-b8a52dc0.pth"))
    network = load_lpips("squeeze")
    with pytest.raises(ValueError, match="prompt 'a' has 48 x 40, 64 x 64"):
        lpips_diversity([tiny.image(0), tiny.image(1, (40, 48))], ["a", "a"], network)
    with pytest.raises(ValueError, match="32 pixels a side or more; prompt 'a' has 16 x 16"):
        lpips_diversity([tiny.image(0, (16, 16))] * 2, ["a", "a"], network)


# Duplicates ----------------------------------------------------------------------------------------------------------------------------


def test_duplicates_have_equal_pixels(tmp_path):
    """A file and its picture are the same, a picture of other sides with the same bytes is not; 0 and 3 belong to two prompts."""
    a, b = tiny.image(0, (8, 4)), tiny.image(1, (8, 4))
    a.save(tmp_path / "a.png")
    turned = Image.frombytes("RGB", (4, 8), a.tobytes())
    found = duplicates([a, b, turned, str(tmp_path / "a.png"), b], ["x", "y", "x", "z", "y"])
    assert found.groups == ((0, 3), (1, 4)) and found.share == 4 / 5 and found.across == 1 and found.threshold is None
    nothing = duplicates([a, b])
    assert (nothing.groups, nothing.share, nothing.across) == ((), 0.0, None)
    assert json.loads(json.dumps(found.to_json()))["groups"] == [[0, 3], [1, 4]]


def test_near_duplicates_are_joined_through_others():
    """Directions at 0, 10, 20, 90, 95 degrees, mixed up: neighbours are within 15 degrees, 0 and 20 are not, and yet one group."""
    angles = np.deg2rad([20, 90, 0, 95, 10, 200])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, 7)[:, None]
    found = near_duplicates(features, list("ababab"), threshold=np.cos(np.deg2rad(15)))
    assert found.groups == ((0, 2, 4), (1, 3)) and found.share == 5 / 6 and found.across == 0
    assert near_duplicates(features, threshold=0.999).groups == ()
    assert near_duplicates(np.ones((4, 3)), threshold=1.0).groups == ((0, 1, 2, 3),)
