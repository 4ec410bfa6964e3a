"""The evaluation page in a real browser: what a reader sees first, and that everything he can press does what it says."""

import shutil

import pytest
from PIL import Image

from diffalign.eval.pages.page import write_page
from diffalign.eval.pages.page_pictures import by_lot
from tests.eval.browser import CHROMIUM, Browser
from tests.eval.pages import made

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian package chromium)")
SHOWN = """[...document.querySelectorAll('#frames figure')].filter((figure) => getComputedStyle(figure).visibility === 'visible')
    .map((figure) => figure.querySelector('b').textContent)"""
STAGE = "document.getElementById('prompt').textContent"
COUNT = "document.getElementById('count').textContent"
TOLD = "[...document.querySelectorAll('#thumbs .told')].map((told) => told.textContent)"
NAMED = """((element) => [element.id || element.closest('[id]').id,
    element.ariaLabel || element.closest('label')?.textContent || element.textContent])(document.activeElement)"""
LOADED = """Promise.all([...document.querySelectorAll('#frames img')].map((image) => image.decode().then(
    () => image.naturalWidth, () => 0)))"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def evaluation(place):
    return made(place)


@pytest.fixture(scope="module")
def page(place, evaluation):
    return write_page(place / "report.html", evaluation, embed=20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def tab(browser, page):
    return browser.tab().open(page)


def gaps(evaluation, **where) -> list[float]:
    """Of the samples in the order of the page's lot; where: fields of a sample that must agree."""
    samples = [s for s in by_lot(evaluation.samples) if all(getattr(s, name) == value for name, value in where.items())]
    return [sample.gap("aligned", "base", "judge") for sample in samples]


def test_the_verdict_and_the_flagged_checks_are_there_without_scrolling(browser, page, place, evaluation):
    for width, height, dark in ((1280, 800, False), (1280, 800, True), (390, 844, False)):
        tab = browser.tab(width, height, dark).open(page)
        assert tab.call("document.querySelector('h1').textContent.replaceAll('\\u00a0', ' ')") == evaluation.verdict()[0]
        for selector in ("h1", ".lead", ".checks h2"):
            box = tab.box(selector)
            assert box["top"] >= 0 and box["bottom"] <= height and box["right"] <= width, (selector, width)
        wide = tab.call("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide[0] <= wide[1] <= width  # nothing sticks out to the right
        lightness = tab.call("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).slice(0, 3)")
        assert (max(lightness) < 60) if dark else (min(lightness) > 230)
        assert tab.complaints() == []
        assert tab.requests() and all(address.startswith(place.resolve().as_uri()) for address in tab.requests())


@pytest.mark.parametrize("width", [340, 721, 820, 1081])
def test_nothing_sticks_out_at_any_width(browser, page, width):
    tab = browser.tab(width, 900).open(page)
    for view in ("side", "toggle", "slider"):
        tab.click(f"#view [value={view}]")
        wide = tab.call("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide[0] <= wide[1]


def test_the_browser_refuses_what_comes_from_outside(tab):
    assert tab.call("fetch('https://outside.invalid/').then(() => 'fetched', () => 'refused')") == "refused"
    tab.call("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.foreign = 1'}))")
    assert tab.call("window.foreign") is None
    assert len([text for text in tab.complaints() if "Content Security Policy" in text]) >= 2


def test_pictures_toggle_in_one_place(tab):
    assert tab.call(SHOWN) == ["base", "aligned"]
    left, right = (tab.box(f"#frames .{side} img") for side in ("theirs", "ours"))
    assert left["right"] <= right["left"] and tab.call(LOADED) == [32, 32]
    tab.click("#view [value=toggle]")
    assert tab.call(SHOWN) == ["base"] and tab.box("#frames .theirs img") == tab.box("#frames .ours img")
    tab.click("#frames")
    assert tab.call(SHOWN) == ["aligned"]
    tab.call("document.getElementById('stage').focus()")
    for expected in ("base", "aligned"):
        tab.press(" ")
        assert tab.call(SHOWN) == [expected]
    tab.click("#view [value=side]")
    tab.call("document.getElementById('stage').focus()")
    before = tab.call("scrollY")
    tab.press(" ")  # from side by side, the space bar goes to the other model in the same place
    assert tab.call(SHOWN) == ["aligned"] and tab.call("scrollY") == before
    assert tab.complaints() == []


def test_the_slider_shows_both_pictures(tab, evaluation, tmp_path):
    """Drawn with the cut at one end it is the one model's picture, at the other end the other's, between them half and half."""

    def seen(name):
        box = tab.box("#frames .theirs .box")
        size = [box["left"] + 4, box["top"] + 4, box["right"] - 4, box["bottom"] - 4]
        return Image.open(tab.screenshot(tmp_path / name)).convert("RGB").crop([round(side) for side in size])

    def half(image, side):
        return image.crop((0, 0, image.width // 2 - 8, image.height) if side == "left" else (image.width // 2 + 8, 0, *image.size))

    tab.click("#order [value=worst]")
    tab.click("#view [value=toggle]")
    tab.call("document.getElementById('frames').scrollIntoView({block: 'center'})")
    theirs = seen("theirs.png")
    tab.call("document.getElementById('stage').focus({preventScroll: true})")
    tab.press(" ")
    ours = seen("ours.png")
    assert theirs.tobytes() != ours.tobytes()
    tab.click("#view [value=slider]")
    tab.call("document.getElementById('frames').scrollIntoView({block: 'center'})")
    between = seen("between.png")
    assert between.size == theirs.size
    assert half(between, "left").tobytes() == half(theirs, "left").tobytes()
    assert half(between, "right").tobytes() == half(ours, "right").tobytes()


def test_the_slider_cuts_one_picture_over_the_other(tab):
    tab.click("#view [value=slider]")
    clip = "getComputedStyle(document.querySelector('#frames .ours img')).clipPath"
    assert tab.box("#frames .theirs img") == tab.box("#frames .ours img") and tab.call(clip) == "inset(0px 0px 0px 50%)"
    tab.choose("#cut", "20")
    assert tab.call(clip) == "inset(0px 0px 0px 20%)"
    tab.click("#frames .box")  # in the middle of the pictures
    assert abs(float(tab.call("document.getElementById('cut').value")) - 50) <= 1
    tab.call("document.getElementById('cut').focus()")
    tab.press("ArrowRight")  # in the slider the arrows move the slider
    assert abs(float(tab.call("document.getElementById('cut').value")) - 51) <= 1
    assert tab.complaints() == []


def test_filters_search_and_outcome_count_what_is_there(tab, evaluation):
    assert tab.call(COUNT) == "80 pairs of pictures"
    losses = sum(gap < 0 for gap in gaps(evaluation))
    assert 0 < losses < 80
    tab.choose("#outcome", "loss")
    assert tab.call(COUNT) == f"{losses} of 80 pairs of pictures"
    assert all(told.startswith("loss −") for told in tab.call(TOLD))
    tab.choose("#category", "circle")
    circles = gaps(evaluation, category="circle")
    assert tab.call(COUNT).startswith(f"{sum(gap < 0 for gap in circles)} of 80")
    assert tab.call("document.querySelector('#outcome [value=win]').textContent") == f"Wins ({sum(gap > 0 for gap in circles)})"
    tab.choose("#outcome", "")
    tab.choose("#query", "PURPLE number")
    found = [s for s in evaluation.samples if s.category == "circle" and "purple" in s.prompt]
    assert found and tab.call(COUNT) == f"{len(found)} of 80 pairs of pictures" and "purple circle" in tab.call(STAGE)
    tab.choose("#query", "no such words")
    assert tab.call(COUNT).startswith("Nothing matches") and tab.call("document.getElementById('stage').hidden") is True
    tab.choose("#query", "")
    assert tab.call("document.getElementById('stage').hidden") is False and tab.complaints() == []


def test_worst_regressions_come_first(tab, evaluation):
    tab.click("#order [value=worst]")
    worst = min(evaluation.samples, key=lambda sample: sample.gap("aligned", "base", "judge"))
    assert tab.call(STAGE) == worst.prompt and tab.call(COUNT).startswith(f"{sum(gap < 0 for gap in gaps(evaluation))} of 80")
    values = [float(told.removeprefix("loss ").replace("−", "-")) for told in tab.call(TOLD)]
    assert values == sorted(values) and values[0] == pytest.approx(min(gaps(evaluation)), abs=1e-4)
    tab.click("#order [value=best]")
    best = [float(told.removeprefix("win +")) for told in tab.call(TOLD)]
    assert best == sorted(best, reverse=True) and best[0] == pytest.approx(max(gaps(evaluation)), abs=1e-4)


def test_another_reward_turns_the_outcomes(tab, evaluation):
    tab.choose("#reward", "1")
    wins = sum(sample.gap("aligned", "base", "sharpness") > 0 for sample in evaluation.samples)
    tab.choose("#outcome", "win")
    assert tab.call(COUNT) == f"{wins} of 80 pairs of pictures"


def test_arrow_keys_walk_through_all_pictures_embedded_or_not(tab, evaluation):
    lot = by_lot(evaluation.samples)
    tab.call("document.getElementById('pictures').scrollIntoView()")
    for sample in lot[1:27]:  # past the 10 that are embedded by lot, and past the 24 that the list begins with
        tab.press("ArrowRight")
        assert tab.call(STAGE) == sample.prompt
        assert tab.call(LOADED) == [32, 32]
    tab.press("ArrowLeft")
    assert tab.call(STAGE) == lot[25].prompt
    assert tab.call("document.activeElement.id") == "stage"
    current = tab.call("document.querySelector('#thumbs [aria-current=true]').dataset.place")
    assert current == "25" and tab.complaints() == []
    outline = tab.call("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # whoever uses keys sees where he is


def test_every_control_is_reached_by_tab_and_has_a_name(tab):
    tab.call("document.getElementById('pictures').scrollIntoView(); document.querySelector('#order button').focus({preventScroll: true})")
    reached = set()
    for _ in range(24):
        where, called = tab.call(NAMED)
        assert called.strip(), where
        reached.add(where)
        tab.press("Tab")
    assert {"order", "reward", "category", "outcome", "query", "stage", "view", "next", "frames", "thumbs"} <= reached


def test_a_page_without_its_pictures_says_which_are_missing(browser, page, tmp_path):
    shutil.copy(page, tmp_path / "alone.html")
    tab = browser.tab().open(tmp_path / "alone.html")
    assert tab.call(LOADED) == [32, 32]  # the first by lot are in the page
    tab.call("document.getElementById('pictures').scrollIntoView()")
    for _ in range(10):
        tab.press("ArrowRight")
    assert tab.call(LOADED) == [0, 0]
    missing = tab.call("getComputedStyle(document.querySelector('.missing'), '::before').content")
    assert missing.startswith('"No picture at ') and "images/base/" in missing


def test_without_javascript_the_table_and_the_embedded_pictures_are_there(browser, page):
    tab = browser.tab(script=False).open(page)
    assert tab.call("document.querySelectorAll('#static img').length") == 40
    assert tab.box("#static img")["width"] > 50 and tab.box("table.rates")["height"] > 50
    assert tab.call("getComputedStyle(document.getElementById('viewer')).display") == "none"
    assert "need JavaScript" in tab.call("document.querySelector('noscript').innerText")


def test_several_models_start_at_the_verdicts(browser, tmp_path):
    several = made(tmp_path, models=("dpo", "kto", "mapo"), prompts=12, side=96)
    tab = browser.tab(390, 844).open(write_page(tmp_path / "report.html", several, embed=4))
    assert tab.call(SHOWN) == ["base", several.leader] and tab.call(LOADED) == [96, 96]
    other = next(name for name in several.others if name != several.leader)
    tab.choose("#model", str(1 + several.others.index(other)))
    assert tab.call(SHOWN) == ["base", other]
    assert tab.call("document.documentElement.scrollWidth <= document.documentElement.clientWidth") and tab.complaints() == []
