"""Finds the broker: where it is looked for, whether it answers, and whether it may be trusted."""

import os
import socket
import stat
import struct
import time

from scratchd.errors import ForeignBroker, NoBroker

SYSTEM_DIRECTORY = "/run/scratchd"
SOCKET_NAME = "handle.sock"
# A system broker may be restarting.
_RESTART_SECONDS_MAX = 30.0
_RETRY_SECONDS = 0.05
_ADDRESS_BYTES_MAX = 107


class Connection(socket.socket):
    """One that may stay open until its process ends: that is what it is for, and nothing to be warned of."""

    def __del__(self) -> None:
        self.close()


def runtime_directory() -> str:
    """Where the broker is looked for: in this one directory and in no other."""
    named = os.environ.get("SCRATCHD_RUNTIME_DIR")
    if named:
        return named
    if os.path.isdir(SYSTEM_DIRECTORY):
        return SYSTEM_DIRECTORY
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(own) and _is_own_directory(own):
        return os.path.join(own, "scratchd")
    return f"/tmp/scratchd-{os.geteuid()}"


def connect(directory: str | None = None, start: bool = True) -> socket.socket:
    """A connection to the broker; a session broker is started where there is none.

    Raises:
        NoBroker: There is none.
        ForeignBroker: It belongs to somebody else.
    """
    delegated = os.environ.get("SCRATCHD_CHANNEL") if directory is None else None
    if delegated:
        return _delegated(delegated)
    directory = directory or runtime_directory()
    found = try_connect(directory)
    if found is not None:
        return found
    path = os.path.join(directory, SOCKET_NAME)
    if directory == SYSTEM_DIRECTORY:
        return _wait_for_restart(directory, path)
    if not start:
        raise NoBroker(path, "nothing listens there")
    # Not imported by those who never need it.
    from scratchd import _session

    return _session.start(directory)


def try_connect(directory: str) -> socket.socket | None:
    """A connection, or nothing where nothing listens."""
    path = os.path.join(directory, SOCKET_NAME)
    connection = Connection(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        if len(os.fsencode(path)) <= _ADDRESS_BYTES_MAX:
            connection.connect(path)
        else:
            held = os.open(directory, os.O_PATH | os.O_DIRECTORY)
            try:
                connection.connect(f"/proc/self/fd/{held}/{SOCKET_NAME}")
            finally:
                os.close(held)
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()):
            raise ForeignBroker(path, uid)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def _delegated(number: str) -> socket.socket:
    """The channel that this process was given: used as it is, with no search and no look at who is behind it."""
    try:
        # A copy, so that a fork closes its own.
        return Connection(fileno=os.dup(int(number)))
    except (OSError, ValueError) as error:
        raise NoBroker(f"descriptor {number} (SCRATCHD_CHANNEL)", str(error)) from None


def _is_own_directory(path: str) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _wait_for_restart(directory: str, path: str) -> socket.socket:
    deadline = time.monotonic() + _RESTART_SECONDS_MAX
    while time.monotonic() < deadline:
        time.sleep(_RETRY_SECONDS)
        found = try_connect(directory)
        if found is not None:
            return found
    raise NoBroker(path, f"nothing has listened there for {_RESTART_SECONDS_MAX:.0f} s")
