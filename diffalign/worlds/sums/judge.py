"""Whether a worked answer is right. Nothing is learned: the sum is computed and compared."""

import re

import torch

from diffalign.worlds.sums import problems

FORM = re.compile(rf"(?:\d\+\d\+[01]=\d\d;){{{problems.DIGITS}}}\d+")


def score(answers: list[str], prompts: list[str]) -> torch.Tensor:
    """1 where what follows the last ";" is the sum, else 0.

    Args:
        answers: N responses, without the prompt and without special tokens.
        prompts: N prompts of the sums world.

    Returns:
        (N,) float32.

    Raises:
        ValueError: a prompt is not of this world, or answers and prompts do not match.
    """
    return facets(answers, prompts)["sum"]


def facets(answers: list[str], prompts: list[str]) -> dict[str, torch.Tensor]:
    """Name -> (N,) float32 of zeros and ones: ``sum``, the final number is the sum; ``steps``, every step is as it should be;
    ``form``, the answer is of the form that was taught, right or wrong."""
    if len(answers) != len(prompts):
        raise ValueError(f"{len(answers)} answers for {len(prompts)} prompts: give one of each")
    wanted = [problems.parse(prompt) for prompt in prompts]
    right = [problems.worked(problem) for problem in wanted]
    found = {
        "sum": [answer.rpartition(";")[2] == str(problem.a + problem.b) for answer, problem in zip(answers, wanted, strict=True)],
        "steps": [answer.rpartition(";")[0] == good.rpartition(";")[0] for answer, good in zip(answers, right, strict=True)],
        "form": [FORM.fullmatch(answer) is not None for answer in answers],
    }
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in found.items()}
