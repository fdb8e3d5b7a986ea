"""gRPC from plain Python: grpcio, and stubs that are made at run time from proto/ as docs/protocol.md shows.

Written from docs/protocol.md and proto/scratchd/v1 alone, so that it checks the contract and not an implementation of it.
"""

import importlib
import pathlib
import queue
import subprocess
import sys

import grpc
from google.rpc import error_details_pb2, status_pb2

from scratch_channel import Refused

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "proto"
# A broker that never answers is to fail the test, not to hang it.
DEADLINE_SECONDS = 60
# Equal channels would share one connection.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


class Stubs:
    """The generated modules: every message of scratchd.v1 by its short name, every service and its client."""

    def __init__(self, directory):
        """Makes them in `directory`, unless somebody did."""
        files = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.proto"))
        if not any(pathlib.Path(directory).iterdir()):
            command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCE}"]
            command += [f"--python_out={directory}", f"--grpc_python_out={directory}"]
            subprocess.run(command + files, check=True)
        sys.path.insert(0, str(directory))
        self.messages, self.services, self.clients = {}, {}, {}
        for file in files:
            module = importlib.import_module(file.removesuffix(".proto").replace("/", ".") + "_pb2")
            clients = importlib.import_module(module.__name__ + "_grpc")
            self.messages |= {name: getattr(module, name) for name in module.DESCRIPTOR.message_types_by_name}
            self.services |= module.DESCRIPTOR.services_by_name
            for name in module.DESCRIPTOR.services_by_name:
                self.clients[name] = getattr(clients, name + "Stub")


class Status:
    """A gRPC error in the words of the channel's Error."""

    def __init__(self, error):
        self.code = error.code().value[0]
        self.message = error.details()
        self.domain, self.reason, self.metadata = "", "", {}
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                for detail in status_pb2.Status.FromString(value).details:
                    info = error_details_pb2.ErrorInfo()
                    if detail.Unpack(info):
                        self.domain, self.reason, self.metadata = info.domain, info.reason, dict(info.metadata)


def refusal(error):
    """What grpcio raises, as what the channel raises. `headers`: the metadata of the answer, wherever it came."""
    status = Status(error)
    refused = Refused(None, status)
    refused.domain = status.domain
    refused.headers = headers(error)
    return refused


def headers(call):
    """Initial metadata; of an answer that is nothing but an error, which has only trailers, those."""
    return dict([*(call.initial_metadata() or ()), *(call.trailing_metadata() or ())])


class KeepAlive:
    """One KeepAlive stream. Leases that are held by their connection are held by it until it ends."""

    def __init__(self, client, deadline=DEADLINE_SECONDS):
        self.requests = queue.SimpleQueue()
        self.call = client.KeepAlive(iter(self.requests.get, None), timeout=deadline)

    def renew(self, request):
        """Sends one request and waits for its reply."""
        self.requests.put(request)
        try:
            return next(self.call)
        except grpc.RpcError as error:
            raise refusal(error) from None

    def close(self):
        """Says that nothing more comes, and waits until the broker has said so, too."""
        self.requests.put(None)
        try:
            for _ in self.call:
                raise AssertionError("a reply that nobody asked for")
        except grpc.RpcError as error:
            raise refusal(error) from None

    def cancel(self):
        self.call.cancel()
        self.requests.put(None)


class Grpc:
    """One connection."""

    def __init__(self, path, stubs):
        self.stubs = stubs
        self.channel = grpc.insecure_channel("unix:" + path, OPTIONS)
        self.clients = {name: client(self.channel) for name, client in stubs.clients.items()}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.channel.close()

    def call(self, service, method, request, metadata=()):
        """One request and its reply, with the headers that came with it. With a `grpc-timeout` in its metadata the broker gives
        up, and the client does not."""
        metadata = tuple(metadata)
        timeout = None if "grpc-timeout" in dict(metadata) else DEADLINE_SECONDS
        try:
            reply, call = getattr(self.clients[service], method).with_call(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            raise refusal(error) from None
        return reply, headers(call)

    def first(self, service, method, request):
        """The first of a stream of replies."""
        try:
            return next(getattr(self.clients[service], method)(request, timeout=DEADLINE_SECONDS))
        except grpc.RpcError as error:
            raise refusal(error) from None

    def call_raw(self, path, packet):
        """Bytes that may be no message, to a method that may be none."""
        try:
            return self.channel.unary_unary(path)(packet, timeout=DEADLINE_SECONDS)
        except grpc.RpcError as error:
            raise refusal(error) from None

    def keep_alive(self):
        return KeepAlive(self.clients["Leases"])
