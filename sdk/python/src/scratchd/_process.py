"""What this process has: its connection, its lease and the areas that it made outside of that. A forked child has its own."""

from __future__ import annotations

import errno
import functools
import os
import threading
import warnings

from scratchd.errors import ChannelClosed, NoBroker, Refused

# Without an import of `typing`, which takes a third of the standard module's time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scratchd._channel import Channel
    from scratchd._connect import Connection
    from scratchd._wire import Message

KIND_FILE, KIND_DIRECTORY, KIND_ANONYMOUS, KIND_MEMORY = 1, 2, 3, 4
WAIT_FREED = 1
# Areas in directories of one's own are looked through for those that were renamed or removed by other means, each time that so
# many were added.
_LOOK_EVERY = 64
_MAY_BE_LOCAL = os.environ.get("SCRATCHD_FALLBACK") == "local"


class OwnLease:
    """The lease that this process holds, or another one of its user."""

    __slots__ = ("id", "path")

    def __init__(self, id: str, path: str) -> None:
        self.id = id
        # Empty where the process can't reach it.
        self.path = path


class Elsewhere:
    """An area in a directory outside of the lease, by what tells it from another one of that name."""

    __slots__ = ("id", "lease", "node")

    def __init__(self, id: bytes, lease: str, node: tuple[int, int]) -> None:
        self.id = id
        self.lease = lease
        self.node = node


class Process:
    """One for each process: made anew in a forked child."""

    def __init__(self) -> None:
        # The lease, if there is one by now.
        self.known_lease: OwnLease | None = None
        # A signal handler may come while a lease is granted.
        self._lock = threading.RLock()
        # By path, as bytes.
        self.elsewhere: dict[bytes, Elsewhere] = {}
        # The names of temporary directories that are objects of this process, and of those that were its parents' when it was
        # forked and are not its own to remove.
        self.directories: set[str | bytes] = set()
        self.inherited: frozenset[str | bytes] = frozenset()
        self.lease_of_parent: OwnLease | None = None
        self._look_at = _LOOK_EVERY
        self._is_local = False

    @functools.cached_property
    def channel(self) -> Channel:
        """The connection. What it needs is imported by those who use it, not by everybody who imports the module."""
        from scratchd._channel import Channel
        from scratchd._connect import connect

        return Channel(connect)

    def lease(self) -> OwnLease:
        """The lease of this process, granted when it is first asked for.

        Raises:
            NoBroker: There is no broker.
            Refused: The broker grants none.
        """
        lease = self.known_lease
        if lease is None:
            with self._lock:
                lease = self.known_lease
                if lease is None:
                    lease = self.known_lease = self._grant()
        return lease

    def lost(self, lease: OwnLease) -> None:
        """That lease has ended: what is made next is under another one."""
        with self._lock:
            if self.known_lease is lease:
                self.known_lease = None

    def is_local(self) -> bool:
        """Whether to do without a broker, because that was asked for and there is none."""
        if _MAY_BE_LOCAL and not self._is_local and self.known_lease is None:
            try:
                self.lease()
            except (NoBroker, ChannelClosed) as error:
                return self.go_local(error)
        return self._is_local

    def go_local(self, error: OSError) -> bool:
        """From now on without a broker, if that was asked for. Warns once."""
        if _MAY_BE_LOCAL and not self._is_local:
            self._is_local = True
            warnings.warn(
                f"temporary files have no lease and are not removed if this process is killed: {error}",
                RuntimeWarning,
                stacklevel=4,
            )
        return self._is_local

    def create(self, values: Message, descriptors: tuple[int, ...] = ()) -> Any:
        """Create under the process's lease, granted anew if it was lost meanwhile; or under the one that the request names."""
        if "lease" in values:
            return self.channel.call("create", values, descriptors), self.lease()
        for _ in range(2):
            lease = self.lease()
            try:
                return self.channel.call("create", {"lease": lease.id, **values}, descriptors), lease
            except Refused as refused:
                if refused.reason not in ("LEASE_UNKNOWN", "LEASE_ENDING", "LEASE_LOST", "LEASE_KEPT"):
                    raise
                self.lost(lease)
                error = refused
        raise error

    def add_elsewhere(self, path: bytes, area: Elsewhere) -> None:
        """Notes an area outside of the lease."""
        self.elsewhere[path] = area
        if len(self.elsewhere) >= self._look_at:
            self.look_through()
            self._look_at = len(self.elsewhere) + _LOOK_EVERY

    def look_through(self) -> bool:
        """Lets go of areas that their owner has renamed or removed. Says if there were some."""
        gone = [path for path, area in list(self.elsewhere.items()) if node_of(path) != area.node]
        for path in gone:
            self.release_elsewhere(path)
        return bool(gone)

    def release_elsewhere(self, path: bytes) -> None:
        """Lets go of an area that is no longer there."""
        area = self.elsewhere.pop(path, None)
        if area is not None:
            self.channel.release({"lease": area.lease, "area": area.id})

    def in_child(self) -> Process:
        """What a forked child has instead: a connection and a lease of its own, when it needs them."""
        child = Process()
        channel = self.__dict__.get("channel")
        if channel is not None:
            if channel.is_delegated and channel.is_connected():
                # Two who read from one connection would take each other's answers.
                child.channel = type(channel)(_of_parent)
            channel.forget()
        child.inherited = self.inherited | self.directories
        child.lease_of_parent = self.known_lease
        child._is_local = self._is_local
        return child

    def _grant(self) -> OwnLease:
        if self.channel.is_delegated:
            # An empty lease is that of the channel, and no path leads there.
            return OwnLease("", "")
        parent = os.environ.get("SCRATCHD_LEASE", "")
        request = {"nonce": os.urandom(16), "parent": parent}
        try:
            granted = self.channel.call("grant", request)
        except Refused as refused:
            if not parent or refused.reason not in ("LEASE_UNKNOWN", "LEASE_ENDING", "REQUEST_INVALID"):
                raise
            # It surrounded somebody whose environment this is.
            granted = self.channel.call("grant", {**request, "parent": ""})
        for descriptor in granted.descriptors:
            os.close(descriptor)
        path = os.fsdecode(granted.values.get("path", b""))
        return OwnLease(granted.values["id"], path if path and _is_own(path) else "")


def _of_parent() -> Connection:
    raise ChannelClosed("it was delegated to the parent of this process, who may delegate another one")


def _is_own(path: str) -> bool:
    """In another name space the same path may be somebody else's."""
    try:
        return os.stat(path, follow_symlinks=False).st_uid == os.geteuid()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.ENOTDIR):
            raise
        return False


def node_of(path: bytes) -> tuple[int, int] | None:
    """What stands there."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


# That of this process.
current = Process()


def _after_fork() -> None:
    global current
    current = current.in_child()


os.register_at_fork(after_in_child=_after_fork)
