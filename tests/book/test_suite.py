import textwrap

import pytest

from book import suite
from book.suite import Counts


@pytest.fixture
def parts(monkeypatch):
    """Put parts with known outcomes in place of the real ones."""

    def install(**outcomes):
        monkeypatch.setattr(suite, "PARTS", {name: (name, lambda c=counts: c) for name, counts in outcomes.items()})

    return install


def test_a_failing_part_hides_no_other(parts, capsys):
    parts(lint=Counts(failed=1), tests=Counts(passed=7, skipped=2, reasons=("no GPU",)), types=Counts(passed=1))
    assert suite.test([]) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in told if line.startswith(("passed", "FAILED", "SKIPPED"))] == [
        ["FAILED", "lint"],
        ["passed", "tests"],
        ["passed", "types"],
    ]
    assert any("skipped: no GPU" in line for line in told)
    assert " 1 failed, 8 passed, 2 skipped in " in told[-1]


def test_all_passing_exits_zero(parts):
    parts(lint=Counts(passed=1))
    assert suite.test([]) == 0


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
        """)
    )
    options = ("-p", "no:cacheprovider", f"--rootdir={tmp_path}")
    assert suite._pytest(str(tests), *options) == Counts(passed=1, failed=1, skipped=1, reasons=("because",))
    tests.write_text("")
    assert suite._pytest(str(tests), *options).failed == 1  # no test ran: that is no success
