"""``builtin:shapes`` and ``builtin:shapes-flow``: tiny, really trained text-to-image models, with their world and its judge.

scenes    captions, drawing, and the split into train, dev and test prompts
judge     prompt fidelity measured from the pixels
recipe    how the model in ``assets/model`` was trained (SDXL's format); recipe_flow: the transformer in ``assets/flow`` (SD3's)
assets    the models (diffusers folders) and ``pairs.parquet``, preference pairs of builtin:shapes' own samples, labelled by the judge
"""

from importlib.resources import files
from pathlib import Path

ASSETS = Path(str(files(__name__) / "assets"))
MODEL, PAIRS = ASSETS / "model", ASSETS / "pairs.parquet"
SAMPLING = {  # how pictures of a model are drawn to be judged
    "builtin:shapes": {"num_inference_steps": 8, "guidance_scale": 1.5},
    "builtin:shapes-flow": {"num_inference_steps": 8, "guidance_scale": 1.5},
}
