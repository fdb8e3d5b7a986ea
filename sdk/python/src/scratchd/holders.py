"""What holds a lease, and what becomes of a name that is taken."""

import datetime
import enum
import math
from dataclasses import dataclass, field

from scratchd._wire import Message

Seconds = float | datetime.timedelta


class Replace(enum.IntEnum):
    """What becomes of an existing name when an area is moved there for good."""

    NEVER = 1
    """It is an error, NAME_EXISTS."""
    ALWAYS = 2
    """As rename(2): a file replaces a file, a directory an empty directory."""
    EXCHANGE = 3
    """The two change places: what had the name is the area now, and ends with the lease."""


@dataclass(frozen=True)
class Holder:
    """One proof of life of a lease. It is gone only when it is known to be: a lease ends with the last of its holders.

    Descriptors stay the caller's. They are sent along when the holder is used, and may be closed after that.
    """

    _values: Message = field(repr=False)
    _descriptor: int | None = None

    @staticmethod
    def process(pidfd: int | None = None) -> "Holder":
        """Until this process ends, or the one of this user that `pidfd` is open for (os.pidfd_open)."""
        return Holder({"process": {"fd": pidfd is not None}}, pidfd)

    @staticmethod
    def connection() -> "Holder":
        """Until the client is closed or its process ends. After a restart of the broker the next connection takes its place."""
        return Holder({"connection": {}})

    @staticmethod
    def ttl(seconds: Seconds) -> "Holder":
        """Until nobody has renewed it for so long, suspend included."""
        return Holder({"ttl": {"ttl": duration(seconds)}})

    @staticmethod
    def descriptor(end: int) -> "Holder":
        """Until every copy of the other end of this Unix socket pair is closed. Close this end after use."""
        return Holder({"descriptor": {"fd": True}}, end)

    @staticmethod
    def cgroup(directory: int, *, kill: bool = False) -> "Holder":
        """Until the cgroup (version 2, by its open directory) has no process any more. One without any waits for its first.

        Args:
            directory: The descriptor.
            kill: What is still in the cgroup when the lease ends dies with it.
        """
        return Holder({"cgroup": {"fd": True, "kill": kill}}, directory)

    @staticmethod
    def hold() -> "Holder":
        """Until it is detached or the lease revoked. For root and the admin group."""
        return Holder({"hold": {}})

    @property
    def is_connection(self) -> bool:
        """Whether it is the connection."""
        return "connection" in self._values


def duration(time: Seconds) -> Message:
    """As the protocol has it.

    Raises:
        ValueError: It is negative, or no time at all.
    """
    seconds = time.total_seconds() if isinstance(time, datetime.timedelta) else float(time)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"not a time in seconds: {time}")
    whole = int(seconds)
    return {"seconds": whole, "nanos": min(round((seconds - whole) * 1e9), 999_999_999)}


def seconds_of(message: Message | None) -> float | None:
    """The other way round; nothing stays nothing."""
    if message is None:
        return None
    return float(message.get("seconds", 0)) + float(message.get("nanos", 0)) / 1e9
