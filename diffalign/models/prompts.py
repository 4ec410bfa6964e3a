"""The side of a model that reads prompts: its tokenizers and text encoders, how much of a prompt they see, what their states depend on."""

import hashlib
import logging
from typing import Any, ClassVar

from torch import Tensor, nn

from diffalign.models.parts import dtype_name, fingerprint
from diffalign.models.text import check_tokenizer, own_length, tokenize

log = logging.getLogger(__name__)

LONGEST_SEQUENCE = 512  # what the stock pipelines of SD3, FLUX and Lumina 2 allow as max_sequence_length


class PromptReader:
    """Base of ``DiffusionModel``; a family says which encoders it has (the class attributes) and what it makes of their states.

    Attributes:
        text_encoders, tokenizers: by diffusers' component names; ``text_encoders`` is empty once released.
        max_sequence_length: tokens of a prompt for the tokenizer in ``prompt_tokens``, the stock call's argument of that name; None for
            families whose call has none.
        truncated_prompts: how many prompts ``encode_prompts`` had to cut so far.
    """

    text_names: ClassVar[dict[str, str]]  # tokenizer's component name -> text encoder's
    may_lack: ClassVar[tuple[str, ...]] = ()  # text encoders that the stock pipeline can do without
    prompt_tokens: ClassVar[dict[str, int]] = {}  # the tokenizer that the stock call's max_sequence_length is about -> its default there
    name: str

    def read_text_parts(self, parts: dict[str, Any], max_sequence_length: int | None) -> None:
        """Take the tokenizers and text encoders from a pipeline's components. Raises ValueError for a tokenizer that came up empty."""
        names = {tokenizer: encoder for tokenizer, encoder in self.text_names.items() if parts[encoder] is not None}
        self.tokenizers = {name: parts[name] for name in names}
        self.text_encoders: dict[str, nn.Module] = {name: parts[name] for name in names.values()}
        self.max_sequence_length = self.sequence_length(max_sequence_length)
        self.truncated_prompts = 0
        self._empty: dict[str, Tensor] | None = None
        for tokenizer, encoder in names.items():
            check_tokenizer(self.tokenizers[tokenizer], self.text_encoders[encoder], f"{tokenizer} of '{self.name}'")

    # What a family says ---------------------------------------------------------------------------------------------------------------

    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        """Conditioning of N prompts, each tensor (N, ...), in the text encoders' dtype, exactly as the stock pipeline computes it."""
        raise NotImplementedError

    def text_facts(self) -> dict[str, Any]:
        """What cached text states depend on besides the tokenizers' and text encoders' contents."""
        return {}

    # What every family shares ---------------------------------------------------------------------------------------------------------

    def empty_prompt(self) -> dict[str, Tensor]:
        """The unconditional state of stock inference, (1, ...) each: the encoding of "" unless the family says otherwise."""
        if self._empty is None:
            self._empty = self.encode_prompts([""])
        return self._empty

    def lacking(self) -> list[str]:
        """Components that the model came without, encoders before tokenizers. Stock loading has to be told None for each."""
        absent = {tokenizer: encoder for tokenizer, encoder in self.text_names.items() if tokenizer not in self.tokenizers}
        return [*absent.values(), *absent]

    def sequence_length(self, asked: int | None) -> int | None:
        """``max_sequence_length``: what was asked for, or the stock call's default. ValueError outside of what the call takes: 1 to 512,
        and 0 where the text encoder is missing and zeros stand in for its states (SD3 without T5)."""
        if asked is None or not self.prompt_tokens:
            return next(iter(self.prompt_tokens.values()), None)
        least = 1 if set(self.prompt_tokens) & set(self.tokenizers) else 0
        if not least <= asked <= LONGEST_SEQUENCE:
            raise ValueError(f"max_sequence_length is {asked}; for '{self.name}' it must be {least} to {LONGEST_SEQUENCE} tokens")
        return asked

    def tokens(self, prompts: list[str], extra: int = 0) -> tuple[list[Tensor], list[Tensor]]:
        """Token ids and attention masks (N, L), one each per tokenizer; prompts that are too long are cut, counted, and warned of once.

        ``extra``: how many tokens of the family's own text stand around a prompt and do not count in ``max_sequence_length``.
        """
        if not self.text_encoders:
            raise ValueError(f"the text encoders of '{self.name}' were released: encode prompts before release_encoders(), or load again")
        names, tokenizers, encoders = list(self.tokenizers), list(self.tokenizers.values()), list(self.text_encoders.values())
        lengths = list(self.token_limits(extra).values())
        ids, masks, cut = tokenize(prompts, tokenizers, encoders, lengths)
        many = len(set().union(*cut))
        if many and not self.truncated_prompts:
            by = [f"{length} ({name})" for length, name, which in zip(lengths, names, cut, strict=True) if which]
            limit = lengths[0] if len(set(lengths)) == 1 else ", ".join(by)
            log.warning("%d of %d prompts exceed the %s tokens of '%s' and are cut (said once)", many, len(prompts), limit, self.name)
        self.truncated_prompts += many
        return ids, masks

    def token_limits(self, extra: int = 0) -> dict[str, int]:
        """Tokenizer -> how many tokens of a prompt its encoder sees, with those that stand around it; while the encoders are there."""
        parts = zip(self.tokenizers.items(), self.text_encoders.values(), strict=True)
        return {
            name: self.max_sequence_length + extra if name in self.prompt_tokens else own_length(tokenizer, encoder)
            for (name, tokenizer), encoder in parts
        }

    def too_long(self, prompts: list[str]) -> dict[str, tuple[int, int]]:
        """Tokenizer -> (its limit, how many of the prompts have more tokens and will be cut), where any have. A family that puts a text of
        its own around a prompt (Qwen-Image, Z-Image, Lumina 2, Sana) may cut a few tokens earlier or later than counted here."""
        found = {}
        for name, limit in self.token_limits().items():
            lengths = [len(tokens) for tokens in self.tokenizers[name](prompts, verbose=False).input_ids]
            if over := sum(length > limit for length in lengths):
                found[name] = (limit, over)
        return found

    def text_provenance(self) -> dict[str, Any]:
        """What text states depend on: hashes of encoders and vocabularies, dtypes, the family's ``text_facts``."""
        facts: dict[str, Any] = {}
        for name, encoder in self.text_encoders.items():
            facts |= {name: fingerprint(encoder), f"{name}_dtype": dtype_name(encoder)}
        for name, tokenizer in self.tokenizers.items():
            entries = sorted(tokenizer.get_vocab().items())
            facts[name] = hashlib.sha256(repr((entries, tokenizer.model_max_length, tokenizer.pad_token)).encode()).hexdigest()[:16]
        if self.max_sequence_length is not None:
            facts["max_sequence_length"] = self.max_sequence_length
        return facts | self.text_facts()
