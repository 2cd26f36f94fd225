import pytest

from book import build


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A small repository, built once."""
    for name, text in {
        "requirements.txt": "torch",
        "_toc.yml": "root: chapters/a\nchapters:\n- file: chapters/b\n",
        "stylegan2/equalized.py": "x = 1",
        "gradnorm/weighter.py": "x = 1",
        "book/budget.py": "x = 1",
        "results/run/history.json": "{}",
        "chapters/a.ipynb": "{}",
        "_build/.jupyter_cache/global.db": "outputs",
        "_build/.doctrees/a.doctree": "read",
        "_build/html/chapters/a.html": "page",
        "_build/html/chapters/b.html": "page",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr("book.project.ROOT", tmp_path)
    monkeypatch.setattr(build, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(build, "SITE", tmp_path / "_build" / "html")
    monkeypatch.setenv("BOOK_BUDGET", "smoke")
    (tmp_path / "_build" / "key").write_text(build._key())
    return tmp_path


def outputs_kept(house):
    build._forget_what_changed(build._key())
    return (house / "_build/.jupyter_cache/global.db").is_file()


def test_nothing_changed_keeps_the_outputs(house):
    assert outputs_kept(house)
    assert (house / "_build/html/chapters/a.html").is_file()


@pytest.mark.parametrize(
    "changed",
    [
        "stylegan2/equalized.py",
        "gradnorm/weighter.py",
        "book/budget.py",
        "results/run/history.json",
        "requirements.txt",
    ],
)
def test_a_change_in_what_pages_depend_on_drops_the_outputs(house, changed):
    (house / changed).write_text("x = 2")
    assert not outputs_kept(house)
    assert not (house / "_build/.doctrees").exists()
    (house / "_build/.jupyter_cache").mkdir()
    (house / "_build/.jupyter_cache/global.db").write_text("outputs")
    assert outputs_kept(house)  # once


def test_a_renamed_file_and_another_budget_drop_the_outputs(house, monkeypatch):
    before = build._key()
    (house / "stylegan2/equalized.py").rename(house / "stylegan2/equal.py")
    renamed = build._key()
    monkeypatch.setenv("BOOK_BUDGET", "cpu")
    assert len({before, renamed, build._key()}) == 3


def test_a_changed_notebook_and_compiled_files_keep_the_others_outputs(house):
    (house / "chapters/a.ipynb").write_text("{ }")
    (house / "stylegan2/__pycache__").mkdir()
    (house / "stylegan2/__pycache__/equalized.pyc").write_text("x")
    assert outputs_kept(house)


def test_pages_taken_out_of_the_toc_go(house):
    (house / "_toc.yml").write_text("root: chapters/a\n")
    build._forget_what_changed(build._key())
    assert [page.name for page in (house / "_build/html/chapters").iterdir()] == ["a.html"]


def test_notebooks_get_one_budget_static_controls_and_no_more_threads_than_cores(monkeypatch):
    monkeypatch.setenv("BOOK_BUDGET", "smoke")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = build.environment()
    assert environment["BOOK_BUDGET"] == "smoke"
    assert environment["BOOK_STATIC"] == "1"
    assert 1 <= int(environment["OMP_NUM_THREADS"]) <= 8
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert build.environment()["OMP_NUM_THREADS"] == "3"
