"""An image is what it looks like, whatever it is stored as."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import EpsImagePlugin, Image, ImageCms

from nnlab import memory
from nnlab.datasets import images

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
BLUE = (0, 0, 200)


def shown(image: Image.Image, background: images.Colour = images.WHITE) -> NDArray[np.uint8]:
    found = images.rgb(image, background)
    assert found.mode == "RGB"
    return np.asarray(found)


def saved(image: Image.Image, format: str, **options: Any) -> Image.Image:
    content = BytesIO()
    image.save(content, format, **options)
    return Image.open(content)


def grey(values: NDArray[Any]) -> NDArray[Any]:
    return np.stack([values] * 3, axis=2)


def png(depth: int, colour: int, rows: bytes, *, key: bytes = b"") -> Image.Image:
    """Write a PNG of 4x4 pixels of which Pillow writes no such kind. rows: packed pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    width = len(rows) // 4
    lines = b"".join(b"\0" + rows[i : i + width] for i in range(0, len(rows), width))
    content = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">2I5B", 4, 4, depth, colour, 0, 0, 0)
    )
    content += (chunk(b"tRNS", key) if key else b"") + chunk(b"IDAT", zlib.compress(lines))
    return Image.open(BytesIO(content + chunk(b"IEND", b"")))


def tiff(values: NDArray[Any], **tags: int) -> Image.Image:
    """Write a grey TIFF with tags that Pillow does not let one choose."""
    order = ">" if values.dtype.byteorder == ">" else "<"
    codes = {
        "width": (256, values.shape[1]),
        "height": (257, values.shape[0]),
        "bits": (258, 8 * values.dtype.itemsize),
        "compression": (259, 1),
        "photometric": (262, 1),
        "offset": (273, 8),
        "samples": (277, 1),
        "rows": (278, values.shape[0]),
        "length": (279, values.nbytes),
        "format": (339, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]),
    }
    entries = [(code, tags.get(name, value)) for name, (code, value) in codes.items()]
    body = values.tobytes()
    listing = struct.pack(order + "H", len(entries)) + b"".join(
        struct.pack(order + "HHII", code, 4, 1, value) for code, value in entries
    )
    head = (b"MM" if order == ">" else b"II") + struct.pack(order + "HI", 42, 8 + len(body))
    return Image.open(BytesIO(head + body + listing + bytes(4)))


# Opaque modes


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
def test_opaque_modes_keep_their_colours(mode: str) -> None:
    colours = np.random.default_rng(0).integers(48, 208, (16, 16, 3), dtype=np.uint8)
    source = Image.fromarray(colours)
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(source, srgb, lab, outputMode="LAB")
        assert image is not None
    else:
        image = source.convert(mode)
    assert image.mode == mode
    expected = {"1": source.convert("1").convert("RGB"), "L": source.convert("L").convert("RGB")}
    expected["P"] = image.convert("RGB")
    # YCbCr, HSV and LAB in 8 bits name fewer colours than RGB.
    close = {"YCbCr": 3, "HSV": 5, "LAB": 12}.get(mode, 0)
    found = shown(image).astype(int)
    assert abs(found - np.asarray(expected.get(mode, source)).astype(int)).max() <= close


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_files(format: str) -> None:
    image = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 51)), format)
    assert image.mode == "CMYK"
    assert abs(shown(image).astype(int) - (204, 0, 0)).max() <= 2  # JPEG's loss


# Grey of more than 8 bits


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_16_bits_are_scaled_by_their_range(mode: str) -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    order = ">u2" if mode == "I;16B" else "<u2"
    image = Image.frombytes(mode, (16, 16), values.astype(order).tobytes())
    np.testing.assert_array_equal(shown(image), grey(np.rint(values / 257)))


@pytest.mark.parametrize(
    "make",
    [
        lambda v: saved(Image.fromarray(v), "PNG"),
        lambda v: saved(Image.fromarray(v), "TIFF"),
        lambda v: saved(Image.fromarray(v), "TIFF", compression="tiff_lzw"),
        lambda v: saved(Image.fromarray(v), "JPEG2000", irreversible=False),
        lambda v: saved(Image.fromarray(v.astype(np.int32)), "PPM"),
        lambda v: tiff(v),
        lambda v: tiff(v.astype(">u2")),
        lambda v: tiff(65535 - v, photometric=0),
        lambda v: tiff(v.astype(np.uint32) * 65537),
        lambda v: tiff((v / 65535).astype(np.float32)),
        lambda v: tiff((1 - v / 65535).astype(np.float32), photometric=0),
        lambda v: tiff((v / 65535).astype(">f4")),
        lambda v: saved(Image.fromarray((v / 65535).astype(np.float32)), "TIFF"),
    ],
)
def test_a_ramp_of_16_bits_is_a_ramp_in_every_format(
    make: Callable[[NDArray[np.uint16]], Image.Image],
) -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    image = make(values)
    assert image.mode in images.WIDE
    found = shown(image)
    assert (found.min(), found.max()) == (0, 255)
    # Floats of 32 bits may fall on the other side of a half.
    assert abs(found - grey(values / 257)).max() <= 0.5 + 1e-4


def test_12_bits_of_tiff_are_white_at_4095() -> None:
    packed = bytes.fromhex("000fff7ff800") * 2  # 0, 4095, 2047, 2048, ...
    image = tiff(np.frombuffer(packed, np.uint8).reshape(2, 6), width=4, bits=12)
    assert image.mode == "I;16"
    assert shown(image)[0, :, 0].tolist() == [0, 255, 127, 128]


def test_pgm_of_any_maximum() -> None:
    content = b"P5 4 1 1000\n" + np.array([0, 250, 500, 1000], ">u2").tobytes()
    found = shown(Image.open(BytesIO(content)))
    assert found[0, :, 0].tolist() == [0, 64, 128, 255]  # 63.75, 127.5


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray(RAMP.astype(np.float32)), "mode F .*from 0 to 255, not from 0 to 1"),
        (Image.fromarray(RAMP.astype(np.float32) - 1), "mode F .*from -1 to 254"),
        (Image.fromarray(np.full((2, 2), np.nan, np.float32)), "mode F .*nan"),
        (Image.fromarray(RAMP.astype(np.int32)), "mode I does not say"),
        (tiff(RAMP.astype(np.int16)), "mode I of this kind"),
        (tiff(RAMP.astype(np.int32)), "mode I of this kind"),
        (tiff(RAMP.astype(np.int8)), "mode L of this kind"),
    ],
)
def test_what_has_no_range_is_refused_by_its_mode(image: Image.Image, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        images.rgb(image)


@pytest.mark.parametrize("bits", [16, 32, -32])
def test_fits_states_no_range(bits: int) -> None:
    cards = ["SIMPLE  = T", f"BITPIX  = {bits}", "NAXIS   = 2", "NAXIS1  = 4", "NAXIS2  = 4", "END"]
    head = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    image = Image.open(BytesIO(head + bytes([1]) * (2880 * 2)))
    if bits == -32:  # floats are judged by their values: 2.4e-38
        assert shown(image).max() == 0
    else:
        with pytest.raises(ValueError, match="does not say which value is white"):
            images.rgb(image)


# Transparency


def over(colours: NDArray[Any], alpha: NDArray[Any], background: images.Colour) -> NDArray[Any]:
    part = alpha[..., None] / 255
    return colours * part + np.array(background) * (1 - part)


@pytest.mark.parametrize("background", [images.WHITE, BLUE])
@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa", "PA"])
def test_alpha_is_composited(mode: str, background: images.Colour) -> None:
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    alpha = RAMP
    straight = Image.fromarray(np.dstack([colours, alpha]))
    if mode in ("LA", "La"):
        straight = straight.convert("LA")
        colours = grey(np.asarray(straight)[..., 0])
    image = straight
    if mode in ("La", "RGBa"):
        image = straight.convert(mode)
    elif mode == "PA":
        palette = Image.fromarray(colours).convert("P")
        colours = np.asarray(palette.convert("RGB"))
        image = palette.convert("PA")
        image.putalpha(Image.fromarray(alpha))
    assert image.mode == mode
    # Multiplied colours of 8 bits are rounded once more.
    close = 1.5 if mode in ("La", "RGBa") else 1
    assert abs(shown(image, background) - over(colours, alpha, background)).max() <= close


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_from_files(format: str) -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[..., 3] = RAMP
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    image = saved(Image.fromarray(pixels), format, **options)
    assert abs(shown(image) - grey(255.0 - RAMP)).max() <= 1


@pytest.mark.parametrize("alphas", [b"\0\xff\x80", 1])
def test_the_transparency_of_a_palette(alphas: bytes | int) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    found = shown(saved(image, "PNG", transparency=alphas), (0, 0, 0))
    red, green, blue = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    hidden = [0, 0, 0]
    expected = [red, hidden, blue] if alphas == 1 else [hidden, green, [0, 0, 128]]
    assert found[0].tolist() == expected


def test_a_palette_with_alpha_of_its_own() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 255, 0, 255, 0, 0], "RGBA")
    assert shown(image)[0].tolist() == [[255, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(
    ("depth", "rows", "key", "expected"),
    [
        (1, b"\x50" * 4, 1, [0, 200, 0, 200]),
        (1, b"\x50" * 4, 0, [200, 255, 200, 255]),
        (2, b"\x1b" * 4, 2, [0, 85, 200, 255]),
        (4, b"\x0f\x7f" * 4, 15, [0, 200, 119, 200]),
        (8, b"\x00\x0f\x80\xff" * 4, 15, [0, 200, 128, 255]),
        (16, b"\0\0\1\1\x80\x80\x80\x81" * 4, 0x8080, [0, 1, 200, 128]),
    ],
)
def test_a_transparent_grey(depth: int, rows: bytes, key: int, expected: list[int]) -> None:
    image = png(depth, 0, rows, key=struct.pack(">H", key))
    found = shown(image, (200, 200, 200))
    assert found.tolist() == [[[value] * 3 for value in expected]] * 4


def test_a_transparent_colour() -> None:
    rows = bytes([255, 0, 0, 255, 0, 1, 9, 9, 9, 0, 0, 0]) * 4
    image = png(8, 2, rows, key=struct.pack(">3H", 255, 0, 0))
    assert shown(image, BLUE)[0].tolist() == [[0, 0, 200], [255, 0, 1], [9, 9, 9], [0, 0, 0]]
    image = png(16, 2, bytes(4 * 4 * 6), key=struct.pack(">3H", 0, 0, 0))
    with pytest.raises(ValueError, match="RGB of 16 bits has a transparent colour"):
        images.rgb(image)


@pytest.mark.parametrize("keyed", [False, True])
def test_hidden_colours_do_not_leak_when_resized(keyed: bool) -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, ::2] = (0, 255, 0, 0)  # transparent green between columns of opaque black
    pixels[:, 1::2, 3] = 255
    image = Image.fromarray(pixels)
    if keyed:
        image = saved(image.convert("RGB"), "PNG", transparency=(0, 255, 0))
    found = np.asarray(images.fit(image, 16, (255, 255, 255))).astype(int)
    assert (found[..., 1] == found[..., 0]).all()
    assert (found[..., 1] == found[..., 2]).all()


# Files


@pytest.mark.parametrize("format", ["GIF", "TIFF", "PNG", "WEBP"])
def test_of_several_images_the_first_is_taken(format: str, tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "lime"))
    options = {"lossless": True} if format == "WEBP" else {}
    path = tmp_path / f"two.{format}"
    first.save(path, format, save_all=True, append_images=[second], **options)
    found = images.read(path, 8)
    assert np.asarray(found).tolist() == [[[255, 0, 0]] * 8] * 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("mode", "format"), [("RGB", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG")])
def test_images_are_upright(orientation: int, mode: str, format: str, tmp_path: Path) -> None:
    values = RAMP[:8, :8].astype(np.uint16) * 257
    image = (
        Image.fromarray(values) if mode == "I;16" else Image.fromarray(RAMP[:8, :8]).convert(mode)
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "image", format, exif=exif)
    turned = {
        1: RAMP[:8, :8],
        2: RAMP[:8, :8][:, ::-1],
        3: RAMP[:8, :8][::-1, ::-1],
        4: RAMP[:8, :8][::-1],
        5: RAMP[:8, :8].T,
        6: np.rot90(RAMP[:8, :8], -1),
        7: RAMP[:8, :8][::-1, ::-1].T,
        8: np.rot90(RAMP[:8, :8]),
    }
    np.testing.assert_array_equal(images.read(tmp_path / "image", 8), grey(turned[orientation]))


def test_a_transparent_colour_of_a_turned_image(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=(255, 0, 0), exif=exif)
    assert np.asarray(images.read(tmp_path / "a.png", 8))[-1].tolist() == [[255] * 3] * 8


Image.init()
FORMATS = [
    *(["AVIF"] if "AVIF" in Image.SAVE else []),
    "BMP",
    "GIF",
    "JPEG",
    "JPEG2000",
    "PNG",
    "PPM",
    "TGA",
    "TIFF",
    "WEBP",
]


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_of_every_format_are_named(format: str, tmp_path: Path) -> None:
    content = BytesIO()
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, format)
    whole = content.getvalue()
    path = tmp_path / "image"
    path.write_bytes(whole)
    assert images.read(path, 8).size == (8, 8)
    refused = 0
    for cut in random.integers(1, len(whole), 40):
        damaged = bytearray(whole)
        damaged[cut : cut + 4] = random.bytes(4)
        for broken in (whole[:cut], bytes(damaged)):
            path.write_bytes(broken)
            try:
                images.read(path, 8)
            except ValueError as error:
                assert str(error).startswith(f"{path} cannot be read")  # noqa: PT017 - or harmless
                refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    "error",
    [RuntimeError("decoder"), MemoryError(), KeyError("x"), EOFError("e"), struct.error("s")],
)
def test_any_exception_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "fit", fail)
    what = "there is too little memory" if isinstance(error, MemoryError) else str(error)
    with pytest.raises(ValueError, match=rf"a\.png cannot be read as an image: {what}"):
        images.read(tmp_path / "a.png", 8)


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(ValueError, match=r"text\.png cannot be read .* its format, .* not known"):
        images.read(tmp_path / "text.png", 8)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing\.png"):
        images.read(tmp_path / "nothing.png", 8)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png cannot be read: it is a pipe"):
        images.read(tmp_path / "pipe.png", 8)


@pytest.mark.parametrize("name", ["whitish", "#ff", "#ff000080", "", "0"])
def test_what_is_no_colour(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name!r} is no opaque colour"):
        images.colour(name)


def test_no_program_is_run_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n{} loop\n")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("it was run"))
    with pytest.raises(ValueError, match=r"a\.png cannot be read .* its format, .* not known"):
        images.read(path, 8)


def test_an_image_that_does_not_fit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (3000, 2000)).save(path)
    monkeypatch.setattr(memory, "free", lambda: 71_000_000)
    with pytest.raises(ValueError, match=r"a\.png of 3,000 x 2,000 pixels needs 72 MB of memory"):
        images.read(path, 8)
