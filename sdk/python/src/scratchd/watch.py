"""Leases as the broker sees them, and what happens to them as it happens. Needs grpcio: `pip install scratchd[grpc]`."""

import datetime
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from scratchd import _grpc
from scratchd._road import Blocking, block
from scratchd._wire import Message
from scratchd.holders import seconds_of

__all__ = ["LOST", "Event", "HolderInfo", "LeaseInfo", "Watch"]

LOST = "LOST"
"""The code of an event that is told by nobody: something may have happened in between. The broker was started anew, or this
came back too late. What follows begins with all that it still knows; list anew what it is all about."""

_STATES = ("unspecified", "live", "ending", "kept", "ended", "lost")
_KINDS = ("connection", "process", "ttl", "descriptor", "cgroup", "hold")


@dataclass(frozen=True)
class HolderInfo:
    """What holds a lease."""

    id: int
    kind: str
    """"connection", "process", "ttl", "descriptor", "cgroup" or "hold"."""
    pid: int | None = None
    path: str | None = None
    expire_time: datetime.datetime | None = None


@dataclass(frozen=True)
class LeaseInfo:
    """A lease, as the broker tells it. Sizes are in bytes, times in seconds, 0 is no limit."""

    id: str
    state: str
    """"live", "ending", "kept", "ended" or "lost"."""
    path: str
    """Empty: none here."""
    pool: str
    uid: int
    parent: str
    labels: dict[str, str]
    holders: tuple[HolderInfo, ...]
    areas: int
    granted_ttl: float | None
    expire_time: datetime.datetime | None
    create_time: datetime.datetime | None
    size: int
    inodes: int
    preemptible: bool
    reason: str
    """Of get() alone: HELD, GRACE, or the code of why it ends or has ended; empty in a list."""
    text: str
    """The same for people."""


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    code: str
    """GRANTED, ENDING, ENDED, …, or `LOST`; docs/protocol.md has them. Later brokers have more."""
    lease: str = ""
    """Empty where it is about none."""
    text: str = ""
    time: datetime.datetime | None = None
    uid: int | None = None
    revision: str = ""
    """To go on after it."""
    metadata: dict[str, str] = field(default_factory=dict)


class Watch:
    """An iterator of events. It holds no lease and needs none; what happens after it was made is told.

    A broker that was started anew is gone on with, one that is away is looked for. `close()`, also by another thread, ends the
    iteration; so does the end of a `with`. Don't fork while it is open: that is grpcio's limit.
    """

    def __init__(self, road: Blocking, *, since: str, lease: str, held: bool) -> None:
        self._road = road
        self._course = _grpc.Course(since, lease, held)
        self._channel: Any = None
        self._stream: Any = None
        self._first: Message | None = None
        self._is_closed = False
        try:
            self._open()
        except BaseException:
            self._drop()
            raise

    def close(self) -> None:
        """Ends it."""
        self._is_closed = True
        self._drop()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        """Waits for the next event.

        Raises:
            Refused: COMPACTED is none of these: it is an event, `LOST`.
            OSError: The broker has not come back for 30 s; the next call looks for it again.
        """
        while not self._is_closed:
            try:
                event = self._advance()
            except OSError as error:
                self._drop()
                if self._is_closed:
                    break
                if self._course.is_compacted(error):
                    return Event(LOST)
                time.sleep(_grpc.LOOK_EVERY_SECONDS)
                continue
            if event is not None:
                return event
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _open(self) -> None:
        # Starts a broker if need be.
        block(self._road.call("ping", {}))
        self._channel = _open_channel(self._road)
        call = self._channel.unary_stream(f"{_grpc.SERVICE}Watch", **_grpc.codec("WatchRequest", "WatchResponse"))
        self._stream = call(self._course.request)
        # A mark, or the first of what is held: from here on nothing is missed.
        self._first = self._read()

    def _read(self) -> Message:
        rpc_error = _grpc.load().RpcError
        try:
            message: Message = next(self._stream)
        except StopIteration:
            raise ConnectionResetError("the broker has ended the stream") from None
        except rpc_error as error:
            raise _grpc.said(error) from None
        return message

    def _advance(self) -> Event | None:
        if self._stream is None:
            self._open()
        message, self._first = self._first or self._read(), None
        self._course.told(message)
        return event_of(message)

    def _drop(self) -> None:
        channel, self._channel, self._stream = self._channel, None, None
        if channel is not None:
            channel.close()


def leases(road: Blocking) -> list[LeaseInfo]:
    """All of them."""
    found: list[LeaseInfo] = []
    request: Message = {}
    while True:
        page = _ask(road, "List", "ListLeasesRequest", "ListLeasesResponse", request)
        found.extend(map(info_of, page.get("leases", [])))
        request = {"page_token": page.get("next_page_token", "")}
        if not request["page_token"]:
            return found


def get(road: Blocking, lease: str) -> LeaseInfo:
    """One of them."""
    return info_of(_ask(road, "Get", "GetLeaseRequest", "Lease", {"lease": lease}))


def _ask(road: Blocking, method: str, request: str, response: str, values: Message) -> Message:
    block(road.call("ping", {}))
    with _open_channel(road) as channel:
        call = channel.unary_unary(_grpc.SERVICE + method, **_grpc.codec(request, response))
        rpc_error = _grpc.load().RpcError
        try:
            message: Message = call(values)
        except rpc_error as error:
            raise _grpc.said(error) from None
        return message


def _open_channel(road: Blocking) -> Any:
    return _grpc.load().insecure_channel(_grpc.target(road.runtime_directory()), _grpc.options())


def event_of(message: Message) -> Event | None:
    """Nothing for a mark."""
    event = message.get("event")
    if event is None:
        return None
    return Event(
        code=event.get("code", ""),
        lease=message.get("lease", ""),
        text=event.get("text", ""),
        time=_time(event.get("time")),
        uid=message["tenant"].get("uid", 0) if "tenant" in message else None,
        revision=message.get("revision", ""),
        metadata=message.get("metadata", {}),
    )


def info_of(message: Message) -> LeaseInfo:
    """A lease of the protocol's."""
    state, reason, limits = message.get("state", 0), message.get("reason", {}), message.get("limits", {})
    return LeaseInfo(
        id=message.get("id", ""),
        state=_STATES[state] if state < len(_STATES) else str(state),
        path=os.fsdecode(message.get("path", b"")),
        pool=message.get("pool", ""),
        uid=message.get("tenant", {}).get("uid", 0),
        parent=message.get("parent", ""),
        labels=message.get("labels", {}),
        holders=tuple(map(_holder, message.get("holders", []))),
        areas=message.get("areas", 0),
        granted_ttl=seconds_of(message.get("granted_ttl")),
        expire_time=_time(message.get("expire_time")),
        create_time=_time(message.get("create_time")),
        size=limits.get("bytes", 0),
        inodes=limits.get("inodes", 0),
        preemptible=bool(message.get("preemptible", 0)),
        reason=reason.get("code", ""),
        text=reason.get("text", ""),
    )


def _holder(message: Message) -> HolderInfo:
    kind = next((kind for kind in _KINDS if kind in message), "")
    details = message.get(kind, {})
    path = details.get("path")
    return HolderInfo(
        id=message.get("id", 0),
        kind=kind,
        pid=details.get("pid"),
        path=None if path is None else os.fsdecode(path),
        expire_time=_time(details.get("expire_time")),
    )


def _time(message: Message | None) -> datetime.datetime | None:
    seconds = seconds_of(message)
    return None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC)
