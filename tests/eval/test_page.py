"""The evaluation page, read back from the file it writes; ``test_browser.py`` opens it."""

import base64
import dataclasses
import hashlib
import json
import re

import pytest

from diffalign.eval.evaluation import Evaluation
from diffalign.eval.pages.page import write_page
from diffalign.eval.pages.page_pictures import by_lot, chosen
from tests.eval.pages import made
from tests.eval.test_report import EVIL, Page


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def evaluation(place):
    return made(place)


@pytest.fixture(scope="module")
def source(place, evaluation):
    return write_page(place / "report.html", evaluation, embed=20).read_text(encoding="utf-8")


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S).group(1))


def test_reads_from_the_verdict_over_the_checks_to_the_provenance(source, evaluation):
    page = Page(source)
    sentence = evaluation.verdict()[0].replace(" %", "\u00a0%")
    order = [sentence, "2 of 4 checks for reward hacking are flagged", "Win rates against base", "Pictures", "Ranking by judge",
             "By category of prompt", "Distribution and diversity", "Scores over training", "Where this comes from"]  # fmt: skip
    places = [page.text.index(words) for words in order]
    assert places == sorted(places) and page.open == []
    row = evaluation.comparisons[0]
    for text in (f"{row.wins} / {row.ties} / {row.losses}", f"{100 * row.win_rate:.1f} %", "9f" * 32, "not checked", evaluation.command):
        assert text in page.text


def test_the_policy_lets_this_script_and_this_style_run_and_nothing_from_outside(source):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', source).group(1)
    rules = {name: values for name, *values in (rule.split() for rule in policy.split(";"))}
    (script,), (style,) = re.findall(r"<script>(.*?)</script>", source, re.S), re.findall(r"<style>(.*?)</style>", source, re.S)
    for rule, text in (("script-src", script), ("style-src", style)):
        assert rules[rule] == [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"]
    assert rules["default-src"] == ["'none'"] and rules["img-src"] == ["data:", "'self'"]
    assert "://" not in source and "@import" not in source and " style=" not in source and not re.search(r"\son\w+=", source)


def test_equal_results_give_equal_bytes(place, evaluation, source):
    again = Evaluation.from_json(json.loads(evaluation.text()))
    assert write_page(place / "report.html", again, embed=20).read_text(encoding="utf-8") == source


def test_half_of_the_embedded_are_by_lot_the_others_the_extremes(evaluation):
    lot, more = chosen(evaluation, 20)
    assert len(lot) == len(more) == 10 and lot == by_lot(evaluation.samples)[:10]
    keys = {(sample.prompt_id, sample.index) for sample in lot + more}
    assert len(keys) == 20
    gaps = [sample.gap("aligned", "base", "judge") for sample in evaluation.samples]
    assert {min(gaps), max(gaps)} <= {sample.gap("aligned", "base", "judge") for sample in lot + more}
    assert [sample.gap("aligned", "base", "judge") < 0 for sample in more] == [True, False] * 5
    everything = chosen(evaluation, 1000)
    assert len(everything[0] + everything[1]) == len(evaluation.samples)
    unscored = dataclasses.replace(evaluation, samples=tuple(dataclasses.replace(s, scores={}) for s in evaluation.samples))
    assert (len(chosen(unscored, 20)[0]), chosen(unscored, 20)[1]) == (20, [])


def test_embedded_pictures_are_there_and_the_others_are_addressed(place, evaluation, source):
    page, data = Page(source), data_of(source)
    assert len([image for image in page.all("img") if image.get("src", "").startswith("data:image/png;base64,")]) == 40
    assert len(data["samples"]) == 80 and data["folder"] == "" and data["models"] == ["base", "aligned"]
    assert all((place / address).is_file() for sample in data["samples"] for address in sample["images"])
    first = by_lot(evaluation.samples)[0]
    assert data["samples"][0]["scores"][1] == [first.scores["aligned"]["judge"], first.scores["aligned"]["sharpness"]]


def test_a_page_elsewhere_reaches_the_pictures(place, evaluation):
    sample = evaluation.samples[0]
    (place / "images" / "odd #1").mkdir()
    odd = place / "images" / "odd #1" / "50%.png"
    odd.write_bytes((place / sample.images["base"]).read_bytes())
    renamed = dataclasses.replace(sample, images=sample.images | {"base": "images/odd #1/50%.png"})
    path = write_page(place / "pages" / "one" / "report.html", dataclasses.replace(evaluation, samples=(renamed,)), root=place, embed=0)
    data = data_of(path.read_text(encoding="utf-8"))
    assert data["folder"] == "../../" and data["samples"][0]["images"][0] == "images/odd%20%231/50%25.png"


def test_text_is_never_markup(tmp_path):
    small = made(tmp_path, models=(EVIL,), prompts=3)
    samples = tuple(dataclasses.replace(sample, prompt=EVIL, category=EVIL) for sample in small.samples)
    bad = {"name": EVIL, "what": EVIL, "value": 1.0, "threshold": None, "flagged": True, "note": EVIL}
    changed = dataclasses.replace(small, title=EVIL, samples=samples, warnings=(EVIL,), findings={EVIL: [bad]}, versions={EVIL: EVIL})
    text = write_page(tmp_path / "r.html", changed).read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.all("script")) == 2 and page.open == []
    assert data_of(text)["samples"][0]["prompt"] == EVIL


def test_parts_without_content_are_left_out(tmp_path):
    small = made(tmp_path, prompts=3)
    bare = dataclasses.replace(small, samples=(), ranking=(), categories=(), findings={}, distribution={}, curves=())
    page = Page(write_page(tmp_path / "r.html", bare).read_text(encoding="utf-8"))
    assert page.all("script") == [] and page.all("figure") == []
    assert [section.get("id") for section in page.all("section")] == ["checks", "rates", None]
    assert "not checked for reward hacking" in page.text


def test_many_flagged_checks_are_folded(tmp_path):
    page = Page(write_page(tmp_path / "r.html", made(tmp_path, models=("a", "b", "c", "d"), prompts=3)).read_text(encoding="utf-8"))
    assert "8 of 16 checks for reward hacking are flagged" in page.text and "Show 2 more flagged" in page.text


def test_a_picture_that_is_not_there_is_named(tmp_path, place, evaluation):
    with pytest.raises(ValueError, match="images/base/.*root"):
        write_page(tmp_path / "report.html", evaluation)
    with pytest.raises(ValueError, match="embed is -1"):
        write_page(tmp_path / "report.html", evaluation, embed=-1)
    assert not (tmp_path / "report.html").exists()
