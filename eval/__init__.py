"""Evaluation: pictures of prompts, who wins and how sure that is, and a page that shows it."""

from diffalign.eval.pictures.generate import generate
from diffalign.eval.stats.compare import WinRate, compare, mean_ci

__all__ = ["WinRate", "compare", "generate", "mean_ci"]
