"""Masks: cut exactly as the images they lie over, averaged to the latents' size, and refused where they say nothing."""

import dataclasses
import io
import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from PIL import ImageDraw

from diffalign.data import Image, Label, Pair, Plan, Ranking, Store, TensorCache, as_source, pixels, read, write_parquet
from diffalign.data.masks import at_latent_size
from tests.data.files import encoded
from tests.data.test_dataset import Encoders, build


def rectangle(size, box, mode="L", scale=1) -> Image:
    """White in ``box`` (left, top, right, bottom; the last ones excluded) on black; ``size`` is (height, width)."""
    picture = PILImage.new(mode, (size[1] * scale, size[0] * scale))
    left, top, right, bottom = (side * scale for side in box)
    ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill="white" if mode != "L" else 255)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return Image(data=buffer.getvalue())


def pair(mask=None, size=(32, 80), id="p") -> Pair:
    return Pair(id, "a cat", encoded("red", size=size), encoded("blue", size=size), mask=mask)


def store(records, plan, **options) -> Store:
    made = Store(records, plan, TensorCache(None, {}), **options)
    build(made)
    return made


def test_area_average_by_hand():
    """16 x 16 pixels as 2 x 2 latents of 8 x 8; white are columns 0..11 of rows 0..7: all of the first cell, half of the second."""
    mask = store([pair(rectangle((16, 16), (0, 0, 12, 8)), (16, 16))], Plan(16))[0, False].mask
    assert mask.tolist() == [[1.0, 0.5], [0.0, 0.0]] and mask.dtype == torch.float32
    gray = Image(data=encoded(51, size=(16, 16), mode="L"))
    assert store([pair(gray, (16, 16))], Plan(16))[0, False].mask.unique().tolist() == [pytest.approx(0.2)]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("place", [0.0, 0.1, 0.99])
def test_a_mask_is_cut_and_mirrored_as_its_images(flip, place):
    """A pair whose chosen picture *is* its mask: the picture's pixels, pooled, are the mask, wherever the crop falls."""
    shape = (11, 10, 67, 25)
    picture, mask = rectangle((32, 80), shape, "RGB"), rectangle((32, 80), shape)
    record = Pair("p", "a cat", picture, encoded("blue", size=(32, 80)), mask=mask)
    made = store([record], Plan(16, crop="random"), uniform=lambda *_: place, flip=True)
    found = made[0, flip]
    view = made._views[0][0]
    assert view.resized == (16, 40) and view.corner == (0, int(place * 25))
    seen = pixels(picture.load(), view.flipped() if flip else view).mean(0)[None] / 2 + 0.5
    torch.testing.assert_close(found.mask[None], F.avg_pool2d(seen, 8), rtol=0, atol=0.03)  # the images' filter is Lanczos
    assert (found.mask - found.mask.flip(-1)).abs().max() > 0.2
    assert torch.equal(made[0, True].mask, made[0, False].mask.flip(-1))


def test_a_scaled_mask_and_one_of_colour_mean_the_same():
    box = (16, 8, 56, 24)
    plain, double, colour = (rectangle((32, 80), box, **kind) for kind in ({}, {"scale": 2}, {"mode": "RGB"}))
    first, second, third = (store([pair(mask)], Plan(16))[0, False].mask for mask in (plain, double, colour))
    assert torch.equal(first, second) and torch.equal(first, third) and 0 < first.mean() < 1


def test_records_without_a_mask_have_none_and_ids_name_it():
    made = store([pair(), pair(rectangle((32, 80), (0, 0, 80, 32)), id="q")], Plan(16))
    assert made[0, False].mask is None and made[1, False].mask.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    masks = (None, rectangle((32, 80), (0, 0, 8, 8)), rectangle((32, 80), (0, 0, 9, 8)))
    red, blue = encoded("red"), encoded("blue")
    assert len({Pair(None, "a", red, blue, mask=mask).id for mask in masks}) == 3
    assert len({Label(None, "a", red, True, mask=mask).id for mask in masks}) == 3
    assert len({Ranking(None, "a", [red, blue], ranks=[1, 2], mask=mask).id for mask in masks}) == 3


def test_masks_are_cached_and_another_size_is_another_entry(tmp_path):
    record, cache = pair(rectangle((32, 80), (0, 0, 80, 8))), TensorCache(tmp_path, {})
    first = Store([record], Plan(16), cache)
    build(first)
    entries = len(cache)
    again = Store([record], Plan(16), TensorCache(tmp_path, {}))
    assert build(again).images == 0 and len(TensorCache(tmp_path, {})) == entries
    assert torch.equal(again[0, False].mask, first[0, False].mask)
    larger = Store([record], Plan(32), cache)
    build(larger)
    assert larger[0, False].mask.shape == (4, 4)


def test_a_mask_that_leaves_nothing_is_refused_by_name():
    with pytest.raises(ValueError, match="the mask of nothing .* is black wherever .* leave the record out"):
        store([pair(), pair(Image(data=encoded(0, size=(32, 80), mode="L")), id="nothing")], Plan(16))
    edge = pair(rectangle((32, 80), (0, 0, 10, 32)), id="cut-off")  # the crop in the middle begins at column 24
    with pytest.raises(ValueError, match="the mask of cut-off"):
        store([edge], Plan(32))
    assert store([edge], Plan(32, crop="random"), uniform=lambda *_: 0.0)[0, False].mask.mean() == pytest.approx(10 / 32)


def test_masks_of_other_proportions_are_refused():
    with pytest.raises(ValueError, match="the mask of p .* is 32 x 32 and its images are 32 x 80: .* the same proportions"):
        Store([pair(rectangle((32, 32), (0, 0, 8, 8)))], Plan(16), TensorCache(None, {}))
    odd = Pair("odd", "a cat", encoded("red", size=(32, 80)), encoded("blue", size=(32, 32)), mask=rectangle((32, 80), (0, 0, 8, 8)))
    with pytest.raises(ValueError, match="its images are 32 x 80 and 32 x 32"):
        Store([odd], Plan(16), TensorCache(None, {}))
    near = pair(rectangle((333, 500), (0, 0, 500, 333)), size=(666, 1001))  # 500 or 501 pixels wide once scaled: the same
    assert store([near], Plan(16))[0, False].mask.min() == 1


def test_conversions_keep_the_mask():
    mask = rectangle((8, 6), (0, 0, 3, 3))
    masked = dataclasses.replace(pair(mask, size=(8, 6)), weight=2.0)
    for source in ("labels", "rankings"):
        assert all(record.mask == mask and record.weight == 2.0 for record in as_source([masked], source)[0])
    ranking = Ranking("r", "a cat", masked.images, ranks=[1, 2], mask=mask)
    assert as_source([ranking], "pairs")[0][0].mask == mask


def test_readers_bring_masks(tmp_path):
    chosen, rejected, mask = encoded("red"), encoded("blue"), rectangle((8, 6), (0, 0, 3, 3)).data
    for folder in ("chosen", "rejected", "mask"):
        (tmp_path / folder).mkdir()
    for stem in ("a", "b"):
        (tmp_path / "chosen" / f"{stem}.png").write_bytes(chosen)
        (tmp_path / "rejected" / f"{stem}.png").write_bytes(rejected)
        (tmp_path / "chosen" / f"{stem}.txt").write_text(f"a cat {stem}")
    (tmp_path / "mask" / "b.png").write_bytes(mask)
    assert [r.mask and r.mask.read() for r in read(tmp_path)[0]] == [None, mask]
    rows = [{"prompt": "a cat", "chosen": "chosen/a.png", "rejected": "rejected/a.png", "mask": "mask/b.png"},
            {"prompt": "a dog", "chosen": "chosen/a.png", "rejected": "rejected/a.png", "mask": None}]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = read(tmp_path / "rows.jsonl")[0]
    assert [r.mask and r.mask.read() for r in records] == [mask, None]
    write_parquet(records, tmp_path / "rows.parquet")
    assert [r.mask and r.mask.read() for r in read(tmp_path / "rows.parquet")[0]] == [mask, None]
    (tmp_path / "labels.jsonl").write_text(json.dumps({"prompt": "a", "sample": "chosen/a.png", "label": 1, "mask": "mask/b.png"}))
    assert read(tmp_path / "labels.jsonl")[0][0].mask.read() == mask


def test_masks_beside_the_sides_and_a_lost_one(tmp_path):
    for name, content in (("1_w", encoded("red")), ("1_l", encoded("blue")), ("1_mask", rectangle((8, 6), (0, 0, 3, 3)).data)):
        (tmp_path / f"{name}.png").write_bytes(content)
    (tmp_path / "1.txt").write_text("a cat")
    assert read(tmp_path)[0][0].mask is not None
    (tmp_path / "2_mask.png").write_bytes(encoded("white"))
    with pytest.raises(ValueError, match="the mask 2_mask.png is of no pair"):
        read(tmp_path)


def test_an_unreadable_mask_is_a_bad_row(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded("red"))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "a.png", "rejected": "a.png", "mask": "none.png"}))
    with pytest.raises(ValueError, match="mask: there is no file"):
        read(tmp_path / "rows.jsonl")


def test_white_on_a_transparent_ground_is_white():
    clear = Image(data=encoded((0, 0, 0, 0), size=(16, 16), mode="RGBA"))
    view = Plan(16).views((16, 16))[0]
    assert at_latent_size(clear, view, (2, 2), "p").tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_the_encoders_do_not_see_masks():
    encoders = Encoders()
    made = Store([pair(rectangle((32, 80), (0, 0, 80, 32)))], Plan(16), TensorCache(None, {}))
    made.build(encoders.encode_images, encoders.encode_prompts, progress=False)
    assert encoders.images == 2
