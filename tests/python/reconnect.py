"""What a client does when its broker was killed and started again, as docs/protocol.md says it. Says `granted`, waits for a line:
by then there is another broker. Prints a line for each check and ends with status 1 at the first that fails.
"""

import os
import secrets
import signal
import sys
import tempfile

from scratch_channel import Channel, Closed, Refused
from scratch_grpc import Grpc, Stubs

UNAVAILABLE = 14
LIVE, ENDED = 1, 4
FILE = 1


def check(what, holds, found=None):
    if not holds:
        print(f"FAILED {what}" + ("" if found is None else f": found {found!r}"))
        sys.exit(1)
    print(f"ok {what}", flush=True)


def path(name):
    return os.path.join(os.environ["SCRATCHD_RUNTIME_DIR"], name)


class Client:
    """Both roads."""

    def __init__(self, stubs):
        self.messages = stubs.messages
        self.channel = Channel(path("handle.sock"), stubs.messages)
        self.grpc = Grpc(path("grpc.sock"), stubs)
        self.connection = self.messages["HolderSpec"](connection=self.messages["ConnectionHolder"]())

    def close(self):
        self.channel.close()
        self.grpc.close()

    def ask(self, service, method, message, **fields):
        return self.grpc.call(service, method, self.messages[message](**fields))[0]

    def lease(self, id):
        return self.ask("Leases", "Get", "GetLeaseRequest", lease=id)

    def renew(self, stream, id):
        return stream.renew(self.messages["KeepAliveRequest"](lease=id))


def until(state, client, id):
    """Each look is the pace; the alarm ends a broker that never gets there."""
    signal.alarm(60)
    while (lease := client.lease(id)).state != state:
        pass
    signal.alarm(0)
    return lease


def main(stubs):
    before = Client(stubs)
    nonce, name = secrets.token_bytes(16), b"tmp" + secrets.token_hex(8).encode()
    mine, _ = before.channel.grant(nonce=nonce)
    before.channel.create(lease=mine.id, kind=FILE, name=name)
    by_channel, _ = before.channel.grant(holders=[before.connection])
    by_stream = before.ask("Leases", "Grant", "GrantRequest", holders=[before.connection])
    forgotten = before.ask("Leases", "Grant", "GrantRequest", holders=[before.connection])
    stream = before.grpc.keep_alive()
    before.renew(stream, by_stream.id)
    before.renew(stream, forgotten.id)
    print("granted", flush=True)
    sys.stdin.readline()

    try:
        before.channel.ping()
        check("the channel ends with its broker", False)
    except (Closed, ConnectionResetError, BrokenPipeError):
        check("the channel ends with its broker", True)
    try:
        before.renew(stream, by_stream.id)
        check("a stream ends with its broker", False)
    except Refused as refused:
        check("a stream ends with its broker", refused.code == UNAVAILABLE, str(refused))
    before.close()

    after = Client(stubs)
    attach = after.messages["AttachRequest"](lease=by_channel.id, holder=after.connection)
    holder = after.channel.call("attach", attach)[0].holder
    check("the new connection takes the lost one's place", not holder.connection.lost, holder)
    holders = after.lease(by_channel.id).holders
    check("and is alone there", [one.connection.lost for one in holders] == [False], holders)
    stream = after.grpc.keep_alive()
    after.renew(stream, by_stream.id)
    holders = after.lease(by_stream.id).holders
    check("so does a new stream", [one.connection.lost for one in holders] == [False], holders)

    again, _ = after.channel.grant(nonce=nonce)
    check("the same nonce is the same lease", again.id == mine.id, again)
    check("of the next generation", again.generation == mine.generation + 1, again.generation)
    made, _ = after.channel.create(lease=mine.id, kind=FILE, name=name, resend=True)
    check("a Create sent again finds its file", made.areas[0].name == name, made)

    reason = until(ENDED, after, forgotten.id).reason.code
    check("what nobody came back for has ended", reason == "RESTART_GRACE", reason)
    check("and is gone", not os.path.lexists(forgotten.path))
    states = [after.lease(lease.id).state for lease in (mine, by_channel, by_stream)]
    check("all else lives", states == [LIVE] * 3, states)
    stream.close()
    reason = until(ENDED, after, by_stream.id).reason.code
    check("a stream that is closed lets go", reason == "HOLDERS_GONE", reason)
    after.close()


with tempfile.TemporaryDirectory() as directory:
    main(Stubs(directory))
