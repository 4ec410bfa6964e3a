"""Real image files for the tests of diffalign.data."""

import io
from pathlib import Path

from PIL import Image as PILImage

SHARED_IMAGES = Path(__file__).parents[2] / "shared" / "data" / "images"  # beside a checkout that has them
if not SHARED_IMAGES.is_dir():
    SHARED_IMAGES = Path(__file__).parents[3] / "shared" / "data" / "images"


def encoded(color, size=(8, 6), format="PNG", mode="RGB", **options) -> bytes:
    """One flat image, encoded; ``size`` is (height, width)."""
    buffer = io.BytesIO()
    PILImage.new(mode, (size[1], size[0]), color).save(buffer, format, **options)
    return buffer.getvalue()


def write(path: Path, color, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(color, **options))
    return path


def ramp(height: int, width: int) -> PILImage.Image:
    """Red is the column, green is the row: a crop can be read off its corner."""
    image = PILImage.new("RGB", (width, height))
    image.putdata([(x, y, 0) for y in range(height) for x in range(width)])
    return image
