"""What people (or a reward) said, with the images it was said about: a pair, a label, a ranking. Every record has ``images`` and, one for
each, ``captions``; and it may have a ``mask``, an image over all of its images: white counts, black does not, gray in proportion.

Readers translate every format into these three; nothing downstream knows about ``jpg_0``. An ``id`` of None becomes the content hash of
the prompt and the images in their roles, so it does not depend on the row's place in a file, on column order or on file names.
"""

import math
from dataclasses import dataclass

from diffalign.data.image import Image
from diffalign.data.keys import content_key


@dataclass(frozen=True)
class Pair:
    """For ``prompt``, ``chosen`` is preferred to ``rejected``.

    prompt_chosen, prompt_rejected   a caption of its own for a side (Dual Caption Preference Optimization); None: ``prompt``
    probability   that the preference is right, in [0, 1]; 0.5 is a tie
    weight        of the pair in the loss, >= 0
    margin        by which the chosen image should win, in units of the objective's margin, finite
    scores        (chosen, rejected) as a reward gave them, higher is better
    source        the source image of an edit
    mask          the region that counts, of both images
    origin        where the pair came from (a file and row, a model), for messages
    """

    id: str | None
    prompt: str
    chosen: Image
    rejected: Image
    prompt_chosen: str | None = None
    prompt_rejected: str | None = None
    probability: float = 1.0
    weight: float = 1.0
    margin: float = 0.0
    scores: tuple[float, float] | None = None
    source: Image | None = None
    mask: Image | None = None
    origin: str | None = None

    def __post_init__(self):
        _require_text("Pair", "prompt", self.prompt)
        for name, text in (("prompt_chosen", self.prompt_chosen), ("prompt_rejected", self.prompt_rejected)):
            if text is not None:
                _require_text("Pair", name, text)
        _set(self, "chosen", Image.of(self.chosen))
        _set(self, "rejected", Image.of(self.rejected))
        for name, image in (("source", self.source), ("mask", self.mask)):
            if image is not None:
                _set(self, name, Image.of(image))
        _require_number("Pair", "probability", self.probability, 0.0, 1.0)
        _require_number("Pair", "weight", self.weight, 0.0, math.inf)
        _require_number("Pair", "margin", self.margin, -math.inf, math.inf)
        if self.scores is not None:
            _set(self, "scores", _numbers("Pair", "scores", self.scores, 2))
        if self.id is None:
            sides = (self.prompt_chosen, self.prompt_rejected)
            images = [image and image.digest for image in (self.chosen, self.rejected, self.source, self.mask)]
            _set(self, "id", content_key("pair", self.prompt, *sides, *images))

    @property
    def is_tie(self) -> bool:
        return self.probability == 0.5

    @property
    def images(self) -> tuple[Image, ...]:
        return self.chosen, self.rejected

    @property
    def captions(self) -> tuple[str, ...]:
        """Each side's own caption, where it has one."""
        return self.prompt_chosen or self.prompt, self.prompt_rejected or self.prompt


@dataclass(frozen=True)
class Label:
    """For ``prompt``, ``sample`` is good (label True) or bad (False): a thumb up or down, unpaired. ``weight`` >= 0."""

    id: str | None
    prompt: str
    sample: Image
    label: bool
    weight: float = 1.0
    mask: Image | None = None
    origin: str | None = None

    def __post_init__(self):
        _require_text("Label", "prompt", self.prompt)
        _set(self, "sample", Image.of(self.sample))
        if not isinstance(self.label, bool):
            raise ValueError(f"Label: label is {self.label!r}; allowed are True (good) and False (bad).")
        _require_number("Label", "weight", self.weight, 0.0, math.inf)
        masked = _mask(self)
        if self.id is None:
            _set(self, "id", content_key("label", self.prompt, self.sample.digest, *masked))

    @property
    def images(self) -> tuple[Image, ...]:
        return (self.sample,)

    @property
    def captions(self) -> tuple[str, ...]:
        return (self.prompt,)


@dataclass(frozen=True)
class Ranking:
    """For ``prompt``, two or more samples in an order: ``ranks`` (1 is best, equal is a tie), ``scores`` (higher is better), or both."""

    id: str | None
    prompt: str
    samples: tuple[Image, ...]
    ranks: tuple[int, ...] | None = None
    scores: tuple[float, ...] | None = None
    weight: float = 1.0
    mask: Image | None = None
    origin: str | None = None

    def __post_init__(self):
        _require_text("Ranking", "prompt", self.prompt)
        _set(self, "samples", tuple(Image.of(sample) for sample in self.samples))
        count = len(self.samples)
        if count < 2:
            raise ValueError(f"Ranking: {count} samples; a ranking needs at least 2.")
        if self.ranks is None and self.scores is None:
            raise ValueError("Ranking: neither ranks nor scores; give one of them, or both.")
        if self.ranks is not None:
            ranks = _numbers("Ranking", "ranks", self.ranks, count)
            if any(rank < 1 or rank != int(rank) for rank in ranks):
                raise ValueError(f"Ranking: ranks are {self.ranks!r}; allowed are whole numbers from 1 (best).")
            _set(self, "ranks", tuple(int(rank) for rank in ranks))
        if self.scores is not None:
            _set(self, "scores", _numbers("Ranking", "scores", self.scores, count))
        _require_number("Ranking", "weight", self.weight, 0.0, math.inf)
        masked = _mask(self)
        if self.id is None:
            _set(self, "id", content_key("ranking", self.prompt, *(sample.digest for sample in self.samples), *masked))

    @property
    def images(self) -> tuple[Image, ...]:
        return self.samples

    @property
    def captions(self) -> tuple[str, ...]:
        return (self.prompt,) * len(self.samples)


Record = Pair | Label | Ranking


def _set(record: Record, name: str, value):
    object.__setattr__(record, name, value)


def _mask(record: Record) -> tuple[str, ...]:
    """The mask made an Image, and what it adds to the content that an id names."""
    if record.mask is None:
        return ()
    _set(record, "mask", Image.of(record.mask))
    return "mask", record.mask.digest


def _require_text(kind: str, name: str, value):
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{kind}: {name} is {value!r}; it must be text that is not empty.")


def _require_number(kind: str, name: str, value, low: float, high: float):
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{kind}: {name} is {value!r}; allowed is a finite number from {low:g} to {high:g}.")


def _numbers(kind: str, name: str, values, count: int) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)) or len(values) != count:
        raise ValueError(f"{kind}: {name} is {values!r}; it must be {count} numbers, one for each image.")
    for value in values:
        _require_number(kind, name, value, -math.inf, math.inf)
    return tuple(float(value) for value in values)
