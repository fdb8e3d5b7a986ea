"""The road of the Python SDK: its own connection and its own encoding, in the place of the plain channel client."""

import types

from google.protobuf import json_format
from scratchd import _connect, _wire
from scratchd._channel import Channel, receive
from scratchd.errors import ChannelClosed
from scratchd.errors import Refused as RefusedBySdk

from scratch_channel import Closed, Refused


class SdkRoad:
    """A connection of the SDK to handle.sock."""

    road = "channel"

    def __init__(self, stubs, directory, operation, answer, descriptor=None):
        self.messages, self.operation, self.answer = stubs.messages, operation, answer
        if descriptor is None:
            self.channel = Channel(lambda: _connect.connect(directory))
        else:
            import socket

            self.channel = Channel(lambda: socket.socket(fileno=descriptor))
            self.channel.is_delegated = True
        # Whoever connects is there, also before it says anything.
        self.channel.fileno()

    def close(self):
        self.channel.close()

    def call(self, name, request, descriptors=(), headers=None):
        method = name.partition(".")[2]
        message = json_format.ParseDict(request, self.messages[method + "Request"]())
        values = _wire.decode(method + "Request", message.SerializeToString())
        try:
            reply, received = self.channel.call(self.operation(method), values, list(descriptors))
        except RefusedBySdk as refused:
            error = types.SimpleNamespace(
                code=refused.code, reason=refused.reason, message=str(refused), metadata=refused.metadata
            )
            raise Refused(1, error) from None
        except ChannelClosed:
            raise Closed from None
        packed = _wire.encode(method + "Response", reply)
        return self.answer(self.messages[method + "Response"].FromString(packed), received)

    def first_word(self):
        """What the broker says to one that it turns away, as the SDK tells its caller."""
        try:
            self.channel.call("ping", {})
        except RefusedBySdk as refused:
            return self.messages["ChannelResponse"](
                error={"code": refused.code, "reason": refused.reason, "metadata": refused.metadata}
            )
        raise AssertionError("it was not turned away")

    def is_closed(self):
        try:
            receive(self.channel._socket)
        except ConnectionError:
            return True
        return False
