"""One connection to the broker, for all threads of a process: one request at a time, sent again where that was not answered.

What is asked for and never received, because its caller was interrupted, is taken back when the answer comes.
"""

import array
import collections
import errno
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from scratchd._wire import Malformed, Message, decode, encode
from scratchd.errors import ChannelClosed, Refused

PACKET_BYTES_MAX = 64 << 10
_DESCRIPTORS_MAX = 253
_ANCILLARY_BYTES = socket.CMSG_SPACE(_DESCRIPTORS_MAX * array.array("i").itemsize)
# Nothing of the connection is known to have got there: as often a new one is made for one request.
_TRIES = 3


class Answer(NamedTuple):
    """What a request was answered with."""

    values: Message
    descriptors: list[int]


class Channel:
    """A connection, made when it is first needed and again when it was lost."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._socket: socket.socket | None = None
        # Taken by one thread at a time, and by that again where it is interrupted.
        self._lock = threading.RLock()
        self._is_busy = False
        self._last_id = 0
        # Requests whose callers were interrupted before their answers came.
        self._abandoned: dict[int, tuple[str, Message]] = {}
        self._is_sent = False
        # Releases and revokes that nobody waits for. Filled also by finalizers, which may come while the lock is held.
        self._owed: collections.deque[tuple[str, Message]] = collections.deque()
        self.is_delegated = bool(os.environ.get("SCRATCHD_CHANNEL"))

    def call(self, op: str, values: Message, descriptors: Sequence[int] = (), seconds_max: float | None = None) -> Answer:
        """Sends a request and waits for its answer, whose descriptors are the caller's to close.

        Raises:
            TimeoutError: None has come within `seconds_max`; the request is carried out all the same.
            Refused: The broker says no.
            NoBroker: There is none.
            ChannelClosed: The connection was lost, again and again.
        """
        try:
            with self._lock:
                if self._is_busy:
                    # A signal handler or a finalizer has come in the middle of a call of this very thread.
                    return self._call_beside(op, values, descriptors, seconds_max)
                self._is_busy = True
                try:
                    return self._call(op, values, descriptors, seconds_max)
                finally:
                    self._is_busy = False
        finally:
            # What finalizers have asked for meanwhile.
            self._settle()

    def release(self, values: Message) -> None:
        """Has an area removed soon, without waiting for that and without an error; safe in a finalizer."""
        self.tell("release", values)

    def tell(self, op: str, values: Message) -> None:
        """Asks for something without waiting for it and without an error; safe in a finalizer."""
        self._owed.append((op, values))
        self._settle()

    def _settle(self) -> None:
        # Who holds the lock comes by here afterwards.
        if not self._owed or not self._lock.acquire(blocking=False):
            return
        try:
            if self._socket is not None and not self._is_busy:
                self._is_busy = True
                try:
                    self._pay(self._socket)
                finally:
                    self._is_busy = False
        except (OSError, Malformed):
            # With the next call, or with its lease.
            pass
        finally:
            self._lock.release()

    def close(self) -> None:
        """Ends the connection. What it holds is held no more."""
        with self._lock:
            self._drop()

    def forget(self) -> None:
        """In a forked child: the connection is the parent's, and its lock may be held by a thread that is not here."""
        self._lock = threading.RLock()
        self._is_busy = False
        self._owed.clear()
        self._drop()

    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._socket is not None

    def fileno(self) -> int:
        """The connection's descriptor, for those who wait for it; it is made if need be."""
        with self._lock:
            return self._connected().fileno()

    def _call_beside(self, op: str, values: Message, descriptors: Sequence[int], seconds_max: float | None) -> Answer:
        """By a connection for this one call: leases are held by the process, not by a connection."""
        if self.is_delegated:
            raise BlockingIOError(errno.EDEADLK, "the channel is in use by this very thread, which was interrupted")
        beside = Channel(self._connect)
        try:
            return beside.call(op, values, descriptors, seconds_max)
        finally:
            beside.close()

    def _pay(self, connection: socket.socket) -> None:
        """Sends what nobody waits for, as far as that goes without waiting, and puts the answers away that have come."""
        if not self._owed:
            return
        while True:
            try:
                self._put_away(receive(connection, socket.MSG_DONTWAIT))
            except BlockingIOError:
                break
        while self._owed:
            self._last_id += 1
            op, values = self._owed[0]
            packet = encode("ChannelRequest", {"id": self._last_id, op: values})
            try:
                send(connection, packet, (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self._owed.popleft()

    def _call(self, op: str, values: Message, descriptors: Sequence[int], seconds_max: float | None) -> Answer:
        # Sent before and not answered it may have been carried out: Create says so, Grant has its nonce.
        if op == "grant" and "nonce" not in values:
            values = {**values, "nonce": os.urandom(16)}
        was_sent = False
        for _ in range(_TRIES):
            # What was not sent has not arrived: an exact name that exists is another's then.
            if was_sent and op == "create" and values.get("name"):
                values = {**values, "resend": True}
            self._is_sent = False
            try:
                connection = self._connected()
                self._pay(connection)
                if seconds_max is None:
                    return self._ask(connection, op, values, descriptors)
                connection.settimeout(seconds_max)
                try:
                    return self._ask(connection, op, values, descriptors)
                finally:
                    connection.settimeout(None)
            except Refused as refused:
                refused.resent = was_sent
                raise
            except (ConnectionError, Malformed) as error:
                if isinstance(error, OSError) and not self._is_lost(error):
                    raise
                was_sent = was_sent or self._is_sent
                self._drop()
                if self.is_delegated:
                    raise ChannelClosed("it was delegated, and can't be made again") from error
        raise ChannelClosed(f"lost {_TRIES} times in a row")

    @staticmethod
    def _is_lost(error: OSError) -> bool:
        return type(error) in (ConnectionResetError, BrokenPipeError)

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._abandoned.clear()
            self._socket = self._connect()
        return self._socket

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, connection: socket.socket, op: str, values: Message, descriptors: Sequence[int]) -> Answer:
        self._last_id += 1
        number = self._last_id
        packet = encode("ChannelRequest", {"id": number, op: values})
        try:
            send(connection, packet, descriptors)
            self._is_sent = True
            while True:
                answer = receive(connection)
                if answer.values.get("id", 0) == number:
                    break
                self._put_away(answer)
        except BaseException as error:
            if isinstance(error, ConnectionError):
                self._hear_why(connection)
            else:
                self._abandoned[number] = (op, values)
            raise
        return result(op, answer)

    def _hear_why(self, connection: socket.socket) -> None:
        """One that was turned away is told why before the connection is closed."""
        try:
            while True:
                self._put_away(receive(connection, socket.MSG_DONTWAIT))
        except (BlockingIOError, ConnectionError):
            return

    def _put_away(self, answer: Answer) -> None:
        """What belongs to nobody any more: the broker's own word, or the answer of one who was interrupted.

        Raises:
            Refused: The broker says why it closes the connection.
        """
        for descriptor in answer.descriptors:
            os.close(descriptor)
        if "error" in answer.values and not answer.values.get("id", 0):
            result("", answer)
        asked = self._abandoned.pop(answer.values.get("id", 0), None)
        if asked is not None:
            self._owed.extend(undo(*asked, answer.values))


def undo(op: str, asked: Message, answer: Message) -> list[tuple[str, Message]]:
    """What takes back what was made for somebody who is no longer there."""
    made = answer.get(op, {})
    if op == "grant" and made.get("id"):
        return [("revoke", {"lease": made["id"]})]
    if op != "create":
        return []
    lease = asked.get("lease", "")
    inside = asked.get("where", {}).get("directory", b"")
    undone: list[tuple[str, Message]] = []
    for area in made.get("areas", []):
        name = area.get("id") or os.path.join(inside, area.get("name", b""))
        undone.append(("release", {"lease": lease, "area": name}))
    return undone


def send(connection: socket.socket, packet: bytes, descriptors: Sequence[int], flags: int = 0) -> None:
    """Sends a packet with descriptors, which stay the caller's."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    connection.sendmsg([packet], rights, socket.MSG_NOSIGNAL | flags)


def receive(connection: socket.socket, flags: int = 0) -> Answer:
    """The next packet and its descriptors, which are not inherited by other programs.

    Raises:
        ConnectionResetError: The connection has ended.
        Malformed: It is no answer, or was cut off.
    """
    flags |= socket.MSG_CMSG_CLOEXEC
    packet, ancillary, flags, _ = connection.recvmsg(PACKET_BYTES_MAX, _ANCILLARY_BYTES, flags)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    try:
        if not packet:
            raise ConnectionResetError("the broker has closed the connection")
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Malformed("an answer was cut off")
        return Answer(decode("ChannelResponse", packet), list(descriptors))
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def result(op: str, answer: Answer) -> Answer:
    """The answer to a request of that kind.

    Raises:
        Refused: It was refused.
    """
    values = answer.values.get(op)
    if values is not None:
        return Answer(values, answer.descriptors)
    for descriptor in answer.descriptors:
        os.close(descriptor)
    error = answer.values.get("error")
    if error is None:
        raise Malformed(f"no answer to {op}")
    raise Refused(error.get("code", 2), error.get("reason", ""), error.get("message", ""), error.get("metadata", {}))
