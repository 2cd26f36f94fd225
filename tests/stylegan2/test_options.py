"""Every number, list and choice of every command has its range checked where it is read."""

import dataclasses
import types
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import jaxtyping
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylegan2.cli import main, parse
from stylegan2.commands.classifier import TrainClassifier
from stylegan2.commands.convert import Convert
from stylegan2.commands.explore import Blend, Directions, Interpolate, Mix, Project, Truncate
from stylegan2.commands.measure import Measure
from stylegan2.commands.pack import Pack
from stylegan2.commands.sample import Record, Sample
from stylegan2.commands.train import Train
from stylegan2.fields import Range, check_fields
from stylegan2.training import Settings

COMMANDS = {
    ("train",): Train, ("sample",): Sample, ("measure",): Measure, ("train-classifier",): TrainClassifier,
    ("explore", "mix"): Mix, ("explore", "truncate"): Truncate, ("explore", "interpolate"): Interpolate,
    ("explore", "project"): Project, ("explore", "directions"): Directions,
    ("record", "--run", "a", "--to", "b"): Record, ("convert",): Convert,
    ("pack", "a", "--to", "b.zip", "--resolution", "32"): Pack, ("explore", "blend", "a", "b", "--to", "c"): Blend}


@pytest.fixture
def unchecked_types():
    """As for a user: without the hook that checks annotations in the tests before we do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def options(kind):
    """(name, annotation) of every option, those of the settings too."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if get_origin(hint) is Annotated and dataclasses.is_dataclass(get_args(hint)[0]):
            yield from options(get_args(hint)[0])
        else:
            yield name, hint


def scalars(hint, allowed=None):
    """(type, range, whether it is in a list) of all that a hint is made of."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        allowed = next((a for a in arguments[1:] if isinstance(a, Range)), allowed)
        yield from scalars(arguments[0], allowed)
    elif origin in (Union, types.UnionType, tuple):
        for argument in arguments:
            if argument not in (type(None), Ellipsis):
                yield from scalars(argument, allowed)
    else:
        yield hint, allowed


EVERY = [(words, name, hint) for words, kind in COMMANDS.items() for name, hint in options(kind)]


def test_every_command_is_looked_at():
    assert len(EVERY) > 90
    assert {words[0] for words in COMMANDS} == {
        "train", "sample", "explore", "measure", "convert", "record", "pack",
        "train-classifier"}


def test_every_number_has_a_range():
    without = [name for _, name, hint in EVERY for kind, allowed in scalars(hint)
               if kind in (int, float) and allowed is None]
    assert without == []


def wrong(hint):
    """Words that do not fit."""
    (kind, allowed), *_ = scalars(hint)
    if get_origin(kind) is Literal:
        return ["nothing-like-that", ""]
    if kind in (int, float):
        outside = [str(allowed.low - 1), str(allowed.high * 10), str(allowed.low) if allowed.above else "nan"]
        return [*outside, "nan", "inf", "a few", ""]
    return []


CASES = [(words, name, value) for words, name, hint in EVERY for value in dict.fromkeys(wrong(hint))]


@pytest.mark.parametrize(("words", "name", "value"), CASES, ids=[f"{w[-1]}-{n}-{v}" for w, n, v in CASES])
def test_a_value_that_does_not_fit_is_named(words, name, value, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hint = next(hint for w, n, hint in EVERY if (w, n) == (words, name))
    count = len(get_args(hint)) if get_origin(hint) is tuple and Ellipsis not in get_args(hint) else 1
    needed = ["--images", "a.png"] if words[-1] == "project" and name != "images" else []
    with pytest.raises(SystemExit) as stop:
        main([*words, *needed, f"--{name.replace('_', '-')}", *[value] * count])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert name in error.replace("-", "_")
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("words", "name"), [(w, n) for w, n, h in EVERY if get_origin(h) is tuple])
def test_a_list_with_nothing_in_it_is_named(words, name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([*words, f"--{name}"])
    assert stop.value.code == 2
    assert name in capsys.readouterr().err


@pytest.mark.parametrize(("words", "name", "hint"), [
    (w, n, h) for w, n, h in EVERY if n not in ("background",) and any(k in (int, float) for k, _ in scalars(h))])
def test_the_ends_of_a_range_are_in_it(words, name, hint):
    """Each alone; settings that then do not go together say so, and not that the value is out of its range."""
    (kind, allowed), *_ = scalars(hint)
    for end in (allowed.high, *([] if allowed.above else [allowed.low])):
        needed = ["--images", "a.png"] if words[-1] == "project" else []
        try:
            parse([*words, *needed, f"--{name.replace('_', '-')}", str(kind(end))])
        except (SystemExit, ValueError):
            with pytest.raises(ValueError, match=r"power of two|multiple of 4|no paths in w|grow_from|without --from"):
                Settings(**{name: kind(end)})


@pytest.mark.parametrize(("change", "message"), [
    ({"data": 5}, "data is 5: it must be a text"), ({"data": " "}, "not empty"), ({"labels": "yes"}, "true or false"),
    ({"learning_rate": float("nan")}, "finite"), ({"images": 3.5}, "whole number"), ({"images": True}, "whole number"),
    ({"background": (1, 2)}, "list of 3"), ({"background": (300, 0, 0)}, "background is 300 0 0"),
    ({"n_features": 10**9}, r"from 1 to 8,192"), ({"model": "dcgan"}, "one of progan, stylegan, stylegan2"),
    ({"learning_rate": 0.0}, "greater than 0"), ({"white": 0}, "from 1 to 65,535")])
def test_settings_from_anywhere_are_checked(change, message, unchecked_types):
    with pytest.raises(ValueError, match=message):
        Settings(**change)


@pytest.mark.parametrize("content", ["[]", "5", '{"colour": 1}', '{"data": 5}', "{", '{"n_features": 1e9}', "\0"])
def test_a_settings_file_that_is_none_is_named(content, tmp_path, unchecked_types):
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"settings\.json does not hold the settings of a run"):
        Settings.load(path)


@given(st.floats() | st.integers() | st.booleans() | st.text(max_size=4) | st.none())
def test_a_range_means_what_it_says(value):
    @dataclasses.dataclass
    class Options:
        rate: Annotated[float, Range(0, 1, above=True)]

    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1
    if fits:
        check_fields(Options(value))
    else:
        with pytest.raises(ValueError, match="rate is"):
            check_fields(Options(value))


@pytest.mark.parametrize(("words", "message"), [
    (["sample", "--out", "grid"], "a picture ends in"), (["sample", "--out", "grid.pdf"], "a picture ends in"),
    (["explore", "interpolate", "--out", "film.png"], "a film ends in"),
    (["explore", "mix", "--out", "mix.mp4"], "a picture ends in")])
def test_a_kind_of_file_that_cannot_be_written_is_known_before_the_work(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
