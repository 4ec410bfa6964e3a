"""write_parquet: what goes in comes out."""

import pytest

from diffalign.data import Image, Label, Pair, read, write_parquet
from tests.data.files import encoded, write

pytest.importorskip("pyarrow")


def test_round_trip(tmp_path):
    red = Image.of(write(tmp_path / "img" / "red.jpg", (250, 10, 10), format="JPEG"))
    blue, green = Image.of(encoded("blue")), Image.of(encoded("green"))
    pairs = [
        Pair(None, "plain", red, blue),
        Pair("full", "tie", blue, red, "c", "r", 0.5, 0.25, -2.0, (1.5, 0.5), green, green, "annotator"),
    ] + [Pair(None, f"prompt {i}", red, green) for i in range(70)]  # more than one row group
    write_parquet(pairs, tmp_path / "packed" / "pairs.parquet")
    (tmp_path / "img" / "red.jpg").unlink()
    back, counts = read(tmp_path / "packed" / "pairs.parquet", ties="half")
    assert (counts.read, counts.kept, counts.ignored) == (72, 72, ())
    for old, new in zip(pairs, back, strict=True):
        images = ("chosen", "rejected", "source", "mask")
        assert {k: v for k, v in vars(old).items() if k not in images} == {k: v for k, v in vars(new).items() if k not in images}
        assert all((vars(old)[k] and vars(old)[k].digest) == (vars(new)[k] and vars(new)[k].digest) for k in images)
    assert back[0].chosen.name == "red.jpg"
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["pairs.parquet"]


def test_refuses_and_leaves_nothing_behind(tmp_path):
    image = Image.of(encoded("red"))
    with pytest.raises(ValueError, match="a Label among them"):
        write_parquet([Label(None, "p", image, True)], tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no records"):
        write_parquet([], tmp_path / "x.parquet")
    gone = Pair("id", "p", tmp_path / "gone.png", image)
    with pytest.raises(ValueError, match="gone.png"):
        write_parquet([gone], tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []
