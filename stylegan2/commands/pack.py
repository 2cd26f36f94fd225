"""python -m stylegan2 pack"""

import io
import json
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from PIL import Image, ImageOps

from stylegan2.data import check_resolution
from stylegan2.data.decode import check_colours, upright
from stylegan2.data.opening import channels_of_rows, open_rows
from stylegan2.data.rows import Rows
from stylegan2.fields import Colour, Range, check_fields
from stylegan2.files import whole

FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}
SHARD = 1000  # files of a folder in the zip


@dataclass
class Pack:
    """Write a folder, zip or array of pictures as one zip that this and the published trainers read: squares of one
    size as PNG files that are not compressed, and their labels in dataset.json.
    """

    source: tyro.conf.Positional[Path]
    """A folder or zip of pictures, an .npy or .npz array, or the name of a public set."""
    to: Path
    """The new zip."""
    resolution: Annotated[int, Range(4, 4096)]
    """Side of the pictures, a power of two."""
    shape: Literal["crop", "fit"] = "crop"
    """crop takes the middle square of a picture; fit shrinks all of it into the square, on the background."""
    filter: Literal["lanczos", "box"] = "lanczos"
    """How pictures are resized: lanczos is sharp, box averages."""
    labels: bool = True
    """Keep the classes: folders, or the source's own dataset.json."""
    channels: Literal[1, 3] | None = None
    """1 (grey) or 3 (RGB), which the published trainers read; found in the pictures when not given."""
    background: Colour = (255, 255, 255)
    """Colour behind transparent pixels and beside fitted pictures, red green blue from 0 to 255."""
    white: Annotated[int, Range(1, 65535)] | None = None
    """Value of the brightest pixel that the files can hold, as `train --white`."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_resolution(self.resolution)
        check_colours(self.background, self.white)
        if self.to.suffix != ".zip":
            raise ValueError(f"{self.to}: a set is packed into a file that ends in .zip")

    def execute(self) -> None:
        if self.to.exists():
            raise FileExistsError(f"{self.to} exists: move it away, or give another name")
        rows = open_rows(str(self.source))
        channels = self.channels or channels_of_rows(rows)
        with whole(self.to) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            packed = self.write(rows, channels, archive)
        print(f"wrote {self.to}: {packed} of {len(rows)} pictures, {self.resolution}², "
              f"{'grey' if channels == 1 else 'RGB'}, "
              f"{f'{len(rows.class_names)} classes' if self.keeps(rows) else 'no labels'}")

    def write(self, rows: Rows, channels: int, archive: zipfile.ZipFile) -> int:
        """All pictures that can be read, and dataset.json; says how far it is every few seconds.

        Raises:
            ValueError: none can be read.
        """
        labels: list[list[str | int]] = []
        said = time.monotonic()
        for row in range(len(rows)):
            try:
                content = self.png(rows, row, channels)
            except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
                print(f"skipped {rows.name(row)}: {error}")
                continue
            name = f"{len(labels) // SHARD:05d}/img{len(labels):08d}.png"
            archive.writestr(name, content)
            labels.append([name, int(rows.labels[row]) if rows.labels is not None else 0])
            if time.monotonic() - said > 5:
                said = time.monotonic()
                print(f"{row + 1} of {len(rows)}", flush=True)
        if not labels:
            raise ValueError(f"there is no picture in {rows.what} that can be read")
        archive.writestr("dataset.json", json.dumps({"labels": labels if self.keeps(rows) else None}))
        return len(labels)

    def keeps(self, rows: Rows) -> bool:
        return self.labels and rows.labels is not None

    def png(self, rows: Rows, row: int, channels: int) -> bytes:
        """One picture as the bytes of a file."""
        size = (self.resolution, self.resolution)
        with rows.open(row) as opened:
            picture = upright(opened, self.resolution, self.background, self.white, channels)
        if self.shape == "crop":
            picture = ImageOps.fit(picture, size, FILTERS[self.filter])
        else:
            behind = Image.new("RGB", size, self.background).convert(picture.mode)
            picture = ImageOps.contain(picture, size, FILTERS[self.filter])
            behind.paste(picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
            picture = behind
        file = io.BytesIO()
        picture.save(file, "png", compress_level=0)
        return file.getvalue()
