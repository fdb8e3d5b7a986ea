"""The two roads to a broker, alike: a call goes out and its answer comes back as proto3 JSON."""

import base64
import dataclasses
import os
import re

from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scratch_channel import Channel, Closed, Refused
from scratch_grpc import Grpc

ROADS = ("channel", "grpc")
# The Python SDK is tested: it takes the place of the plain client, and gRPC is left to others.
BY_SDK = os.environ.get("CONFORMANCE_BY") == "sdk"


@dataclasses.dataclass
class Answer:
    """A reply, what rode along, and the headers that it came with."""

    reply: dict
    descriptors: list = dataclasses.field(default_factory=list)
    headers: dict = dataclasses.field(default_factory=dict)


def to_json(message):
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


def socket_path(road):
    return os.path.join(os.environ["SCRATCHD_RUNTIME_DIR"], "handle.sock" if road == "channel" else "grpc.sock")


def operation(method):
    """GrantRequest is `grant` in a ChannelRequest, KeepAliveRequest is `keep_alive`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", method).lower()


class ChannelRoad:
    """A connection to handle.sock."""

    road = "channel"

    def __init__(self, stubs, descriptor=None):
        self.channel = Channel(socket_path("channel"), stubs.messages, descriptor)

    def close(self):
        self.channel.close()

    def call(self, name, request, descriptors=(), headers=None):
        method = name.partition(".")[2]
        message = json_format.ParseDict(request, self.channel.messages[method + "Request"]())
        reply, received = self.channel.call(operation(method), message, descriptors)
        return Answer(to_json(reply), received)

    def packet(self, packet):
        """Sends a packet as it is; the error that answers it."""
        self.channel.send_raw(packet)
        response, _ = self.channel.recv()
        return response

    def first_word(self):
        """What the broker says before anything was asked."""
        return self.channel.recv()[0]

    def is_closed(self):
        """Waits for the end of the connection, which must come next."""
        try:
            self.channel.recv()
        except (Closed, ConnectionResetError):
            return True
        return False


class GrpcRoad:
    """A connection to grpc.sock."""

    road = "grpc"

    def __init__(self, stubs):
        self.stubs = stubs
        self.grpc = Grpc(socket_path("grpc"), stubs)
        self.grpc.clients["Health"] = health_pb2_grpc.HealthStub(self.grpc.channel)

    def close(self):
        self.grpc.close()

    def request(self, service, method, request):
        if service == "Health":
            return json_format.ParseDict(request, health_pb2.HealthCheckRequest())
        # Areas.Get takes a GetAreaRequest: the name of the message is the service's to say.
        message = self.stubs.services[service].methods_by_name[method].input_type.name
        return json_format.ParseDict(request, self.stubs.messages[message]())

    def call(self, name, request, descriptors=(), headers=None):
        if descriptors:
            raise AssertionError("gRPC carries no descriptors")
        service, _, method = name.partition(".")
        if isinstance(request, str):
            self.grpc.call_raw(f"/scratchd.v1.{service}/{method}", base64.b64decode(request))
            return Answer({})
        if name == "Leases.KeepAlive":
            return self.keep_alive_once(request)
        if name == "Leases.Watch":
            return self.watch(request)
        message = self.request(service, method, request)
        reply, headers = self.grpc.call(service, method, message, (headers or {}).items())
        return Answer(to_json(reply), headers=headers)

    def keep_alive_once(self, request):
        stream = self.stream()
        try:
            return self.renew(stream, request)
        finally:
            stream.close()

    def stream(self):
        return self.grpc.keep_alive()

    def renew(self, stream, request):
        reply = stream.renew(self.request("Leases", "KeepAlive", request))
        if reply.HasField("error"):
            raise Refused(None, reply.error)
        return Answer(to_json(reply))

    def watch(self, request):
        return Answer(to_json(self.grpc.first("Leases", "Watch", self.request("Leases", "Watch", request))))


def connect(road, stubs, descriptor=None):
    """A new connection; by a descriptor, a delegated channel."""
    if road == "grpc":
        return GrpcRoad(stubs)
    if not BY_SDK:
        return ChannelRoad(stubs, descriptor)
    # Only where it is what is tested: nothing else needs it.
    from conformance_sdk import SdkRoad

    def answer(reply, received):
        return Answer(to_json(reply), received)

    return SdkRoad(stubs, os.environ["SCRATCHD_RUNTIME_DIR"], operation, answer, descriptor)
