"""From a text to token ids and which of them are trained, so that the prompt's tokens are those that generation will see.

plain   tokenizer(prompt), then what tokenizer(prompt + response) has beyond it, then the end token unless it is there
chat    the chat template's text up to and with the assistant's header, then what it writes beyond it; of a response of several turns the
        assistant's alone are trained
Where the tokens of the prompt do not begin the tokens of the whole (two of them merge across the border), the response is tokenized by
itself: *Deviates:* TRL drops the end of the prompt there, so its policy is trained on a context that generation never sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffalign.llm.texts import ASSISTANT, Text

TRUNCATION = ("error", "keep_start", "keep_end", "drop")


@dataclass(frozen=True)
class Tokens:
    """``ids`` of prompt and response, and ``trained``, as many flags: the tokens whose log-probabilities are the evidence."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]

    @property
    def size(self) -> int:
        """How many tokens are trained. The first of a text has nothing before it and no probability."""
        return sum(self.trained[1:])


class Writer:
    """Turns texts into tokens.

    Args:
        tokenizer: of transformers. Its chat template is needed for chats only.
        name: of the model, for messages.
        max_length: tokens of prompt and response together, or None for no limit.
        truncation: what becomes of a longer text. ``error``: it is refused. ``keep_start``: the end of the response is cut off (TRL's
            default). ``keep_end``: the beginning of the prompt is. ``drop``: the record is left out.

    Raises:
        ValueError: a tokenizer without an end token, or an unknown truncation.
    """

    def __init__(self, tokenizer, name: str = "the model", *, max_length: int | None = None, truncation: str = "error"):
        if tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {name} has no end-of-sequence token, so a model could not learn to stop: set its eos_token")
        if truncation not in TRUNCATION:
            raise ValueError(f"truncation is {truncation!r}; allowed are {', '.join(TRUNCATION)}")
        self.tokenizer, self.name, self.max_length, self.truncation = tokenizer, name, max_length, truncation
        self.merged = 0  # texts whose prompt and response shared a token when tokenized together

    @property
    def padding(self) -> int:
        """What prompts are filled up with for generation; it is never read, so the end token serves where there is no other."""
        return self.tokenizer.eos_token_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def prompt(self, prompt) -> list[int]:
        """The tokens that generation starts from."""
        if isinstance(prompt, str):
            ids = self.tokenizer(prompt)["input_ids"]
            return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids  # of tokenizers that end every text
        return self._ids(self._render(prompt, True))

    def __call__(self, text: Text) -> Tokens:
        """The tokens of a text, not yet cut. Raises ValueError where nothing is left to train."""
        ids, trained = self._chat(text) if text.is_chat else self._plain(text)
        tokens = Tokens(tuple(ids), tuple(trained))
        if not tokens.size:
            raise ValueError("the response has no token: it is empty after tokenization")
        return tokens

    def cut(self, tokens: Tokens) -> Tokens | None:
        """The tokens within ``max_length``; None where the record is to be left out. Raises ValueError under ``error``."""
        limit, length = self.max_length, len(tokens.ids)
        if limit is None or length <= limit:
            return tokens
        if self.truncation == "error":
            raise ValueError(
                f"{length} tokens are more than max_length {limit}: raise max_length, or say what to do with truncation "
                "(keep_start cuts off the end of the response, keep_end the beginning of the prompt, drop leaves the record out)"
            )
        kept = slice(0, limit) if self.truncation == "keep_start" else slice(length - limit, length)
        cut = Tokens(tokens.ids[kept], tokens.trained[kept])
        return None if self.truncation == "drop" or not cut.size else cut

    def _plain(self, text: Text) -> tuple[list[int], list[bool]]:
        end = self.tokenizer.eos_token_id
        prompt, whole = self.prompt(text.prompt), self.tokenizer(text.prompt + text.response)["input_ids"]
        response = self._beyond(prompt, whole, text.response)
        if response[-1:] != [end]:
            response = [*response, end]
        return [*prompt, *response], [False] * len(prompt) + [True] * len(response)

    def _chat(self, text: Text) -> tuple[list[int], list[bool]]:
        so_far, written = self._render(text.prompt, True), list(text.prompt)
        ids = self._ids(so_far)
        trained = [False] * len(ids)
        for turn in text.response:
            if turn["role"] == ASSISTANT and (header := self._render(written, True)) != so_far:  # after a user's or a tool's turn
                ids, trained, so_far = self._append(ids, trained, so_far, header, False)
            written.append(turn)
            if turn["role"] == ASSISTANT:
                ids, trained, so_far = self._append(ids, trained, so_far, self._render(written, False), True)
        return ids, trained

    def _append(self, ids, trained, before: str, after: str, train: bool) -> tuple[list[int], list[bool], str]:
        """What the template wrote beyond ``before``. ValueError for a template that rewrites what it wrote."""
        if not after.startswith(before):
            raise ValueError(
                f"the chat template of {self.name} writes a prompt differently once its answer follows, so no token can be told to be the "
                f"answer's; it parts after {_shared(before, after)[-40:]!r}"
            )
        new = self._beyond(ids, self._ids(after), after[len(before) :])
        return [*ids, *new], [*trained, *[train] * len(new)], after

    def _beyond(self, prompt: list[int], whole: list[int], rest: str) -> list[int]:
        if whole[: len(prompt)] == prompt:
            return whole[len(prompt) :]
        self.merged += 1
        return self._ids(rest)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _render(self, turns, header: bool) -> str:
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"the data holds chats and the tokenizer of {self.name} has no chat template: give one (chat_template), or plain text"
            )
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=header)
        except TemplateError as error:  # what a template itself refuses, such as roles that do not alternate
            raise ValueError(f"the chat template of {self.name} refuses the turns {', '.join(t['role'] for t in turns)}: {error}") from None


def set_chat_template(tokenizer, file: str) -> None:
    """Give the tokenizer the template of a jinja file. Raises ValueError where it cannot be read."""
    try:
        tokenizer.chat_template = Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"chat_template is {file!r}, which cannot be read: {error}") from None


def _shared(one: str, other: str) -> str:
    count = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:count]
