"""A vision-language model as a judge, behind any endpoint that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp, a service."""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffalign.rewards import images as pictures
from diffalign.rewards import templates
from diffalign.rewards.base import Reward
from diffalign.rewards.http import call

NUMBER = r"([+-]?\d+(?:\.\d+)?)"
LINE = r"^[\s*#]*{}:[\s*]*" + NUMBER + r"[\s*.]*$"  # alone on its line but for markdown's marks
DIMENSIONS = ("Alignment", "Coherence", "Style")
JPEG_QUALITY = 95  # UnifiedReward's


def number(pattern: str, low: float = -math.inf, high: float = math.inf) -> Callable[[str], float]:
    """Reads the number that the last match of ``pattern`` has in its group, NaN where there is none in [low, high]."""
    compiled = re.compile(pattern, re.MULTILINE)

    def read(answer: str) -> float:
        matches = list(compiled.finditer(answer))
        try:
            found = float(matches[-1].group(1)) if matches else math.nan
        except (TypeError, ValueError):
            return math.nan
        return found if low <= found <= high else math.nan

    return read


def three_scores(answer: str) -> float:
    """UnifiedReward 2.0's three lines, "Alignment Score (1-5): X" and so on: their mean, NaN unless all three are there."""
    return sum(number(LINE.format(rf"{name} Score \(1-5\)"), 1, 5)(answer) for name in DIMENSIONS) / 3


def three_shares(answer: str) -> float:
    """UnifiedReward 2.0's pairs, three times " Image 1: X" and " Image 2: Y" with X + Y = 1: the mean of the X, NaN unless it is so."""
    shares = []
    for name in DIMENSIONS:
        found = re.findall(rf"^[\s*#]*{name} Score:\s*Image 1:\s*{NUMBER}\s*Image 2:\s*{NUMBER}\s*$", answer, re.MULTILINE)
        first, second = map(float, found[-1]) if found else (math.nan, math.nan)
        shares.append(first if 0 <= first <= 1 and abs(first + second - 1) < 0.01 else math.nan)
    return sum(shares) / 3


def verdict(pattern: str) -> Callable[[str], float]:
    """Reads which image is better from the last match of ``pattern``, by the name of its group: 1 for ``first``, 0 for ``second``, 1/2
    for ``tie``; NaN where there is none."""
    compiled = re.compile(pattern, re.MULTILINE | re.IGNORECASE)

    def read(answer: str) -> float:
        matches = list(compiled.finditer(answer))
        return {"first": 1.0, "second": 0.0, "tie": 0.5}[str(matches[-1].lastgroup)] if matches else math.nan

    return read


@dataclass(frozen=True)
class Form:
    """How answers are read: ``point``, the score of one image; ``pair``, how much the first of two is preferred, in [0, 1].

    ``marker``: what the published questions hold, and ``source``, where they are; "" where the words are ours.
    """

    point: Callable[[str], float]
    pair: Callable[[str], float]
    marker: str = ""
    source: str = ""


FORMS = {
    "plain": Form(
        number(LINE.format("Score").replace(r"[\s*.]*$", r"(?:\s*/\s*10)?[\s*.]*$"), 0, 10),
        verdict(r"^[\s*#]*Better:[\s*]*(?:(?P<first>1)|(?P<second>2)|(?P<tie>tie))[\s*.]*$"),
    ),
    "unifiedreward": Form(
        number(LINE.format("Final Score"), 1, 5),
        verdict(
            r"(?:(?P<first>Image 1 is better)(?: than Image 2)?|(?P<second>Image 2 is better)(?: than Image 1)?"
            r"|(?P<tie>Both images are equally good))[\s*\"']*(?:[.!]|$)"
        ),
        "Text Caption: [",
        "CodeGoat24/UnifiedReward, inference_qwen/image_generation: qwen_point_score_image_generation.py, "
        "qwen_pair_rank_image_generation.py",
    ),
    "unifiedreward-2": Form(
        three_scores,
        three_shares,
        "Text Caption: [",
        "CodeGoat24/UnifiedReward, inference_qwen/UnifiedReward-2.0-inference: point_score_ACS_image_generation.py, "
        "pair_score_image_generation.py",
    ),
}


class VLMJudge(Reward):
    """score = the number in the model's answer to a question about the image and its caption; NaN where it gives none, asked twice.

    ``preference`` compares two images. Greedy answers (temperature 0); a served model may still answer differently from one batch to the
    next, which is out of our hands. ``state`` has the address and the model's name there, not the hash of its weights, which no endpoint
    tells.
    """

    packages = ("pillow",)

    def __init__(
        self, name: str, ask: Callable[[list[str], str], str], reading: Form, point: str, pair: str, size: int | None, parallel: int,
        **facts: Any,
    ):  # fmt: skip
        super().__init__(name, point=point, pair=pair, size=size, jpeg_quality=JPEG_QUALITY, **facts)
        self.ask, self.reading, self.point, self.pair, self.size, self.parallel = ask, reading, point, pair, size, parallel
        self.batch_size = parallel

    def prepare(self, decoded: Image.Image) -> str:
        """The image as it travels: RGB, resized to a square where ``size`` is given, JPEG, base64."""
        image = pictures.to_rgb(decoded)
        image = image if self.size is None else image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=JPEG_QUALITY)
        return base64.b64encode(buffer.getvalue()).decode()

    def collate(self, prepared: list[str]) -> list[str]:
        return prepared

    def measure(self, batch: list[str], prompts: list[str]) -> Tensor:
        if not self.point:
            raise ValueError(self._lacks("template", "scores an image"))
        requests = [([image], templates.fill(self.point, prompt)) for image, prompt in zip(batch, prompts, strict=True)]
        return self._answers(requests, self.reading.point)

    def preference(self, first: Any, second: Any, prompts: Any) -> Tensor:
        """(N,): how much the first image of each pair is preferred, in [0, 1]: ``1/2 (p(first, second) + 1 - p(second, first))``.

        Both orders are asked, because such judges favour a place. NaN where one of the two answers cannot be read.
        Args and errors as ``score``: ``first`` and ``second`` are as many images, ``prompts`` as many captions or one for all.
        """
        if not self.pair:
            raise ValueError(self._lacks("pair_template", "compares two images"))
        first, prompts = self._paired(first, prompts)
        second, _ = self._paired(second, prompts)
        first, second = ([self.prepare(self.read(sample)) for sample in side] for side in (first, second))
        questions = [templates.fill(self.pair, prompt) for prompt in prompts]
        there = self._answers([([a, b], text) for a, b, text in zip(first, second, questions, strict=True)], self.reading.pair)
        back = self._answers([([b, a], text) for a, b, text in zip(first, second, questions, strict=True)], self.reading.pair)
        return (there + 1 - back) / 2

    def _answers(self, requests: list[tuple[list[str], str]], read: Callable[[str], float]) -> Tensor:
        def once_or_twice(request: tuple[list[str], str]) -> float:
            found = read(self.ask(*request))
            return read(self.ask(*request)) if math.isnan(found) else found

        with ThreadPoolExecutor(self.parallel) as pool:
            return torch.tensor(list(pool.map(once_or_twice, requests)))

    def _lacks(self, option: str, what: str) -> str:
        where = f"; the published one is in {self.reading.source}" if self.reading.source else ""
        return f"reward '{self.name}' has no question that {what}: give {option}=, its words or the file they are in{where}"


def load(
    name: str, *, weights: str | None, config: Any, device: str | torch.device, dtype: torch.dtype, url: str, model: str,
    form: str = "plain", template: str | None = None, pair_template: str | None = None, pattern: str | None = None,
    size: int | None = None, max_tokens: int = 512, parallel: int = 8, timeout: float = 120.0, key_variable: str = "OPENAI_API_KEY",
) -> VLMJudge:  # fmt: skip
    """A judge behind ``url``, such as http://127.0.0.1:8000/v1, where the endpoint calls it ``model``.

    ``vlm`` asks in our own words and reads "Score: N", 0 to 10. ``unifiedreward`` (1 to 5) and ``unifiedreward-2`` (three dimensions, 1 to
    5, their mean) read the published formats; the published questions are not shipped: point ``template`` and ``pair_template`` to them.

    Args:
        template, pair_template: of ``templates.template``; about one image, and about two.
        pattern: a regular expression with one group, the score in the answer, instead of the form's; multiline, the last match counts.
        size: images are squeezed into a square of that many pixels (flow_grpo: 512); else sent as they are.
        max_tokens: of an answer. parallel: requests at a time. timeout: seconds an answer may take.
        key_variable: the environment variable that holds the endpoint's key, where it wants one.
    Sources: CodeGoat24/UnifiedReward (arXiv:2503.05236) for its two forms.
    Errors: ValueError for an unknown form, a pattern without a group; ConnectionError where nobody answers; ValueError with the endpoint's
        own words where it refuses.

    The caption goes out whole. Where it is longer than the served model's context, vLLM and llama.cpp refuse the request, and their words
    are the error; a server that cuts by itself does so without telling us.

    *Deviates:* an answer that cannot be read is NaN, where flow_grpo scores it 0. Pairs are always asked in both orders.
    """
    if weights is not None or config is not None:
        raise ValueError(f"reward '{name}': weights and config are those of the model that is served")
    if form not in FORMS:
        raise ValueError(f"reward '{name}': form is '{form}'; allowed are {', '.join(FORMS)}")
    chosen = FORMS[form]
    if pattern is not None:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"reward '{name}': pattern '{pattern}' is no regular expression ({error})") from error
        if groups != 1:
            raise ValueError(f"reward '{name}': pattern '{pattern}' has {groups} groups; it needs one, the score")
        chosen = Form(number(pattern), chosen.pair, chosen.marker, chosen.source)
    words = [templates.template(name, given, chosen.marker) if given else "" for given in (template, pair_template)]
    if form == "plain":
        words = [given or own for given, own in zip(words, (templates.POINT, templates.PAIR), strict=True)]
    address = f"{url.rstrip('/')}/chat/completions"
    key = os.environ.get(key_variable)
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(images: list[str], question: str) -> str:
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{image}"}} for image in images]
        message = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
        body = {"model": model, "messages": [message], "temperature": 0, "max_tokens": max_tokens}
        answer = call(address, body, headers=headers, timeout=timeout)
        try:
            return answer["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{address} answered without choices[0].message.content: {str(answer)[:200]}") from error

    return VLMJudge(
        name, ask, chosen, *words, size, parallel, url=url, model=model, form=form, pattern=pattern, max_tokens=max_tokens,
    )  # fmt: skip
