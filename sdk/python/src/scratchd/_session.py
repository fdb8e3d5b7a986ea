"""Starts a session broker where there is none: under a lock, detached, and waited for until it is ready."""

import errno
import fcntl
import os
import select
import shutil
import socket
import subprocess
import time

from scratchd._connect import SOCKET_NAME, try_connect
from scratchd.errors import ForeignBroker, NoBroker, StartError

_READY_SECONDS_MAX = 10.0
_LOG_BYTES_MAX = 1 << 20
_RETRY_SECONDS = 0.05
_IDLE_EXIT = "60s"
# These lead into a lease where this process runs under one: the broker must not live there.
_OF_LEASE = ("TMPDIR", "TMP", "TEMP", "SCRATCHD_LEASE")
# Of the service that this process may be: the broker must not speak in its name.
_OF_SERVICE = ("NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
# The shell goes at once, and the broker is nobody's child.
_DETACH = '"$0" "$@" <&- &'


def start(directory: str) -> socket.socket:
    """Starts a broker for this runtime directory, or finds the one that somebody else started meanwhile.

    Raises:
        NoBroker: There is no program to start, or it did not get ready.
        ForeignBroker: The directory belongs to somebody else.
    """
    path = os.path.join(directory, SOCKET_NAME)
    held = _own_directory(directory, path)
    try:
        # Held until the broker is ready, so that of many starters one starts.
        lock = os.open("start.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=held)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _start_locked(directory, path, held)
        finally:
            os.close(lock)
    finally:
        os.close(held)


def _start_locked(directory: str, path: str, held: int) -> socket.socket:
    deadline = time.monotonic() + _READY_SECONDS_MAX
    while time.monotonic() < deadline:
        found = try_connect(directory)
        if found is not None:
            return found
        word, _, rest = _launch(directory, path, held).partition(b" ")
        if word == b"ready":
            found = try_connect(directory)
        elif word == b"locked":
            # Another broker has the pool; it has written down where it listens, or is about to.
            found = try_connect(os.fsdecode(rest)) if rest else None
        elif word == b"error":
            raise StartError(path, rest.decode(errors="replace"))
        else:
            raise StartError(path, f"it ended before it was ready; see {os.path.join(directory, 'log')}")
        if found is not None:
            return found
        time.sleep(_RETRY_SECONDS)
    raise StartError(path, "it was ready and then did not answer")


def _own_directory(directory: str, path: str) -> int:
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise NoBroker(path, f"{directory} can't be made: {error.strerror}") from None
    try:
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise NoBroker(path, f"{directory} can't be opened: {error.strerror}") from None
    found = os.fstat(held)
    if found.st_uid == os.geteuid() and not found.st_mode & 0o022:
        return held
    os.close(held)
    if found.st_uid == 0:
        raise NoBroker(path, "nothing listens there, and it is root's to start")
    raise ForeignBroker(path, found.st_uid)


def _launch(directory: str, path: str, held: int) -> bytes:
    """Runs the broker's program, detached; what it has to say."""
    program = os.environ.get("SCRATCHD_BIN") or shutil.which("scratch")
    if not program:
        raise NoBroker(path, "nothing listens there, and there is no program `scratch` on PATH to start one")
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=held)
    words, ready = os.pipe2(os.O_CLOEXEC)
    try:
        if os.fstat(log).st_size > _LOG_BYTES_MAX:
            os.ftruncate(log, 0)
        under_lease = "SCRATCHD_LEASE" in os.environ
        left_out = _OF_SERVICE + (_OF_LEASE if under_lease else ())
        environment = {name: value for name, value in os.environ.items() if name not in left_out}
        environment["SCRATCHD_READY_FD"] = str(ready)
        arguments = ["daemon", "--session", "--runtime-dir", os.path.abspath(directory), "--idle-exit", _IDLE_EXIT]
        subprocess.run(
            ["/bin/sh", "-c", _DETACH, os.path.abspath(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment,
            pass_fds=(ready,),
            start_new_session=True,
            check=True,
        )
        os.close(ready)
        ready = -1
        return _read_line(words, path)
    except subprocess.SubprocessError as error:
        raise StartError(path, str(error)) from None
    finally:
        for descriptor in (log, words, ready):
            if descriptor >= 0:
                os.close(descriptor)


def _read_line(words: int, path: str) -> bytes:
    deadline = time.monotonic() + _READY_SECONDS_MAX
    line = b""
    waiting = select.poll()
    waiting.register(words, select.POLLIN)
    while b"\n" not in line:
        left = deadline - time.monotonic()
        if left <= 0 or not waiting.poll(left * 1000):
            raise StartError(path, f"{os.strerror(errno.ETIMEDOUT)}: it was not ready after {_READY_SECONDS_MAX:.0f} s")
        part = os.read(words, 4096)
        if not part:
            break
        line += part
    return line.partition(b"\n")[0]
