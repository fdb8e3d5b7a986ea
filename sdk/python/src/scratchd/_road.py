"""The way to the broker that the lease API takes, whether its caller blocks or awaits: what it asks for is written once."""

import os
import socket
import threading
import weakref
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from scratchd._channel import Answer, Channel, receive, result, send
from scratchd._connect import connect, runtime_directory
from scratchd._wire import Message, encode
from scratchd.errors import ChannelClosed, Refused

T = TypeVar("T")

# What is to happen also where nobody can wait for it.
ENDS = ("release", "revoke", "detach")


class Road(Protocol):
    """Takes requests to the broker."""

    # Areas are made by the broker even where this process could.
    by_broker: bool
    # Leases that this connection holds, and the next one is to hold.
    held: set[str]

    @property
    def is_delegated(self) -> bool:
        """Whether it is a channel that another process has passed on."""

    async def call(self, op: str, values: Message, descriptors: Sequence[int] = ()) -> Answer:
        """Asks, and waits for the answer."""

    def tell(self, op: str, values: Message) -> None:
        """Asks, and does not wait; safe in a finalizer."""


def block(work: Coroutine[Any, Any, T]) -> T:
    """Runs work whose road blocks, so that it never has to wait for anything else."""
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    work.close()
    raise RuntimeError("a blocking road has awaited something")


class Blocking:
    """The road of threads: one connection of this process's own. A forked child makes another one when it needs it."""

    def __init__(self, directory: str | None, start: bool, by_broker: bool) -> None:
        self.directory = directory
        self.start = start
        self.by_broker = by_broker
        self.held: set[str] = set()
        self._process = os.getpid()
        self.lock = threading.Lock()
        self.channel = self._new()
        # For what takes long, so that other threads do not wait for it.
        self._beside = Channel(self._connect_beside)
        register(self)

    @property
    def is_delegated(self) -> bool:
        """See Road."""
        return self.channel.is_delegated

    async def call(self, op: str, values: Message, descriptors: Sequence[int] = ()) -> Answer:
        """See Road."""
        takes_long = op == "persist" or bool(values.get("wait"))
        channel = self._beside if takes_long and not self.is_delegated else self.channel
        try:
            return channel.call(op, values, descriptors)
        except BlockingIOError:
            if op not in ENDS:
                raise
            # Somebody's clean-up in the middle of a call, and no other way there: nobody waits for the answer.
            channel.tell(op, values)
            return Answer({}, [])

    def tell(self, op: str, values: Message) -> None:
        """See Road."""
        self.channel.tell(op, values)

    def another(self) -> "Blocking":
        """A connection beside this one, so that what takes long here keeps nobody there waiting."""
        return self if self.is_delegated else Blocking(self.directory, self.start, self.by_broker)

    def runtime_directory(self) -> str:
        """Where its broker is."""
        return self.directory or runtime_directory()

    def close(self) -> None:
        """Ends the connection, and with it what it holds."""
        self.held.clear()
        self.channel.close()
        self._beside.close()

    def after_fork(self) -> None:
        """In the child: nothing of the parent's is used, or held open."""
        self.channel.forget()
        self._beside.forget()
        self.held = set()
        # It may be held by a thread that is not here.
        self.lock = threading.Lock()
        self.channel = self._new()

    def _new(self) -> Channel:
        channel = Channel(self._connect)
        channel.is_delegated = self.directory is None and channel.is_delegated
        return channel

    def _connect_beside(self) -> socket.socket:
        return connect(self.directory, self.start)

    def _connect(self) -> socket.socket:
        if self.is_delegated and self._process != os.getpid():
            raise ChannelClosed("it was delegated to the parent of this process, who may delegate another one")
        connection = connect(self.directory, self.start)
        try:
            for lease in sorted(self.held):
                self._attach(connection, lease)
        except BaseException:
            connection.close()
            raise
        return connection

    def _attach(self, connection: socket.socket, lease: str) -> None:
        send(connection, encode("ChannelRequest", {"id": 1, "attach": attach_connection(lease)}), ())
        answer = receive(connection)
        while answer.values.get("id", 0) != 1:
            answer = receive(connection)
        try:
            result("attach", answer)
        except Refused:
            # It has ended meanwhile; whoever uses it is told.
            self.held.discard(lease)


def attach_connection(lease: str) -> Message:
    """Lets the connection that this is sent on hold the lease."""
    return {"lease": lease, "holder": {"connection": {}}}


# Those with an `after_fork`.
_roads: "weakref.WeakSet[Any]" = weakref.WeakSet()


def register(road: Any) -> None:
    """Has its `after_fork` called in each forked child."""
    _roads.add(road)


def _after_fork() -> None:
    for road in list(_roads):
        road.after_fork()


os.register_at_fork(after_in_child=_after_fork)
