"""The handle channel from plain Python: a socket and the protobuf runtime, nothing of our own SDKs.

Written from docs/protocol.md and proto/scratchd/v1/channel.proto alone, so that it checks the contract and not an
implementation of it. `connect` makes the message classes at run time from the FileDescriptorSet that SCRATCH_DESCRIPTORS
names; a Channel takes any others just as well, see scratch_grpc.py.
"""

import array
import os
import secrets
import socket

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKET_BYTES_MAX = 64 * 1024
PACKET_DESCRIPTORS_MAX = 253


def load_messages(path):
    """Every message class of scratchd.v1, by its short name."""
    with open(path, "rb") as file:
        files = descriptor_pb2.FileDescriptorSet.FromString(file.read()).file
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    ours = [file for file in files if file.package == "scratchd.v1"]
    names = [message.name for file in ours for message in file.message_type]
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find("scratchd.v1." + name)) for name in names}


class Refused(Exception):
    """The broker's refusal: an Error of the channel, or what gRPC's status and ErrorInfo say. `id`: of the channel's reply."""

    def __init__(self, id, error):
        super().__init__(f"{error.reason} (code {error.code}): {error.message} {dict(error.metadata)}")
        self.id = id
        self.code = error.code
        self.reason = error.reason
        self.metadata = dict(error.metadata)


class Closed(Exception):
    """The broker closed the connection."""


def carriers(message):
    """The messages with `fd = true`, depth first in field-number order: the k-th goes with the k-th descriptor."""
    for field, value in sorted(message.ListFields(), key=lambda pair: pair[0].number):
        if field.message_type is None:
            if field.name == "fd" and value:
                yield message
        elif field.message_type.GetOptions().map_entry:
            continue
        else:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from carriers(part)


class Channel:
    """One connection. Descriptors that come with a reply are the caller's to close."""

    def __init__(self, path, messages, descriptor=None):
        """To the broker that listens there; or by that descriptor, a delegated channel, which is used as it is."""
        self.messages = messages
        self.last_id = 0
        if descriptor is None:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        else:
            self.socket = socket.socket(fileno=descriptor)
        # A broker that never answers is to fail the test, not to hang it.
        self.socket.settimeout(60)
        if descriptor is None:
            self.socket.connect(path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send_raw(self, packet, descriptors=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.socket.sendmsg([packet], rights, socket.MSG_NOSIGNAL)

    def send(self, op, message, descriptors=(), id=None):
        """Sends without waiting; returns the request's id."""
        if id is None:
            self.last_id += 1
            id = self.last_id
        request = self.messages["ChannelRequest"](id=id)
        part = getattr(request, op)
        part.CopyFrom(message)
        part.SetInParent()  # an empty message is an op as well
        self.send_raw(request.SerializeToString(), descriptors)
        return id

    def recv(self):
        """The next response, whatever it is, and its descriptors."""
        size = socket.CMSG_SPACE(PACKET_DESCRIPTORS_MAX * array.array("i").itemsize)
        packet, ancillary, flags, _ = self.socket.recvmsg(PACKET_BYTES_MAX, size, socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        descriptors = list(descriptors)
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise AssertionError("a reply was cut off")
        if not packet:
            raise Closed()
        response = self.messages["ChannelResponse"].FromString(packet)
        expected = len(list(carriers(response)))
        if expected != len(descriptors):
            raise AssertionError(f"{expected} descriptors announced, {len(descriptors)} came: {response}")
        return response, descriptors

    @staticmethod
    def result(response):
        """What a response carries; an error is raised."""
        kind = response.WhichOneof("result")
        if kind == "error":
            raise Refused(response.id, response.error)
        return getattr(response, kind)

    def call(self, op, message, descriptors=()):
        """One request and its reply."""
        id = self.send(op, message, descriptors)
        response, received = self.recv()
        if response.id != id:
            raise AssertionError(f"request {id} was answered by {response}")
        return self.result(response), received

    def _call(self, op, name, fields, descriptors=()):
        return self.call(op, self.messages[name](**fields), descriptors)

    def ping(self):
        self._call("ping", "PingRequest", {})

    def grant(self, descriptors=(), **fields):
        fields.setdefault("nonce", secrets.token_bytes(16))
        return self._call("grant", "GrantRequest", fields, descriptors)

    def create(self, descriptors=(), **fields):
        return self._call("create", "CreateRequest", fields, descriptors)

    def claim(self, ticket):
        """What a ticket of gRPC's Create stands for."""
        return self._call("claim", "ClaimRequest", {"ticket": ticket})

    def persist(self, lease, area, directory, name, **fields):
        """Moves an area to that directory, a descriptor, for good."""
        fields = {"lease": lease, "area": area, "fd": True, "name": name, **fields}
        return self._call("persist", "PersistRequest", fields, [directory])[0]

    def release(self, lease, area, **fields):
        return self._call("release", "ReleaseRequest", {"lease": lease, "area": area, **fields})[0]

    def revoke(self, lease, **fields):
        return self._call("revoke", "RevokeRequest", {"lease": lease, **fields})[0]

    def keep_alive(self, lease):
        return self._call("keep_alive", "KeepAliveRequest", {"lease": lease})[0]

    def delegate(self, lease="", **limits):
        """A channel confined to a new lease below this one: the lease's id, and the channel."""
        fields = {"lease": lease, "limits": self.messages["Limits"](**limits)}
        reply, (descriptor,) = self._call("delegate", "DelegateRequest", fields)
        return reply.lease, Channel(None, self.messages, descriptor)

    def attach_process(self, lease, pidfd):
        """A process of the same tenant, by pidfd; the pidfd stays the caller's."""
        holder = self.messages["HolderSpec"](process=self.messages["ProcessHolder"](fd=True))
        return self._call("attach", "AttachRequest", {"lease": lease, "holder": holder}, [pidfd])[0]

    def detach(self, lease, holder):
        """By the holder's id."""
        self._call("detach", "DetachRequest", {"lease": lease, "holder": holder})


def connect():
    """To the broker that SCRATCHD_RUNTIME_DIR names, with the messages that SCRATCH_DESCRIPTORS names."""
    return Channel(
        os.path.join(os.environ["SCRATCHD_RUNTIME_DIR"], "handle.sock"),
        load_messages(os.environ["SCRATCH_DESCRIPTORS"]),
    )
