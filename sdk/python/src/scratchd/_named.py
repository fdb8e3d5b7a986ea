"""A named area and the duty to remove it, for guards that block and for those that await."""

import contextlib
import errno
import os
from dataclasses import dataclass
from typing import Any

from scratchd._making import draw
from scratchd._rename import rename
from scratchd._road import Road
from scratchd._tenure import Tenure, persist
from scratchd._wire import Message
from scratchd.errors import NoPath, Refused, ScratchError
from scratchd.holders import Replace


@dataclass(frozen=True)
class Elsewhere:
    """A directory of this user's own that the area is in."""

    path: str
    # The area's.
    id: bytes


class Named:
    """An area. Given up, or in a forked child, nothing here removes it."""

    def __init__(self, road: Road, tenure: Tenure, name: str, by_process: bool, elsewhere: Elsewhere | None = None) -> None:
        self.road = road
        self.tenure = tenure
        self.name = name
        self.elsewhere = elsewhere
        self._by_process = by_process
        self._guarded_by: int | None = os.getpid()

    @property
    def path(self) -> str:
        """Where it is.

        Raises:
            NoPath: The lease has none here.
        """
        parent = self.elsewhere.path if self.elsewhere else self.tenure.path
        if not parent:
            raise NoPath(f"area {self.name}")
        return os.path.join(parent, self.name)

    @property
    def has_path(self) -> bool:
        """Whether `path` is there to be used."""
        return bool(self.elsewhere or self.tenure.path)

    @property
    def is_guarded(self) -> bool:
        """Whether its removal is this process's duty."""
        return self._guarded_by == os.getpid()

    def give_up(self) -> None:
        """Leaves it to its lease."""
        self._guarded_by = None

    def drop(self) -> None:
        """Removes it without waiting and without an error; safe in a finalizer."""
        if self.is_guarded:
            self.give_up()
            try:
                if not self._unlink():
                    self.road.tell("release", self._release())
            except OSError:
                # It ends with its lease.
                pass

    async def remove(self) -> None:
        """Removes it, if that has not been done."""
        if not self.is_guarded:
            return
        self.give_up()
        if self._unlink():
            return
        try:
            await self.road.call("release", self._release())
        except Refused as refused:
            # It went with its lease.
            if refused.reason != "LEASE_UNKNOWN":
                raise

    async def persist(self, target: Any, replace: Replace, node: tuple[int, int] | None) -> str:
        """Moves it out of its lease for good; its path then."""
        if self.elsewhere:
            return await self._persist_elsewhere(target, replace)
        path = await persist(self.road, self.tenure.id, os.fsencode(self.name), target, replace, node)
        self.give_up()
        return path

    async def keep(self) -> None:
        """Leaves it to its lease; in a directory of one's own it stays there for good."""
        if self.elsewhere and self.is_guarded:
            await self._keep_there()
        self.give_up()

    async def _persist_elsewhere(self, target: Any, replace: Replace) -> str:
        path = os.path.abspath(os.fsdecode(target))
        if replace == Replace.EXCHANGE:
            raise ScratchError(errno.EOPNOTSUPP, "what is outside of a lease can't change places", path)
        if path == os.path.abspath(self.path):
            await self._keep_there()
        else:
            rename(self.path, path, replace == Replace.ALWAYS)
            # Under its old name the broker finds nothing of it, told or not.
            self.road.tell("release", self._release())
        self.give_up()
        return path

    async def _keep_there(self) -> None:
        """Under another name it is nobody's area; then it gets its own back."""
        path = self.path
        aside = os.path.join(os.path.dirname(path), draw("kept-", ""))
        rename(path, aside, False)
        is_back = False
        try:
            answer = await self.road.call("release", self._release())
            # While the broker may still look for it under its name it must not have that.
            is_back = bool(answer.values.get("existed")) and not answer.values.get("debt")
        except Refused as refused:
            if refused.reason != "LEASE_UNKNOWN":
                rename(aside, path, False)
                raise
        except BaseException:
            rename(aside, path, False)
            raise
        if not is_back:
            raise ScratchError(errno.EBUSY, f"the broker may still remove {path}; it is kept as {aside}")
        rename(aside, path, False)

    def _unlink(self) -> bool:
        if not self._by_process:
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        return True

    def _release(self) -> Message:
        return {"lease": self.tenure.id, "area": self.elsewhere.id if self.elsewhere else os.fsencode(self.name)}
