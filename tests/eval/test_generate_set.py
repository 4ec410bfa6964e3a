"""Folders of pictures of the embedded model: the same bytes alone, interrupted, in shards; other settings refused; benchmarks' layouts."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.eval.pictures.generate import generate, seed_of
from diffalign.eval.pictures.generate_model import load_drawer
from diffalign.eval.pictures.generate_set import eight_bit, generate_set, seed_for
from diffalign.eval.pictures.prompts import Prompt, PromptSet, load_prompts
from diffalign.eval.pictures.prompts_read import with_occurrences
from diffalign.eval.pictures.sets import ImageSet, black_report, paired
from diffalign.rewards.manifests import collect

FAST = {"num_inference_steps": 2, "guidance_scale": 1.5, "quiet": True}
SCENES = load_prompts("builtin:shapes", 3)


@pytest.fixture(scope="module")
def drawer():
    return load_drawer("builtin:shapes")


@pytest.fixture(scope="module")
def whole(drawer, tmp_path_factory):
    """Three prompts, two pictures each, in batches of two."""
    folder = tmp_path_factory.mktemp("whole")
    found = generate_set(drawer, SCENES, folder, images_per_prompt=2, batch_size=2, **FAST)
    assert (found.drawn, found.kept, found.missing) == (6, 0, 0)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def named(*texts, category="c", facts=None) -> PromptSet:
    prompts = with_occurrences(Prompt(f"{i:05d}", text, category, facts or {}) for i, text in enumerate(texts))
    return PromptSet("mine", prompts, {"note": ""})


class Stopping:
    """A pipeline that is interrupted in a later call."""

    def __init__(self, pipeline, calls: int):
        self.pipeline, self.calls, self.scheduler = pipeline, calls, pipeline.scheduler

    def set_progress_bar_config(self, **settings):
        self.pipeline.set_progress_bar_config(**settings)

    def __call__(self, **arguments):
        if self.calls == 0:
            raise KeyboardInterrupt
        self.calls -= 1
        return self.pipeline(**arguments)


def test_pictures_are_those_of_generate_to_the_byte(drawer, whole):
    """So what ``diffalign demo`` reports can be drawn again."""
    drawn = generate(drawer.pipeline, SCENES.texts, index=1, num_inference_steps=2, guidance_scale=1.5, quiet=True, batch_size=2)
    items = ImageSet.read(whole).items
    for prompt, picture in zip(SCENES.prompts, eight_bit(drawn), strict=True):
        item = next(d for d in items if (d.prompt_id, d.index) == (prompt.id, 1))
        assert item.seed == seed_of(prompt.text, 1, 0) and item.prompt == prompt.text and item.category == prompt.category
        stored = np.asarray(Image.open(item.path))
        assert stored.shape == (32, 32, 3) and np.abs(stored.astype(int) - picture.numpy()).max() <= 1
    ordered = [(d.prompt_id, d.index) for d in items]
    assert ordered == [(p.id, k) for p in SCENES.prompts for k in range(2)]


def test_the_same_batches_give_the_demos_pictures_exactly(drawer, tmp_path):
    found = generate_set(drawer, SCENES, tmp_path, **FAST)
    drawn = eight_bit(generate(drawer.pipeline, SCENES.texts, num_inference_steps=2, guidance_scale=1.5, quiet=True))
    assert all((np.asarray(Image.open(d.path)) == x.numpy()).all() for d, x in zip(found.images.items, drawn, strict=True))


def test_a_picture_alone_is_the_one_of_a_batch(drawer, whole, tmp_path):
    alone = generate_set(drawer, SCENES, tmp_path, images_per_prompt=2, batch_size=1, **FAST).images
    match = paired(alone, ImageSet.read(whole))
    pixels = [np.stack([np.asarray(Image.open(d.path), dtype=int) for d in s.items]) for s in (alone, ImageSet.read(whole))]
    assert np.abs(pixels[0][match.a] - pixels[1][match.b]).max() <= 1 and pixels[0].std() > 20


def test_interrupted_and_resumed_is_as_uninterrupted(drawer, whole, tmp_path):
    stopping = dataclasses.replace(drawer, pipeline=Stopping(drawer.pipeline, 1))
    with pytest.raises(KeyboardInterrupt):
        generate_set(stopping, SCENES, tmp_path, images_per_prompt=2, batch_size=2, **FAST)
    assert len(list(tmp_path.rglob("*.png"))) == 2 and not (tmp_path / "metadata.jsonl").exists()
    found = generate_set(drawer, SCENES, tmp_path, images_per_prompt=2, batch_size=2, **FAST)
    assert (found.drawn, found.kept, found.missing) == (4, 2, 0) and contents(tmp_path) == contents(whole)
    last = found.images.items[-1].path
    last.unlink()  # one picture of a batch
    again = generate_set(drawer, SCENES, tmp_path, images_per_prompt=2, batch_size=2, **FAST)
    assert (again.drawn, again.kept) == (1, 5) and contents(tmp_path) == contents(whole)
    nothing = dataclasses.replace(drawer, pipeline=Stopping(drawer.pipeline, 0))
    assert generate_set(nothing, SCENES, tmp_path, images_per_prompt=2, batch_size=2, **FAST).drawn == 0


def test_shards_together_are_the_whole(drawer, whole, tmp_path):
    first = generate_set(drawer, SCENES, tmp_path, images_per_prompt=2, batch_size=2, shard=(1, 2), **FAST)
    assert (first.drawn, first.missing, len(first.images)) == (2, 4, 2)
    second = generate_set(drawer, SCENES, tmp_path, images_per_prompt=2, batch_size=2, shard=(0, 2), **FAST)
    assert (second.drawn, second.missing) == (4, 0) and contents(tmp_path) == contents(whole)


def test_a_folder_of_other_settings_is_refused_with_the_difference(drawer, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    before = contents(folder)
    asked = {"images_per_prompt": 2, "batch_size": 2, **FAST}
    for other, said in (
        ({"seed": 1}, r"seed 0 there, 1 now\."),
        ({"guidance_scale": 3.0}, r"guidance_scale 1.5 there, 3.0 now\."),
        ({"num_inference_steps": 3, "height": 16, "width": 16}, "height 32 there, 16 now; width 32 there, 16 now; num_inference_steps 2"),
    ):
        with pytest.raises(ValueError, match=said):
            generate_set(drawer, SCENES, folder, **{**asked, **other})
    with pytest.raises(ValueError, match="prompts.count 3 there, 2 now; prompts.digest"):
        generate_set(drawer, load_prompts("builtin:shapes", 2), folder, **asked)
    other = dataclasses.replace(drawer, identity={**drawer.identity, "adapter": "abc"})
    with pytest.raises(ValueError, match="model.adapter None there, 'abc' now"):
        generate_set(other, SCENES, folder, **asked)
    assert contents(folder) == before
    (folder / "generation.json").unlink()
    with pytest.raises(ValueError, match="holds 6 of these pictures, such as .*, and no generation.json"):
        generate_set(drawer, SCENES, folder, **asked)


def test_what_is_recorded(drawer, whole):
    record = json.loads((whole / "generation.json").read_text())
    assert record["model"] == "builtin:shapes" and record["settings"]["model"] == drawer.identity
    assert record["settings"]["prompts"] == {"name": "builtin:shapes", "count": 3, "digest": SCENES.digest}
    assert set(record["about"]["versions"]) == {"diffalign", "torch", "diffusers", "transformers", "peft", "pillow"}
    assert record["about"]["batch_size"] == 2 and set(drawer.identity) == {"family", "denoiser", "vae", "sampler", "dtype"}
    assert drawer.defaults == {"num_inference_steps": 8, "guidance_scale": 1.5} and drawer.batch_size == 64


def test_repeated_prompts_get_pictures_of_their_own(drawer, tmp_path):
    text = SCENES.texts[0]
    found = generate_set(drawer, named(text, SCENES.texts[1], text), tmp_path, images_per_prompt=2, **FAST).images
    assert len({d.path.read_bytes() for d in found.items}) == 6 and len({d.seed for d in found.items}) == 6
    assert found.items[0].seed == seed_of(text, 0, 0) and found.items[4].seed == seed_of(text, 1_000_000, 0)
    others = Prompt("x", "any"), Prompt("y", "other", occurrence=3)
    assert [seed_for(prompt, 2, 40, same_noise=True) for prompt in others] == [42, 42]


def test_black_pictures_are_marked_counted_and_named(drawer, tmp_path):
    class Overflows(Stopping):
        """The second picture of a call is not a number, as a VAE in float16 leaves it; the first is a safety checker's."""

        def __call__(self, **arguments):
            out = self.pipeline(**arguments)
            out.images[0], out.images[1] = 0.0, float("nan")
            return out

    bad = dataclasses.replace(drawer, pipeline=Overflows(drawer.pipeline, 9))
    found = generate_set(bad, SCENES, tmp_path, **FAST).images
    assert [d.all_black for d in found.items] == [True, True, False]
    (said,) = black_report([found])
    assert said.startswith("builtin:shapes: 2 of 3 pictures are all black") and said.endswith(f"{SCENES.prompts[1].id}/0")
    (tmp_path / "metadata.jsonl").unlink()
    again = generate_set(drawer, SCENES, tmp_path, **FAST)
    assert again.drawn == 0 and [d.all_black for d in again.images.items] == [True, True, False], "looked at again where nothing tells"


def test_rounding_is_that_of_diffusers():
    from diffusers.image_processor import VaeImageProcessor

    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0, :4] = torch.tensor([0.5, 1.5, 2.5, 254.5]) / 255
    (theirs,) = VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(x))
    assert (np.asarray(theirs) == eight_bit(x)[0].numpy()).all()


def test_plain_folders_are_scored_without_options(whole):
    items = collect([whole])
    assert [i.prompt for i in items] == [t for t in SCENES.texts for _ in range(2)] and items[1].prompt_id == SCENES.prompts[0].id
    assert items[0].seed == str(seed_of(SCENES.texts[0])) and all(Path(i.sample.path).is_file() and not i.error for i in items)


def test_geneval_layout(drawer, tmp_path):
    prompts = named(*SCENES.texts[:2], category="counting", facts={"include": [{"class": "clock", "count": 2}]})
    generate_set(drawer, prompts, tmp_path, layout="geneval", **FAST)
    items = collect([tmp_path], layout="geneval")
    assert [(i.prompt_id, i.seed) for i in items] == [(f"{i:05d}", f"{k:04d}") for i in range(2) for k in range(4)]
    assert [i.prompt for i in items] == [t for t in SCENES.texts[:2] for _ in range(4)] and not any(i.error for i in items)
    row = json.loads((tmp_path / "00001" / "metadata.jsonl").read_text())
    assert row == {"tag": "counting", "include": [{"class": "clock", "count": 2}], "prompt": SCENES.texts[1]}
    assert len(ImageSet.read(tmp_path)) == len(collect([tmp_path])) == 8
    with pytest.raises(ValueError, match=f"layout geneval numbers its prompts, and the id '{SCENES.prompts[0].id}' is no number"):
        generate_set(drawer, SCENES, tmp_path / "no", layout="geneval", **FAST)


def test_hpsv2_layout(drawer, tmp_path):
    ids = ("anime-00000", "anime-00007", "concept-art-00002")
    prompts = PromptSet("mine", tuple(Prompt(key, text) for key, text in zip(ids, SCENES.texts, strict=True)), {"note": ""})
    found = generate_set(drawer, prompts, tmp_path, layout="hpsv2", **FAST)
    items = collect([tmp_path], layout="hpsv2", prompts=tmp_path / "prompts")
    assert [(i.prompt_id, i.prompt, i.error) for i in items] == [
        ("anime/0", SCENES.texts[0], None), ("anime/7", SCENES.texts[1], None), ("concept-art/2", SCENES.texts[2], None),
    ]  # fmt: skip
    assert Image.open(tmp_path / "anime" / "00007.jpg").format == "JPEG" and found.images.items[2].path.name == "00002.jpg"
    with pytest.raises(ValueError, match="1 pictures a prompt, got 2"):
        generate_set(drawer, prompts, tmp_path / "no", layout="hpsv2", images_per_prompt=2, **FAST)
    with pytest.raises(ValueError, match="is of HPDv2's four styles"):
        generate_set(drawer, named("x"), tmp_path / "no", layout="hpsv2", **FAST)


def test_unigenbench_and_dpg_layouts(drawer, tmp_path):
    prompts = PromptSet("mine", (Prompt("3", SCENES.texts[0]), Prompt("12", SCENES.texts[1])), {"note": ""})
    generate_set(drawer, prompts, tmp_path / "u", layout="unigenbench", **FAST)
    items = collect([tmp_path / "u"], layout="unigenbench", prompts=tmp_path / "u" / "prompts.csv")
    assert [(i.prompt_id, i.seed, i.error) for i in items] == [(key, str(k), None) for key in ("3", "12") for k in range(4)]
    assert (tmp_path / "u" / "12_3.png").is_file()

    generate_set(drawer, prompts, tmp_path / "d", layout="dpg", **FAST)
    grid = np.asarray(Image.open(tmp_path / "d" / "grids" / "12.png"))
    singles = [np.asarray(Image.open(tmp_path / "d" / "12" / f"{k:04d}.png")) for k in range(4)]
    assert grid.shape == (64, 64, 3) and len({single.tobytes() for single in singles}) == 4
    assert all((grid[k // 2 * 32 : k // 2 * 32 + 32, k % 2 * 32 : k % 2 * 32 + 32] == singles[k]).all() for k in range(4))
    assert len(collect([tmp_path / "d"])) == 8


def test_ids_that_are_no_names_of_files_and_numbers_out_of_range(drawer, tmp_path):
    prompts = PromptSet("mine", (Prompt("../a/b", SCENES.texts[0]), Prompt("a" * 300, SCENES.texts[1])), {"note": ""})
    found = generate_set(drawer, prompts, tmp_path / "x", **FAST).images
    assert [d.prompt_id for d in found.items] == ["../a/b", "a" * 300]
    assert all(d.path.resolve().is_relative_to(tmp_path / "x") and len(d.path.parent.name) <= 100 for d in found.items)
    twice = PromptSet("mine", (Prompt("a", "x"), Prompt("a", "y")), {"note": ""})
    with pytest.raises(ValueError, match="two of them would be the same file"):
        generate_set(drawer, twice, tmp_path / "y", **FAST)
    for wrong in ({"images_per_prompt": 0}, {"batch_size": 0}, {"shard": (2, 2)}):
        with pytest.raises(ValueError, match="must be at least 1"):
            generate_set(drawer, SCENES, tmp_path / "y", **FAST, **wrong)
    with pytest.raises(ValueError, match="multiples of"):
        generate_set(drawer, SCENES, tmp_path / "y", height=33, width=32, **FAST)
    assert not (tmp_path / "y").exists()
