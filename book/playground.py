"""Play with a trained generator: on the built page it runs in the reader's browser, in a notebook in the kernel.

The page's half is static/playground.js, which reads the record's weights and has the same controls.
"""

import base64
import html
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from stylegan2.explore import draw_z, mix, move, per_layer, synthesize
from stylegan2.images import tile
from stylegan2.weights import TrainedGenerator, load

REACH = 2.0  # of a direction's slider, in standard deviations of w along it
SCALE = 4  # screen pixels for a pixel, in a notebook


@dataclass(frozen=True)
class Slider:
    """A control: what it is called, and where it goes from, to, in steps of, and starts."""

    name: str
    label: str
    least: float
    most: float
    step: float
    start: float


def playground(record: Path, directions: Mapping[str, Float[Tensor, "d_latent"]], seed: int = 0) -> Any:
    """Two faces, their mixture, truncation, and a slider for each direction. End a cell with it to show it.

    Args:
        record: folder of a recorded skip generator that was trained without noise.
        directions: by what they change; in w, as long as one standard deviation of w along them.
        seed: of the two faces to begin with.

    Returns:
        ipywidgets in a notebook; where the environment says `BOOK_STATIC=1`, as the build does, a figure that the
        browser brings to life.

    Raises:
        ValueError: the generator needs noise, or is no skip generator.
    """
    trained = load(record)
    if trained.settings.noise or trained.settings.generator != "skip" or trained.settings.style != "demodulation":
        raise ValueError(f"{record.name} has noise {trained.settings.noise}, generator {trained.settings.generator}, "
                         f"style {trained.settings.style}: the browser knows skip generators without noise only")
    z = draw_z(trained, 2, seed)
    layers = trained.generator.n_layers
    sliders = [Slider("psi", "truncation ψ", 0, 1.2, 0.05, 0.8),
               Slider("crossover", "layers of the first face", 0, layers, 1, layers // 2),
               *(Slider(name, name, -REACH, REACH, 0.1, 0) for name in directions)]
    show = _page if os.environ.get("BOOK_STATIC") == "1" else _live
    return show(record, trained, z, sliders, directions)


@torch.no_grad()
def images(trained: TrainedGenerator, z: Float[Tensor, "2 d_latent"], values: Mapping[str, float],
           directions: Mapping[str, Float[Tensor, "d_latent"]]) -> Float[Tensor, "3 3 side side"]:
    """The mixture, the first face, the second; directions change the mixture only."""
    w = trained.mapping.truncate(trained.mapping(z), values["psi"])
    coarse, fine = per_layer(trained, w).split(1, dim=1)  # each [layers, 1, d_latent]
    mixed = mix(coarse, fine, range(int(values["crossover"]), len(fine)))
    for name, direction in directions.items():
        mixed = move(mixed, direction, values[name], range(len(mixed)))
    return synthesize(trained, torch.cat([mixed, coarse, fine], dim=1))


def _page(record: Path, trained: TrainedGenerator, z: Tensor, sliders: list[Slider],
          directions: Mapping[str, Tensor]) -> Any:
    from IPython.display import HTML

    return HTML("".join(_parts(record, trained, z, sliders, directions)))


def _parts(record: Path, trained: TrainedGenerator, z: Tensor, sliders: list[Slider],
           directions: Mapping[str, Tensor]) -> Iterator[str]:
    """The figure's HTML. Until the first touch it shows what was drawn here: the weights are large."""
    side = trained.settings.resolution
    drawn = images(trained, z, {slider.name: slider.start for slider in sliders}, directions)
    weights = record / "generator.safetensors"  # which _config.yml puts among the page's static files
    given = {"weights": weights.name, "size": f"{weights.stat().st_size / 1e6:.1f} MB",
             "z": z.tolist(), "directions": {name: d.tolist() for name, d in directions.items()}}
    yield '<figure class="playground"><div class="playground-faces">'
    for image, alt in zip(drawn, ("The face that the controls make of the two others", "The first face",
                                  "The second face"), strict=True):
        picture = base64.b64encode(as_png(tile(image[None], columns=1))).decode()
        yield f'<canvas width="{side}" height="{side}" role="img" aria-label="{alt}" ' \
              f'style="background-image:url(data:image/png;base64,{picture})"></canvas>'
    yield '</div><div class="playground-buttons">'
    for i, name in enumerate(("first", "second")):
        yield f'<button type="button" data-face="{i}">Another {name} face</button>'
    yield '<button type="button" data-reset>Reset</button></div>'
    yield '<div role="group" aria-label="Controls of the generator">'
    for slider in sliders:
        yield f'<label><span>{html.escape(slider.label)}</span><input type="range" name="{html.escape(slider.name)}" ' \
              f'min="{slider.least:g}" max="{slider.most:g}" step="{slider.step:g}" value="{slider.start:g}" ' \
              f'autocomplete="off"><output aria-live="off">{slider.start:g}</output></label>'
    yield '</div><p role="status">Touch a control, and your browser draws.</p>'
    yield "<noscript>(It needs JavaScript.)</noscript>"
    yield f'<script type="application/json">{json.dumps(given)}</script></figure>'


def as_png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, format="png")
    return file.getvalue()


def _live(record: Path, trained: TrainedGenerator, z: Tensor, sliders: list[Slider],
          directions: Mapping[str, Tensor]) -> Any:
    import ipywidgets

    controls = {slider.name: ipywidgets.FloatSlider(
        value=slider.start, min=slider.least, max=slider.most, step=slider.step, description=slider.label,
        style={"description_width": "11em"}) for slider in sliders}
    picture = ipywidgets.Image(format="png")
    buttons = [ipywidgets.Button(description=f"Another {name} face") for name in ("first", "second")]

    def show(_change: object = None) -> None:
        drawn = images(trained, z, {name: control.value for name, control in controls.items()}, directions)
        grid = tile(drawn, columns=3)
        picture.value = as_png(grid.resize((grid.width * SCALE, grid.height * SCALE), Image.Resampling.NEAREST))

    def another(button: ipywidgets.Button) -> None:
        z[buttons.index(button)] = torch.randn(z.shape[1])
        show()

    for control in controls.values():
        control.observe(show, names="value")
    for button in buttons:
        button.on_click(another)
    show()
    return ipywidgets.VBox([picture, ipywidgets.HBox(buttons), *controls.values()])
