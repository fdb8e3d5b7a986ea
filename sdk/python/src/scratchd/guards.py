"""Guards of single areas: what they guard is gone when they are closed, forgotten, or their process is."""

import contextlib
import os
import sys
import warnings
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, AnyStr, Generic, Self

from scratchd._named import Named
from scratchd._road import block
from scratchd.holders import Replace

if TYPE_CHECKING:
    # A file object to type checkers.
    from tempfile import _TemporaryFileWrapper as _FileObject
else:

    class _FileObject(Generic[AnyStr]):
        pass


def open_descriptor(descriptor: int, mode: str, buffering: int, encoding: str | None, newline: str | None) -> IO[Any]:
    """A file object; the descriptor is closed where there can be none."""
    try:
        return os.fdopen(descriptor, mode, buffering, encoding, None, newline)
    except BaseException:
        # fdopen may have closed it already.
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise


class FileBase(_FileObject[AnyStr]):
    """What blocking and awaiting guards of files have in common: the file object."""

    if not TYPE_CHECKING:

        def __init__(self, file: IO[AnyStr], named: Named) -> None:
            self.file = file
            self._named = named

        def __getattr__(self, name: str) -> Any:
            if name in ("file", "_named"):
                raise AttributeError(name)
            return getattr(self.file, name)

        def __iter__(self) -> Any:
            return iter(self.file)

        @property
        def name(self) -> str:
            """Its path; its bare name where it has none."""
            return self.path if self._named.has_path else self._named.name

    else:
        _named: Named

        def __init__(self, file: IO[AnyStr], named: Named) -> None: ...

    @property
    def path(self) -> str:
        """Where it is.

        Raises:
            NoPath: Its lease has no path here, as on a delegated channel.
        """
        return self._named.path

    def __fspath__(self) -> str:
        return self.path

    def __del__(self) -> None:
        finish(self, getattr(self, "_named", None))

    def _node(self) -> tuple[int, int] | None:
        if self.file.closed:
            return None
        self.file.flush()
        found = os.fstat(self.file.fileno())
        return found.st_dev, found.st_ino


def finish(guard: Any, named: Named | None) -> None:
    """What a finalizer does: it waits for nobody."""
    if named is None or not named.is_guarded or sys.is_finalizing():
        return
    warnings.warn(f"Implicitly removing {named.name}", ResourceWarning, stacklevel=3, source=guard)
    named.drop()


class File(FileBase[AnyStr]):
    """A named file, open for reading and writing: a file object with a path.

    It is removed by `close()`, at the end of a `with`, when it is garbage collected, and with its lease in any case. `.file`
    is the file object itself: `.file.close()` closes it and leaves the file, for another program to open by `.path`. In a
    forked child nothing of this removes it.
    """

    def close(self) -> None:
        """Closes the file and removes it, unless it was kept or persisted."""
        try:
            self.file.close()
        finally:
            block(self._named.remove())

    def persist(self, target: str | os.PathLike[str], replace: Replace = Replace.NEVER) -> str:
        """Moves it out of its lease to a path, for good. It stays open.

        The rename has this user's rights. To another file system it is copied, and at no time is there half a file.

        Args:
            target: Its path then.
            replace: What becomes of a file of that name.

        Returns:
            The absolute path.

        Raises:
            FileExistsError: There is one, and it is not to be replaced.
            Refused: The file system's and the broker's words, such as PERMISSION. It is where it was.
        """
        return block(self._named.persist(target, replace, self._node()))

    def keep(self) -> str:
        """Gives up the guard, and returns the path: it stays until its lease ends.

        One that was made by file_in stays for good.
        """
        block(self._named.keep())
        return self.path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class DirectoryBase:
    """What blocking and awaiting guards of directories have in common."""

    def __init__(self, named: Named) -> None:
        self._named = named

    @property
    def name(self) -> str:
        """The last component of its path."""
        return self._named.name

    @property
    def path(self) -> str:
        """Where it is.

        Raises:
            NoPath: Its lease has no path here, as on a delegated channel.
        """
        return self._named.path

    def __fspath__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def __del__(self) -> None:
        finish(self, getattr(self, "_named", None))


class Directory(DirectoryBase):
    """A directory, removed with everything in it as a `File` is. That takes one rename, whatever is in it.

    It is freed behind.
    """

    def close(self) -> None:
        """Removes it, unless it was kept or persisted. Returns when its name is gone."""
        block(self._named.remove())

    def persist(self, target: str | os.PathLike[str], replace: Replace = Replace.NEVER) -> str:
        """As File.persist."""
        return block(self._named.persist(target, replace, None))

    def keep(self) -> str:
        """As File.keep."""
        block(self._named.keep())
        return self.path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
