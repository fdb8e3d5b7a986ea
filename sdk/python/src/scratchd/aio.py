"""The lease API for asyncio: the same names, awaited.

async with await scratchd.aio.connect() as client, client.lease() as lease, lease.file() as file: …

A client belongs to one event loop, and has a connection of its own there, with as many requests under way as there are tasks. A
task that is cancelled in the middle of a call leaves neither areas nor descriptors.
"""

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from scratchd import _tenure
from scratchd._aio_lease import Directory, File, Lease, Making, Renewal, grant
from scratchd._async_road import Awaiting
from scratchd._tenure import Tenure
from scratchd.client import Create, by_broker
from scratchd.errors import Refused
from scratchd.holders import Holder, Replace, Seconds

if TYPE_CHECKING:
    from scratchd._aio_watch import Watch
    from scratchd.watch import LeaseInfo

__all__ = ["Client", "Directory", "File", "Holder", "Lease", "Making", "Renewal", "Replace", "connect"]


async def connect(runtime_directory: str | None = None, *, create: Create | None = None, start: bool = True) -> "Client":
    """Connects to the broker, and starts one for this user where there is none. Arguments and errors as of scratchd.connect."""
    client = Client(runtime_directory, create=create, start=start)
    await client.ping()
    return client


class Client:
    """As scratchd.Client, for one event loop."""

    def __init__(self, runtime_directory: str | None = None, *, create: Create | None = None, start: bool = True) -> None:
        self._road = Awaiting(runtime_directory, start, by_broker(create))
        self._granting = asyncio.Lock()
        # With the process that it is for.
        self._own: tuple[int, Lease] | None = None

    async def ping(self) -> None:
        """Asks the broker nothing and waits for its answer."""
        await self._road.call("ping", {})

    def lease(
        self,
        ttl: Seconds | None = None,
        labels: Mapping[str, str] | None = None,
        pool: str = "",
        parent: Lease | str | None = None,
        *,
        size: int = 0,
        inodes: int = 0,
        soft: bool = False,
        lifetime_max: Seconds | None = None,
        grace: Seconds | None = None,
        preemptible: bool = False,
        search_environment: bool = False,
        holders: Sequence[Holder] = (),
    ) -> Making[Lease]:
        """Grants a lease: `async with client.lease() as lease:`, or await it.

        Arguments and errors as of scratchd.Client.lease.
        """
        values, asked = _tenure.grant_request(
            ttl=ttl,
            labels=labels,
            pool=pool,
            parent=parent.id if isinstance(parent, Lease) else parent or "",
            size=size,
            inodes=inodes,
            soft=soft,
            lifetime_max=lifetime_max,
            grace=grace,
            preemptible=preemptible,
            search_environment=search_environment,
            holders=holders,
        )
        return Making(grant(self._road, values, asked))

    async def own_lease(self) -> Lease:
        """As scratchd.Client.own_lease."""
        async with self._granting:
            if self._own is None or self._own[0] != os.getpid():
                lease = Lease(self._road, Tenure("")) if self._road.is_delegated else await self.lease()
                lease.leave()
                self._own = os.getpid(), lease
            return self._own[1]

    def attach(self, lease: str, holder: Holder | None = None, *, path: str = "") -> Making[Lease]:
        """As scratchd.Client.attach: `async with client.attach(id) as lease:`, or await it."""

        async def make() -> Lease:
            number = await _tenure.attach(self._road, lease, holder or Holder.process())
            return Lease(self._road, Tenure(lease, path, holders=(number,)), ends_by=number)

        return Making(make())

    async def detach(self, lease: str, holder: int) -> None:
        """As scratchd.Lease.detach, by the lease's id."""
        await _tenure.detach(self._road, lease, holder)

    async def renew(self, lease: str) -> float:
        """As scratchd.Lease.renew, by the lease's id."""
        return await _tenure.renew(self._road, lease)

    async def revoke(self, lease: str, wait: bool = False) -> bool:
        """As scratchd.Lease.revoke, by the lease's id."""
        return await _tenure.revoke(self._road, lease, wait)

    async def delegate(self, *, size: int = 0, inodes: int = 0) -> int:
        """As scratchd.Lease.delegate, below `own_lease()`."""
        return await (await self.own_lease()).delegate(size=size, inodes=inodes)

    async def leases(self) -> "list[LeaseInfo]":
        """As scratchd.Client.leases. Needs grpcio."""
        from scratchd._aio_watch import leases

        return await leases(self._road)

    async def get(self, lease: str) -> "LeaseInfo":
        """As scratchd.Client.get. Needs grpcio."""
        from scratchd._aio_watch import get

        return await get(self._road, lease)

    def watch(self, *, since: str = "", lease: str = "", held: bool = False) -> "Watch":
        """As scratchd.Client.watch: `async with client.watch() as watch:`, then `async for event in watch:`. Needs grpcio."""
        from scratchd._aio_watch import Watch

        return Watch(self._road, since=since, lease=lease, held=held)

    async def aclose(self) -> None:
        """Ends the connection, and the leases that it holds, when what is under way is answered.

        A later call makes another one.
        """
        own, self._own = self._own, None
        try:
            if own is not None and own[0] == os.getpid() and own[1].id:
                with contextlib.suppress(Refused):
                    await own[1].revoke()
        finally:
            await self._road.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
