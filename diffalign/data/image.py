"""A reference to an image: a path or the encoded bytes. Pixels exist only while somebody looks at them."""

import hashlib
import io
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from PIL import ImageOps

EXIF_ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
SMALLEST_SIDE, LONGEST_SHAPE = 4, 32  # pixels, and sides' ratio: what is smaller or longer is a broken download, or would become huge
REMOVE = "Replace or remove it, or skip such rows (on_bad='skip'; of a run, --on-bad-data skip)"
WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


class Sample:
    """What people compare, as records hold it: an image here, a text in ``diffalign.llm``. ``digest`` names its content."""

    digest: str


@dataclass(frozen=True)
class Image(Sample):
    """One encoded image, by path or by bytes (exactly one of the two).

    ``name`` is what errors call it; by default the path. Two images are equal when path and bytes are.
    """

    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    name: str = field(default="", compare=False)

    def __post_init__(self):
        if (self.path is None) == (self.data is None):
            raise ValueError("Image: give either a path or the encoded bytes, not both and not neither.")
        if self.path is not None:
            object.__setattr__(self, "path", Path(self.path))
        object.__setattr__(self, "name", self.name or (str(self.path) if self.data is None else f"<{len(self.data)} bytes>"))

    @classmethod
    def of(cls, value: "Sample | str | Path | bytes") -> Sample:
        """``value`` as an Image: an Image (or another sample) as it is, text and Path as a path, bytes as encoded bytes."""
        if isinstance(value, Sample):
            return value
        if isinstance(value, (str, Path)):
            return cls(path=Path(value))
        if isinstance(value, bytes):
            return cls(data=value)
        raise ValueError(f"Image: got a {type(value).__name__}; allowed are a path, encoded bytes (PNG, JPEG, WebP ...) or an Image.")

    def read(self) -> bytes:
        """The encoded bytes. ValueError when the file cannot be read."""
        if self.data is not None:
            return self.data
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise ValueError(f"{self.name}: the image file cannot be read ({error.strerror or error}).") from error

    @cached_property
    def digest(self) -> str:
        """sha256 of the encoded bytes, hexadecimal."""
        return hashlib.sha256(self.read()).hexdigest()

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels as ``load`` will give them; reads the header only. ValueError when it is not an image."""
        with self._opened() as image:
            try:
                sideways = _has_exif(image) and image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS
            except Exception as error:  # a broken EXIF block is as unreadable as broken pixels, whatever the parser raised
                raise self._unreadable(error) from error
            return (image.width, image.height) if sideways else (image.height, image.width)

    def check(self, decode: bool = False) -> None:
        """Raise ValueError unless the header (with ``decode`` the whole picture) can be read, and the sides are those of a picture."""
        height, width = self.size
        short, long = sorted((height, width))
        if short < SMALLEST_SIDE or long > LONGEST_SHAPE * short:
            raise ValueError(
                f"{self.name}: {height} x {width} pixels; a picture has at least {SMALLEST_SIDE} on each side, and its longer side is at "
                f"most {LONGEST_SHAPE} times the shorter. {REMOVE}."
            )
        if decode:
            self.load()

    def load(self) -> PILImage.Image:
        """The picture as a person would see it, mode RGB: EXIF orientation applied, transparency on white, 16 bits scaled to 8.

        Of an animation, the first frame. ValueError, naming the image, when it is unreadable, truncated or of a float mode.
        """
        with self._opened() as image:
            try:
                return _to_rgb(ImageOps.exif_transpose(image) if _has_exif(image) else image)
            except Exception as error:  # decoders raise OSError, SyntaxError, struct.error ... on broken data
                raise self._unreadable(error) from error

    def _opened(self) -> PILImage.Image:
        source = self.path if self.data is None else io.BytesIO(self.data)
        try:
            return PILImage.open(source)
        except Exception as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> ValueError:
        return ValueError(f"{self.name}: not a readable image ({error}). {REMOVE}.")


def _has_exif(image: PILImage.Image) -> bool:
    """Whether the header may state an orientation. A PNG without EXIF there would decode itself when asked for it."""
    return image.format != "PNG" or "exif" in image.info or "Raw profile type exif" in image.info


def _to_rgb(image: PILImage.Image) -> PILImage.Image:
    if image.mode.startswith("I"):  # I;16, I;16B, I;16L, and I for 16-bit files in older Pillow
        return _from_16_bits(image)
    if image.mode == "F":
        raise ValueError("a float image has no agreed white; save it with 8 or 16 bits per channel")
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = PILImage.new("RGBA", rgba.size, (255, 255, 255, 255))
        return PILImage.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")  # CMYK by its plain formula; colour profiles are not applied, as nowhere in diffusers


def _from_16_bits(image: PILImage.Image) -> PILImage.Image:
    """Grey values 0..65535 to 0..255 (Pillow's own convert clips everything above 255 to white)."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"grey values from {values.min()} to {values.max()}; allowed are 0 to 65535")
    return PILImage.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
