import re
import shutil
import subprocess
import textwrap

import pytest

from book import suite
from book.project import ROOT
from book.suite import Counts

VERDICT = re.compile("passed|PARTLY|SKIPPED|FAILED")
NO_BROWSER = "no Chromium or Chrome on this machine: install one"


@pytest.fixture
def parts(monkeypatch):
    """Put parts with known outcomes in place of the real ones, on a laptop."""
    monkeypatch.delenv("CI", raising=False)

    def install(**outcomes):
        monkeypatch.setattr(suite, "PARTS", {name: (name, lambda c=counts: c) for name, counts in outcomes.items()})

    return install


def test_a_failing_part_hides_no_other(parts, capsys):
    tests = Counts(passed=7, skipped={"needs a GPU": 2})
    parts(lint=Counts(failed=1), tests=tests, types=Counts(passed=1))
    assert suite.test([]) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in told if VERDICT.match(line)] == [
        ["FAILED", "lint"],
        ["passed", "tests"],
        ["passed", "types"],
    ]
    assert any("2 skipped: needs a GPU" in line for line in told)
    assert " 1 failed, 8 passed, 2 skipped in " in told[-1]


def test_all_passing_exits_zero(parts):
    parts(lint=Counts(passed=1))
    assert suite.test([]) == 0


@pytest.mark.parametrize(("passed", "verdict"), [(0, "SKIPPED"), (6, "PARTLY")])
def test_what_was_not_checked_stands_in_the_last_lines(parts, capsys, passed, verdict):
    parts(lint=Counts(passed=1), site=Counts(passed, skipped={NO_BROWSER: 530}))
    assert suite.test([]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in told if VERDICT.match(line)] == [
        ["passed", "lint"],
        [verdict, "site"],
    ]
    of = passed + 530
    assert told[-2] == f"NOT CHECKED: site, 530 of {of} checks ({NO_BROWSER})"


def test_what_was_not_checked_fails_in_ci(parts, capsys, monkeypatch):
    monkeypatch.setenv("CI", "true")
    parts(lint=Counts(passed=1), site=Counts(passed=6, skipped={NO_BROWSER: 530}))
    assert suite.test([]) == 1
    told = capsys.readouterr().out
    assert "FAILED   site" in told
    assert "NOT CHECKED: site, 530 of 536 checks" in told
    assert suite.test(["lint"]) == 0


def test_what_needs_a_gpu_may_be_skipped_anywhere(parts, capsys, monkeypatch):
    parts(tests=Counts(passed=6, skipped={"needs a GPU": 1}))
    for value in ("", "true"):
        monkeypatch.setenv("CI", value)
        assert suite.test([]) == 0
        told = capsys.readouterr().out
        assert "passed   tests" in told
        assert "NOT CHECKED" not in told


def test_chosen_parts_alone_run(parts, capsys):
    parts(lint=Counts(failed=1), types=Counts(passed=1))
    assert suite.test(["types"]) == 0
    assert "lint" not in capsys.readouterr().out


def test_an_unknown_part_is_told(parts):
    parts(lint=Counts(passed=1))
    with pytest.raises(SystemExit, match="no part 'lints'"):
        suite.test(["lints"])


def test_the_site_is_skipped_where_it_was_not_built(parts, capsys):
    parts(book=Counts(failed=1), site=Counts(passed=9))
    assert suite.test([]) == 1
    assert "the site was not built" in capsys.readouterr().out


def test_pytest_is_counted_test_by_test(tmp_path):
    tests = tmp_path / "test_some.py"
    tests.write_text(
        textwrap.dedent("""
        import pytest

        def test_right(): pass
        def test_wrong(): assert False
        def test_not_here(): pytest.skip("because")
        def test_nor_here(): pytest.skip("because")
        @pytest.mark.skipif(True, reason="needs a GPU")
        def test_large(): pass
        """)
    )
    options = ("-p", "no:cacheprovider", f"--rootdir={tmp_path}")
    expected = Counts(passed=1, failed=1, skipped={"because": 2, "needs a GPU": 1})
    assert suite._pytest(str(tests), *options) == expected
    tests.write_text("")
    assert suite._pytest(str(tests), *options).failed == 1  # no test ran: that is no success


def test_without_a_browser_pages_are_skipped_and_in_ci_fail(tmp_path, capfd):
    def run(ci):
        # Three tests that need a browser and no built site; PATH leads to no browser.
        return suite._pytest("tests/site/test_twin.py", CI=ci, PATH=str(tmp_path))

    assert run("") == Counts(skipped={NO_BROWSER: 3})
    capfd.readouterr()
    assert run("true") == Counts(failed=3)
    assert f"{NO_BROWSER}; in CI nothing is skipped" in capfd.readouterr().out


@pytest.fixture
def ci(tmp_path):
    """Run .ci/run on a made-up machine: what it said, its status, what make was asked.

    The machine has the commands that are named, each with the lines of shell it runs.
    """
    (tmp_path / "bin").mkdir()
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    for name in ("bash", "env", "dirname"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))

    def run(**commands):
        make = 'echo "$@, CI=$CI, $BOOK_BUDGET" >asked'
        for name, lines in {"make": make, "git": "", "python3": "", **commands}.items():
            path = tmp_path / "bin" / name
            path.write_text(f"#!{shutil.which('bash')}\n{lines}\n")
            path.chmod(0o755)
        done = subprocess.run(
            [tmp_path / ".ci/run"],
            env={"PATH": str(tmp_path / "bin")},
            capture_output=True,
            text=True,
        )
        path = tmp_path / "asked"
        asked = path.read_text() if path.exists() else None
        return done.stderr, done.returncode, asked

    return run


def test_ci_runs_the_suite_and_says_that_it_is_ci(ci):
    assert ci(chromium="") == ("", 0, "test, CI=true, smoke\n")


def test_ci_installs_a_browser(ci):
    install = 'if [ "$1" = install ]; then echo "$@" >&2; fi'
    told, status, asked = ci(**{"id": "echo 0", "apt-get": install})
    assert told.split()[-1] == "chromium"
    assert (status, asked) == (0, "test, CI=true, smoke\n")


def test_ci_without_a_browser_fails(ci):
    told, status, asked = ci(**{"id": "echo 0", "apt-get": '[ "$1" = update ]'})
    assert told == "CI ends here: could not install chromium\n"
    assert (status != 0, asked) == (True, None)
    told, status, asked = ci(id="echo 1000")
    assert told == "CI ends here: chromium missing, and no apt-get as root here\n"
    assert (status != 0, asked) == (True, None)
