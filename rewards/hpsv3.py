"""HPSv3 (arXiv:2508.03789): Qwen2-VL-7B reads the image, the question and the caption, and a small head reads one token of it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from diffalign.rewards import templates, tokenizers
from diffalign.rewards import weights as files
from diffalign.rewards.base import Reward, frozen
from diffalign.rewards.images import to_rgb
from diffalign.rewards.preprocess import as_tensor, normalise
from diffalign.rewards.towers import pooled
from diffalign.rewards.weights import Source

PUBLISHED = Source("MizzenAI/HPSv3", (("HPSv3.safetensors",),))
BACKBONE = "Qwen/Qwen2-VL-7B-Instruct"
CONFIG = Source(BACKBONE, (("config.json",),))
SPOKEN = Source(BACKBONE, (("tokenizer.json", "vocab.json"),), ("tokenizer_config.json", "vocab.json", "merges.txt"))
TOKEN = "<|Reward|>"  # added to Qwen2-VL's vocabulary
PIXELS, WIDEST = 256 * 28 * 28, 200  # of an image that is read, about 256 tokens; and the widest one, to 1
# Qwen2-VL's chat, with its default system message
BEFORE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>{}<|vision_end|>"
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
SEEN = "<|image_pad|>"
# The published names (transformers 4.45's, and those of its own newer code) -> those of transformers' Qwen2VLModel
RENAMED = ((r"^model\.(visual|language_model)\.", r"\1."), (r"^model\.", "language_model."))
WHERE = (
    "its question is not shipped: template=PATH to hpsv3/dataset/data_collator_qwen.py of the published code "
    "(pip download hpsv3==1.0.0 --no-deps, and unpack it), or the words themselves"
)


class HPSv3(Reward):
    """score = mu, the first of the two numbers the head makes of the last hidden state at the reward token (the second is its spread)."""

    batch_size = 4

    def __init__(self, name: str, network: Any, head: nn.Module, tokenizer: Any, words: str, **base: Any):
        super().__init__(name, question=words, pixels=PIXELS, **base)
        self.network, self.head, self.tokenizer, self.words = network, head, tokenizer, words
        vision = network.config.vision_config
        self.patch, self.merge, self.frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size

    def prepare(self, decoded: Image.Image) -> Tensor:
        """The image at about ``PIXELS`` pixels, its sides whole numbers of tokens: (3, h, w) float32, normalised."""
        image = to_rgb(decoded)
        height, width = sides(image.height, image.width, self.patch * self.merge)
        return normalise(as_tensor(image.resize((width, height), Image.Resampling.BICUBIC)))

    def collate(self, prepared: list[Tensor]) -> list[Tensor]:
        return [pixels.to(self.device) for pixels in prepared]  # of different sizes

    def measure(self, batch: list[Tensor], prompts: list[str]) -> Tensor:
        ids, mask = self._tokens(batch, tokenizers.strings(prompts))
        grid = torch.tensor([[1, *self._grid(pixels)] for pixels in batch], device=self.device)
        patches = torch.cat([patchified(pixels, self.patch, self.merge, self.frames) for pixels in batch]).to(self.network.dtype)
        words = self.network.language_model.embed_tokens(ids)
        seen = pooled(self.network.visual(patches, grid_thw=grid)).to(words.dtype)
        words = words.masked_scatter((ids == self.network.config.image_token_id)[..., None].expand_as(words), seen)
        places = torch.arange(ids.shape[1], device=self.device).expand(3, *ids.shape)
        hidden = self.network.language_model(inputs_embeds=words, attention_mask=mask, position_ids=places).last_hidden_state
        chosen = hidden[ids == self.tokenizer.convert_tokens_to_ids(TOKEN)]
        return self.head(chosen.float())[:, 0]

    def _tokens(self, batch: list[Tensor], prompts: list[str]) -> tuple[Tensor, Tensor]:
        """(N, L) ids and mask, padded on the right."""
        rows = []
        for pixels, prompt in zip(batch, prompts, strict=True):
            tokens = math.prod(self._grid(pixels)) // self.merge**2
            text = BEFORE.replace("{}", SEEN * tokens) + templates.fill(self.words, prompt) + AFTER
            rows.append(torch.tensor(self.tokenizer(text, add_special_tokens=False)["input_ids"]))
            tokenizers.check_length(self.name, len(rows[-1]), self.network.config.text_config, prompt)
            for special, wanted in ((TOKEN, 1), (SEEN, tokens)):
                if (found := int((rows[-1] == self.tokenizer.convert_tokens_to_ids(special)).sum())) != wanted:
                    where = f"is it in the prompt {prompt!r}?"
                    raise ValueError(f"reward '{self.name}': {special} is there {found} times and not {wanted}: {where}")
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(self.device)
        return ids, mask

    def _grid(self, pixels: Tensor) -> tuple[int, int]:
        return pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch


def sides(height: int, width: int, factor: int) -> tuple[int, int]:
    """Height and width in whole ``factor``s whose product is near ``PIXELS``, as qwen_vl_utils' smart_resize has it for min = max.

    Rounded sides if their product is ``PIXELS``; else the sides scaled to it, rounded down where the rounded product was above and up where
    it was below. ValueError for an image wider than 200 to 1.
    """
    if max(height, width) > WIDEST * min(height, width):
        raise ValueError(f"an image of {width} x {height} pixels is wider than {WIDEST} to 1, and Qwen2-VL reads none such")
    rounded = [max(factor, round(side / factor) * factor) for side in (height, width)]
    if math.prod(rounded) == PIXELS:
        return rounded[0], rounded[1]
    whole = math.floor if math.prod(rounded) > PIXELS else math.ceil
    scale = math.sqrt(PIXELS / (height * width))
    return max(factor, whole(height * scale / factor) * factor), max(factor, whole(width * scale / factor) * factor)


def patchified(pixels: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """(3, h, w) -> (h w / patch^2, 3 * frames * patch^2): patches in the order in which ``merge`` x ``merge`` of them become a token, each
    repeated for the ``frames`` that a still image is."""
    channels, height, width = pixels.shape
    parts = pixels.view(channels, height // patch // merge, merge, patch, width // patch // merge, merge, patch)
    parts = parts.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None].expand(-1, -1, -1, -1, -1, frames, -1, -1)
    return parts.reshape(height * width // patch**2, channels * frames * patch**2)


def load(
    name: str, *, weights: str | None, config: Any, device: str | torch.device, dtype: torch.dtype, template: str | None = None,
    backbone: str | None = None,
) -> HPSv3:  # fmt: skip
    """HPSv3; good images have about 10, noise about 0.

    Args:
        weights: ``HPSv3.safetensors`` of ``MizzenAI/HPSv3``, or a folder that holds it, and may hold the backbone's files.
        config: a ``Qwen2VLConfig`` or its arguments; the vocabulary is that of the weights.
        dtype: published: torch.bfloat16, the rotary frequencies rounded with the rest (16 GB); the head is float32 always.
        template: the published question (see ``WHERE``), or words with {prompt} and <|Reward|>.
        backbone: the folder of ``Qwen/Qwen2-VL-7B-Instruct``'s config and tokenizer; without it the weights' folder, else the hub.
    Source: MizzenAI/HPSv3 hpsv3/inference.py, model/qwen2vl_trainer.py, dataset/utils.py (MIT), as of version 1.0.0. Positions are the
        tokens' numbers in all three of Qwen2-VL's dimensions, because the published code hands its model embeddings without ids or
        positions, which transformers 4.45 numbers so; newer transformers would lay out the image's positions in two dimensions.
    Errors: ValueError for no question or one without <|Reward|>, and on scoring for a prompt longer than the network's positions (32,768
        tokens; prompts are never cut); those of ``weights``. Needs transformers 4.52 or newer.

    *Deviates:* transparency is laid over white. Not compared with the published weights or with the published package, which needs
    transformers 4.45.2; the layout of the checkpoint is read off its code.
    """
    from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLModel

    path = PUBLISHED.find(name, weights)[0]
    words = question(name, template)
    state = files.read_state(path)
    head = {key.removeprefix("rm_head."): value for key, value in state.items() if key.startswith("rm_head.")}
    state = {renamed(key): value for key, value in state.items() if not key.startswith(("rm_head.", "lm_head."))}
    if "language_model.embed_tokens.weight" not in state:
        raise ValueError(f"{path} is not HPSv3: it has no model.embed_tokens.weight")
    place = CONFIG.find(name, backbone, option="backbone", beside=path.parent)[0].parent if config is None else None
    config = files.as_config(config, Qwen2VLConfig, lambda: Qwen2VLConfig.from_pretrained(place))
    rows, width = state["language_model.embed_tokens.weight"].shape
    config.text_config.vocab_size = rows
    network = files.build(lambda: Qwen2VLModel(config), state, path)
    spoken = SPOKEN.find(name, backbone, option="backbone", beside=path.parent)[0].parent
    tokenizer = AutoTokenizer.from_pretrained(spoken)
    tokenizer.add_tokens([TOKEN], special_tokens=True)
    tokenizers.check(tokenizer, rows, str(spoken))
    judge = files.build(lambda: ranknet(width), head, path)
    about = {"weights": files.facts(path)}
    return HPSv3(
        name, frozen(network, device, dtype), frozen(judge, device, torch.float32), tokenizer, words, device=device, dtype=dtype, **about
    )


def ranknet(width: int) -> nn.Sequential:
    """The head: hidden state (width,) -> mu, sigma."""
    return nn.Sequential(
        nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
    )  # fmt: skip


def renamed(key: str) -> str:
    for pattern, replacement in RENAMED:
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key)
    return key


def question(name: str, template: str | None) -> str:
    """The words between image and answer, with {prompt} and the reward token."""
    if template is None:
        raise ValueError(f"reward '{name}': {WHERE}")
    if "{prompt}" not in template and template.endswith(".py") and Path(template).expanduser().is_file():
        found = templates.assigned(Path(template).expanduser())
        if not {"INSTRUCTION", "prompt_with_special_token"} <= found.keys():
            raise ValueError(f"reward '{name}': {template} does not assign INSTRUCTION and prompt_with_special_token: {WHERE}")
        words = found["INSTRUCTION"].replace("{text_prompt}", "{prompt}") + found["prompt_with_special_token"]
    else:
        words = templates.template(name, template)
    if words.count(TOKEN) != 1 or "{prompt}" not in words:
        raise ValueError(f"reward '{name}': the question must hold {{prompt}}, and {TOKEN} once: {WHERE}")
    return words
