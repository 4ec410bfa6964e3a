"""Store: encodes once, assembles chosen first, continues after a kill. The encoders are small real functions of their input."""

import pytest
import torch
import torch.nn.functional as F

from diffalign.data import Image, Pair, Plan, Store, TensorCache, batches
from diffalign.data.geometry import pixels
from tests.data.files import SHARED_IMAGES, ramp, write


class Encoders:
    """Average pooling for a VAE, letter counts for a text encoder; remembers what it was asked."""

    def __init__(self):
        self.images, self.prompts = 0, []

    def encode_images(self, images: torch.Tensor):
        self.images += len(images)
        pooled = F.avg_pool2d(images, 8)
        return pooled.to(torch.float64), pooled.abs() + 0.5

    def encode_prompts(self, prompts: list[str]):
        self.prompts += prompts
        return {
            "length": torch.tensor([[float(len(prompt))] for prompt in prompts]),
            "spaces": torch.tensor([p.count(" ") for p in prompts]),
        }


@pytest.fixture
def pairs(tmp_path) -> list[Pair]:
    ramp(32, 80).save(tmp_path / "wide.png")
    ramp(40, 40).save(tmp_path / "square.png")
    write(tmp_path / "blue.png", "blue", size=(32, 80))
    wide, square, blue = (Image.of(tmp_path / f"{name}.png") for name in ("wide", "square", "blue"))
    return [
        Pair("first", "a b", wide, blue, probability=0.75, weight=2.0, margin=0.5),
        Pair("second", "a b", wide, square),
        Pair("third", "c", square, wide, prompt_chosen="c d e"),
    ]


def build(store: Store, **options) -> Encoders:
    encoders = Encoders()
    store.build(encoders.encode_images, encoders.encode_prompts, progress=False, **options)
    return encoders


def test_an_encoded_pair_by_hand(pairs):
    store = Store(pairs, Plan(32), TensorCache(None, {}), own_captions=True)
    build(store)
    first, third = store[0, False], store[2, False]
    assert first.record is pairs[0]
    assert first.mean.shape == first.std.shape == (2, 3, 4, 4) and first.mean.dtype == torch.float32
    for row, image in enumerate((pairs[0].chosen, pairs[0].rejected)):  # chosen first; (32, 80) is cut at left (80 - 32) / 2 = 24
        expected = F.avg_pool2d(pixels(image.load(), Plan(32).views((32, 80), (32, 80))[0]), 8)
        torch.testing.assert_close(first.mean[row], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(first.std[row], expected.abs() + 0.5, rtol=0, atol=1e-6)
    assert first.original_size.tolist() == [[32, 80], [32, 80]] and first.original_size.dtype == torch.int64
    assert first.crop.tolist() == [[0, 24], [0, 24]] and first.target_size.tolist() == [[32, 32], [32, 32]]
    assert third.original_size.tolist() == [[40, 40], [32, 80]] and third.crop.tolist() == [[0, 0], [0, 24]]
    assert first.text["length"].tolist() == [[3.0], [3.0]]
    assert third.text["length"].tolist() == [[5.0], [1.0]] and third.text["spaces"].tolist() == [2, 0]  # a caption for each side
    assert {name: tensor.tolist() for name, tensor in store.empty_text.items()} == {"length": [[0.0]], "spaces": [0]}
    assert (store.id_of(2), len(store)) == ("third", 3)


def test_each_image_view_and_caption_is_encoded_once(pairs):
    store = Store(pairs, Plan(32), TensorCache(None, {}), flip=True)
    encoders = build(store, batch_size=2)
    assert encoders.images == 3 * 2  # three images, plain and mirrored, though they stand in six places
    assert sorted(encoders.prompts) == ["", "a b", "c"]
    assert sorted(build(Store(pairs, Plan(32), TensorCache(None, {}), own_captions=True)).prompts) == ["", "a b", "c", "c d e"]


def test_flip_mirrors_both_sides_and_the_crop(pairs):
    uniforms = {"crop_top": 0.0, "crop_left": 0.75}  # 49 places in (32, 80): left 36, mirrored 80 - 32 - 36 = 12
    store = Store(pairs, Plan(32, crop="random"), TensorCache(None, {}), uniform=lambda id, name: uniforms[name], flip=True)
    build(store)
    plain, mirrored = store[0, False], store[0, True]
    assert plain.crop.tolist() == [[0, 36], [0, 36]] and mirrored.crop.tolist() == [[0, 12], [0, 12]]
    torch.testing.assert_close(mirrored.mean, plain.mean.flip(-1), rtol=0, atol=1e-6)
    assert (mirrored.mean - plain.mean).abs().max() > 0.1


def test_a_random_crop_is_asked_for_by_record_and_name(pairs):
    asked = []
    Store(pairs, Plan(32, crop="random"), TensorCache(None, {}), uniform=lambda id, name: asked.append((id, name)) or 0.0)
    assert asked == [(id, name) for id in ("first", "second", "third") for name in ("crop_top", "crop_left")]


def test_a_second_run_encodes_nothing_and_an_interrupted_one_continues(pairs, tmp_path):
    folder = tmp_path / "cache"

    def open_store():
        return Store(pairs, Plan(32), TensorCache(folder, {"vae": "pool"}))

    class Interrupted(Encoders):
        def encode_images(self, images):
            if self.images:
                raise KeyboardInterrupt
            return super().encode_images(images)

    encoders = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        open_store().build(encoders.encode_images, encoders.encode_prompts, batch_size=2, progress=False)
    store = open_store()
    resumed = build(store)
    assert resumed.images == 1 and resumed.prompts == []
    again = open_store()
    assert build(again).images == 0
    direct = Store(pairs, Plan(32), TensorCache(None, {}))
    build(direct)
    for i in range(3):
        assert torch.equal(again[i, False].mean, direct[i, False].mean) and torch.equal(again[i, False].std, direct[i, False].std)


def test_records_of_broken_pictures_are_left_out_on_request(pairs, tmp_path):
    """The square one, whose header is whole, is in the second and third pair; of the first both pictures are good."""
    path = pairs[1].rejected.path
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    store = Store(pairs, Plan(32), TensorCache(tmp_path / "cache", {}), flip=True)
    assert store.there() == {"images": (0, 6), "captions": (0, 3)}
    with pytest.raises(ValueError, match=r"square\.png: not a readable image"):
        build(store)
    encoders = Encoders()
    left_out = store.build(encoders.encode_images, encoders.encode_prompts, progress=False, skip=True)
    assert [sentence.split(":")[0] for sentence in left_out] == ["second", "third"] and "square.png: not a readable image" in left_out[0]
    assert (len(store), store.id_of(0)) == (1, "first") and store.there() == {"images": (4, 4), "captions": (2, 2)}
    assert store[0, True].mean.shape == (2, 3, 4, 4)
    with pytest.raises(ValueError, match="no record is left, an image of every one cannot be read; second: .*square"):
        store = Store(pairs[1:], Plan(32), TensorCache(None, {}))
        store.build(encoders.encode_images, encoders.encode_prompts, progress=False, skip=True)


def test_another_crop_or_size_is_another_entry(pairs, tmp_path):
    cache = TensorCache(tmp_path / "cache", {})
    build(Store(pairs, Plan(32), cache))
    assert build(Store(pairs, Plan(16), cache)).images == 3
    assert build(Store(pairs, Plan(32, crop="random"), cache, uniform=lambda *_: 0.0)).images == 2  # the square one has one crop only


def test_buckets_feed_the_order(pairs):
    plan = Plan(32, buckets=((32, 32), (24, 48)))
    store = Store(pairs, plan, TensorCache(None, {}))
    build(store, batch_size=2)
    assert store.buckets == [(24, 48, 2), (24, 48, 2), (32, 32, 2)] and store.bucket_of(2) == (32, 32, 2)
    for batch in batches(store.buckets, 2, epoch=0, seed=0, drop_last=False):
        assert len({store[i, False].mean.shape for i in batch}) == 1


def test_the_unconditional_state_may_differ_from_the_empty_caption(pairs):
    store = Store(pairs, Plan(32), TensorCache(None, {}))
    build(store, encode_empty=lambda: {"length": torch.full((1, 1), -7.0), "spaces": torch.zeros(1)})
    assert store.empty_text["length"].tolist() == [[-7.0]]


def test_refusals(pairs):
    cache = TensorCache(None, {})
    with pytest.raises(ValueError, match="no records"):
        Store([], Plan(32), cache)
    with pytest.raises(ValueError, match="crop='random' needs uniform"):
        Store(pairs, Plan(32, crop="random"), cache)
    store = Store(pairs, Plan(32), cache)
    with pytest.raises(ValueError, match="first is not encoded yet; call build"):
        store[0, False]
    with pytest.raises(ValueError, match="construct the store with flip=True"):
        store[0, True]
    encoders = Encoders()
    with pytest.raises(ValueError, match=r"(wide|blue|square)\.png: the VAE gave values that are not finite"):
        store.build(lambda x: (F.avg_pool2d(x, 8) / 0.0, F.avg_pool2d(x, 8)), encoders.encode_prompts, progress=False)


@pytest.mark.skipif(not SHARED_IMAGES.is_dir(), reason="the shared example images are not on this machine")
def test_real_images_through_the_whole_path():
    first, second = (Image.of(SHARED_IMAGES / f"{i}.webp") for i in (1, 4))
    store = Store([Pair(None, "a painting of an ocean", first, second)], Plan(64), TensorCache(None, {}))
    build(store)
    pair = store[0, False]
    assert pair.mean.shape == (2, 3, 8, 8) and pair.mean.abs().max() <= 1 and not torch.equal(pair.mean[0], pair.mean[1])
    assert pair.original_size.tolist() == [list(first.size), list(second.size)]
