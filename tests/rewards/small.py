"""Small real rewards and files for the tests of scoring."""

import random
import sys
import time
from pathlib import Path

import torch
from PIL import Image

from diffalign.rewards import images
from diffalign.rewards.base import Reward
from diffalign.rewards.manifests import collect
from diffalign.rewards.score import score_items
from diffalign.rewards.score_cache import ScoreCache
from diffalign.worlds import shapes


class Brightness(Reward):
    """Mean of the pixels in [0, 1], plus the length of the prompt; a prompt "bad" is refused, "silent" gets no answer."""

    batch_size = 4
    packages = ("torch",)

    def __init__(self, name="brightness", log=None, seconds=0.0, **provenance):
        super().__init__(name, **provenance)
        self.log, self.seconds = log, seconds

    def prepare(self, decoded):
        return torch.tensor(list(images.to_rgb(decoded).tobytes()), dtype=torch.float32)[: 3 * 16].mean() / 255

    def measure(self, batch, prompts):
        if "bad" in prompts:
            raise ValueError("this prompt is refused")
        time.sleep(self.seconds * len(prompts))
        if self.log:
            with open(self.log, "a") as file:
                file.write("x" * len(prompts))
        lengths = torch.tensor([float("nan") if prompt == "silent" else float(len(prompt)) for prompt in prompts])
        return batch + lengths


class Promptless(Brightness):
    needs_prompt = False

    def measure(self, batch, prompts):
        assert set(prompts) == {""}
        return super().measure(batch, prompts)


def write_images(folder: Path, count: int, broken=()) -> list[Path]:
    """``count`` different 8 x 8 images; of those in ``broken`` the file is cut, no image, or not there, in turns."""
    rng, paths = random.Random(0), []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        path = folder / f"{i:05d}.png"
        Image.frombytes("RGB", (8, 8), rng.randbytes(192)).save(path)
        paths.append(path)
    for turn, i in enumerate(broken):
        if turn % 2:
            paths[i].write_bytes(b"no image")
        else:
            paths[i].write_bytes(paths[i].read_bytes()[:60])
    return paths


def write_clip(folder: Path) -> Path:
    """A tiny CLIP with random weights in PickScore's format, with the tokenizer of builtin:shapes."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(shapes.MODEL / "tokenizer_2")
    common = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, projection_dim=16)
    text = dict(vocab_size=len(tokenizer), max_position_embeddings=18, eos_token_id=tokenizer.eos_token_id, **common)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=dict(image_size=8, patch_size=4, **common), projection_dim=16))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":  # the run that is killed: FOLDER CACHE LOG SECONDS
    folder, cache, log, seconds = sys.argv[1:]
    found = score_items(collect([folder], prompt="p"), {"slow": Brightness(log=log, seconds=float(seconds))}, cache=ScoreCache(cache))
    print(found.cached, found.measured, found.decoded, found.failed())
