"""Making areas: in the lease's directory by this process itself where it can, else through the broker."""

import errno
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from scratchd._channel import Answer
from scratchd._process import KIND_ANONYMOUS, KIND_DIRECTORY, KIND_FILE, KIND_MEMORY
from scratchd._road import Road
from scratchd._tenure import Tenure, close
from scratchd._wire import Message
from scratchd.errors import Refused, ScratchError

T = TypeVar("T")

_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789_"
_RANDOM_CHARS = 8
_NAMES_MAX = 10_000
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# A sandbox may let a process see the directory and not change it. Where it was removed the broker knows why.
_LEFT_TO_THE_BROKER = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)


def draw(prefix: str, suffix: str) -> str:
    """A name that nobody can guess."""
    number = int.from_bytes(os.urandom(8), "little")
    characters = []
    for _ in range(_RANDOM_CHARS):
        number, rest = divmod(number, len(_CHARACTERS))
        characters.append(_CHARACTERS[rest])
    return f"{prefix}{''.join(characters)}{suffix}"


class Naming:
    """How an area is named, and its permission bits: exact, whatever the umask."""

    def __init__(self, prefix: str, suffix: str, name: str | None, permissions: int) -> None:
        for text in (prefix, suffix, name or ""):
            if "/" in text or "\0" in text:
                raise ValueError(f"a name can't hold '/' or NUL: {text!r}")
        if name is not None and (name in ("", ".", "..") or len(os.fsencode(name)) > 255):
            raise ValueError(f"not a name: {name!r}")
        if permissions & ~0o777:
            raise ValueError(f"not permission bits: {permissions:o}")
        self._prefix, self._suffix, self._name = prefix, suffix, name
        self.permissions = permissions

    @property
    def tries(self) -> int:
        """How many names are tried."""
        return 1 if self._name is not None else _NAMES_MAX

    def next(self) -> str:
        """The exact name, or a random one."""
        return self._name if self._name is not None else draw(self._prefix, self._suffix)


class Site:
    """Where areas are made."""

    def __init__(self, road: Road, tenure: Tenure) -> None:
        self.road = road
        self.tenure = tenure

    async def file(self, naming: Naming) -> tuple[int, str, bool]:
        """Its descriptor, its name, and whether this process has made it."""

        def make(path: str) -> int:
            descriptor = os.open(path, _FLAGS, naming.permissions)
            try:
                os.fchmod(descriptor, naming.permissions)
            except BaseException:
                os.close(descriptor)
                os.unlink(path)
                raise
            return descriptor

        made = self._here(naming, make)
        if made is not None:
            return made[0], made[1], True
        answer, name = await self._by_broker({"kind": KIND_FILE, "want_handle": True}, naming)
        return _only(answer), name, False

    async def directory(self, naming: Naming) -> str:
        """Its name."""

        def make(path: str) -> None:
            os.mkdir(path, naming.permissions)
            os.chmod(path, naming.permissions)

        made = self._here(naming, make)
        if made is not None:
            return made[1]
        return (await self._by_broker({"kind": KIND_DIRECTORY}, naming))[1]

    async def elsewhere(self, directory: str, is_file: bool, naming: Naming) -> tuple[int, str, bytes]:
        """In a directory outside of any lease: a file's descriptor, its name, and the area's id."""
        held = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            values = {"kind": KIND_FILE if is_file else KIND_DIRECTORY, "want_handle": is_file}
            answer, name = await self._by_broker({**values, "where": {"foreign": {"fd": True}}}, naming, (held,))
        finally:
            os.close(held)
        return _only(answer) if is_file else -1, name, answer.values["areas"][0]["id"]

    async def anonymous(self) -> int:
        """The descriptor of a file without a name."""
        if self._is_here():
            try:
                return os.open(self.tenure.path, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
            except OSError as error:
                if error.errno not in (*_LEFT_TO_THE_BROKER, errno.EOPNOTSUPP, errno.EISDIR):
                    raise
        return _only(await self._create({"kind": KIND_ANONYMOUS, "want_handle": True}))

    async def memory(self) -> int:
        """The descriptor of a file in memory that can be sealed."""
        if not self.road.by_broker:
            return os.memfd_create("scratch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        return _only(await self._create({"kind": KIND_MEMORY, "want_handle": True}))

    def _is_here(self) -> bool:
        return bool(self.tenure.path) and not self.road.by_broker

    def _here(self, naming: Naming, make: Callable[[str], T]) -> tuple[T, str] | None:
        """Makes it in this process; nothing where that is not wanted or not allowed."""
        if not self._is_here():
            return None
        for left in reversed(range(naming.tries)):
            name = naming.next()
            try:
                return make(os.path.join(self.tenure.path, name)), name
            except FileExistsError:
                if not left:
                    raise
            except OSError as error:
                if error.errno not in _LEFT_TO_THE_BROKER:
                    raise
                return None
        return None

    async def _by_broker(self, values: Message, naming: Naming, descriptors: Sequence[int] = ()) -> tuple[Answer, str]:
        """One named area, its random name drawn here, so that the request can be sent again."""
        for left in reversed(range(naming.tries)):
            name = naming.next()
            named = {**values, "name": os.fsencode(name), "mode": naming.permissions}
            try:
                return await self._create(named, descriptors), name
            except Refused as refused:
                if refused.reason != "NAME_EXISTS":
                    raise
                if not left:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from refused
        raise AssertionError("no name was tried")

    async def _create(self, values: Message, descriptors: Sequence[int] = ()) -> Answer:
        return await self.road.call("create", {"lease": self.tenure.id, **values}, descriptors)


def _only(answer: Answer) -> int:
    if len(answer.descriptors) == 1:
        return answer.descriptors[0]
    close(answer.descriptors)
    raise ScratchError(errno.EPROTO, "an area without a descriptor")
