"""gRPC, for what is to be had only there: grpcio carries the bytes, the messages are our own."""

import importlib
import os
import socket
import struct
import time
from typing import Any

from scratchd._messages import MESSAGES
from scratchd._wire import Malformed, Message, decode, encode
from scratchd.errors import ChannelClosed, ForeignBroker, NoBroker, Refused

SERVICE = "/scratchd.v1.Leases/"
_SOCKET_NAME = "grpc.sock"
_DETAILS = "grpc-status-details-bin"
# A broker that is started anew has so long to come back, and is looked for so often.
_COMES_BACK_SECONDS_MAX = 30.0
LOOK_EVERY_SECONDS = 0.2
# Of google.rpc, not of ours.
_STATUS = {
    "google.rpc.Status": (("details", 3, "*google.protobuf.Any"),),
    "google.protobuf.Any": (("value", 2, "bytes"),),
    "google.rpc.ErrorInfo": (("reason", 1, "string"), ("metadata", 3, "map")),
}


def load(name: str = "grpc") -> Any:
    """The module of that name, of grpcio.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError("looking at leases and watching them needs grpcio: pip install 'scratchd[grpc]'") from error


def target(directory: str) -> str:
    """How gRPC names the broker's socket there.

    Raises:
        NoBroker: Nothing listens there.
        ForeignBroker: It is another user's.
    """
    path = os.path.join(os.path.abspath(directory), _SOCKET_NAME)
    # The library hides its own socket, and with it whose it is.
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoBroker(path, str(error.strerror)) from None
        _, uid, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid not in (0, os.geteuid()):
        raise ForeignBroker(path, uid)
    return f"unix:{path}"


def options() -> list[tuple[str, int]]:
    """Of each channel: it is its own, and does not try again by itself."""
    return [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]


def codec(request: str, response: str) -> dict[str, Any]:
    """What a call takes to speak these messages."""
    return {
        "request_serializer": lambda values: encode(request, values),
        "response_deserializer": lambda data: decode(response, data),
    }


def said(error: Any) -> OSError:
    """The broker's refusal, or the end of the connection, from what grpcio raises."""
    message = error.details() or ""
    details = dict(error.trailing_metadata() or ()).get(_DETAILS)
    if details is None:
        return ChannelClosed(message)
    MESSAGES.update(_STATUS)
    try:
        info = decode("google.rpc.ErrorInfo", decode("google.rpc.Status", details)["details"][0]["value"])
    except (Malformed, LookupError):
        return ChannelClosed(message)
    return Refused(error.code().value[0], info.get("reason", ""), message, info.get("metadata", {}))


class Course:
    """The course of one watch, over all its streams. No I/O."""

    def __init__(self, since: str, lease: str, held: bool) -> None:
        self.request: Message = {"since": since, "lease": lease, "held": held and not since}
        self._lost_at: float | None = None

    def told(self, message: Message) -> None:
        """The next stream goes on after this message."""
        self._lost_at = None
        self.request = {**self.request, "since": message.get("revision", ""), "held": False}

    def is_compacted(self, error: OSError) -> bool:
        """Whether there is a gap; the next stream begins with all that is held.

        Raises:
            OSError: The error, where the next stream would have it, too, or there was none for too long.
        """
        if isinstance(error, Refused) and error.reason == "COMPACTED":
            self.request = {**self.request, "since": "", "held": True}
            return True
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at = now
        if not _is_passing(error) or now - self._lost_at > _COMES_BACK_SECONDS_MAX:
            self._lost_at = None
            raise error
        return False


def _is_passing(error: OSError) -> bool:
    """Whether it passes when the next broker is there, or this one has time again."""
    if isinstance(error, Refused):
        return error.reason in ("STOPPING", "SLOW_READER")
    return isinstance(error, ConnectionError)
