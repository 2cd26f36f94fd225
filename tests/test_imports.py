"""Who may import whom: `chapters → book → {stylegan2, gradnorm}`, and inside stylegan2 one direction only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path for package in ("stylegan2", "gradnorm") for path in (ROOT / package).rglob("*.py"))

# What each room of stylegan2 is; a room may import its own kind and the kinds before it. A new room needs a place here.
ORDER = ("layer", "network", "loss", "data", "training", "use")
ROOMS = {
    "fields": "layer",
    "files": "layer",
    "precision": "layer",
    "equalized": "layer",
    "resample": "layer",
    "modulation": "layer",
    "mapping": "network",
    "progressive": "network",
    "stylegan1": "network",
    "generator": "network",
    "discriminator": "network",
    "losses": "loss",
    "penalties": "loss",
    "augment": "loss",
    "warp": "loss",
    "images": "data",
    "data": "data",
    "ema": "training",
    "training": "training",
    "weights": "training",
    "hub": "use",
    "explore": "use",
    "metrics": "use",
    "convert": "training",
    "commands": "use",
    "cli": "use",
    "__main__": "use",
    "__init__": "use",
}


def module_of(path):
    return path.relative_to(ROOT).with_suffix("").parts


def imports(path, *, at_module_level=False):
    """The modules that a file imports, as full dotted names; relative imports are resolved."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = _module_level(tree) if at_module_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module_of(path)[: -node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _module_level(tree):
    """Nodes that run when the module is imported: all but the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _module_level(node)


def test_there_is_something_to_look_at():
    assert {module_of(path)[0] for path in FILES} == {"stylegan2", "gradnorm"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(module_of(path)))
def test_packages(path):
    package, *rest = module_of(path)
    imported = {name.split(".")[0] for name in imports(path)}
    assert "book" not in imported, "the packages never import the workshop"
    if package == "gradnorm":
        assert "stylegan2" not in imported
    if (package, *rest) != ("stylegan2", "training", "log"):
        assert "labml" not in imported, "labml is imported in one room, stylegan2/training/log.py"
    at_module_level = {name.split(".")[0] for name in imports(path, at_module_level=True)}
    assert not at_module_level & {"ipywidgets", "matplotlib"}, "import it inside the function that needs it"


@pytest.mark.parametrize(
    "path", [path for path in FILES if module_of(path)[0] == "stylegan2"], ids=lambda path: ".".join(module_of(path))
)
def test_rooms(path):
    room = module_of(path)[1]
    assert room in ROOMS, f"give {room} a place in ROOMS"
    for name in imports(path):
        package, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if package == "stylegan2" and other in ROOMS:
            assert ORDER.index(ROOMS[other]) <= ORDER.index(ROOMS[room]), (
                f"{room} is {ROOMS[room]} and imports {other}, which is {ROOMS[other]}"
            )


def test_data_knows_nothing_of_networks():
    files = [path for path in FILES if module_of(path)[:2] == ("stylegan2", "data")]
    assert files
    for path in files:
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("stylegan2.")}
        assert rooms <= {"data"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(module_of(path)))
def test_nothing_is_unpickled(path):
    """A file that somebody hands you must not be able to run code: weights are safetensors, settings JSON, arrays are
    read without their pickles, a published checkpoint is read opcode by opcode (stylegan2/convert/unpickle.py), and
    what `torch.save` wrote by torch's own reader of tensors alone."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            assert call not in {"pickle.load", "pickle.loads", "pickle.Unpickler"}
            if call == "torch.load":
                assert "weights_only=True" in ast.unparse(node)
            if call in {"numpy.load", "np.load"}:
                assert "allow_pickle=False" in ast.unparse(node)
    assert "pickle" not in set(imports(path))
