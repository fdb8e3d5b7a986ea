"""python -m scratchd.run SCRIPT|-m MODULE|-c CODE [ARGUMENT]...: runs a program with its temporary files on a lease.

As `python SCRIPT`, `python -m MODULE` and `python -c CODE` do, after scratchd.install(). Switches of the interpreter stand
before `-m scratchd.run`. Programs that this one starts are their own: run them the same way, or under `scratch run`.
"""

import importlib.machinery
import io
import os
import pkgutil
import runpy
import sys
from types import CodeType
from typing import Any, NoReturn

import scratchd

_USAGE = "usage: python -m scratchd.run SCRIPT|-m MODULE|-c CODE [ARGUMENT]..."
# As of the interpreter.
_EXIT_USAGE = 2


def main() -> None:
    """Takes the arguments of this process, and the place of its main module."""
    switch, rest = sys.argv[1][:2] if len(sys.argv) > 1 else "", sys.argv[1:]
    if switch in ("-m", "-c"):
        rest = [rest[0][2:], *rest[1:]] if len(rest[0]) > 2 else rest[1:]
    elif switch[:1] == "-":
        rest = []
    if not rest:
        print(_USAGE, file=sys.stderr)
        sys.exit(_EXIT_USAGE)
    scratchd.install()
    sys.argv[:] = rest
    if switch == "-m":
        _run_module(rest[0])
    elif switch == "-c":
        sys.argv[0] = "-c"
        _put_first_on_path("")
        _run_code(compile(rest[0], "<string>", "exec"), None, importlib.machinery.BuiltinImporter)
    else:
        _run_script(rest[0])


def _run_module(name: str) -> None:
    _clear_main()
    # What the interpreter itself calls.
    runpy._run_module_as_main(name)  # type: ignore[attr-defined]


def _run_script(path: str) -> None:
    if os.path.isdir(path) or _is_archive(path):
        _put_first_on_path(_absolute(path))
        _clear_main()
        runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]
        return
    try:
        with io.open_code(_absolute(path)) as file:
            code = pkgutil.read_code(file)
            if code is None:
                file.seek(0)
                code = compile(file.read(), path, "exec")
    except OSError as error:
        _refuse(path, error)
    _put_first_on_path(os.path.dirname(os.path.realpath(path)))
    _run_code(code, path, importlib.machinery.SourceFileLoader("__main__", path))


def _absolute(path: str) -> str:
    """As the interpreter has it: not normalised."""
    return os.path.join(os.getcwd(), path)


def _is_archive(path: str) -> bool:
    import zipfile

    return zipfile.is_zipfile(path)


def _refuse(path: str, error: OSError) -> NoReturn:
    print(f"{sys.executable}: can't open file {_absolute(path)!r}: {error}", file=sys.stderr)
    sys.exit(_EXIT_USAGE)


def _put_first_on_path(directory: str) -> None:
    """In the place of the one that `-m` has put there."""
    if not sys.flags.safe_path:
        sys.path[0] = directory


def _clear_main() -> dict[str, Any]:
    names = sys.modules["__main__"].__dict__
    builtins = names["__builtins__"]
    names.clear()
    names.update({"__name__": "__main__", "__builtins__": builtins, "__doc__": None, "__package__": None, "__spec__": None})
    return names


def _run_code(code: CodeType, path: str | None, loader: Any) -> None:
    names = _clear_main()
    names.update({"__loader__": loader, "__annotations__": {}})
    if path is not None:
        names.update({"__file__": _absolute(path), "__cached__": None})
    exec(code, names)


if __name__ == "__main__":
    # Once more under its own name: what is left of this one is the program's.
    from scratchd.run import main as run

    run()
