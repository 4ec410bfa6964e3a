"""VQAScore (arXiv:2404.01291): how probably a vision-language model answers "Yes" when asked whether the image shows the caption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffalign.rewards import templates, tokenizers
from diffalign.rewards.base import Reward, sha256
from diffalign.rewards.images import to_rgb

MODEL = "Qwen/Qwen2-VL-7B-Instruct"
SPARE = 512  # rows by which such models round their vocabulary up


class VQAScore(Reward):
    """score = P(first token of the answer | image, question), in (0, 1); with ``eos`` the geometric mean of it and P(end | answer).

    One forward pass: the answer is fed, not generated, so no sampling setting of the model can leak in.
    """

    batch_size = 4

    def __init__(self, name: str, network: Any, processor: Any, words: str, answer: str, eos: bool, **base: Any):
        images = type(processor.image_processor).__name__
        super().__init__(name, question=words, answer=answer, eos=eos, image_processor=images, **base)
        self.network, self.processor, self.words, self.eos = network, processor, words, eos
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "right"
        self.yes = tokenizer(answer, add_special_tokens=False)["input_ids"][0]
        self.end = tokenizer.eos_token_id

    def prepare(self, decoded: Image.Image) -> Image.Image:
        return to_rgb(decoded)  # the model's own processor takes image and question together

    def collate(self, prepared: list[Image.Image]) -> list[Image.Image]:
        return prepared

    def measure(self, batch: list[Image.Image], prompts: list[str]) -> Tensor:
        texts = [self._chat(templates.fill(self.words, prompt)) for prompt in tokenizers.strings(prompts)]
        inputs = self.processor(text=texts, images=[[image] for image in batch], padding=True, return_tensors="pt")
        last = inputs["attention_mask"].sum(1) - 1  # of the question, whose padding is on the right
        for place, prompt in zip(last.tolist(), prompts, strict=True):
            tokenizers.check_length(self.name, place + 1 + self.eos, self.network.config.get_text_config(), prompt)
        rows = torch.arange(len(batch))
        if self.eos:
            inputs = {name: _longer(value, inputs["input_ids"].shape) for name, value in inputs.items()}
            inputs["input_ids"][rows, last + 1] = self.yes
            inputs["attention_mask"][rows, last + 1] = 1
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        inputs |= {name: value.to(self.dtype) for name, value in inputs.items() if value.is_floating_point()}
        logits = self.network(**inputs, use_cache=False).logits
        found = logits[rows, last].float().log_softmax(-1)[:, self.yes]
        if self.eos:
            found = (found + logits[rows, last + 1].float().log_softmax(-1)[:, self.end]) / 2
        return found.exp()

    def _chat(self, question: str) -> str:
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        return self.processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)


def _longer(value: Tensor, tokens: torch.Size) -> Tensor:
    """What has a value for every token, with a zero more at the end."""
    return torch.cat([value, value.new_zeros(len(value), 1)], dim=1) if value.shape == tokens else value


def load(
    name: str, *, weights: str | None, config: Any, device: str | torch.device, dtype: torch.dtype, model: str = MODEL,
    template: str = templates.VQASCORE_CHAT, answer: str = "Yes", eos: bool = False,
) -> VQAScore:  # fmt: skip
    """VQAScore by any image-and-text chat model of transformers.

    Args:
        weights: a folder as ``save_pretrained`` writes model and processor; without it ``model`` of the hub.
        template: the question, with {prompt} for the caption, or a text file of it. answer: only its first token counts.
        eos: count the end of the answer too, as the paper's CLIP-FlanT5 does (``vqascore``).
    Source: linzhiqiu/t2v_metrics t2v_metrics/models/vqascore_models/qwen2vl_model.py, whose question and answer are the defaults. Scores of
        different models or questions are not comparable.
    Errors: ValueError for a config, which is in the folder; FileNotFoundError where there is no such folder; OSError (transformers') where
        the model is neither cached nor reached; ValueError for a tokenizer that came up empty, and on scoring for a prompt longer than
        the network's positions (prompts are never cut).

    *Deviates:* the published code generates one token and reads its processed probability, in which a repetition penalty of the model's
    generation settings shows; here it is the plain softmax. Not compared with published weights.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if config is not None:
        raise ValueError(f"reward '{name}': the config is read from the folder of the weights")
    if weights is not None and not Path(weights).expanduser().is_dir():
        raise FileNotFoundError(f"reward '{name}': there is no folder {weights} with a model and its processor, such as {model}'s")
    place = model if weights is None else Path(weights).expanduser()
    network = AutoModelForImageTextToText.from_pretrained(place, dtype=dtype)
    processor = AutoProcessor.from_pretrained(place)
    tokenizers.check(processor.tokenizer, network.get_input_embeddings().num_embeddings, str(place), spare=SPARE)
    about: dict[str, Any] = {"model": str(place)} if weights is None else {"weights": hashes(Path(place))}
    words = templates.template(name, template)
    network = network.to(device).eval().requires_grad_(False)  # rotary frequencies stay float32
    return VQAScore(name, network, processor, words, answer, eos, device=device, dtype=dtype, **about)


def hashes(folder: Path) -> dict[str, str]:
    """File -> sha256 of a folder's weights."""
    return {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".bin")}
