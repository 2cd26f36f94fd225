"""Frames to a film that loops: GIF, animated WebP, MP4."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from PIL import Image

from stylegan2.files import mark, whole
from stylegan2.images import signature


def save_animation(frames: Iterable[Image.Image], path: Path, fps: int = 30) -> None:
    """Write the frames as the kind of film that the suffix names: .gif, .webp, or .mp4 (H.264, needs PyAV).

    A GIF counts time in hundredths of a second and players slow down below two of them: it runs at the nearest rate
    that there is (30 a second become 33.3), at most 50.

    Raises:
        ValueError: another suffix, no frame, fps out of 1 … 100, or frames with an odd side for an .mp4.
        ImportError: PyAV is not installed, and the suffix is .mp4.
    """
    check_film(path, fps)
    with whole(path) as part:
        WRITERS[path.suffix.lower()](frames, part, fps)


def check_film(path: Path, fps: int) -> None:
    """
    Raises:
        ValueError, ImportError: as `save_animation` says of suffix, fps and PyAV.
    """
    if path.suffix.lower() not in WRITERS:
        raise ValueError(f"{path}: a film ends in {', '.join(WRITERS)}, not in {path.suffix or 'nothing'}")
    if not 1 <= fps <= 100:
        raise ValueError(f"fps is {fps}: 1 to 100 frames a second can be written")
    if path.suffix.lower() == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError:
            raise ImportError("an .mp4 needs PyAV: pip install av; or write a .webp or .gif, which need nothing more"
                              ) from None


def save_gif(frames: Iterable[Image.Image], path: Path, fps: int) -> None:
    """One palette for all frames: with a palette for each, colours that do not change would flicker."""
    pictures = at_least_one(frames)
    some = pictures[::max(1, len(pictures) // 16)]
    strip = Image.new("RGB", (some[0].width, some[0].height * len(some)))
    for i, picture in enumerate(some):
        strip.paste(picture, (0, i * picture.height))
    palette = strip.quantize(256, method=Image.Quantize.MEDIANCUT)
    first, *rest = [picture.quantize(palette=palette) for picture in pictures]
    duration = 10 * max(2, round(100 / fps))  # ms
    first.save(path, save_all=True, append_images=rest, duration=duration, loop=0, **signature())


def save_webp(frames: Iterable[Image.Image], path: Path, fps: int) -> None:
    first, *rest = at_least_one(frames)
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, quality=90, **signature())


def save_mp4(frames: Iterable[Image.Image], path: Path, fps: int) -> None:
    import av

    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("there is no frame to write")
    if first.width % 2 or first.height % 2:
        raise ValueError(f"frames are {first.width} × {first.height}: H.264 shares colours between 2 × 2 pixels, so "
                         "both sides must be even")
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as film:
        film.metadata["comment"] = mark("picture")
        stream = film.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
        for picture in chain([first], frames):
            film.mux(stream.encode(av.VideoFrame.from_image(picture)))
        film.mux(stream.encode(None))  # what the encoder still holds


def at_least_one(frames: Iterable[Image.Image]) -> list[Image.Image]:
    pictures = list(frames)
    if not pictures:
        raise ValueError("there is no frame to write")
    return pictures


WRITERS = {".gif": save_gif, ".webp": save_webp, ".mp4": save_mp4}
