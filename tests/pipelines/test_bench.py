"""What the comparison of methods writes, from rows made by hand."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from diffalign import methods
from diffalign.pipelines.bench_methods import COMBINATIONS, FORMS, GRID, BenchConfig, bench_methods
from diffalign.pipelines.bench_page import write
from diffalign.train import TrainConfig

TRIED = [
    {"settings": {"learning_rate": 1e-3, "beta": 500.0}, "score_change": 0.01},
    {"settings": {"learning_rate": 2e-3, "inversion": {"steps": "4"}}, "score_change": 0.02},
]


def row(method: str, win_rate: float, **changes) -> dict:
    return {
        "method": method, "win_rate": win_rate, "win_rate_ci": [win_rate - 0.03, win_rate + 0.03], "score_base": 0.7, "score": 0.8,
        "gap_closed": 0.36, "winner_error": -0.001, "loser_error": 0.02, "seconds": 30.0, "settings": TRIED[1]["settings"], "tried": TRIED,
    } | changes  # fmt: skip


def test_the_table_the_page_and_the_pictures(tmp_path):
    rows = [row("mapo", 0.52, loser_error=None), row("dcpo", 0.75)]
    strips = {name: Image.new("RGB", (60, 20), colour) for name, colour in (("base", "red"), ("mapo", "green"), ("dcpo", "blue"))}
    write(tmp_path, {"config": {"seeds": 3, "prompts": 400}, "training": {"model": "builtin:shapes"}}, rows, strips)
    table = (tmp_path / "methods.md").read_text().splitlines()
    assert table[2] == "| dcpo | 0.750 [0.720, 0.780] | 0.700 -> 0.800 | 36 % | -0.0010 | +0.0200 | 30 |"  # the best first
    assert "| mapo | 0.520 [0.490, 0.550] | 0.700 -> 0.800 | 36 % | -0.0010 | none | 30 |" in table
    assert "| dcpo | lr 0.001, beta 500: +0.010; **lr 0.002, inversion steps 4: +0.020** |" in table
    page = (tmp_path / "methods.html").read_text()
    assert "1 of 2 methods beat the base; dcpo most often, 75 % of the time." in page
    assert "dcpo" in "".join(ElementTree.parse(tmp_path / "methods.svg").getroot().itertext())
    picture = Image.open(tmp_path / "pictures.png")
    assert [picture.getpixel((200, y)) for y in (10, 36, 62)] == [(255, 0, 0), (0, 0, 255), (0, 128, 0)]
    assert json.loads((tmp_path / "methods.json").read_text())["rows"] == rows


def test_every_offline_method_has_three_settings():
    """The others need other data than pairs of the shapes world (their own past samples) or are used at inference only."""
    assert set(GRID) - set(methods.names()) == set(COMBINATIONS)
    assert set(methods.names()) - set(GRID) == {"seppo", "spin-diffusion", "diffusion-npo"}
    assert {len(settings) for settings in GRID.values()} == {3} and set(FORMS) <= set(GRID)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_combination_is_a_point_that_no_method_is(name):
    points = [TrainConfig(**{**COMBINATIONS[name], **settings}).point() for settings in GRID[name]]
    assert not any(point.refusals() for point in points)
    published = [methods.get(other).point for other in methods.names()]
    said = [(other.noising, other.conditioning, other.objective) for other in published]
    assert all((point.noising, point.conditioning, point.objective) not in said for point in points)


def test_a_method_without_a_grid_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no tuning grid for seppo; methods with one: diffusion-dpo"):
        bench_methods(BenchConfig(output_dir=str(tmp_path), methods=["seppo"]))


def test_a_folder_holds_the_results_of_one_model(tmp_path):
    (tmp_path / "scores.json").write_text('{"model": "builtin:shapes"}')
    with pytest.raises(ValueError, match="holds what builtin:shapes did, not builtin:shapes-flow: choose another output_dir"):
        bench_methods(BenchConfig(output_dir=str(tmp_path), model="builtin:shapes-flow", methods=["diffusion-dpo"]))
