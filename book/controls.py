"""Sliders over a figure, with two faces: live in a notebook, and a static twin on the built page.

A page has no kernel. Its twin carries every frame, drawn when the page was built, and steps through them with plain
range inputs: no widget manager, no network, the same names and values as the live sliders.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

MOST_FRAMES = 64

_STYLE = """
.explore{margin:1.2rem 0}
.explore img{display:block;max-width:100%;height:auto;background:#fff;border-radius:.25rem}
.explore label{display:flex;flex-wrap:wrap;align-items:center;gap:.2rem .8rem;margin:.6rem 0;font-size:.95rem}
.explore .explore-name{flex:0 0 auto;min-width:6rem}
.explore input{flex:1 1 9rem;min-width:0;max-width:26rem;height:1.75rem;accent-color:#0072b2;cursor:pointer}
.explore output{flex:0 0 auto;min-width:3.5rem;font-variant-numeric:tabular-nums}
""".strip().replace("\n", "")

# The frames stay text until one is asked for: the browser decodes an image only when it becomes the `src`.
_SCRIPT = """
(() => {
  const figure = document.currentScript.closest("figure");
  const image = figure.querySelector("img");
  const sliders = [...figure.querySelectorAll("input")];
  let twin = null;
  const show = () => {
    twin ??= JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
    let frame = 0;
    const told = sliders.map((slider, i) => {
      const {name, values} = twin.parameters[i];
      const at = Number(slider.value);
      frame = frame * values.length + at;
      slider.nextElementSibling.textContent = values[at];
      slider.setAttribute("aria-valuetext", values[at]);
      return `${name} = ${values[at]}`;
    });
    image.src = twin.frames[frame];
    image.alt = `${twin.alt} (${told.join(", ")})`;
  };
  sliders.forEach(slider => slider.addEventListener("input", show));
})();
""".strip()


def explore(draw: Callable[..., Figure], *, alt: str, **parameters: Sequence[Any]) -> Any:
    """A figure with one slider for each parameter. End a cell with it to show it.

    Args:
        draw: called with one value of each parameter, by name; returns a matplotlib figure.
        alt: what the figure shows, for a reader who cannot see it.
        parameters: the values each slider steps through; it starts at the first.

    Returns:
        ipywidgets in a notebook; the static twin where the environment says `BOOK_STATIC=1`, as the build does.

    Raises:
        ValueError: no alt text, no parameter, one without values, or more than 64 combinations.
        TypeError: `draw` returned something other than a figure.
    """
    if not alt.strip():
        raise ValueError("alt is empty; say in a sentence what the figure shows")
    if not parameters:
        raise ValueError("explore needs a parameter: a name and its values, such as psi=[0, 0.5, 1]")
    values = {name: list(choices) for name, choices in parameters.items()}
    frames = 1
    for name, choices in values.items():
        if not choices:
            raise ValueError(f"{name} has no values; give at least one")
        frames *= len(choices)
    if frames > MOST_FRAMES:
        raise ValueError(f"{frames} combinations of values; the page holds {MOST_FRAMES} at most, so give fewer values")
    return _twin(draw, alt, values) if os.environ.get("BOOK_STATIC") == "1" else _live(draw, alt, values)


def _live(draw: Callable[..., Figure], alt: str, values: Mapping[str, Sequence[Any]]) -> Any:
    import ipywidgets

    sliders = {
        name: ipywidgets.SelectionSlider(
            options=[(_label(value), value) for value in choices], description=name, continuous_update=False
        )
        for name, choices in values.items()
    }
    picture = ipywidgets.HTML()

    def show(_change: object = None) -> None:
        source = _frame(draw, {name: slider.value for name, slider in sliders.items()})
        picture.value = f'<img src="{source}" alt="{html.escape(alt)}">'

    for slider in sliders.values():
        slider.observe(show, names="value")
    show()
    return ipywidgets.VBox([*sliders.values(), picture])


def _twin(draw: Callable[..., Figure], alt: str, values: Mapping[str, Sequence[Any]]) -> Any:
    from IPython.display import HTML

    # The last parameter runs fastest, as the script counts.
    frames = [_frame(draw, dict(zip(values, chosen, strict=True))) for chosen in itertools.product(*values.values())]
    twin = {
        "alt": alt,
        "parameters": [{"name": name, "values": [_label(v) for v in choices]} for name, choices in values.items()],
        "frames": frames,
    }
    sliders = "".join(
        f'<label><span class="explore-name">{html.escape(name)}</span>'
        f'<input type="range" min="0" max="{len(choices) - 1}" step="1" value="0" autocomplete="off"'
        f' aria-valuetext="{html.escape(_label(choices[0]))}">'
        f"<output>{html.escape(_label(choices[0]))}</output></label>"
        for name, choices in values.items()
    )
    told = ", ".join(f"{name} = {_label(choices[0])}" for name, choices in values.items())
    data = json.dumps(twin).replace("</", r"<\/")  # nothing in it may end the script element
    return HTML(
        f'<figure class="explore"><style>{_STYLE}</style>'
        f'<img src="{frames[0]}" alt="{html.escape(f"{alt} ({told})")}">'
        f'<div role="group" aria-label="Controls of the figure">{sliders}</div>'
        f'<script type="application/json">{data}</script><script>{_SCRIPT}</script></figure>'
    )


def _frame(draw: Callable[..., Figure], chosen: Mapping[str, Any]) -> str:
    """One drawn frame, as a data address."""
    figure = draw(**chosen)
    if not isinstance(figure, Figure):
        raise TypeError(f"draw returned {type(figure).__name__}; it must return the matplotlib Figure it drew")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="webp", dpi=110, bbox_inches="tight", pil_kwargs={"quality": 88, "method": 6})
    plt.close(figure)
    return "data:image/webp;base64," + base64.b64encode(drawn.getvalue()).decode()


def _label(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
