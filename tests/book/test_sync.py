import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

from book import definitions
from book import sync as sync_module
from book.project import Repository, notebooks
from book.sync import faults, sync, synced

HERE = Repository("https://example.org/us/book", "v1.0")


def notebook(*cells, **metadata):
    """The text of a notebook as an editor might leave it: format 4.4, no ids, another kernel, outputs."""
    made = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "mine", "display_name": "Mine"}, **metadata})
    made.cells = list(cells)
    for cell in made.cells:
        cell.pop("id", None)
    made.nbformat_minor = 4
    return nbformat.writes(made)


def code(source, **metadata):
    ran = nbformat.v4.new_output("execute_result", {"text/plain": "1"}, execution_count=7)
    return nbformat.v4.new_code_cell(source, execution_count=7, outputs=[ran], metadata=metadata)


def cells(text):
    return json.loads(text)["cells"]


def test_definition_cell_gets_the_source(packages):
    text, notes = synced(notebook(code("def half(x): ...", defines="stylegan2.shapes.half")), HERE)
    assert "".join(cells(text)[0]["source"]).startswith("@decorated(")
    assert len(notes) == 1
    assert "stylegan2.shapes.half" in notes[0]


def test_a_definition_cell_of_a_method(packages, tmp_path):
    """It gets the method and the line that attaches it; `--check` sees a difference; twice changes nothing."""
    name = "stylegan2.shapes.Circle.grown"
    text, notes = synced(notebook(code("", setup=True), code("", defines=name)), HERE)
    source = "".join(cells(text)[1]["source"])
    assert source == definitions.source(name)
    assert source.endswith("Circle.grown = grown")
    assert any(name in note for note in notes)
    assert synced(text, HERE)[0] == text
    path = tmp_path / "one.ipynb"
    path.write_text(text.replace("radius*by", "radius+by"))
    assert sync([path], check=True) == 1
    assert sync([path]) == 0
    assert "".join(cells(path.read_text())[1]["source"]) == source
    assert sync([path], check=True) == 0


def test_twice_changes_nothing(packages):
    once, _ = synced(
        notebook(
            nbformat.v4.new_markdown_cell("# Title"),
            code("", setup=True),
            code("1 + 1"),
            code("1 + 1"),
            code("", defines="stylegan2.shapes.Area"),
        ),
        HERE,
    )
    assert synced(once, HERE) == (once, [])


def test_outputs_go_except_those_held_for_comparison(packages):
    text, _ = synced(notebook(code("a"), code("b", tags=["nbval-check-output"])), HERE)
    plain, held = cells(text)
    assert plain["outputs"] == []
    assert held["outputs"][0]["data"] == {"text/plain": ["1"]}
    assert plain["execution_count"] is None
    assert held["execution_count"] == held["outputs"][0]["execution_count"] == 1  # nbval needs a number, any number


def test_ids_follow_from_the_text_and_stay(packages):
    text, _ = synced(notebook(code("a"), code("a"), code("b")), HERE)
    ids = [cell["id"] for cell in cells(text)]
    assert len(set(ids)) == 3
    assert ids == [cell["id"] for cell in cells(synced(notebook(code("a"), code("a"), code("b")), HERE)[0])]
    edited = text.replace('"b"', '"b + 1"')
    assert [cell["id"] for cell in cells(synced(edited, HERE)[0])] == ids


def test_metadata_of_editors_goes(packages):
    text, _ = synced(notebook(code("a", tags=["hide-cell"], scrolled=True), widgets={}, authors=[]), HERE)
    assert json.loads(text)["metadata"] == sync_module.KERNEL
    assert cells(text)[0]["metadata"] == {"tags": ["hide-cell"]}


def test_setup_cell_derives_from_the_repository(packages):
    text, _ = synced(notebook(code("old", setup=True)), HERE)
    setup = "".join(cells(text)[0]["source"])
    assert "git+https://example.org/us/book@v1.0" in setup
    assert len(setup.splitlines()) <= 12


def test_a_chapter_that_uses_a_gpu_opens_with_one_and_says_where_there_is_none(packages, monkeypatch, capsys):
    text, _ = synced(notebook(code("", setup="gpu"), code("1 + 1")), HERE)
    assert json.loads(text)["metadata"]["accelerator"] == "GPU"
    assert json.loads(text)["metadata"]["colab"] == {"gpuType": "T4", "provenance": []}
    assert synced(text, HERE) == (text, [])
    without, _ = synced(notebook(code("", setup=True)), HERE)
    assert "accelerator" not in json.loads(without)["metadata"]
    setup = "".join(cells(text)[0]["source"])
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.setattr("subprocess.run", lambda *_, **__: None)
    for there, told in ((True, False), (False, True)):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        exec(setup, {})
        assert ("Runtime → Change runtime type → T4 GPU" in capsys.readouterr().out) == told


def test_a_chapter_that_chooses_a_device_opens_with_a_gpu_and_no_other_does():
    for path in notebooks():
        found = nbformat.read(path, as_version=4)
        own = [cell.source for cell in found.cells
               if cell.cell_type == "code" and not cell.metadata.get("setup") and "defines" not in cell.metadata]
        chooses = any("choose_device()" in source for source in own)
        assert ("accelerator" in found.metadata) == chooses, path.name
        assert not any("cuda.is_available" in source for source in own), f"{path.name}: that is what choose_device asks"


def test_setup_cell_does_nothing_away_from_colab(monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("it ran something"))
    exec(sync_module.SETUP.format(url=HERE.url, branch=HERE.branch), {})


def test_setup_cell_on_colab_installs_under_a_constraint_on_torch(monkeypatch):
    commands = []
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.setattr("subprocess.run", lambda command, **options: commands.append((command, options)))
    exec(sync_module.SETUP.format(url=HERE.url, branch=HERE.branch), {})
    [(command, options)] = commands
    assert options == {"check": True}
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert "--upgrade" not in command
    kept = Path(command[command.index("--constraint") + 1]).read_text()
    assert kept == f"torch=={version('torch')}\nnumpy=={version('numpy')}\n"


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (code("class Area: ..."), "defines Area again, which is stylegan2.shapes.Area"),
        (code("%time\ndef half(x): ..."), "defines half again"),
        (code("x = 1\n" * 41), "41 lines of code"),
        (code("if"), "is not Python"),
        (
            nbformat.v4.new_code_cell("1", metadata={"tags": ["nbval-check-output"]}),
            "is tagged nbval-check-output and holds no output",
        ),
    ],
)
def test_faults_are_told(packages, cell, told):
    [fault] = faults(notebook(code("", setup=True), cell))
    assert told in fault


def test_faults_leave_alone_what_is_right(packages):
    assert not list(
        faults(
            notebook(
                code("", setup=True),
                code("class Area: ...", defines="stylegan2.shapes.Area"),
                code("class Other:\n    def half(self): ..."),
                code("from stylegan2.shapes import Area\nx = 1\n" + "# a comment\n" * 50),
            )
        )
    )


def test_a_notebook_without_its_setup_cell_is_told(packages):
    [fault] = faults(notebook(nbformat.v4.new_markdown_cell("# Title"), code("x = 1"), code("", setup=True)))
    assert "first code cell is not the setup cell" in fault


def test_check_changes_nothing_and_fails(packages, tmp_path, capsys):
    path = tmp_path / "one.ipynb"
    path.write_text(notebook(code("", setup=True), code("", defines="stylegan2.shapes.half")))
    before = path.read_text()
    assert sync([path], check=True) == 1
    assert path.read_text() == before
    assert "cell 1 (stylegan2.shapes.half) differs" in capsys.readouterr().out
    assert sync([path]) == 0
    assert sync([path], check=True) == 0


def test_sync_follows_the_package(packages, tmp_path):
    path = tmp_path / "one.ipynb"
    path.write_text(notebook(code("", setup=True), code("", defines="stylegan2.data.toy")))
    sync([path])
    (packages / "stylegan2" / "data" / "__init__.py").write_text("def toy():\n    return 2\n")
    assert sync([path], check=True) == 1
    assert sync([path]) == 0
    assert "return 2" in path.read_text()


def test_unknown_names_and_files_that_are_no_notebooks_fail(packages, tmp_path, capsys):
    unknown, broken = tmp_path / "unknown.ipynb", tmp_path / "broken.ipynb"
    unknown.write_text(notebook(code("", defines="stylegan2.shapes.Round")))
    broken.write_text("{")
    assert sync([unknown, broken]) == 1
    told = capsys.readouterr().out
    assert "it defines Area, Circle, _private, half" in told
    assert "broken.ipynb: not a notebook" in told
