"""From prompts to token ids, with the checks a silent mistake would need.

transformers 5 returns a tokenizer with next to no vocabulary, and no error, when the files of one are missing: every word becomes the
unknown token and every score is nonsense. Each tokenizer here has to have the vocabulary of its network and to know a plain sentence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from diffalign.extras import require
from diffalign.rewards.weights import Source

PROBE = "a photo of a red cube on a table"
CLIP_FILES = (("vocab.json", "tokenizer.json"), ("merges.txt", "tokenizer.json"))
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")  # what to pad with, where a repository says so
BERT = Source("google-bert/bert-base-uncased", (("vocab.txt", "tokenizer.json"),), SETTINGS)
BLIP_EXTRA = ["[DEC]", "[ENC]"]  # ids 30522 and 30523


def clip_source(repository: str) -> Source:
    """The tokenizer files of a CLIP repository."""
    return Source(repository, CLIP_FILES, SETTINGS)


class Tokenizer:
    """Prompts -> ids and mask, cut to ``length`` by the tokenizer itself, so that the end-of-text token stays the last one.

    Args: ``tokenizer``, transformers'; ``vocabulary``, the network's; ``length`` in tokens; ``padding``: longest (of the batch) |
    max_length. Errors: ValueError for a tokenizer that came up empty or does not fit.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, length: int, padding: str = "longest", name: str = "its tokenizer"):
        check(tokenizer, vocabulary, name)
        self.tokenizer, self.length, self.padding = tokenizer, length, padding

    def __call__(self, prompts: list[str]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, (N, L) int64."""
        encoded = self.tokenizer(strings(prompts), padding=self.padding, truncation=True, max_length=self.length, return_tensors="pt")
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


class OpenClipTokenizer:
    """open_clip's own byte-pair encoding, from the vocabulary in its package: (N, length) int64, the last token always end-of-text,
    padded with 0. The network pools at the largest id, so the padding is never read."""

    def __init__(self, vocabulary: int, length: int):
        self.tokenizer = require("open_clip", extra="rewards").SimpleTokenizer(context_length=length)
        if self.tokenizer.vocab_size != vocabulary:
            found = self.tokenizer.vocab_size
            raise ValueError(f"open_clip's tokenizer has {found} entries and the network {vocabulary}: vocab_size of config= must agree")

    def __call__(self, prompts: list[str]) -> Tensor:
        return self.tokenizer(strings(prompts))


def load_clip(files: list[Path], vocabulary: int, length: int, padding: str = "longest") -> Tokenizer:
    """CLIP's tokenizer from its files."""
    from transformers import CLIPTokenizer

    return Tokenizer(CLIPTokenizer.from_pretrained(files[0].parent), vocabulary, length, padding, str(files[0].parent))


def load_blip(files: list[Path], vocabulary: int, length: int) -> Tokenizer:
    """BERT's tokenizer with the two tokens BLIP adds, padded to ``length``."""
    from transformers import BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(files[0].parent)
    tokenizer.add_tokens(BLIP_EXTRA, special_tokens=True)
    return Tokenizer(tokenizer, vocabulary, length, "max_length", str(files[0].parent))


def check(tokenizer: Any, vocabulary: int, name: str, spare: int = 0) -> None:
    """Refuse a tokenizer that came up empty or belongs to another network. ``spare``: entries the network may have beyond the tokenizer's,
    where its vocabulary is rounded up."""
    advice = "its files are missing, damaged or another model's: download them again"
    if not 0 <= vocabulary - len(tokenizer) <= spare:
        raise ValueError(f"the tokenizer of {name} has {len(tokenizer)} entries and its network was built for {vocabulary}: {advice}")
    ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    if not ids or tokenizer.unk_token_id in ids:
        raise ValueError(f"the tokenizer of {name} does not know the words of '{PROBE}': {advice}")


def check_length(reward: str, tokens: int, config: Any, prompt: str) -> None:
    """Refuse a question that is longer than the positions its network was built for. Raises ValueError; a config that names no such number
    (T5, whose positions are relative) refuses nothing."""
    longest = config.to_dict().get("max_position_embeddings")
    if longest is not None and tokens > longest:
        shown = prompt if len(prompt) <= 40 else f"{prompt[:40]}..."
        raise ValueError(
            f"reward '{reward}': image and question with the prompt {shown!r} have {tokens} tokens, and the network was built for "
            f"{longest}: shorten the prompt; it is never cut"
        )


def strings(prompts: Any) -> list[str]:
    """Prompts as a list, refused with a ValueError where one is not a string."""
    prompts = list(prompts)
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ValueError(f"a prompt is a string, got {type(prompt).__name__}: {prompt!r}")
    return prompts
