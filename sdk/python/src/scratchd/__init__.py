"""Temporary files that are gone when their process is, however it dies.

from scratchd import tempfile  # instead of `import tempfile`; that is all

Beside it the leases themselves: `with scratchd.lease() as lease: …`; see Client, Lease, Scope, SpooledUpload and scratchd.aio.
"""

from __future__ import annotations

import os as _os
import sys as _sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scratchd import aio as aio
    from scratchd import errors as errors
    from scratchd._lease import Lease as Lease
    from scratchd.client import Client as Client
    from scratchd.client import connect as connect
    from scratchd.client import lease as lease
    from scratchd.guards import Directory as Directory
    from scratchd.guards import File as File
    from scratchd.holders import Holder as Holder
    from scratchd.holders import Replace as Replace
    from scratchd.renewal import Renewal as Renewal
    from scratchd.scope import Scope as Scope
    from scratchd.scope import secure_temp_write as secure_temp_write
    from scratchd.upload import SpooledUpload as SpooledUpload
    from scratchd.upload import UploadTooLarge as UploadTooLarge

__version__ = "0.1.0"

# Stubs that were generated from the contract are `scratchd.v1`, and may lie elsewhere.
_beside = [_os.path.join(directory, "scratchd") for directory in _sys.path]
__path__ += [path for path in _beside if path not in __path__ and _os.path.isdir(_os.path.join(path, "v1"))]

# Imported by those who use them: the standard module's place costs no more than the standard module.
_MODULE_OF = {
    "Client": "client",
    "Directory": "guards",
    "File": "guards",
    "Holder": "holders",
    "Lease": "_lease",
    "Renewal": "renewal",
    "Replace": "holders",
    "Scope": "scope",
    "SpooledUpload": "upload",
    "UploadTooLarge": "upload",
    "aio": "aio",
    "connect": "client",
    "errors": "errors",
    "lease": "client",
    "secure_temp_write": "scope",
}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    found = importlib.import_module(f"{__name__}.{module}")
    value = found if module == name and name in ("aio", "errors") else getattr(found, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})


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
