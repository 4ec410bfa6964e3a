"""``builtin:shapes``: a tiny, really trained text-to-image model in the SDXL pipeline format, with its world and its judge.

scenes    captions, drawing, and the split into train, dev and test prompts
judge     prompt fidelity measured from the pixels
recipe    how the model in ``assets/model`` was trained
assets    the model (diffusers folder) and ``pairs.parquet``, on-policy preference pairs labelled by the judge
"""

from importlib.resources import files
from pathlib import Path

ASSETS = Path(str(files(__name__) / "assets"))
MODEL, PAIRS = ASSETS / "model", ASSETS / "pairs.parquet"
