"""Areas by path: in which lease a path is, making what no lease's directory is to hold, and taking trees out of sight."""

from __future__ import annotations

import errno
import os

from scratchd import _process
from scratchd._process import KIND_FILE, WAIT_FREED, Elsewhere, OwnLease, node_of
from scratchd.errors import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scratchd._wire import Message

# A tree in a directory of one's own is waited for so long; then the rest of it goes by and by.
_FREED_SECONDS_MAX = 0.1
_NAME_BYTES_MAX = 255


class Made:
    """What the broker has made."""

    __slots__ = ("descriptor", "release")

    def __init__(self, descriptor: int, release: Message) -> None:
        # A file's, else -1.
        self.descriptor = descriptor
        # What takes it away again.
        self.release = release


def place(directory: str) -> OwnLease | None:
    """The lease that this directory is below: this process's, or another one of its user, as that of its parent is."""
    own = _process.current.lease()
    if not own.path or directory == own.path:
        return own if own.path else None
    root = os.path.dirname(own.path)
    if not directory.startswith(root + "/"):
        return None
    # A link in between may lead out of it.
    real, root = os.path.realpath(directory), os.path.realpath(root)
    lease = real[len(root) + 1 :].partition("/")[0] if real.startswith(root + "/") else ""
    if len(lease) != len(own.id):
        return None
    return own if lease == own.id else OwnLease(lease, os.path.join(root, lease))


def make(kind: int, path: Any) -> Made:
    """Has the broker make it under that very name.

    Raises:
        OSError: As of the system call that would have made it.
    """
    parent, name = os.path.split(os.fsencode(path))
    # What a system call would say, where the broker would say NAME_INVALID.
    if b"\0" in name:
        raise ValueError("embedded null byte")
    if len(name) > _NAME_BYTES_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
    where = os.path.abspath(os.fsdecode(parent))
    lease = place(where)
    values: Message = {"kind": kind, "name": name, "want_handle": kind == KIND_FILE}
    try:
        if lease is None:
            held = os.open(parent or b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return _make_elsewhere(values, os.path.abspath(os.fsencode(path)), held)
            finally:
                os.close(held)
        answer, _ = _process.current.create({**values, **in_lease(lease, where)})
    except Refused as refused:
        raise refused.as_os_error(path) from refused
    area = os.fsencode(os.path.relpath(os.path.join(where, os.fsdecode(name)), lease.path))
    return Made(_first(answer.descriptors), {"lease": lease.id, "area": area})


def _make_elsewhere(values: Message, path: bytes, held: int) -> Made:
    """In a directory that is no lease's: the broker makes it with this user's rights, and removes it in the end."""
    own = _process.current
    values = {**values, "where": {"foreign": {"fd": True}}}
    try:
        answer, lease = own.create(values, (held,))
    except Refused as refused:
        if refused.reason != "LIMIT_FOREIGN" or not own.look_through():
            raise
        answer, lease = own.create(values, (held,))
    descriptor = _first(answer.descriptors)
    found = os.fstat(descriptor) if descriptor >= 0 else None
    node = (found.st_dev, found.st_ino) if found else node_of(path)
    area = answer.values["areas"][0]["id"]
    if node is not None:
        own.add_elsewhere(path, Elsewhere(area, lease.id, node))
    return Made(descriptor, {"lease": lease.id, "area": area})


def _first(descriptors: list[int]) -> int:
    return descriptors[0] if descriptors else -1


def remove(name: Any) -> bool:
    """Takes a directory out of sight, if it is on a lease; its removal is the broker's. False: it is not."""
    own = _process.current
    lease = own.known_lease
    if lease is None:
        return False
    path = os.path.abspath(os.fsdecode(name))
    parent = os.path.dirname(path)
    # By way of a link it may be elsewhere, where nobody would find it under another name.
    if parent != lease.path:
        lease = place(parent)
    if lease is not None and lease.path:
        return _remove_in_lease(lease, path)
    area = own.elsewhere.get(os.fsencode(path))
    if area is None or node_of(os.fsencode(path)) != area.node:
        return False
    values = {"lease": area.lease, "area": area.id}
    try:
        # Until all of it is gone, so that its parent is as empty as it was; but not for long.
        released = own.channel.call("release", {**values, "wait": WAIT_FREED}, seconds_max=_FREED_SECONDS_MAX).values
    except TimeoutError:
        released = {"existed": True}
    except OSError:
        return False
    own.elsewhere.pop(os.fsencode(path), None)
    return bool(released.get("existed")) and not released.get("debt")


def _remove_in_lease(lease: OwnLease, path: str) -> bool:
    """One rename, whatever is in it; what was renamed is removed behind."""
    try:
        os.rmdir(path)
        return True
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            return False
    name = f".gone-{os.urandom(8).hex()}"
    # Right below the lease, so that its parent is as empty as it was; where it may not be moved that far, beside itself.
    for parent in (lease.path, os.path.dirname(path)):
        aside = os.path.join(parent, name)
        try:
            os.rename(path, aside)
        except OSError:
            continue
        area = os.fsencode(os.path.relpath(aside, lease.path))
        _process.current.channel.release({"lease": lease.id, "area": area})
        return True
    return False


def in_lease(lease: OwnLease, directory: str) -> dict[str, Any]:
    """How a request names a directory in a lease."""
    inside = os.path.relpath(os.path.realpath(directory), os.path.realpath(lease.path))
    where = {} if inside == "." else {"where": {"directory": os.fsencode(inside)}}
    return {"lease": lease.id, **where}


def has_separator(prefix: Any, suffix: Any) -> bool:
    """Such a name leads to another directory than the one that was asked for."""
    return any(b"/" in os.fsencode(text) for text in (prefix, suffix) if isinstance(text, str | bytes))
