"""A client that knows nothing of scratchd but the socket: it asks the broker by reflection what services there are, builds its
messages from the descriptors that it gets, and makes calls with them, as grpcurl does.

Prints a line for each check and ends with status 1 at the first that fails.
"""

import os
import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICES = {"scratchd.v1.Leases", "scratchd.v1.Areas", "scratchd.v1.Admin", "grpc.health.v1.Health"}


def check(what, holds, found=None):
    if not holds:
        print(f"FAILED {what}" + ("" if found is None else f": found {found!r}"))
        sys.exit(1)
    print(f"ok {what}", flush=True)


def call(channel, pool, name, request):
    """One call by its full name, its request and reply as JSON."""
    service, _, method = name.rpartition("/")
    described = pool.FindServiceByName(service).methods_by_name[method]
    reply = GetMessageClass(described.output_type)
    invoke = channel.unary_unary(
        f"/{name}", request_serializer=lambda message: message.SerializeToString(), response_deserializer=reply.FromString
    )
    message = json_format.ParseDict(request, GetMessageClass(described.input_type)())
    return json_format.MessageToDict(invoke(message, timeout=60))


def reason(channel, pool, name, request):
    """Why a call is refused."""
    try:
        return call(channel, pool, name, request)
    except grpc.RpcError as error:
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        info = error_details_pb2.ErrorInfo()
        check("the details hold an ErrorInfo", status_pb2.Status.FromString(details).details[0].Unpack(info))
        return info.reason


def main():
    socket = os.path.join(os.environ["SCRATCHD_RUNTIME_DIR"], "grpc.sock")
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        check("the broker names its services", SERVICES <= services, services)
        pool = DescriptorPool(database)
        for service in sorted(SERVICES):
            check(f"{service} has methods", pool.FindServiceByName(service).methods)

        status = call(channel, pool, "scratchd.v1.Admin/Status", {})
        check("Status answers", status["pid"] > 0 and status["pools"], status)
        health = call(channel, pool, "grpc.health.v1.Health/Check", {})
        check("the broker serves", health == {"status": "SERVING"}, health)

        granted = call(channel, pool, "scratchd.v1.Leases/Grant", {"labels": {"asked": "by reflection"}})
        lease = call(channel, pool, "scratchd.v1.Leases/Get", {"lease": granted["id"]})
        check("Get finds what Grant gave", lease["labels"] == {"asked": "by reflection"}, lease)
        check("held by this process", lease["holders"][0]["process"] == {"pid": os.getpid()}, lease)
        call(channel, pool, "scratchd.v1.Leases/Revoke", {"lease": granted["id"], "wait": "WAIT_FREED"})
        again = reason(channel, pool, "scratchd.v1.Leases/Revoke", {"lease": granted["id"]})
        check("a lease that is gone is unknown", again == "LEASE_UNKNOWN", again)


main()
