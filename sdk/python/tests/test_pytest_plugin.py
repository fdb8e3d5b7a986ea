"""tmp_path on a lease of the run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Broker, eventually

_PLUGINS = ("-p", "no:scratchd", "-p", "scratchd.pytest_plugin", "-p", "no:cacheprovider")

_TESTS = """
import os, pytest
POOL = {pool!r}

def test_passes(tmp_path, tmp_path_factory):
    assert str(tmp_path).startswith(POOL)
    assert tmp_path.name == "test_passes0"
    assert tmp_path_factory.getbasetemp() == tmp_path.parent
    tmp_path_factory.mktemp("made", numbered=False).joinpath("x").write_text("x")
    (tmp_path / "x").write_text("x")

@pytest.mark.parametrize("fails", {fails!r})
def test_may_fail(tmp_path, fails):
    (tmp_path / "evidence").write_text(str(fails))
    assert not fails

def test_old(tmpdir):
    assert tmpdir.check(dir=True)
"""


@pytest.fixture
def usual(target: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pytest itself makes temporary directories."""
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(target))
    return target


def _run(pytester: pytest.Pytester, broker: Broker, fails: list[bool], *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(_TESTS.format(pool=str(broker.pool), fails=fails))
    # Not with --basetemp, which pytester's own would add.
    command = [sys.executable, "-m", "pytest", *_PLUGINS, *arguments]
    return pytester.run(*command)


def _kept(usual: Path) -> list[str]:
    return sorted(str(path.relative_to(usual)) for path in usual.glob("pytest-of-*/pytest-0/**/*") if path.is_file())


def test_nothing_is_kept_of_a_run_that_passed(pytester: pytest.Pytester, broker: Broker, usual: Path) -> None:
    before = broker.leases()
    result = _run(pytester, broker, [False])
    result.assert_outcomes(passed=3)
    assert os.listdir(usual) == []
    assert broker.leases() == before


def test_what_failed_is_kept_and_named(pytester: pytest.Pytester, broker: Broker, usual: Path) -> None:
    before = broker.leases()
    result = _run(pytester, broker, [False, True])
    result.assert_outcomes(passed=3, failed=1)
    (line,) = [line for line in result.outlines if line.startswith("scratchd: ")]
    kept = Path(line.rpartition(" ")[2])
    files = [str(path.relative_to(kept)) for path in sorted(kept.glob("*/*"))]
    assert files == ["made/x", "test_may_fail_True_0/evidence"]
    assert broker.leases() == before


@pytest.mark.parametrize(("keep", "fails", "count"), [("all", [False], 3), ("none", [True], 0)])
def test_what_is_kept_can_be_said(
    pytester: pytest.Pytester, broker: Broker, usual: Path, keep: str, fails: list[bool], count: int
) -> None:
    _run(pytester, broker, fails, "-o", f"scratchd_keep={keep}")
    assert len([path for path in _kept(usual) if not path.endswith(".lock")]) == count


def test_wrong_words_are_refused(pytester: pytest.Pytester, broker: Broker) -> None:
    assert _run(pytester, broker, [], "-o", "scratchd_keep=some").ret == pytest.ExitCode.USAGE_ERROR


def test_as_many_runs_are_kept_as_pytest_keeps(pytester: pytest.Pytester, broker: Broker, usual: Path) -> None:
    for _ in range(4):
        _run(pytester, broker, [True], "-o", "tmp_path_retention_count=2")
    kept = [path.name for path in usual.glob("pytest-of-*/*") if re.fullmatch(r"pytest-\d+", path.name)]
    assert sorted(kept) == ["pytest-2", "pytest-3"]


def test_a_base_of_ones_own_is_pytests_affair(pytester: pytest.Pytester, broker: Broker, target: Path) -> None:
    pytester.makepyfile("def test_it(tmp_path): (tmp_path / 'x').write_text(str(tmp_path))")
    base = target / "base"
    pytester.run(sys.executable, "-m", "pytest", *_PLUGINS, f"--basetemp={base}").assert_outcomes(passed=1)
    assert (base / "test_it0" / "x").read_text() == str(base / "test_it0")


def test_without_a_broker_tests_say_so(
    pytester: pytest.Pytester, broker: Broker, usual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCHD_RUNTIME_DIR", str(usual / "none"))
    monkeypatch.setenv("SCRATCHD_BIN", "/nonexistent")
    result = _run(pytester, broker, [])
    result.assert_outcomes(errors=2, skipped=1)
    result.stdout.fnmatch_lines(["*no scratchd broker at */none/handle.sock*"])
    monkeypatch.setenv("SCRATCHD_FALLBACK", "local")
    pytester.makepyfile("def test_it(tmp_path): assert tmp_path.is_dir()")
    result = pytester.run(sys.executable, "-m", "pytest", *_PLUGINS)
    result.assert_outcomes(passed=1, warnings=1)


def test_tests_that_ask_for_nothing_need_no_broker(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCHD_RUNTIME_DIR", "/nonexistent")
    pytester.makepyfile("def test_it(): pass")
    pytester.run(sys.executable, "-m", "pytest", *_PLUGINS).assert_outcomes(passed=1)


def test_nothing_is_left_of_a_run_that_was_killed(pytester: pytest.Pytester, broker: Broker, usual: Path) -> None:
    before = broker.leases()
    path = pytester.makepyfile(
        "def test_it(tmp_path, capsys):\n  with capsys.disabled():\n    print('here', flush=True)\n  input()"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-s", *_PLUGINS, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        while run.stdout.readline() != "here\n":
            assert run.poll() is None
        assert broker.leases() - before
        run.kill()
    eventually(lambda: not broker.leases() - before)
    assert os.listdir(usual) == []


def test_workers_are_below_their_controller(pytester: pytest.Pytester, broker: Broker, usual: Path) -> None:
    pytest.importorskip("xdist")
    before = broker.leases()
    pytester.makepyfile(
        "import pytest\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        "def test_it(tmp_path, number):\n"
        f"    assert str(tmp_path).startswith({str(broker.pool)!r})\n"
        "    (tmp_path / f'evidence{number}').write_text('x')\n"
        "    assert number != 3\n"
    )
    result = pytester.run(sys.executable, "-m", "pytest", *_PLUGINS, "-n", "2")
    result.assert_outcomes(passed=5, failed=1)
    assert [os.path.basename(path) for path in _kept(usual) if "evidence" in path] == ["evidence3"]
    assert broker.leases() == before
