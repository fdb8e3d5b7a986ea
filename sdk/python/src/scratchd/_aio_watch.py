"""As scratchd.watch, for those who await. Needs grpcio."""

import asyncio
from types import TracebackType
from typing import Any, Self

from scratchd import _grpc
from scratchd._async_road import Awaiting
from scratchd._wire import Message
from scratchd.watch import LOST, Event, LeaseInfo, event_of, info_of

__all__ = ["Watch", "get", "leases"]


class Watch:
    """An asynchronous iterator of events, as scratchd.watch.Watch is one that blocks.

    What happens after `async with client.watch() as watch:` has begun is told; without that, after the first event was asked
    for. An iteration may be cancelled and gone on with: nothing is lost by that.
    """

    def __init__(self, road: Awaiting, *, since: str, lease: str, held: bool) -> None:
        self._road = road
        self._course = _grpc.Course(since, lease, held)
        self._channel: Any = None
        self._stream: Any = None
        self._first: Message | None = None
        self._reading: asyncio.Task[Message] | None = None

    async def aclose(self) -> None:
        """Ends it."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait([reading])
        channel, self._channel, self._stream = self._channel, None, None
        if channel is not None:
            await channel.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Waits for the next event. Errors as of scratchd.watch.Watch."""
        while True:
            try:
                event = await self._advance()
            except OSError as error:
                await self.aclose()
                if self._course.is_compacted(error):
                    return Event(LOST)
                await asyncio.sleep(_grpc.LOOK_EVERY_SECONDS)
                continue
            if event is not None:
                return event

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _open(self) -> None:
        await self._road.call("ping", {})
        self._channel = _open_channel(self._road)
        call = self._channel.unary_stream(f"{_grpc.SERVICE}Watch", **_grpc.codec("WatchRequest", "WatchResponse"))
        stream = call(self._course.request)
        # A mark, or the first of what is held: from here on nothing is missed.
        self._first = await _read(stream)
        self._stream = stream

    async def _advance(self) -> Event | None:
        if self._stream is None:
            await self.aclose()
            await self._open()
        if self._first is None:
            # A task of its own, so that who is cancelled here does not end the stream.
            if self._reading is None:
                self._reading = asyncio.ensure_future(_read(self._stream))
            await asyncio.wait([self._reading])
            reading, self._reading = self._reading, None
            self._first = reading.result()
        message, self._first = self._first, None
        self._course.told(message)
        return event_of(message)


async def leases(road: Awaiting) -> list[LeaseInfo]:
    """All of them."""
    found: list[LeaseInfo] = []
    request: Message = {}
    while True:
        page = await _ask(road, "List", "ListLeasesRequest", "ListLeasesResponse", request)
        found.extend(map(info_of, page.get("leases", [])))
        request = {"page_token": page.get("next_page_token", "")}
        if not request["page_token"]:
            return found


async def get(road: Awaiting, lease: str) -> LeaseInfo:
    """One of them."""
    return info_of(await _ask(road, "Get", "GetLeaseRequest", "Lease", {"lease": lease}))


async def _ask(road: Awaiting, method: str, request: str, response: str, values: Message) -> Message:
    await road.call("ping", {})
    async with _open_channel(road) as channel:
        call = channel.unary_unary(_grpc.SERVICE + method, **_grpc.codec(request, response))
        rpc_error = _grpc.load().RpcError
        try:
            message: Message = await call(values)
        except rpc_error as error:
            raise _grpc.said(error) from None
        return message


async def _read(stream: Any) -> Message:
    grpc = _grpc.load()
    try:
        message = await stream.read()
    except grpc.RpcError as error:
        raise _grpc.said(error) from None
    if message is grpc.aio.EOF:
        raise ConnectionResetError("the broker has ended the stream")
    found: Message = message
    return found


def _open_channel(road: Awaiting) -> Any:
    return _grpc.load("grpc.aio").insecure_channel(_grpc.target(road.runtime_directory()), _grpc.options())
