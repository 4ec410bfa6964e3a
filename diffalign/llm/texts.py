"""A response with the prompt it answers, as plain text or as the turns of a chat: what records of text hold in place of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffalign.data import Sample, content_key

Turns = tuple[Mapping[str, str], ...]
ASSISTANT = "assistant"


@dataclass(frozen=True)
class Text(Sample):
    """``response`` to ``prompt``, both plain text or both turns ``{"role": ..., "content": ...}`` of one chat.

    Raises:
        ValueError: an empty response; a chat without a prompt, or whose response does not end with an assistant's turn; a turn without
            role or content; one side plain and the other a chat.
    """

    prompt: str | Turns
    response: str | Turns

    def __post_init__(self):
        if isinstance(self.prompt, str) != isinstance(self.response, str):
            plain, chat = ("prompt", "response") if isinstance(self.prompt, str) else ("response", "prompt")
            raise ValueError(f"the {plain} is plain text and the {chat} a chat: give both in one form")
        if isinstance(self.response, str):
            if not self.response.strip():
                raise ValueError(f"the response is {self.response!r}: an empty response has no token to learn from")
            return
        for name in ("prompt", "response"):
            object.__setattr__(self, name, turns(getattr(self, name)))
        if not self.prompt:
            raise ValueError("the chat has no turn before its response: give the turns it answers as the prompt")
        if not self.response or self.response[-1]["role"] != ASSISTANT:
            roles = ", ".join(turn["role"] for turn in (*self.prompt, *self.response)) or "no turns"
            raise ValueError(f"the chat has no assistant turn at its end (its roles are {roles}): there is no response to learn from")
        if not self.response[-1]["content"].strip():
            raise ValueError("the last assistant turn of the chat is empty: an empty response has no token to learn from")

    @property
    def is_chat(self) -> bool:
        return not isinstance(self.response, str)

    @property
    def digest(self) -> str:
        """What the ids of records are made of."""
        return content_key("text", _frozen(self.prompt), _frozen(self.response))

    @property
    def shown(self) -> str:
        """The prompt for people and for the held-out split: plain text, of a chat the contents of its turns."""
        return self.prompt if isinstance(self.prompt, str) else "\n".join(turn["content"] for turn in self.prompt)


def turns(value: Sequence[Mapping[str, str]]) -> Turns:
    """The turns of a chat with the fields we read. ValueError for anything else."""
    if isinstance(value, str) or not all(isinstance(turn, Mapping) and isinstance(turn.get("role"), str) for turn in value):
        raise ValueError(f'a chat is a list of turns {{"role": ..., "content": ...}}; got {str(value)[:80]!r}')
    kept = []
    for turn in value:
        content = turn.get("content")
        if not isinstance(content, str):
            raise ValueError(f"the content of a turn of role {turn['role']} is {str(content)[:60]!r}; it must be text")
        kept.append({"role": turn["role"], "content": content})
    return tuple(kept)


def split_off_prompt(chosen: str | Turns, rejected: str | Turns) -> tuple[str | Turns, str | Turns, str | Turns]:
    """(prompt, chosen, rejected) where both responses were written with the prompt they share in front.

    Of chats the turns before the first that differs. Of plain text the characters both begin with, back to the last white space before
    they part, which goes to the responses, so that no word is cut.
    *Deviates:* TRL goes back to white space only where it is the very last character that the two share.

    Raises:
        ValueError: the two are the same, or one is all of the other.
    """
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError("chosen is plain text and rejected a chat, or the other way round: give both in one form")
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same: there is nothing to prefer")
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        shared += 1
    if isinstance(chosen, str):
        while shared and not chosen[shared - 1].isspace():
            shared -= 1
        shared = len(chosen[:shared].rstrip())
    prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if not chosen or not rejected:
        raise ValueError("one of chosen and rejected is the beginning of the other, so where the prompt ends is not told: give a prompt")
    return prompt, chosen, rejected


def _frozen(value: str | Turns) -> str | tuple:
    return value if isinstance(value, str) else tuple((turn["role"], turn["content"]) for turn in value)
