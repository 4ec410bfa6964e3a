"""Responses of a language model, each from random numbers of its own, so that one can be made again alone."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext

import torch
from torch import Tensor
from tqdm import tqdm

from diffalign.models.reference import evaluating


def seed_of(prompt: str, index: int = 0, seed: int = 0) -> int:
    """The seed of a prompt's ``index``-th response: a hash, so a response does not depend on the others around it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}/{prompt}".encode()).digest()[:6], "big")


class GumbelNoise:
    """A logits processor under which greedy decoding is sampling: argmax(logits / temperature - log(-log u)) has the probabilities
    softmax(logits / temperature). Each row draws from a generator of its own, on the CPU."""

    def __init__(self, seeds: list[int], temperature: float):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        drawn = [torch.empty(scores.shape[1]).exponential_(generator=generator).log_() for generator in self.generators]
        return scores.float() / self.temperature - torch.stack(drawn).to(scores.device)


@torch.no_grad()
def sample(
    model, writer, prompts: list, *, max_new_tokens: int, temperature: float = 1.0, index: int = 0, seed: int = 0, batch_size: int = 64,
    name: str = "", quiet: bool = False, autocast=nullcontext,
) -> list[str]:  # fmt: skip
    """One response a prompt, special tokens left out.

    Args:
        model: a ``LanguageModel``, adapters as they are switched now. writer: its ``Writer``. prompts: plain texts or chats.
        temperature: 0 takes the likeliest token always. index, seed: which response of a prompt; with the model they decide it, but for
            rounding that depends on the batch. name: what the progress bar says.
    """
    from transformers import LogitsProcessorList

    found = []
    with evaluating(model.lm):
        for start in tqdm(range(0, len(prompts), batch_size), desc=f"write {name}".rstrip(), unit="batch", disable=quiet):
            rows = [writer.prompt(prompt) for prompt in prompts[start : start + batch_size]]
            width = max(map(len, rows))
            ids = torch.tensor([[writer.padding] * (width - len(row)) + row for row in rows], device=model.device)
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
            noise = LogitsProcessorList()
            if temperature:
                noise.append(GumbelNoise([seed_of(str(p), index, seed) for p in prompts[start : start + batch_size]], temperature))
            with autocast():
                out = model.lm.generate(
                    input_ids=ids, attention_mask=mask, logits_processor=noise, do_sample=False, max_new_tokens=max_new_tokens,
                    pad_token_id=writer.padding, eos_token_id=model.tokenizer.eos_token_id,
                )  # fmt: skip
            found += model.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
    return found
