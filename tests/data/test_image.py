"""Image: every encoding a person may have on disk becomes the RGB picture that person sees."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image as PILImage

from diffalign.data import Image
from tests.data.files import SHARED_IMAGES, encoded, ramp, write


def corner(image: Image) -> tuple:
    return image.load().getpixel((0, 0))


def test_path_and_bytes_are_the_same_image(tmp_path):
    path = write(tmp_path / "a.png", (10, 20, 30))
    by_path, by_bytes = Image.of(str(path)), Image.of(path.read_bytes())
    assert corner(by_path) == corner(by_bytes) == (10, 20, 30)
    assert by_path.digest == by_bytes.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert by_path.size == by_bytes.size == (8, 6)
    assert "data" not in repr(by_bytes)


def test_neither_or_both_is_refused():
    with pytest.raises(ValueError, match="either a path or the encoded bytes"):
        Image()
    with pytest.raises(ValueError, match="got a int"):
        Image.of(3)


def test_exif_orientation_turns_pixels_and_size():
    """Orientation 6 means: turn 90 degrees clockwise to view. The stored left column, bottom to top, becomes the top row."""
    exif = PILImage.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    ramp(4, 10).save(buffer, "PNG", exif=exif)
    image = Image.of(buffer.getvalue())
    assert image.size == (10, 4)
    loaded = image.load()
    assert loaded.size == (4, 10)
    assert loaded.getpixel((0, 0)) == (0, 3, 0)  # was column 0, row 3
    assert loaded.getpixel((3, 9)) == (9, 0, 0)


def test_size_reads_the_header_only():
    """The first 60 bytes of a PNG hold its header and no pixel."""
    image = Image.of(encoded("red", size=(64, 32))[:60])
    assert image.size == (64, 32)
    image.check()
    with pytest.raises(ValueError, match="not a readable image"):
        image.check(decode=True)


def test_transparency_lies_on_white():
    assert corner(Image.of(encoded((255, 0, 0, 0), mode="RGBA"))) == (255, 255, 255)
    assert corner(Image.of(encoded((255, 0, 0, 255), mode="RGBA"))) == (255, 0, 0)
    half = corner(Image.of(encoded((0, 0, 0, 128), mode="RGBA")))
    assert half == (127, 127, 127)
    assert corner(Image.of(encoded((0, 0), mode="LA"))) == (255, 255, 255)


def test_palette_with_and_without_a_transparent_colour():
    image = PILImage.new("P", (2, 1), 0)
    image.putpalette([9, 8, 7, 200, 100, 50])
    image.putpixel((1, 0), 1)
    plain, see_through = io.BytesIO(), io.BytesIO()
    image.save(plain, "PNG")
    image.save(see_through, "PNG", transparency=0)
    assert [Image.of(plain.getvalue()).load().getpixel((x, 0)) for x in (0, 1)] == [(9, 8, 7), (200, 100, 50)]
    assert [Image.of(see_through.getvalue()).load().getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 100, 50)]


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32768, 65280, 65535]], dtype=np.uint16)
    PILImage.fromarray(values).save(tmp_path / "deep.png")
    loaded = Image.of(tmp_path / "deep.png").load()
    assert loaded.mode == "RGB"
    assert [loaded.getpixel((x, 0)) for x in range(5)] == [(0,) * 3, (1,) * 3, (128,) * 3, (254,) * 3, (255,) * 3]


def test_cmyk_jpeg_has_the_right_polarity():
    """No ink is white, full ink is black: an inverted reading exchanges the two."""
    paper = corner(Image.of(encoded((0, 0, 0, 0), mode="CMYK", format="JPEG")))
    black = corner(Image.of(encoded((0, 0, 0, 255), mode="CMYK", format="JPEG")))
    assert min(paper) > 245 and max(black) < 10


def test_float_image_is_refused(tmp_path):
    PILImage.new("F", (2, 2), 0.5).save(tmp_path / "float.tiff")
    with pytest.raises(ValueError, match=r"float\.tiff.*8 or 16 bits"):
        Image.of(tmp_path / "float.tiff").load()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_truncated_file_is_named(tmp_path, format):
    buffer = io.BytesIO()
    PILImage.effect_noise((64, 64), 90).convert("RGB").save(buffer, format)
    path = tmp_path / "half.img"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    image = Image.of(path)
    with pytest.raises(ValueError, match=r"half\.img: not a readable image"):
        image.load()


@pytest.mark.parametrize(("size", "good"), [((4, 4), True), ((3, 90), False), ((4, 128), True), ((129, 4), False), ((1, 1), False)])
def test_what_has_the_sides_of_no_picture_is_refused(size, good):
    """At least 4 pixels on each side, the longer at most 32 times the shorter."""
    image = Image.of(encoded("red", size=size))
    if good:
        image.check(decode=True)
    else:
        with pytest.raises(ValueError, match=rf"{size[0]} x {size[1]} pixels; a picture has at least 4 on each side"):
            image.check()


def test_no_image_at_all_is_named(tmp_path):
    (tmp_path / "note.png").write_text("not an image")
    for broken in (Image.of(tmp_path / "note.png"), Image.of(tmp_path / "absent.png")):
        with pytest.raises(ValueError, match=broken.path.name):
            _ = broken.size
    with pytest.raises(ValueError, match="absent.png: the image file cannot be read"):
        _ = Image.of(tmp_path / "absent.png").digest


@pytest.mark.skipif(not SHARED_IMAGES.is_dir(), reason="the shared example images are not on this machine")
def test_real_webp_files():
    for path in sorted(SHARED_IMAGES.glob("*.webp")):
        image = Image.of(path)
        loaded = image.load()
        assert loaded.mode == "RGB" and image.size == (loaded.height, loaded.width)
        assert np.asarray(loaded).std() > 10  # a picture, not a flat field
