"""From the bytes of an image file to the square of pixels that training sees."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageOps

Colour = tuple[int, int, int]
MAX_PIXELS = 2**30 // 4 // 3  # 89 million: where Pillow begins to suspect a decompression bomb


class Preparation(NamedTuple):
    """What becomes of every image of a set.

    Args:
        resolution: side that images are resized to, in pixels.
        background: the colour behind transparent pixels, 0 … 255.
        white: value of the brightest pixel that the files can hold, 1 … 65535; what
            their 8 or 16 bits can hold, when not given.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    """

    resolution: int
    background: Colour
    white: int | None = None
    channels: int = 3


def prepare(image: Image.Image, resolution: int, background: Colour,
            white: int | None = None, channels: int = 3) -> UInt8[np.ndarray, "side side channels"]:
    """An opened image as pixels: `upright`, its middle square, resized with a low-pass filter. The arguments are those
    of `Preparation`.

    Raises:
        Exception: as `upright` says.
    """
    image = upright(image, resolution, background, white, channels)
    if image.size != (resolution, resolution):
        image = ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
    pixels = np.asarray(image).reshape(resolution, resolution, channels)
    return with_background(pixels.copy(), background) if channels == 4 else pixels


def upright(image: Image.Image, resolution: int, background: Colour, white: int | None = None,
            channels: int = 3) -> Image.Image:
    """An opened image in the mode of its channels, as its camera was held, and unless there are
    4 channels composited on the background; of an animation the first frame. The arguments are
    those of `Preparation`; it may be made smaller, to no less than twice the resolution.

    Raises:
        ValueError: it has no pixels that fit into 0 … 255, or suspiciously many; the
            background or the white is out of its range.
        Exception: nearly anything else, out of Pillow's decoders, when the file is broken.
    """
    check_colours(background, white)
    check_size(image)
    image.draft(None, (2 * resolution, 2 * resolution))  # a large JPEG: leave out frequencies that the resize drops
    fit_transparency(image)
    image = to_8_bits(ImageOps.exif_transpose(image), white)
    # Before the resize: the colour of a transparent pixel is arbitrary, and must not bleed over the edge.
    if image.mode == "RGBA" and channels < 4:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])


def with_background(pixels: UInt8[np.ndarray, "side side 4"],
                    background: Colour) -> UInt8[np.ndarray, "side side 4"]:
    """Where nothing is seen, the background's colour, in place of an arbitrary one."""
    pixels[pixels[..., 3] == 0, :3] = background
    return pixels


def check_colours(background: Colour, white: int | None) -> None:
    """
    Raises:
        ValueError: they are out of the ranges that `Preparation` says.
    """
    if len(background) != 3 or any(part not in range(256) for part in background):
        raise ValueError(f"background is {' '.join(map(str, background))}: it must be "
                         "red, green and blue, integers from 0 to 255")
    if white is not None and white not in range(1, 65536):
        raise ValueError(f"white is {white}: it must be an integer from 1 to 65535, as "
                         "4095 for 12 bits stored in 16")


def check_size(image: Image.Image) -> None:
    """
    Raises:
        ValueError: decoding it would take more memory than an honest image does.
    """
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"its header says {image.width} × {image.height} pixels, more than {MAX_PIXELS}: a "
                         "decompression bomb, or an image to be cut up first")


def fit_transparency(image: Image.Image) -> None:
    """Of an opened PNG, make the one transparent value or colour what Pillow will make
    of such pixels. Pillow leaves it in the bits of the file, but widens pixels of 2 or
    4 bits to 8 and keeps the upper 8 of 3 × 16.
    """
    bits = raw_mode(image)
    if "transparency" not in image.info:
        return
    if bits in ("L;2", "L;4"):
        image.info["transparency"] *= {"L;2": 85, "L;4": 17}[bits]
    elif bits == "RGB;16B":
        image.info["transparency"] = tuple(v >> 8 for v in image.info["transparency"])


def raw_mode(image: Image.Image) -> str:
    """How the file of an opened image that is not decoded yet holds its pixels, as
    Pillow writes it ("RGB;16B"); empty where there is no file.
    """
    tiles = getattr(image, "tile", None)
    arguments = tiles[0].args if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def to_8_bits(image: Image.Image, white: int | None) -> Image.Image:
    """As RGB, or RGBA where pixels can be transparent; 0 … white (as `Preparation`
    says) scaled to 0 … 255, and what is above clipped.

    Raises:
        ValueError: the pixels are floats or 32-bit integers, of which nobody knows the white.
    """
    if image.mode[0] in "IF":  # grey of 16 bits; Pillow itself would clip it at 255
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its pixels are of Pillow's mode {image.mode}, which has no known white; save it with 8 "
                             "or 16 bits")
        grey = Image.fromarray(scaled(values, white or 65535))
        if "transparency" not in image.info:
            return grey.convert("RGB")
        opaque = Image.fromarray(values != image.info["transparency"])
        grey.putalpha(opaque.convert("L"))
        return grey.convert("RGBA")
    has_alpha = image.mode in ("RGBA", "RGBa", "LA", "La", "PA")
    has_alpha = has_alpha or "transparency" in image.info
    image = image.convert("RGBA" if has_alpha else "RGB")
    if white is None or white >= 255:
        return image
    colours, alpha = scaled(np.arange(256), white).tolist(), list(range(256))
    return image.point(colours * 3 + alpha * (image.mode == "RGBA"))


def scaled(values: Integer[np.ndarray, "..."], white: int) -> UInt8[np.ndarray, "..."]:
    """0 … white onto 0 … 255, rounded; what is above white is clipped."""
    return np.minimum(values * (255 / white), 255).round().astype(np.uint8)


class Brightness(NamedTuple):
    """The largest value of an image's colours, in the units of its file.

    Args:
        value: the largest.
        most: what its bits can hold, 255 or 65535.
        cut: whether only the upper 8 of 16 bits can be read; value counts what could be
            in the lower ones.
    """

    value: int
    most: int
    cut: bool


def brightness(image: Image.Image, raw: str) -> Brightness:
    """Of a decoded image that `prepare` takes.

    Args:
        raw: its `raw_mode` before it was decoded.
    """
    if image.mode[0] in "IF":
        return Brightness(int(np.asarray(image).max()), 65535, False)
    value = int(np.asarray(image.convert("RGB")).max())
    if ";16" in raw:
        return Brightness(256 * value + 255, 65535, True)
    return Brightness(value, 255, False)
