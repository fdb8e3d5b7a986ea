"""The guard of a lease, and what is made under it."""

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Self

from scratchd import _tenure
from scratchd._lease_base import LeaseBase, guarded
from scratchd._making import Naming, Site
from scratchd._road import Blocking, block
from scratchd.guards import Directory, File, open_descriptor
from scratchd.holders import Holder, Replace, Seconds
from scratchd.renewal import Renewal

__all__ = ["Lease"]


class Lease(LeaseBase):
    """A lease of this process: a directory, and areas that go with it.

    It ends at the end of a `with`, by `revoke()`, when it is garbage collected, and when nothing holds it any more: by
    default this process, however it dies. Threads may share it. In a forked child nothing of this ends it.
    """

    _road: Blocking

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
    ) -> File[Any]:
        """Makes a named file.

        Args:
            mode: As of open(); the file is always open for reading and writing.
            suffix: After the random characters of its name.
            prefix: Before them.
            name: This very name instead.
            permissions: Exact, whatever the umask.
            buffering: As of open().
            encoding: As of open().
            newline: As of open().

        Raises:
            FileExistsError: `name` is taken.
            Refused: By the broker, see docs/errors.md.
        """
        descriptor, named = block(self._file(Naming(prefix, suffix, name, permissions)))
        file: File[Any] = guarded(File, descriptor, named, (mode, buffering, encoding, newline))
        return file

    def directory(
        self, *, suffix: str = "", prefix: str = "tmp", name: str | None = None, permissions: int = 0o700
    ) -> Directory:
        """Makes a directory; arguments and errors as of `file`."""
        return Directory(block(self._directory(Naming(prefix, suffix, name, permissions))))

    def anonymous(self) -> IO[bytes]:
        """Makes a file without a name, open for reading and writing; it is gone with its last descriptor."""
        return open_descriptor(block(Site(self._road, self._tenure).anonymous()), "w+b", -1, None, None)

    def memory(self) -> IO[bytes]:
        """Makes a file in memory, which fcntl(2) can seal; it is gone with its last descriptor."""
        return open_descriptor(block(Site(self._road, self._tenure).memory()), "w+b", -1, None, None)

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
    ) -> File[Any]:
        """Makes a named file in a directory outside of any lease, where this user may write: beside what it is to replace, say.

        It goes with the lease as any other. Whoever renames it has it for good. Arguments as of `file`.

        Raises:
            FileExistsError: `name` is taken.
            Refused: What the kernel refuses this user; FOREIGN_TIMEOUT where the directory does not answer.
        """
        descriptor, named = block(self._elsewhere(directory, True, Naming(prefix, suffix, name, permissions)))
        file: File[Any] = guarded(File, descriptor, named, (mode, buffering, encoding, newline))
        return file

    def directory_in(
        self,
        directory: str | os.PathLike[str],
        *,
        suffix: str = "",
        prefix: str = "tmp",
        name: str | None = None,
        permissions: int = 0o700,
    ) -> Directory:
        """Makes a directory in a directory outside of any lease, as `file_in` does a file."""
        return Directory(block(self._elsewhere(directory, False, Naming(prefix, suffix, name, permissions)))[1])

    def persist(self, area: str | os.PathLike[str], target: str | os.PathLike[str], replace: Replace = Replace.NEVER) -> str:
        """Moves something out of the lease to a path, for good, as File.persist: also what this process has made there by
        itself.

        Args:
            area: A path below the lease's directory, or one that leads there.
            target: Its path then.
            replace: What becomes of what has that name.
        """
        return block(_tenure.persist(self._road, self.id, self._area(area), target, replace, None))

    def release(self, area: str | os.PathLike[str], *, wait: bool = False) -> bool:
        """Removes something from the lease, a tree by one rename; says whether it was there.

        Args:
            area: As of `persist`.
            wait: Until every name below it is gone.
        """
        return block(_tenure.release(self._road, self.id, self._area(area), wait))

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
    ) -> "Lease":
        """Grants a lease below this one: it ends with this one at the latest. Arguments as of Client.lease."""
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
        return Lease(self._road, block(_tenure.grant(self._road, values, asked)))

    def renew(self) -> float:
        """Renews its ttl holders; returns how many seconds each has now.

        Raises:
            Refused: LEASE_UNKNOWN when it has ended; NO_TTL when it has no ttl holder.
        """
        return block(_tenure.renew(self._road, self.id))

    def renew_in_background(self) -> Renewal:
        """Has a daemon thread renew it, at once and each time a third of its ttl has passed, until what is returned is stopped.

        As a daemon thread renew it, at once and each time a third of its ttl has passed, until what is returned is stopped.
        """
        return Renewal(self._road, self.id)

    def attach(self, holder: Holder) -> int:
        """Lets something more hold the lease; returns the holder's id.

        Raises:
            Refused: LEASE_UNKNOWN when it has ended; HOLDER_INVALID, PROCESS_GONE for what can't hold it.
        """
        return block(_tenure.attach(self._road, self.id, holder))

    def detach(self, holder: int) -> None:
        """Takes a holder away. With the last one the lease ends.

        Raises:
            Refused: HOLDER_UNKNOWN where there is none of this id; LEASE_UNKNOWN when the lease has ended.
        """
        block(_tenure.detach(self._road, self.id, holder))

    def delegate(self, *, size: int = 0, inodes: int = 0) -> int:
        """Makes a channel that reaches a new lease below this one and nothing else, for a process that can reach no broker.

        Pass the descriptor on with SCRATCHD_CHANNEL=<number> in the environment, then close it here: that lease ends when
        every copy is closed.

        Args:
            size: How many bytes it may take; 0: as many as this one.
            inodes: How many files and directories; 0: as many as this one.

        Returns:
            The descriptor, which is not inherited unless it is asked for (`pass_fds`).
        """
        return block(_tenure.delegate(self._road, self.id, size, inodes))

    def revoke(self, wait: bool = False) -> bool:
        """Ends the lease now, whatever holds it; returns when its directory is out of the name space.

        Args:
            wait: Return when all of it is freed.

        Returns:
            Whether all of it is known to be freed.

        Raises:
            Refused: LEASE_UNKNOWN when it had ended before.
        """
        self._guarded_by = None
        return block(_tenure.revoke(self._road, self.id, wait))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        block(self._end())
