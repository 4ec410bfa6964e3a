"""The report page and the contact sheet, read back from the files they write."""

import base64
import io
from html.parser import HTMLParser

import pytest
from PIL import Image, ImageDraw

from diffalign.eval.pages import svg
from diffalign.eval.pages.report import Comparison, Curve, Grid, Interval, Picture, contact_sheet, write_report

EVIL = "</figcaption><script>alert('x')</script> & \"quoted\""


class Page(HTMLParser):
    """Tags in order with their attributes, the text in order, and the stack that shows whether every tag is closed."""

    VOID = {"meta", "link", "img", "br", "input"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def rows(count: int, prompt: str | None = None) -> list[Comparison]:
    return [
        Comparison(prompt or f"prompt {i}", Picture(scene(i), "base", 0.40 + i / 1000), Picture(scene(i + 100), "aligned", 0.42))
        for i in range(count)
    ]


def scene(seed: int) -> Image.Image:
    """A 32 x 32 picture that no other seed gives."""
    image = Image.new("RGB", (32, 32), (seed, 40, 200))
    ImageDraw.Draw(image).ellipse((4 + seed % 10, 6, 18 + seed % 10, 22), fill=(220, 160, seed))
    return image


def page_of(folder, **changes) -> Page:
    given = {
        "title": "a run",
        "verdict": "Aligned wins.",
        "lead": "Quite sure.",
        "facts": [("Score", 0.84, "mean")],
        "intervals": [Interval("Against base", 0.7, 0.65, 0.75, "above 0.5", True), Interval("Control", 0.6, 0.55, 0.65, "", False)],
        "grids": [Grid("A random sample", "by lot", rows(3)), Grid("The most changed", "", rows(2))],
        "curves": [Curve("Loss", "", "step", {"train": [(0, 0.7), (10, 0.6)]}, {"ln 2": 0.6931})],
        "provenance": {"command": "diffalign demo", "settings": {"beta": 2000.0}},
    }
    return Page(write_report(folder / "made" / "report.html", **(given | changes)).read_text(encoding="utf-8"))


def test_reads_from_the_verdict_to_the_provenance(tmp_path):
    page = page_of(tmp_path)
    order = ["Aligned wins.", "Quite sure.", "0.84", "A random sample", "The most changed", "Against base", "Loss", "diffalign demo"]
    places = [page.text.index(words) for words in order]
    assert places == sorted(places)
    assert page.open == []  # every tag is closed
    assert [attributes for attributes in page.all("meta") if attributes.get("name") == "viewport"]
    assert '"beta": 2000.0' in page.text
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["report.html"]  # nothing half-written is left


def test_text_is_never_markup(tmp_path):
    harmless = {"title": EVIL, "verdict": EVIL, "lead": EVIL, "facts": [(EVIL, EVIL, EVIL)], "provenance": {EVIL: EVIL, "more": [EVIL]}}
    page = page_of(
        tmp_path,
        **harmless,
        intervals=[Interval(EVIL, 0.5, 0.4, 0.6, EVIL)],
        grids=[Grid(EVIL, EVIL, rows(1, prompt=EVIL))],
        curves=[Curve(EVIL, EVIL, EVIL, {EVIL: [(0, 1), (1, 2)]}, {EVIL: 1.5})],
    )
    assert page.all("script") == [] and page.open == []
    assert page.text.count("alert('x')") >= 15
    assert page.all("img")[0]["alt"] == f"base: {EVIL}"


def test_nothing_comes_from_outside(tmp_path):
    page = page_of(tmp_path)
    sources = [image["src"] for image in page.all("img")]
    assert len(sources) == 2 * (3 + 2) and all(source.startswith("data:image/png;base64,") for source in sources)
    addresses = [attributes[name] for _, attributes in page.tags for name in ("src", "href", "srcset", "xlink:href") if name in attributes]
    assert len(addresses) >= 10 and all(address.startswith("data:") for address in addresses)
    text = (tmp_path / "made" / "report.html").read_text(encoding="utf-8")
    assert "://" not in text and "url(" not in text and "@import" not in text


def test_tiny_pictures_arrive_pixel_for_pixel(tmp_path):
    row = rows(1)[0]
    image = page_of(tmp_path, grids=[Grid("one", "", [row])]).all("img")[0]
    data = base64.b64decode(image["src"].partition(",")[2])
    assert Image.open(io.BytesIO(data)).tobytes() == row.before.image.tobytes()
    assert (image["class"], image["width"], image["height"]) == ("pixels", "32", "32")


def test_large_pictures_are_made_smaller(tmp_path):
    photo = Image.effect_mandelbrot((1024, 512), (-2, -1, 1, 1), 50)
    page = page_of(tmp_path, grids=[Grid("one", "", [Comparison("a fractal", Picture(photo), Picture(photo))])])
    image = page.all("img")[0]
    assert (image["class"], image["width"], image["height"]) == ("photo", "256", "128")
    assert image["src"].startswith("data:image/jpeg;base64,") and len(image["src"]) < 40_000
    assert "before" in page.text and "after" in page.text  # names where no caption is given


def test_48_rows_stay_under_two_megabytes(tmp_path):
    noise = [Image.effect_noise((32, 32), 80 + i) for i in range(96)]  # the worst case for PNG
    rows_ = [Comparison(f"prompt {i}", Picture(noise[2 * i]), Picture(noise[2 * i + 1])) for i in range(48)]
    page = page_of(tmp_path, grids=[Grid("many", "", rows_, shown=8)])
    assert len(page.all("img")) == 96
    assert (tmp_path / "made" / "report.html").stat().st_size < 2_000_000
    assert "Show 40 more" in page.text


def test_the_winner_is_marked_once_and_a_tie_not_at_all(tmp_path):
    picture = rows(1)[0].before.image
    scored = [(0.2, 0.9), (0.9, 0.2), (0.5, 0.5), (None, 0.5), (0.84001, 0.84049)]
    comparisons = [Comparison("p", Picture(picture, "base", before), Picture(picture, "aligned", after)) for before, after in scored]
    assert [comparison.winner for comparison in comparisons] == ["after", "before", None, None, "after"]
    assert [comparison.score_texts() for comparison in comparisons] == [
        ("0.20", "0.90"), ("0.90", "0.20"), ("0.50", "0.50"), ("", "0.50"), ("0.8400", "0.8405"),
    ]  # fmt: skip
    page = page_of(tmp_path, grids=[Grid("g", "", comparisons)])
    assert [a["class"] for a in page.all("div") if a.get("class") in ("wins", "side")] == [
        "side", "wins", "wins", "side", "side", "side", "side", "side", "side", "wins",
    ]  # fmt: skip
    assert page.text.count("(better)") == 3


def test_intervals_share_one_axis_that_shows_one_half():
    intervals = [Interval("a", 0.7, 0.65, 0.75), Interval("b", 0.8, 0.78, 0.82)]
    axis = svg.interval_ticks(intervals)
    assert axis == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    track = Page(svg.interval_track(intervals[0], axis))
    assert track.all("circle")[0]["cx"] == "60.00%"  # (0.7 - 0.4) / (0.9 - 0.4)
    half, whisker = ([line for line in track.all("line") if line["class"] == name][0] for name in ("half", "whisker"))
    assert half["x1"] == "20.00%" and (whisker["x1"], whisker["x2"]) == ("50.00%", "70.00%")


def test_ticks_are_round_and_enclose():
    assert svg.ticks(0.02, 0.97) == [0.0, 0.5, 1.0]
    assert svg.ticks(0, 400) == [0, 100, 200, 300, 400]
    assert svg.ticks(-0.0013, 0.0008) == [-0.002, -0.001, 0.0, 0.001]
    assert svg.ticks(5, 5)[0] < 5 < svg.ticks(5, 5)[-1]


def test_a_plot_maps_its_points_linearly():
    curve = Curve("c", "", "step", {"train": [(0, 1.0), (50, 2.0), (100, 3.0)], "end": [(100, 1.0)]})
    plot = Page(svg.plot(curve))
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in plot.all("polyline")[0]["points"].split())
    assert x0 < x1 < x2 and y0 > y1 > y2  # up on the page is a smaller y
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    dot = plot.all("circle")[0]  # a series of one point is a dot, here at the end of the x axis and the bottom of the y axis
    assert (float(dot["cx"]), float(dot["cy"])) == (x2, y0)


def test_points_that_are_not_finite_are_counted(tmp_path):
    curve = Curve("c", "", "step", {"train": [(0, 1.0), (1, float("nan")), (2, 2.0), (3, float("inf"))]})
    assert curve.left_out == 2
    assert "Not finite, so not drawn: 2" in page_of(tmp_path, curves=[curve]).text


def test_parts_that_are_empty_are_left_out(tmp_path):
    page = Page(write_report(tmp_path / "r.html", title="t", verdict="v", lead="").read_text(encoding="utf-8"))
    assert page.all("section") == [] and page.all("svg") == [] and page.all("dl") == [] and page.open == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Picture("cat.png"), "PIL image, not str"),
        (lambda: Picture(Image.new("RGB", (4, 4)), score=float("nan")), "finite number, or None"),
        (lambda: Interval("w", 0.5, 0.6, 0.4), "low <= high"),
        (lambda: Interval("w", float("nan"), 0.4, 0.6), "finite"),
        (lambda: Curve("c", "", "step", {"train": []}), "no finite point in any of its series .train."),
        (lambda: Curve("c", "", "step", {"train": [(0, 1)]}, {"ceiling": float("inf")}), "'ceiling'"),
        (lambda: contact_sheet([Grid("g", "", [])], "never.png"), "at least one grid"),
        (lambda: contact_sheet([], "never.png", columns=0), "0 x 3"),
    ],
)
def test_refuses_what_it_cannot_show(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_contact_sheet_shows_the_pictures_enlarged(tmp_path):
    given = rows(4)
    path = contact_sheet([Grid("A random sample", "by lot", given)], tmp_path / "made" / "sheet.png", columns=2, rows=1)
    sheet = Image.open(path)
    assert sheet.mode == "RGB" and path.stat().st_size < 200_000
    top = next(y for y in range(sheet.height) if sheet.getpixel((48 + 128, y)) != (255, 255, 255) and y > 130) + 1  # under the outline
    shown = sheet.crop((48, top, 48 + 256, top + 256)).resize((32, 32), Image.Resampling.NEAREST)
    assert shown.tobytes() == given[0].before.image.tobytes()
    one_row = sheet.height
    assert Image.open(contact_sheet([Grid("g", "by lot", given)], tmp_path / "two.png", columns=2, rows=2)).height > one_row + 256
    assert sheet.width == 2 * 48 + 2 * (2 * 256 + 12) + 52
