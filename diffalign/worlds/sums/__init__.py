"""``builtin:sums``: a tiny, really trained language model that adds two numbers step by step and makes mistakes, with its judge.

problems  prompts, worked answers, mistakes, and the split into train, dev and test problems
judge     whether an answer is right
recipe    how the model in ``assets/model`` was trained
assets    the model (transformers folder) and ``pairs.jsonl``, on-policy preference pairs, right against wrong
"""

from importlib.resources import files
from pathlib import Path

ASSETS = Path(str(files(__name__) / "assets"))
MODEL, PAIRS = ASSETS / "model", ASSETS / "pairs.jsonl"
