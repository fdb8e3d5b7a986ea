"""The guards of leases and areas, for those who await."""

import asyncio
import os
from collections.abc import Coroutine, Generator, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, AnyStr, Generic, Protocol, Self, TypeVar

from scratchd import _tenure
from scratchd._async_road import Awaiting
from scratchd._lease_base import LeaseBase, guarded
from scratchd._making import Naming, Site
from scratchd.guards import DirectoryBase, FileBase, open_descriptor
from scratchd.holders import Holder, Replace, Seconds
from scratchd.renewal import Course


class Closes(Protocol):
    """What `async with` takes."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


T = TypeVar("T")
G = TypeVar("G", bound=Closes)


class Making(Generic[G]):
    """What is about to be made: `await` it, or make and end it by `async with`."""

    def __init__(self, work: Coroutine[Any, Any, G]) -> None:
        self._work = work
        self._made: G | None = None

    def __await__(self) -> Generator[Any, Any, G]:
        return self._work.__await__()

    async def __aenter__(self) -> G:
        self._made = await self._work
        return await self._made.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._made is not None:
            await self._made.__aexit__(kind, error, trace)


class File(FileBase[AnyStr]):
    """As scratchd.File. Reading and writing block as those of any file do; `close()` closes the file object and leaves it."""

    async def aclose(self) -> None:
        """Closes the file and removes it, unless it was kept or persisted."""
        try:
            self.file.close()
        finally:
            await self._named.remove()

    async def persist(self, target: str | os.PathLike[str], replace: Replace = Replace.NEVER) -> str:
        """As scratchd.File.persist."""
        return await self._named.persist(target, replace, self._node())

    async def keep(self) -> str:
        """As scratchd.File.keep."""
        await self._named.keep()
        return self.path

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Directory(DirectoryBase):
    """As scratchd.Directory."""

    async def aclose(self) -> None:
        """Removes it, unless it was kept or persisted. Returns when its name is gone."""
        await self._named.remove()

    async def persist(self, target: str | os.PathLike[str], replace: Replace = Replace.NEVER) -> str:
        """As scratchd.File.persist."""
        return await self._named.persist(target, replace, None)

    async def keep(self) -> str:
        """As scratchd.File.keep."""
        await self._named.keep()
        return self.path

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Renewal:
    """A task that renews a lease, until `stop()` or the end of a `with`."""

    def __init__(self, road: Awaiting, lease: str) -> None:
        self._road = road
        self._lease = lease
        self._last_error: Exception | None = None
        self._task = asyncio.get_running_loop().create_task(self._run(), name="scratchd-renewal")

    @property
    def last_error(self) -> Exception | None:
        """Why the last renewal failed; None where it did not."""
        return self._last_error

    @property
    def is_over(self) -> bool:
        """Whether it has ended, by itself if there is nothing to renew any more: `last_error` says why, as in LEASE_UNKNOWN."""
        return self._task.done()

    def stop(self) -> None:
        """Has it end, and does not wait for that."""
        self._task.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    async def _run(self) -> None:
        course = Course()
        after: float | None = 0.0
        while after is not None:
            await asyncio.sleep(after)
            try:
                after = course.renewed(await _tenure.renew(self._road, self._lease))
                self._last_error = None
            except Exception as error:
                self._last_error = error
                after = course.failed(error)


class Lease(LeaseBase):
    """As scratchd.Lease, for one event loop. `async with client.lease() as lease:`."""

    _road: Awaiting

    def file(
        self,
        mode: str = "w+b",
        *,
        suffix: str = "",
        prefix: str = "tmp",
        name: str | None = None,
        permissions: int = 0o600,
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
    ) -> Making[File[Any]]:
        """As scratchd.Lease.file: `async with lease.file() as file:`, or await it."""

        async def make() -> File[Any]:
            descriptor, named = await self._file(Naming(prefix, suffix, name, permissions))
            file: File[Any] = guarded(File, descriptor, named, (mode, buffering, encoding, newline))
            return file

        return Making(make())

    def directory(
        self, *, suffix: str = "", prefix: str = "tmp", name: str | None = None, permissions: int = 0o700
    ) -> Making[Directory]:
        """As scratchd.Lease.directory: `async with lease.directory() as directory:`, or await it."""

        async def make() -> Directory:
            return Directory(await self._directory(Naming(prefix, suffix, name, permissions)))

        return Making(make())

    async def anonymous(self) -> IO[bytes]:
        """As scratchd.Lease.anonymous."""
        return open_descriptor(await Site(self._road, self._tenure).anonymous(), "w+b", -1, None, None)

    async def memory(self) -> IO[bytes]:
        """As scratchd.Lease.memory."""
        return open_descriptor(await Site(self._road, self._tenure).memory(), "w+b", -1, None, None)

    def file_in(
        self,
        directory: str | os.PathLike[str],
        mode: str = "w+b",
        *,
        suffix: str = "",
        prefix: str = "tmp",
        name: str | None = None,
        permissions: int = 0o600,
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
    ) -> Making[File[Any]]:
        """As scratchd.Lease.file_in: `async with lease.file_in(…) as file:`, or await it."""

        async def make() -> File[Any]:
            descriptor, named = await self._elsewhere(directory, True, Naming(prefix, suffix, name, permissions))
            file: File[Any] = guarded(File, descriptor, named, (mode, buffering, encoding, newline))
            return file

        return Making(make())

    def directory_in(
        self,
        directory: str | os.PathLike[str],
        *,
        suffix: str = "",
        prefix: str = "tmp",
        name: str | None = None,
        permissions: int = 0o700,
    ) -> Making[Directory]:
        """As scratchd.Lease.directory_in."""

        async def make() -> Directory:
            return Directory((await self._elsewhere(directory, False, Naming(prefix, suffix, name, permissions)))[1])

        return Making(make())

    async def persist(
        self, area: str | os.PathLike[str], target: str | os.PathLike[str], replace: Replace = Replace.NEVER
    ) -> str:
        """As scratchd.Lease.persist."""
        return await _tenure.persist(self._road, self.id, self._area(area), target, replace, None)

    async def release(self, area: str | os.PathLike[str], *, wait: bool = False) -> bool:
        """As scratchd.Lease.release."""
        return await _tenure.release(self._road, self.id, self._area(area), wait)

    def lease(
        self,
        ttl: Seconds | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        size: int = 0,
        inodes: int = 0,
        soft: bool = False,
        lifetime_max: Seconds | None = None,
        grace: Seconds | None = None,
        preemptible: bool = False,
        holders: Sequence[Holder] = (),
    ) -> "Making[Lease]":
        """As scratchd.Lease.lease: `async with lease.lease() as below:`, or await it."""
        values, asked = _tenure.grant_request(
            parent=self.id,
            ttl=ttl,
            labels=labels,
            size=size,
            inodes=inodes,
            soft=soft,
            lifetime_max=lifetime_max,
            grace=grace,
            preemptible=preemptible,
            holders=holders,
        )
        return Making(grant(self._road, values, asked))

    async def renew(self) -> float:
        """As scratchd.Lease.renew."""
        return await _tenure.renew(self._road, self.id)

    def renew_in_background(self) -> Renewal:
        """Has a task renew it, at once and each time a third of its ttl has passed, until what is returned is stopped."""
        return Renewal(self._road, self.id)

    async def attach(self, holder: Holder) -> int:
        """As scratchd.Lease.attach."""
        return await _tenure.attach(self._road, self.id, holder)

    async def detach(self, holder: int) -> None:
        """As scratchd.Lease.detach."""
        await _tenure.detach(self._road, self.id, holder)

    async def delegate(self, *, size: int = 0, inodes: int = 0) -> int:
        """As scratchd.Lease.delegate."""
        return await _tenure.delegate(self._road, self.id, size, inodes)

    async def revoke(self, wait: bool = False) -> bool:
        """As scratchd.Lease.revoke."""
        self._guarded_by = None
        return await _tenure.revoke(self._road, self.id, wait)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()


async def grant(road: Awaiting, values: Any, asked: Sequence[Holder]) -> Lease:
    """A lease."""
    return Lease(road, await _tenure.grant(road, values, list(asked)))
