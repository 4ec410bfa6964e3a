"""diffalign: align generative models with preferences."""

from pathlib import Path

# In a checkout rewards/, eval/ and pipelines/ lie beside this folder; in a wheel they lie inside it.
_here = Path(__file__).resolve().parent
if not (_here / "rewards").is_dir():
    __path__.append(str(_here.parent))

__version__ = "0.1.0"
