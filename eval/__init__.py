"""Evaluation: pictures of prompts, who wins and how sure that is, and a page that shows it."""

from diffalign.eval.compare import WinRate, compare, mean_ci
from diffalign.eval.generate import generate

__all__ = ["WinRate", "compare", "generate", "mean_ci"]
