"""A scope: what a piece of work makes, under a lease of its own, to be removed at once."""

import contextlib
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from scratchd import client as _client
from scratchd._lease import Lease
from scratchd.client import Client
from scratchd.guards import File

__all__ = ["Scope", "secure_temp_write"]


def secure_temp_write(data: bytes, suffix: str = "") -> str:
    """Writes bytes to a new file of mode 0600, whatever the umask: nobody else can read them at any time.

    Returns:
        Its path. It is there until somebody removes it, or this process ends.

    Raises:
        OSError: Those of writing; then there is no file.
    """

    def write(lease: Lease) -> str:
        return _write(lease.file(suffix=suffix, buffering=0), data)

    return _client.default().in_own_lease(write)


class Scope:
    """Temporary files and directories that a piece of work makes: `with Scope(prefix="app_") as scope:`.

    They are under one lease, granted when something is first made and held by this process, however it dies. The end of the
    `with` removes all of them. Threads may share a scope; a forked child begins with a lease of its own.

    Attributes:
        prefix: Before the random characters of each name.
        cleanup_on_error: Whether failed work loses what it made. Otherwise that stays until this process ends, and the
            exception gets a note that says where.
    """

    def __init__(
        self,
        client: Client | None = None,
        *,
        prefix: str = "tmp",
        cleanup_on_error: bool = True,
        parent: Lease | str | None = None,
        labels: dict[str, str] | None = None,
    ) -> None:
        self.prefix = prefix
        self.cleanup_on_error = cleanup_on_error
        self._client = client or _client.default()
        self._options: dict[str, Any] = {"parent": parent, "labels": labels}
        # With the process that it is for.
        self._held: tuple[int, Lease] | None = None

    @property
    def lease(self) -> Lease:
        """The lease that things are made under now; granted if there is none."""
        with self._client._road.lock:
            if self._held is None or self._held[0] != os.getpid() or not self._held[1].is_guarded:
                self._held = os.getpid(), self._client.lease(**self._options)
            return self._held[1]

    @contextlib.contextmanager
    def temp_file(self, suffix: str = "", mode: str = "w+b", delete: bool = True) -> Iterator[File[Any]]:
        """A file, open for reading and writing.

        Args:
            suffix: After the random characters of its name.
            mode: As of open().
            delete: Whether it goes at the end of the `with`; else at the end of the scope.
        """
        file = self.lease.file(mode, suffix=suffix, prefix=self.prefix)
        try:
            yield file
        except BaseException as error:
            if not self.cleanup_on_error:
                file.keep()
                error.add_note(f"what was made is still in {file.path}")
            file.close()
            raise
        if not delete:
            file.keep()
        file.close()

    @contextlib.contextmanager
    def temp_directory(self, suffix: str = "", delete: bool = True) -> Iterator[str]:
        """A directory, by its path. Arguments as of `temp_file`."""
        directory = self.lease.directory(suffix=suffix, prefix=self.prefix)
        try:
            yield directory.path
        except BaseException as error:
            if not self.cleanup_on_error:
                error.add_note(f"what was made is still in {directory.keep()}")
            directory.close()
            raise
        if not delete:
            directory.keep()
        directory.close()

    def create_temp_file(self, suffix: str = "") -> str:
        """Makes an empty file that stays until the scope ends; its path."""
        return _write(self.lease.file(suffix=suffix, prefix=self.prefix, buffering=0), b"")

    def create_temp_dir(self, suffix: str = "") -> str:
        """Makes a directory that stays until the scope ends; its path."""
        return self.lease.directory(suffix=suffix, prefix=self.prefix).keep()

    def secure_temp_write(self, data: bytes, suffix: str = "") -> str:
        """As the function of that name; the file stays until the scope ends."""
        return _write(self.lease.file(suffix=suffix, prefix=self.prefix, buffering=0), data)

    def cleanup_all(self) -> None:
        """Removes all that is in the scope, and returns when it is out of the name space. The next file is under another lease.

        Raises:
            OSError: Those of the connection.
        """
        with self._client._road.lock:
            held, self._held = self._held, None
        if held is not None and held[0] == os.getpid():
            held[1].__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and not self.cleanup_on_error and self._held is not None and self._held[0] == os.getpid():
            lease = self._held[1]
            self._held = None
            lease.leave()
            error.add_note(f"what was made is still in {lease.path if lease.has_path else f'lease {lease.id}'}")
            return
        self.cleanup_all()


def _write(file: File[Any], data: bytes) -> str:
    """Where it is then; where it can't be written it is gone."""
    try:
        left = memoryview(data)
        while left:
            left = left[file.file.write(left) :]
        path = file.keep()
    except BaseException:
        file.close()
        raise
    file.close()
    return path
