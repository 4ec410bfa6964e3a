"""VQAScore as published (arXiv:2404.01291): CLIP-FlanT5, a T5 that reads a CLIP image tower's patches in the place of a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from diffalign.rewards import preprocess, templates, tokenizers
from diffalign.rewards import weights as files
from diffalign.rewards.base import Reward, frozen
from diffalign.rewards.images import to_rgb
from diffalign.rewards.weights import Source

# id -> the published checkpoint, and whose tokenizer it speaks
REPOSITORIES = {
    "vqascore": ("zhiqiulin/clip-flant5-xxl", "google/flan-t5-xxl"),
    "vqascore-xl": ("zhiqiulin/clip-flant5-xl", "google/flan-t5-xl"),
}
VISION = Source("openai/clip-vit-large-patch14-336", files.HF_MODEL)
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
TOWER = "vision_tower.vision_tower."  # before the image tower's names, in checkpoints that hold it
LAYER = -2  # whose patches are read; config.json may say otherwise (mm_vision_select_layer)
SPARE = 64  # T5's 32,100 words in 32,128 rows


class CLIPT5(Reward):
    """score = exp(mean over "Yes" and the end token of log P(token | image, question, tokens before)): their geometric mean, in (0, 1)."""

    batch_size = 8

    def __init__(
        self, name: str, t5: Any, vision: Any, projector: nn.Module, tokenizer: Any, words: str, answer: str, layer: int, **base: Any
    ):
        super().__init__(name, question=words, answer=answer, layer=layer, **base)
        self.t5, self.vision, self.projector, self.tokenizer, self.words, self.layer = t5, vision, projector, tokenizer, words, layer
        self.preparation = preprocess.Preparation("squash", size=vision.config.image_size)
        self.answer = torch.tensor(tokenizer(answer)["input_ids"])  # its words and the end token

    def prepare(self, decoded: Image.Image) -> Tensor:
        return self.preparation(squared(to_rgb(decoded)))

    def measure(self, batch: Tensor, prompts: list[str]) -> Tensor:
        seen = self.vision(batch.to(self.vision.dtype), output_hidden_states=True).hidden_states[self.layer][:, 1:]
        seen = self.projector(seen.to(self.t5.dtype))
        rows = [self._row(image, prompt) for image, prompt in zip(seen, tokenizers.strings(prompts), strict=True)]
        words = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(row), device=words.device) for row in rows], batch_first=True)
        labels = self.answer.to(words.device).repeat(len(rows), 1)
        logits = self.t5(inputs_embeds=words, attention_mask=mask, labels=labels, use_cache=False).logits
        return logits.float().log_softmax(-1).gather(2, labels[..., None])[..., 0].mean(1).exp()

    def _row(self, image: Tensor, prompt: str) -> Tensor:
        """(L, D), what the encoder reads: the words before the image, the image, the words after it; both words close with an end token."""
        before, after = f"{templates.SYSTEM} USER: ", f"\n{templates.fill(self.words, prompt)} ASSISTANT: "
        words = [torch.tensor(self.tokenizer(text)["input_ids"], device=image.device) for text in (before, after)]
        embedded = [self.t5.get_input_embeddings()(ids) for ids in words]
        return torch.cat([embedded[0], image, embedded[1]])


def squared(image: Image.Image) -> Image.Image:
    """An RGB image on a square of the mean colour of CLIP's training images, in the middle."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(mean * 255) for mean in preprocess.MEAN))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def load(
    name: str, *, weights: str | None, config: Any, device: str | torch.device, dtype: torch.dtype, template: str = templates.VQASCORE,
    answer: str = "Yes", vision: str | None = None, tokenizer: str | None = None,
) -> CLIPT5:  # fmt: skip
    """VQAScore of CLIP-FlanT5; good matches have 0.8 to 0.95.

    Args:
        weights: a folder with ``config.json`` and the weights (one file, or shards with their index) of ``zhiqiulin/clip-flant5-xxl``.
        config: a ``T5Config`` or its arguments.
        template: the question with {prompt} for the caption, or a text file of it. answer: "Yes".
        vision: the folder of ``openai/clip-vit-large-patch14-336``, where the weights do not hold the image tower.
        tokenizer: the folder of FlanT5's tokenizer (``google/flan-t5-xxl``), where the weights' has none.
    Source: linzhiqiu/t2v_metrics (Apache-2.0), version 3.0: clip_t5_model.py and clip_t5/, with LLaVA's projector of two layers.
    Errors: those of ``weights``; ValueError for a checkpoint without shared.weight or mm_projector.0.weight.

    *Deviates:* computed in ``dtype`` (float32 unless asked), where the published code runs in bfloat16. Unknown words are read, where it
    masks them, because it pads with the token of unknown words. Not compared with the published weights, whose names are read off the
    published code; FlanT5's tokenizer.json is used, where the published code takes the sentencepiece model.
    """
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    repository, speaker = REPOSITORIES[name]
    folder, parts = _files(name, repository, weights)
    state = {key: value for part in parts for key, value in files.read_state(part).items()}
    if not {"shared.weight", "mm_projector.0.weight"} <= state.keys():
        raise ValueError(f"{folder} is not CLIP-FlanT5: it lacks shared.weight or mm_projector.0.weight")
    seeing, about = _vision(name, state, vision, folder)
    head = {key.removeprefix("mm_projector."): value for key, value in state.items() if key.startswith("mm_projector.")}
    wide, narrow = head["0.weight"].shape
    projector = files.build(lambda: nn.Sequential(nn.Linear(narrow, wide), nn.GELU(), nn.Linear(wide, wide)), head, folder)
    words = {copy: state["shared.weight"] for copy in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")}
    words |= {key: value for key, value in state.items() if not key.startswith(("vision_tower.", "mm_projector.", "embed_tokens."))}
    about_t5 = json.loads((folder / "config.json").read_text())
    config = files.as_config(config, T5Config, lambda: T5Config.from_dict({**about_t5, "model_type": "t5"}))
    t5 = files.build(lambda: T5ForConditionalGeneration(config), words, folder)
    spoken = Source(speaker, (("tokenizer.json",),), tokenizers.SETTINGS).find(name, tokenizer, option="tokenizer", beside=folder)[0].parent
    text = PreTrainedTokenizerFast.from_pretrained(spoken)
    tokenizers.check(text, config.vocab_size, str(spoken), spare=SPARE)
    layer, question = about_t5.get("mm_vision_select_layer", LAYER), templates.template(name, template)
    about |= {"weights": [files.facts(part) for part in parts]}
    return CLIPT5(
        name, frozen(t5, device, dtype), frozen(seeing, device, dtype), frozen(projector, device, dtype), text, question, answer, layer,
        device=device, dtype=dtype, **about,
    )  # fmt: skip


def _files(name: str, repository: str, given: str | None) -> tuple[Path, list[Path]]:
    """The folder, and the files of the weights: one, or the shards that an index names."""
    config, path = Source(repository, (("config.json",), (*files.HF_WEIGHTS, *INDICES))).find(name, given)
    if path.suffix != ".json":
        return config.parent, [path]
    shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    return config.parent, Source(repository, tuple((shard,) for shard in shards)).find(name, given)


def _vision(name: str, state: dict[str, Tensor], given: str | None, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The image tower and its provenance: the checkpoint's own where it holds one, else CLIP's."""
    from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig

    config, path = VISION.find(name, given, option="vision")
    settings = CLIPConfig(vision_config=CLIPVisionConfig.from_pretrained(config.parent).to_dict())
    tower = {key: value for key, value in state.items() if key.startswith("vision_tower.")}
    source, about = (folder, {}) if tower else (path, {"image_tower": files.facts(path)})
    found = {key.removeprefix(TOWER): value for key, value in (tower or files.read_state(path)).items()}
    found = {key.removeprefix("vision_model."): value for key, value in found.items() if key.startswith("vision_model.")}
    return files.build(lambda: CLIPModel(settings).vision_model, found, source, ("*.position_ids",)), about
