"""Temporary files that are gone when their process is, however it dies.

from scratchd import tempfile  # instead of `import tempfile`; that is all
"""

__version__ = "0.1.0"


def install() -> None:
    """Puts `scratchd.tempfile` in the place of the standard module, for this program and all modules that it has imported."""
    import sys

    from scratchd import tempfile

    standard = sys.modules.get("tempfile")
    sys.modules["tempfile"] = tempfile
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if standard is None or names is None or module is standard:
            continue
        for name, value in list(names.items()):
            if value is standard:
                names[name] = tempfile
