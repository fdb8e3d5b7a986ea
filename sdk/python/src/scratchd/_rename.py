"""Renaming without replacing, which the standard library can't."""

import ctypes
import os

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


def rename(old: str, new: str, replace: bool) -> None:
    """As os.rename.

    Raises:
        FileExistsError: There is something of that name, and it was not to be replaced.
        OSError: As of renameat2(2).
    """
    if replace:
        os.rename(old, new)
        return
    function = ctypes.CDLL(None, use_errno=True).renameat2
    if function(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), old, None, new)
