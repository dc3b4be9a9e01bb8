"""Images of any kind as what they look like, in 8 bits of red, green and blue.

Axes: H, W pixels of an image as it is stored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nnlab import memory
from nnlab.datasets import files

if TYPE_CHECKING:
    from PIL.Image import Image

Colour = tuple[int, int, int]  # red, green and blue, each 0 to 255
WHITE: Colour = (255, 255, 255)

OPAQUE = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
TRANSLUCENT = ("LA", "La", "PA", "RGBA", "RGBa")
WIDE = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # grey of more than 8 bits
INTEGERS_OF_16_BITS = ("PNG", "PPM")  # formats whose mode I holds 0 to 65,535
# Of Pillow's those that hold pixels, and no program, as PostScript is, which another would run.
FORMATS = (
    *("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000"),
    *("PPM", "TGA", "PCX", "SGI", "ICO", "FITS", "PSD", "QOI"),
)
PIXEL = 12  # bytes of it while an image is made RGB
PHOTOMETRIC, BITS, SAMPLE_FORMAT = 262, 258, 339  # tags of TIFF
WHITE_IS_ZERO, SIGNED = 0, 2


def colour(name: str) -> Colour:
    """Return a colour by its name or as #rrggbb. Raises ValueError for any other text.

    >>> colour("white"), colour("#ff8000")
    ((255, 255, 255), (255, 128, 0))
    """
    from PIL import ImageColor

    try:
        values = ImageColor.getrgb(name)
    except ValueError:
        values = (0, 0, 0, 0)
    if len(values) == 4:  # red, green, blue and opacity
        raise ValueError(f"{name!r} is no opaque colour; give a name (white) or #rrggbb")
    return values


def read(path: Path, size: int | tuple[int, int], background: Colour = WHITE) -> Image:
    """Read the middle of an image file in RGB, upright: resized to a square, or (width, height).

    Of a file with several images the first is taken. Raises ValueError that names the file,
    whatever is wrong with it, and FileNotFoundError where there is none.
    """
    with files.open_input(path) as file:
        try:
            with opened(file) as image:
                return fit(image, size, background)
        except memory.NoRoomError:
            raise
        except Exception as error:  # decoders raise anything for damaged files
            reason = explained(error)
            raise ValueError(f"{path} cannot be read as an image: {reason}; replace it") from None


@contextlib.contextmanager
def opened(file: BinaryIO) -> Iterator[Image]:
    """Open an image, whole if its format can tell: PNG has checksums, which decoding passes over.

    Raises anything where it is damaged, NoRoomError where it does not fit into memory.
    """
    from PIL import Image

    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    with Image.open(file, formats=formats) as image:
        if image.format == "PNG":
            image.verify()
    file.seek(0)
    with Image.open(file, formats=formats) as image:
        pixels = " x ".join(f"{each:,}" for each in image.size)
        needed = PIXEL * image.width * image.height
        memory.check(needed, f"{file.name} of {pixels} pixels", "make it smaller")
        yield image


def explained(error: Exception) -> str:
    """Return what an error that Pillow raised says, or its name where it says nothing."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # it would name an object in memory
        return "its format, or this kind of it, is not known"
    if isinstance(error, MemoryError):
        return "there is too little memory for it, or it is damaged"
    return str(error) or type(error).__name__


def fit(image: Image, size: int | tuple[int, int], background: Colour = WHITE) -> Image:
    """Return the middle of an image in RGB, upright: resized to a square, or (width, height)."""
    from PIL import Image, ImageOps

    box = (size, size) if isinstance(size, int) else size
    return ImageOps.fit(rgb(image, background), box, Image.Resampling.BICUBIC)


def rgb(image: Image, background: Colour = WHITE) -> Image:
    """Return an image as it looks on a background: in RGB, upright, without transparency.

    Grey of 16 or 32 bits is scaled from the range of its format to 0 to 255, floats from
    0 to 1. Raises ValueError naming the mode where its range is unknown or is left.
    """
    from PIL import Image, ImageOps

    mode, tags = image.mode, getattr(image, "tag_v2", {})
    if mode not in OPAQUE + TRANSLUCENT + WIDE or SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise ValueError(f"its mode {mode} of this kind is not known; save it as 8-bit RGB")
    white = _white(image) if mode in WIDE else 255
    inverted = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO  # which Pillow sees to in the other modes
    key = _transparent_colour(image)
    upright = ImageOps.exif_transpose(image)
    mask = None
    if key is not None:
        values = np.asarray(upright.convert("L") if mode == "1" else upright)
        shown = (values.reshape(*values.shape[:2], -1) != key).any(axis=2)
        mask = Image.fromarray(shown.astype(np.uint8) * 255)
    if mode in WIDE:
        upright = Image.fromarray(_eight_bits(np.asarray(upright), mode, white, inverted))
    elif upright.has_transparency_data and key is None:
        upright = upright.convert("LA" if mode == "La" else "RGBA").convert("RGBA")
        mask = upright.getchannel("A")
    # Before any resampling: the colour of transparent pixels is to be seen nowhere.
    flat = Image.new("RGB", upright.size, background)
    flat.paste(upright.convert("RGB"), mask=mask)
    return flat


def _white(image: Image) -> float:
    """Return the value that is white in a mode of more than 8 bits."""
    if image.mode == "F":
        return 1.0
    if image.format == "TIFF":
        return float(2 ** image.tag_v2.get(BITS, (1,))[0] - 1)  # type: ignore[attr-defined]
    if image.mode == "I" and image.format in INTEGERS_OF_16_BITS:
        return 65535.0
    if image.mode != "I" and image.format != "FITS":
        return 65535.0
    raise ValueError(f"its mode {image.mode} does not say which value is white; save it as RGB")


def _transparent_colour(image: Image) -> Any:
    """Return the colour that stands for transparency in an image without alpha, as its pixels
    have it; None where there is none. To be called before the image is decoded."""
    key = image.info.get("transparency")
    if key is None or image.mode in TRANSLUCENT or image.mode == "P":
        return None
    tile = getattr(image, "tile", ()) if image.format == "PNG" else ()
    packing = tile[0][3] if tile else image.mode
    if packing == "RGB;16B":  # decoded to 8 bits, but the colour has 16
        raise ValueError("its mode RGB of 16 bits has a transparent colour; save it as RGBA")
    if image.mode == "1":
        return 255 if key else 0
    return key * {"L;2": 85, "L;4": 17}.get(packing, 1) if image.mode == "L" else key


def _eight_bits(values: NDArray[Any], mode: str, white: float, inverted: bool) -> NDArray[np.uint8]:
    """Scale grey values [H, W] from 0 to white to 0 to 255."""
    if white == 2**32 - 1:
        values = values.view(np.uint32)  # Pillow has them as int32
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= white):
        raise ValueError(
            f"its mode {mode} holds values from {low:g} to {high:g}, not from 0 to {white:g}; "
            f"scale them, or save it as 8-bit RGB"
        )
    scaled = np.rint(values.astype(np.float64) * (255 / white)).astype(np.uint8)
    return 255 - scaled if inverted else scaled
