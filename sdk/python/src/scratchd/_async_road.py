"""The road of an event loop: one connection, many requests under way, no threads.

What is asked for and never received, because its caller was cancelled, is taken back when the answer comes.
"""

import asyncio
import collections
import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Any

from scratchd._channel import _TRIES, Answer, receive, result, send, undo
from scratchd._connect import connect, runtime_directory, try_connect
from scratchd._road import ENDS, attach_connection, register
from scratchd._tenure import close
from scratchd._wire import Malformed, Message, encode
from scratchd.errors import ChannelClosed, Refused

# Read in one go, before others have their turn.
_PACKETS_MAX = 64
_DRAIN_SECONDS_MAX = 10.0


class _Asked:
    """A request, and who waits for its answer: None is the end of the connection."""

    def __init__(self, op: str, values: Message, descriptors: Sequence[int], waiter: "asyncio.Future[Answer | None] | None"):
        self.op = op
        self.values = values
        self.descriptors = descriptors
        self.waiter = waiter
        self.is_sent = False

    def is_given_up(self) -> bool:
        return self.waiter is not None and self.waiter.cancelled()


class _Link:
    """One connection, in one loop."""

    def __init__(self, connection: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.is_lost = False
        self._connection = connection
        self._last_id = 0
        self._asked: dict[int, _Asked] = {}
        self._unsent: collections.deque[int] = collections.deque()
        self._drained: asyncio.Future[None] | None = None
        # Why the broker closes the connection, if it says so.
        self._last_word: Answer | None = None
        connection.setblocking(False)
        loop.add_reader(connection, self._read)

    def ask(self, op: str, values: Message, descriptors: Sequence[int] = (), *, is_awaited: bool = True) -> _Asked:
        """Sends a request, or will as soon as that goes without waiting: `descriptors` are the caller's until then."""
        waiter = self.loop.create_future() if is_awaited else None
        asked = _Asked(op, values, descriptors, waiter)
        if self.is_lost:
            if waiter is not None:
                waiter.set_result(None)
            return asked
        self._last_id += 1
        self._asked[self._last_id] = asked
        self._unsent.append(self._last_id)
        if len(self._unsent) == 1:
            self._write()
        return asked

    def give_up(self, asked: _Asked) -> None:
        """Its caller was cancelled: now, or when the answer was there already."""
        if asked.waiter is not None and asked.waiter.done() and not asked.waiter.cancelled():
            answer = asked.waiter.result()
            if answer is not None:
                self._take_back(asked, answer)

    async def drain(self) -> None:
        """Waits until all is answered, and taken back what was to be; not for ever."""
        if self._asked:
            self._drained = self.loop.create_future()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained, _DRAIN_SECONDS_MAX)

    def close(self) -> None:
        """Ends the connection; who waits for an answer is told so."""
        if self.is_lost:
            return
        self.is_lost = True
        self.loop.remove_reader(self._connection)
        self.loop.remove_writer(self._connection)
        self._connection.close()
        asked, self._asked = self._asked, {}
        self._unsent.clear()
        for one in asked.values():
            if one.waiter is not None and not one.waiter.done():
                one.waiter.set_result(self._last_word)
        self._tell_drained()

    def forget(self) -> None:
        """In a forked child: the loop is the parent's."""
        self.is_lost = True
        self._connection.close()

    def _write(self) -> None:
        while self._unsent:
            number = self._unsent[0]
            asked = self._asked[number]
            if asked.is_given_up():
                # What it would pass may be closed by now.
                del self._asked[number]
            else:
                try:
                    send(self._connection, encode("ChannelRequest", {"id": number, asked.op: asked.values}), asked.descriptors)
                except BlockingIOError:
                    self.loop.add_writer(self._connection, self._write)
                    return
                except (BrokenPipeError, ConnectionResetError):
                    self.close()
                    return
                except Exception as error:
                    # Nothing that can be sent.
                    del self._asked[number]
                    if asked.waiter is not None:
                        asked.waiter.set_exception(error)
                asked.is_sent = True
                asked.descriptors = ()
            self._unsent.popleft()
        self.loop.remove_writer(self._connection)

    def _read(self) -> None:
        for _ in range(_PACKETS_MAX):
            try:
                answer = receive(self._connection)
            except BlockingIOError:
                break
            except (OSError, Malformed):
                self.close()
                return
            asked = self._asked.pop(answer.values.get("id", 0), None)
            if asked is None:
                close(answer.descriptors)
                if "error" in answer.values and not answer.values.get("id", 0):
                    self._last_word = Answer(answer.values, [])
            elif asked.waiter is None or asked.waiter.done():
                self._take_back(asked, answer)
            else:
                asked.waiter.set_result(answer)
        self._tell_drained()

    def _take_back(self, asked: _Asked, answer: Answer) -> None:
        close(answer.descriptors)
        for op, values in undo(asked.op, asked.values, answer.values):
            self.ask(op, values, is_awaited=False)

    def _tell_drained(self) -> None:
        if not self._asked and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)


class Awaiting:
    """The road of a loop. Used in another one, or in a forked child, it makes another connection there."""

    def __init__(self, directory: str | None, start: bool, by_broker: bool) -> None:
        self.directory = directory
        self.start = start
        self.by_broker = by_broker
        self.is_delegated = directory is None and bool(os.environ.get("SCRATCHD_CHANNEL"))
        self.held: set[str] = set()
        self._process = os.getpid()
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._owed: collections.deque[tuple[str, Message]] = collections.deque()
        register(self)

    async def call(self, op: str, values: Message, descriptors: Sequence[int] = ()) -> Answer:
        """See Road. Cancelled, it leaves nothing behind."""
        was_sent = False
        for _ in range(_TRIES):
            # What was not sent has not arrived: an exact name that exists is another's then.
            if was_sent and op == "create" and values.get("name"):
                values = {**values, "resend": True}
            asked = None
            try:
                link = await self._connected()
                asked = link.ask(op, values, descriptors)
                assert asked.waiter is not None
                answer = await asked.waiter
            except asyncio.CancelledError:
                if asked is not None:
                    link.give_up(asked)
                if op in ENDS and (asked is None or not asked.is_sent):
                    # It is to happen all the same.
                    self.tell(op, values)
                raise
            if answer is not None:
                try:
                    return result(op, answer)
                except Refused as refused:
                    refused.resent = was_sent
                    raise
            was_sent = was_sent or asked.is_sent
            if self.is_delegated:
                raise ChannelClosed("it was delegated, and can't be made again")
        raise ChannelClosed(f"lost {_TRIES} times in a row")

    def tell(self, op: str, values: Message) -> None:
        """See Road; also in another thread, as finalizers are."""
        self._owed.append((op, values))
        if self._link is not None:
            # A loop that is closed has closed what this is about, or will when its process ends.
            with contextlib.suppress(RuntimeError):
                self._link.loop.call_soon_threadsafe(self._pay)

    def runtime_directory(self) -> str:
        """Where its broker is."""
        return self.directory or runtime_directory()

    async def close(self) -> None:
        """Ends the connection, and with it what it holds, when what was under way is answered."""
        self.held.clear()
        link = self._link
        if link is None or link.loop is not asyncio.get_running_loop():
            return
        try:
            self._pay()
            await link.drain()
        finally:
            self._link = None
            link.close()

    def after_fork(self) -> None:
        """In the child: nothing of the parent's is used, or held open."""
        if self._link is not None:
            self._link.forget()
        self._link = None
        self._connecting = asyncio.Lock()
        self._owed.clear()
        self.held = set()

    def _pay(self) -> None:
        while self._link is not None and not self._link.is_lost and self._owed:
            op, values = self._owed.popleft()
            self._link.ask(op, values, is_awaited=False)

    async def _connected(self) -> _Link:
        loop = asyncio.get_running_loop()
        if self._link is not None and self._link.loop is not loop:
            if not self._link.loop.is_closed():
                raise RuntimeError("this client is another running loop's")
            self._link, self._connecting = None, asyncio.Lock()
        async with self._connecting:
            if self._link is None or self._link.is_lost:
                self._link = await self._open(loop)
            self._pay()
            return self._link

    async def _open(self, loop: asyncio.AbstractEventLoop) -> _Link:
        if self.is_delegated and self._process != os.getpid():
            raise ChannelClosed("it was delegated to the parent of this process, who may delegate another one")
        found = connect(None) if self.is_delegated else try_connect(self.runtime_directory())
        if found is None:
            # A broker is started, or waited for: the one thing here that takes long.
            found = await loop.run_in_executor(None, connect, self.directory, self.start)
        link = _Link(found, loop)
        try:
            for lease in sorted(self.held):
                await self._attach(link, lease)
        except BaseException:
            link.close()
            raise
        return link

    async def _attach(self, link: _Link, lease: str) -> None:
        waiter: Any = link.ask("attach", attach_connection(lease)).waiter
        answer = await waiter
        if answer is None:
            return
        try:
            result("attach", answer)
        except Refused:
            # It has ended meanwhile; whoever uses it is told.
            self.held.discard(lease)
