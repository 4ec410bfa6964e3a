"""Pixel statistics of pictures whose numbers are known by hand, and drift in the baseline's spread."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.eval.hacking.pixels import STATISTICS, drift_of, drifts, statistics, thumbnails


def plain(*colour, side=8):
    return Image.new("RGB", (side, side), colour)


def test_plain_colours():
    found = statistics([plain(0, 0, 0), plain(255, 255, 255), plain(255, 0, 0), plain(200, 100, 100)])
    assert tuple(found) == STATISTICS
    assert found["saturation"] == pytest.approx([0, 0, 1, 0.5])
    assert found["brightness"] == pytest.approx([0, 1, 0.299, (0.299 * 200 + 0.701 * 100) / 255], abs=1e-6)
    assert found["dark fraction"].tolist() == [1, 0, 0, 0]
    for name in ("contrast", "colour entropy", "edge density"):
        assert found[name] == pytest.approx([0, 0, 0, 0], abs=1e-6)


def test_half_black_half_white():
    """Contrast of half 0 and half 1 is 1/2, its entropy one bit; of 6 inner columns the two beside the border see it (half of 1 > 0.1)."""
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:, 4:] = 255
    found = statistics([pixels])
    assert found["contrast"] == pytest.approx([0.5]) and found["colour entropy"] == pytest.approx([1.0])
    assert found["dark fraction"] == pytest.approx([0.5]) and found["edge density"] == pytest.approx([2 / 6])


def test_entropy_counts_colours():
    """Four grays a quarter each, in different eighths of the range: two bits; two grays of one eighth are one colour."""
    grays = np.repeat(np.array([0, 64, 128, 192], dtype=np.uint8), 16).reshape(8, 8)
    near = np.repeat(np.array([64, 90], dtype=np.uint8), 32).reshape(8, 8)
    found = statistics([np.stack([x] * 3, -1) for x in (grays, near)])
    assert found["colour entropy"] == pytest.approx([2.0, 0.0])


def test_tensors_paths_and_transparency_read_alike(tmp_path):
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pil = [Image.fromarray((x.movedim(0, -1) * 255).round().byte().numpy()) for x in image]
    pil[0].save(tmp_path / "a.png")
    a, b = statistics(image), statistics([tmp_path / "a.png", pil[1]])
    assert all(np.array_equal(a[name], b[name]) for name in STATISTICS)
    assert statistics([Image.new("RGBA", (8, 8), (0, 0, 0, 0))])["brightness"] == pytest.approx([1.0])  # over white
    with pytest.raises(ValueError, match="at least 3"):
        statistics([plain(0, 0, 0, side=2)])


def test_drift_by_hand():
    """Changes of +2 on a baseline 0, 2 (deviation 1) are 2 spreads; a baseline without spread is measured in the least one."""
    found = drift_of("JPEG KB", np.array([0.0, 2.0]), np.array([2.0, 4.0]))
    assert (found.base, found.model, found.change, found.spread, found.drift) == (1.0, 3.0, 2.0, 1.0, 2.0)
    assert found.change_ci == (2.0, 2.0)
    assert drift_of("dark fraction", np.zeros(3), np.full(3, 0.1)).drift == pytest.approx(5.0)


def test_drift_names_what_changed():
    rng = np.random.default_rng(0)
    base = torch.tensor(rng.uniform(0, 0.8, (30, 3, 8, 8)), dtype=torch.float32)
    found = {one.name: one for one in drifts(base, base + 0.2)}
    assert found["brightness"].change == pytest.approx(0.2, abs=2e-3) and found["brightness"].change_ci[0] > 0.19
    assert max(found.values(), key=lambda one: abs(one.drift)).name in ("brightness", "dark fraction", "saturation")
    same = drifts(base, base)
    assert all(one.change == 0 and one.drift == 0 for one in same)


def test_thumbnails_average():
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4, :4] = 200
    small = thumbnails([pixels], side=2).reshape(2, 2, 3)
    assert small[0, 0] == pytest.approx([200 / 255] * 3) and small[1].max() == 0
