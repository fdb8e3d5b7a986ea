"""Temporary files that are gone when their process is, however it dies.

from scratchd import tempfile  # instead of `import tempfile`; that is all
"""

import os as _os
import sys as _sys

__version__ = "0.1.0"

# Stubs that were generated from the contract are `scratchd.v1`, and may lie elsewhere.
_beside = [_os.path.join(directory, "scratchd") for directory in _sys.path]
__path__ += [path for path in _beside if path not in __path__ and _os.path.isdir(_os.path.join(path, "v1"))]


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
