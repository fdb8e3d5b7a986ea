"""What can go wrong. Everything here is an OSError, as what goes wrong with the standard module is."""

import errno
import os

__all__ = ["ChannelClosed", "ForeignBroker", "NoBroker", "NoPath", "Refused", "ScratchError", "StartError"]

# google.rpc.Code, for refusals that no system call made.
_ERRNO_OF_CODE = {
    3: errno.EINVAL,
    4: errno.ETIMEDOUT,
    5: errno.ENOENT,
    6: errno.EEXIST,
    7: errno.EACCES,
    8: errno.EDQUOT,
    9: errno.EPERM,
    10: errno.EAGAIN,
    12: errno.EOPNOTSUPP,
    14: errno.EAGAIN,
    16: errno.EACCES,
}
_NAME_EXISTS = "NAME_EXISTS"


class ScratchError(OSError):
    """Base of all that this package raises of its own."""


class NoBroker(ScratchError, ConnectionError):
    """No broker listens where it was looked for, and none could be started."""

    def __init__(self, socket: str, why: str) -> None:
        super().__init__(
            errno.ECONNREFUSED,
            f"no scratchd broker at {socket}: {why}. Start one (`systemctl start scratchd`, or put `scratch` on PATH or its "
            "path into SCRATCHD_BIN for one of your own), or set SCRATCHD_FALLBACK=local to do without leases",
        )
        self.socket = socket


class StartError(NoBroker):
    """A session broker was started and did not get ready; its log is beside its socket."""


class ForeignBroker(ScratchError, PermissionError):
    """What listens there belongs to another user, and is not trusted."""

    def __init__(self, socket: str, uid: int) -> None:
        super().__init__(errno.EACCES, f"the broker at {socket} belongs to user {uid}; it is not trusted")
        self.socket = socket
        self.uid = uid


class ChannelClosed(ScratchError, ConnectionError):
    """The connection to the broker ended, and could not be made again."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.ECONNRESET, f"the connection to the broker ended: {why}")


class NoPath(ScratchError):
    """A lease or area has no path that this process can use: it is reached through the broker and descriptors only."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EOPNOTSUPP, f"{what} has no path in this process's name space")


class Refused(ScratchError):
    """The broker refused a request.

    Attributes:
        reason: What docs/errors.md lists, such as "LIMIT_LEASES".
        code: A google.rpc.Code.
        metadata: Strings; which, docs/errors.md says for each reason.
        resent: It had been sent before, on a connection that was lost: the first one may have been carried out.
    """

    resent = False

    def __init__(self, code: int, reason: str, message: str, metadata: dict[str, str]) -> None:
        number = getattr(errno, metadata.get("errno", ""), None) or _ERRNO_OF_CODE.get(code, errno.EIO)
        if reason == _NAME_EXISTS:
            number = errno.EEXIST
        elif reason.startswith("LEASE_"):
            number = errno.ENOENT
        super().__init__(number, f"{message} ({reason})" if reason else message)
        self.code = code
        self.reason = reason
        self.metadata = metadata

    def as_os_error(self, path: str | bytes) -> OSError:
        """What the system call would have raised, with the broker's words where there was none."""
        number = self.errno or errno.EIO
        text = os.strerror(number) if "errno" in self.metadata or number == errno.EEXIST else self.strerror
        return OSError(number, text, path)
