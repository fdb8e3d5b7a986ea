"""Uploads: a stream that is kept in memory while it is small, and on a lease when it is not."""

import errno
import io
import os
from collections.abc import Iterable
from types import TracebackType
from typing import IO, Any, Self

from scratchd import client as _client
from scratchd._lease import Lease
from scratchd.errors import ScratchError
from scratchd.guards import File
from scratchd.holders import Replace

__all__ = ["SpooledUpload", "UploadTooLarge"]

_MEMORY_MAX = 5 << 20
_COPY_BYTES = 1 << 20


class UploadTooLarge(ScratchError):
    """More was written than the upload may take. What was written before is there."""

    def __init__(self, size_max: int) -> None:
        super().__init__(errno.EFBIG, f"the upload has more than {size_max} bytes")
        self.size_max = size_max


class SpooledUpload(io.RawIOBase):
    """A binary file object, in memory up to `max_memory` bytes and in a file of a lease from then on.

    Gone when it is closed, when it is garbage collected and when this process ends, but for what was persisted. For one
    thread at a time.

    Attributes:
        name: What the other side calls it, if it says so; used for nothing here.
    """

    def __init__(
        self, lease: Lease | None = None, *, max_memory: int = _MEMORY_MAX, max_size: int | None = None, suffix: str = ""
    ) -> None:
        """Makes an empty one.

        Args:
            lease: Where its file goes; by default to a lease that this process's uploads share.
            max_memory: How many bytes stay in memory.
            max_size: How many bytes it may have.
            suffix: Of its file's name.
        """
        super().__init__()
        self.name: str | None = None
        self._lease = lease
        self._max_memory = max_memory
        self._max_size = max_size
        self._suffix = suffix
        self._file: IO[bytes] = io.BytesIO()
        self._guard: File[bytes] | None = None

    @property
    def is_in_memory(self) -> bool:
        """Whether it has no file yet."""
        return self._guard is None

    @property
    def size(self) -> int:
        """How many bytes it has."""
        here = self._file.tell()
        try:
            return self._file.seek(0, os.SEEK_END)
        finally:
            self._file.seek(here)

    def buffer_stream(self, stream: Iterable[bytes]) -> Self:
        """Writes a stream's chunks, and goes back to the beginning. Closed where that fails.

        Raises:
            UploadTooLarge: The stream has more than `max_size` bytes; what would pass that was not written.
        """
        try:
            for chunk in stream:
                self.write(chunk)
            self.seek(0)
        except BaseException:
            self.close()
            raise
        return self

    def write(self, data: Any) -> int:
        """Writes all of these bytes, or none of them.

        Raises:
            UploadTooLarge: There would be more than `max_size`.
        """
        with memoryview(data) as view:
            end = self._file.tell() + view.nbytes
            if self._max_size is not None and end > self._max_size:
                raise UploadTooLarge(self._max_size)
            if self._guard is None and end > self._max_memory:
                self._roll()
            self._file.write(view)
            return view.nbytes

    def persist(self, target: str | os.PathLike[str], replace: Replace = Replace.NEVER) -> str:
        """Moves it to a path for good, as File.persist; also what is still in memory. It stays open."""
        if self._guard is None:
            self._roll()
        assert self._guard is not None
        return self._guard.persist(target, replace)

    def rollover(self) -> None:
        """Writes it to a file even if it is small."""
        if self._guard is None:
            self._roll()

    def readinto(self, buffer: Any) -> int:
        """As of a raw file."""
        with memoryview(buffer).cast("B") as view:
            data = self._file.read(len(view))
            view[: len(data)] = data
            return len(data)

    def read(self, size: int | None = -1) -> bytes:
        """Reads so many bytes, or all that is left."""
        return self._file.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of a file."""
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """As of a file; no larger than `max_size`."""
        size = self._file.tell() if size is None else size
        if self._max_size is not None and size > self._max_size:
            raise UploadTooLarge(self._max_size)
        return self._file.truncate(size)

    def flush(self) -> None:
        """As of a file."""
        if not self._file.closed:
            self._file.flush()

    def fileno(self) -> int:
        """That of its file, which it has from now on."""
        self.rollover()
        return self._file.fileno()

    def readable(self) -> bool:
        """It is."""
        return True

    def writable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Removes it, unless it was persisted."""
        if self.closed:
            return
        try:
            if self._guard is not None:
                self._guard.close()
            else:
                self._file.close()
        finally:
            super().close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _roll(self) -> None:
        def make(lease: Lease) -> File[bytes]:
            return lease.file(prefix="upload-", suffix=self._suffix)

        memory = self._file
        guard = make(self._lease) if self._lease is not None else _client.default().in_own_lease(make)
        try:
            here = memory.tell()
            memory.seek(0)
            while chunk := memory.read(_COPY_BYTES):
                guard.file.write(chunk)
            guard.file.seek(here)
        except BaseException:
            memory.seek(here)
            guard.close()
            raise
        self._guard, self._file = guard, guard.file
        memory.close()
