"""From the bytes of an image file to the square of pixels that training sees."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

Colour = tuple[int, int, int]
MAX_PIXELS = 2**30 // 4 // 3  # 89 million: where Pillow begins to suspect a decompression bomb


def prepare(image: Image.Image, resolution: int, background: Colour) -> UInt8[np.ndarray, "side side 3"]:
    """An opened image as pixels: upright, composited on the background, its middle square, resized with a low-pass
    filter. Of an animation the first frame.

    Raises:
        ValueError: it has no pixels that fit into 0 … 255, or suspiciously many.
        Exception: nearly anything else, out of Pillow's decoders, when the file is broken.
    """
    check_size(image)
    image.draft(None, (2 * resolution, 2 * resolution))  # a large JPEG: leave out frequencies that the resize drops
    image = to_8_bits(ImageOps.exif_transpose(image))
    # Before the resize: the colour of a transparent pixel is arbitrary, and must not bleed over the edge.
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    image = image.convert("RGB")
    if image.size != (resolution, resolution):
        image = ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(image)


def check_size(image: Image.Image) -> None:
    """
    Raises:
        ValueError: decoding it would take more memory than an honest image does.
    """
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"its header says {image.width} × {image.height} pixels, more than {MAX_PIXELS}: a "
                         "decompression bomb, or an image to be cut up first")


def to_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8; Pillow itself would clip it at 255.

    Raises:
        ValueError: the pixels are floats or 32-bit integers, of which nobody knows the white.
    """
    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its pixels are of Pillow's mode {image.mode}, which has no known white; save it with 8 or "
                         "16 bits")
    return Image.fromarray((values / 257).round().astype(np.uint8))
