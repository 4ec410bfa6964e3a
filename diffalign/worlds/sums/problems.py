"""Problems of the sums world: two numbers to add, how they are worked digit by digit, and the mistakes a careless pupil makes.

    3847+5926=          the prompt
    7+6+0=13;4+2+1=07;8+9+0=17;3+5+1=09;9773          the worked answer: units first, "digit+digit+carry=two digits", then the sum

Numbers have four digits, so every problem has four steps and a sum of four or five digits.
"""

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

DIGITS = 4
LOW, HIGH = 10 ** (DIGITS - 1), 10**DIGITS  # numbers are in [LOW, HIGH)
PROMPT = re.compile(rf"([1-9]\d{{{DIGITS - 1}}})\+([1-9]\d{{{DIGITS - 1}}})=")
LENGTH = DIGITS * len("7+6+0=13;") + DIGITS + 1  # characters of the longest worked answer


@dataclass(frozen=True)
class Problem:
    a: int
    b: int

    @property
    def prompt(self) -> str:
        return f"{self.a}+{self.b}="

    @property
    def split(self) -> str:
        """``train``, ``dev`` (4 %: settings are chosen here) or ``test`` (4 %: results are reported here), by a hash of the two numbers,
        the same for a+b and b+a, so that no problem of one split is a problem of another turned round."""
        key = f"{min(self.a, self.b)}+{max(self.a, self.b)}"
        bucket = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100
        return "test" if bucket < 4 else "dev" if bucket < 8 else "train"


def parse(prompt: str) -> Problem:
    """The problem of a prompt. Raises ValueError when the prompt is not of the one fixed form."""
    found = PROMPT.fullmatch(prompt)
    if found is None:
        raise ValueError(f"not a prompt of the sums world: {prompt!r}; expected two numbers of {DIGITS} digits, such as '3847+5926='")
    return Problem(int(found[1]), int(found[2]))


def random_problem(rng: random.Random, split: str | None = None) -> Problem:
    """A problem drawn uniformly, or uniformly within one split."""
    while True:
        problem = Problem(rng.randrange(LOW, HIGH), rng.randrange(LOW, HIGH))
        if split is None or problem.split == split:
            return problem


def prompts(split: str, count: int, seed: int = 0) -> list[str]:
    """``count`` different prompts of one split, the same for the same seed."""
    rng, found = random.Random(f"{split}/{seed}"), {}
    while len(found) < count:
        found[random_problem(rng, split).prompt] = None
    return list(found)


def worked(problem: Problem, rng: random.Random | None = None, mistakes: Mapping[str, float] | None = None) -> str:
    """The worked answer; with ``mistakes``, a pupil's, where each kind happens independently with its rate (0 for a kind not named):

    carry   a carry of 1 is forgotten: the step is written with +0
    nine    the same, in place of ``carry``, where the two digits make 9 and the carry would have to be handed on
    slip    the sum of a step is one too large or one too small
    swap    two neighbouring digits of the final sum are exchanged

    A mistake is carried on: later steps and the final sum follow from what was written.
    """
    rates = mistakes or {}

    def happens(kind: str) -> bool:
        return kind in rates and rng.random() < rates[kind]

    steps, places, carry = [], [], 0
    for left, right in zip(reversed(str(problem.a)), reversed(str(problem.b)), strict=True):
        digits = int(left) + int(right)
        if carry and happens("nine" if digits == 9 else "carry"):
            carry = 0
        total = digits + carry
        if happens("slip"):
            total = min(max(total + rng.choice((-1, 1)), 0), 19)
        steps.append(f"{left}+{right}+{carry}={total:02d}")
        places.append(str(total % 10))
        carry = total // 10
    digits = [*(["1"] if carry else []), *reversed(places)]
    if happens("swap"):
        i = rng.randrange(len(digits) - 1)
        digits[i : i + 2] = digits[i + 1], digits[i]
    return ";".join([*steps, "".join(digits)])
