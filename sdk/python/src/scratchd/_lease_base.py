"""What guards of leases have in common, whether they block or await."""

import os
import sys
import warnings
from typing import Any

from scratchd import _tenure
from scratchd._making import Naming, Site
from scratchd._named import Elsewhere, Named
from scratchd._road import Road
from scratchd._tenure import Tenure
from scratchd.errors import NoPath, Refused
from scratchd.guards import open_descriptor


class LeaseBase:
    """What blocking and awaiting guards of leases have in common."""

    _road: Road

    def __init__(self, road: Any, tenure: Tenure, ends_by: int | None = None) -> None:
        self._road = road
        self._tenure = tenure
        # The holder that its end takes away; none: it ends by Revoke.
        self._ends_by = ends_by
        self._guarded_by: int | None = os.getpid()

    @property
    def id(self) -> str:
        """What other processes name it by; empty on a delegated channel, whose lease it is."""
        return self._tenure.id

    @property
    def path(self) -> str:
        """Its directory. All that is made below it, by whomever, goes with the lease.

        Raises:
            NoPath: It has none that this process can use.
        """
        if not self._tenure.path:
            raise NoPath(f"lease {self.id}")
        return self._tenure.path

    @property
    def has_path(self) -> bool:
        """Whether `path` is there to be used."""
        return bool(self._tenure.path)

    @property
    def granted_ttl(self) -> float | None:
        """The time in seconds that it was granted for, where a ttl holds it. It may be more than was asked for."""
        return self._tenure.granted_ttl

    @property
    def holders(self) -> tuple[int, ...]:
        """The ids of the holders that it was granted with, in their order. `detach` takes them."""
        return self._tenure.holders

    @property
    def firmness(self) -> str:
        """How firm its limits are: "soft", "cooperative" or "hard"."""
        return self._tenure.firmness

    @property
    def generation(self) -> int:
        """That of the broker which granted it; it grows by one with each start."""
        return self._tenure.generation

    @property
    def note(self) -> str:
        """What the broker remarks on the holders; empty if they are what was asked for."""
        return self._tenure.note

    @property
    def is_guarded(self) -> bool:
        """Whether this ends it. No more once it was revoked or left, and never in a forked child."""
        return self._guarded_by == os.getpid()

    def leave(self) -> str:
        """Gives up the guard: the lease lives as long as its holders do. Returns its id."""
        self._guarded_by = None
        return self.id

    def __fspath__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def __del__(self) -> None:
        if getattr(self, "_guarded_by", None) != os.getpid() or sys.is_finalizing():
            return
        warnings.warn(f"Implicitly ending {self!r}", ResourceWarning, stacklevel=2, source=self)
        self._drop()

    def _drop(self) -> None:
        """Ends it without waiting; its holders end it in any case."""
        self._guarded_by = None
        self._road.held.discard(self.id)
        if self._ends_by is None:
            self._road.tell("revoke", {"lease": self.id})
        else:
            self._road.tell("detach", {"lease": self.id, "holder": self._ends_by})

    async def _end(self) -> None:
        """Ends it, if that has not been done."""
        if not self.is_guarded:
            return
        self._guarded_by = None
        try:
            if self._ends_by is None:
                await _tenure.revoke(self._road, self.id, False)
            else:
                await _tenure.detach(self._road, self.id, self._ends_by)
        except Refused as refused:
            # It has ended by itself.
            if refused.reason not in ("LEASE_UNKNOWN", "HOLDER_UNKNOWN", "LEASE_ENDING"):
                raise

    def _area(self, area: str | os.PathLike[str]) -> bytes:
        """By a path below the lease's directory, or one that leads there."""
        path = os.fspath(area)
        if os.path.isabs(path):
            path = os.path.relpath(path, self.path)
        return os.fsencode(path)

    async def _file(self, naming: Naming) -> tuple[int, Named]:
        descriptor, name, by_process = await Site(self._road, self._tenure).file(naming)
        return descriptor, Named(self._road, self._tenure, name, by_process)

    async def _directory(self, naming: Naming) -> Named:
        return Named(self._road, self._tenure, await Site(self._road, self._tenure).directory(naming), False)

    async def _elsewhere(self, directory: str | os.PathLike[str], is_file: bool, naming: Naming) -> tuple[int, Named]:
        path = os.path.abspath(os.fspath(directory))
        descriptor, name, area = await Site(self._road, self._tenure).elsewhere(path, is_file, naming)
        return descriptor, Named(self._road, self._tenure, name, False, Elsewhere(path, area))


def guarded(guard: Any, descriptor: int, named: Named, how: tuple[str, int, str | None, str | None]) -> Any:
    """A guard of that kind; where it can't be, there is no area."""
    try:
        return guard(open_descriptor(descriptor, *how), named)
    except BaseException:
        named.drop()
        raise
