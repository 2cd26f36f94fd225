"""Chapter 8: what its prose claims and no cell of it shows."""

import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import jacfwd, vmap

NOTEBOOK = Path(__file__).parents[2] / "chapters/08_path_length.ipynb"


@pytest.fixture(scope="module")
def chapter() -> dict[str, str]:
    """The source of every cell, by its id."""
    return {cell["id"]: "".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]}


@pytest.fixture(scope="module")
def names(chapter: dict[str, str]) -> dict[str, Any]:
    """The chapter's imports and functions, without what it computes."""
    found: dict[str, Any] = {}
    for name in ("imports", "room"):
        kept = [node for node in ast.parse(chapter[name]).body
                if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)]
        exec(compile(ast.Module(kept, []), name, "exec"), found)
    return found


def test_the_family_of_rooms_is_flat(names: dict[str, Any]) -> None:
    """Lamp and daylight do not interfere: J's columns are orthogonal and of constant length."""
    place = torch.linspace(0.25, 0.75, 5)
    grid = torch.cartesian_prod(place, place)
    J = vmap(jacfwd(lambda at: names["rooms"](torch.special.ndtri(at)[None])[0].flatten()))(grid)  # [25, 768, 2]
    gram = J.mT @ J
    assert (gram[:, 0, 1].abs() < 0.03 * (gram[:, 0, 0] * gram[:, 1, 1]).sqrt()).all()
    for i in (0, 1):
        assert gram[:, i, i].std() < 0.03 * gram[:, i, i].mean()


def test_two_even_batches_of_unlike_lengths() -> None:
    """Compared with its own mean each has nothing to correct; compared with one mean both have."""
    batches = torch.tensor([[1.0, 1, 1], [3.0, 3, 3]])
    assert (batches - batches.mean(1, keepdim=True)).square().mean() == 0
    assert (batches - batches.mean()).square().mean() == 1


def test_the_penalty_pulls_towards_shorter_lengths() -> None:
    lengths = torch.rand(1000, dtype=torch.float64) + 0.5
    c = torch.ones([], dtype=torch.float64, requires_grad=True)
    slope, = grad((c * lengths - lengths.mean()).square().mean(), c)
    torch.testing.assert_close(slope, 2 * lengths.var(correction=0))


def test_a_detached_w_trains_the_generator_alone() -> None:
    torch.manual_seed(0)
    f, g = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 5))
    z, y = torch.randn(4, 3), torch.randn(4, 5)

    def penalty(w: Tensor) -> Tensor:
        jacobian_y, = grad((g(w) * y).sum(), w, create_graph=True)
        return (jacobian_y.norm(dim=1) - 1).square().mean()

    by_f, by_g = grad(penalty(f(z)), [f.weight, g[0].weight])
    assert by_f.abs().sum() > 0
    assert by_g.abs().sum() > 0
    cut = grad(penalty(f(z).detach().requires_grad_()), [f.weight, g[0].weight], allow_unused=True)
    assert cut[0] is None
    torch.testing.assert_close(cut[1], by_g)


@pytest.mark.parametrize("change", [
    ("create_graph=True)", "retain_graph=True)"),
    ("root(Jy.square", "root(Jy.detach().square"),
    ("    return (root(Jy.square().sum(1)) -",
     "    with torch.no_grad():\n        r = root(Jy.square().sum(1))\n    return (r -"),
])
def test_three_places_to_cut_the_gradient(chapter: dict[str, str], names: dict[str, Any], change: tuple[str, str],
                                          capsys: pytest.CaptureFixture[str]) -> None:
    """The solution of the last exercise names them; its check accepts each."""
    stub = chapter["ex-break-stub"]
    assert change[0] in stub
    scope = dict(names)
    exec(stub.replace(*change), scope)
    exec(chapter["ex-break-check"], scope)
    assert capsys.readouterr().out.startswith("right")


def test_one_draw_of_512_equal_singular_values() -> None:
    """The solution says that one draw is good to 6 %."""
    assert round(100 * math.sqrt(2 / 512)) == 6
