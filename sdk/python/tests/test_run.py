"""python -m scratchd.run is python, but for the temporary files."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import Broker, eventually

_TELL = """
import json, os, sys, tempfile
names = {name: repr(value) for name, value in globals().items() if name in ("__name__", "__file__", "__package__", "__doc__")}
with tempfile.NamedTemporaryFile() as file:
    print(json.dumps([sys.argv, sys.path[0], names, sys.modules["__main__"].__dict__ is globals(), os.getcwd()]))
print(file.name, file=sys.stderr)
"""


def _run(*arguments: str, where: Path | None = None, **more: str) -> tuple["subprocess.CompletedProcess[str]", ...]:
    """By the interpreter itself, and by scratchd.run."""
    environment = {**os.environ, **more}
    return tuple(
        subprocess.run(
            [sys.executable, *how, *arguments], capture_output=True, text=True, cwd=where, check=False, env=environment
        )
        for how in ((), ("-m", "scratchd.run"))
    )


@pytest.fixture
def program(target: Path) -> Path:
    (target / "script.py").write_text(_TELL)
    package = target / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(_TELL)
    with zipfile.ZipFile(target / "archive.pyz", "w") as archive:
        archive.writestr("__main__.py", _TELL)
    (target / "link.py").symlink_to("package/__main__.py")
    return target


@pytest.mark.parametrize(
    "arguments",
    [
        ("script.py", "a", "-b"),
        ("./script.py", "-m", "x"),
        ("/var/tmp/scratchd-target/script.py",),
        ("link.py",),
        ("package", "a"),
        ("archive.pyz",),
        ("-m", "package", "-c", "x"),
        ("-mscript", "a"),
        ("-c", _TELL, "a", "-m"),
    ],
)
def test_a_program_sees_what_it_sees_without(broker: Broker, program: Path, arguments: tuple[str, ...]) -> None:
    plain, leased = _run(*arguments, where=program)
    assert leased.stdout == plain.stdout != "", leased.stderr
    assert leased.returncode == plain.returncode == 0
    assert leased.stderr.startswith(str(broker.pool))
    assert not plain.stderr.startswith(str(broker.pool))
    eventually(lambda: not os.path.exists(os.path.dirname(leased.stderr.strip())))


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit(7)",
        "raise SystemExit('words')",
        "1 / 0",
        "import os; os._exit(3)",
        "import signal, os; os.kill(os.getpid(), 15)",
    ],
)
def test_it_ends_as_it_does_without(broker: Broker, code: str) -> None:
    plain, leased = _run("-c", code)
    assert leased.returncode == plain.returncode != 0
    assert leased.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]


@pytest.mark.parametrize("arguments", [("no such file",), ("-m", "no_such_module"), ("-m",), ("-m", "")])
def test_what_is_not_there_has_the_status_of_python(broker: Broker, arguments: tuple[str, ...]) -> None:
    plain, leased = _run(*arguments)
    assert leased.returncode == plain.returncode != 0
    assert leased.stderr


def test_compiled_programs_and_safe_paths(broker: Broker, program: Path) -> None:
    compile_it = "import py_compile; py_compile.compile('script.py', 'script.pyc')"
    subprocess.run([sys.executable, "-c", compile_it], cwd=program, check=True)
    plain, leased = _run("script.pyc", where=program)
    assert leased.stdout == plain.stdout != ""
    source = str(Path(sys.modules["scratchd"].__file__ or "").parents[1])
    plain, leased = _run("script.py", where=program, PYTHONSAFEPATH="1", PYTHONPATH=source)
    assert leased.stdout == plain.stdout != "", leased.stderr
