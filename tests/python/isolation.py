"""Who may do what with somebody else's lease: every operation of both roads, by another user, by sandboxes, by an admin and by
root, on a lease of a victim that is new for each. The arguments: the victim's user, the other user, the admins' group. Starts
as root. Prints a line for each check and ends with status 1 at the first that fails.

For whom a lease is none of his, a foreign one and one that never was must give the same answer, to the last word.
"""

import json
import os
import socket
import sys
import tempfile

from checks import check, refused
from scratch_channel import Channel, Refused
from scratch_grpc import Grpc, Stubs

NOBODYS = "a" * 16
FILE, DIRECTORY, ANONYMOUS = 1, 2, 3
RUNTIME = os.environ["SCRATCHD_RUNTIME_DIR"]
HANDLE, GRPC = os.path.join(RUNTIME, "handle.sock"), os.path.join(RUNTIME, "grpc.sock")
UNKNOWN, DELEGATED, NOT_PERMITTED, DONE = "LEASE_UNKNOWN", "DELEGATED", "NOT_PERMITTED", "done"
# Root may, and then with the tenant's rights, who may not write here.
REFUSED = (NOT_PERMITTED, "PERMISSION")

# What is asked: its road, call and fields (LEASE and TICKET stand for the victim's, OWN for a pidfd of the asking process, SOCKET
# for an end of a socket pair, HERE for a directory that the asking process may write); then what another user is told, what a
# sandbox is told, and what an admin is told.
LEASE, TICKET, OWN, SOCKET, HERE = "LEASE", "TICKET", "OWN", "SOCKET", "HERE"
TTL = {"ttl": {"ttl": {"seconds": 60}}}
OPERATIONS = (
    ("channel", "create", {"lease": LEASE, "kind": FILE}, UNKNOWN, UNKNOWN, DONE),
    ("channel", "create", {"lease": LEASE, "kind": DIRECTORY, "want_handle": True}, UNKNOWN, UNKNOWN, DONE),
    ("channel", "create", {"lease": LEASE, "kind": ANONYMOUS}, UNKNOWN, UNKNOWN, DONE),
    ("channel", "create", {"lease": LEASE, "kind": FILE, "name": b"file", "resend": True}, UNKNOWN, UNKNOWN, DONE),
    ("channel", "create", {"lease": LEASE, "kind": FILE, "where": {"directory": b"directory"}}, UNKNOWN, UNKNOWN, DONE),
    ("channel", "create", {"lease": LEASE, "kind": FILE, "where": {"foreign": {"fd": HERE}}}, UNKNOWN, DELEGATED, REFUSED),
    ("channel", "release", {"lease": LEASE, "area": b"file"}, UNKNOWN, UNKNOWN, DONE),
    ("channel", "release", {"lease": LEASE, "area": b"directory"}, UNKNOWN, UNKNOWN, DONE),
    ("channel", "release", {"lease": LEASE, "area": b"#1"}, UNKNOWN, UNKNOWN, DONE),
    ("channel", "persist", {"lease": LEASE, "area": b"file", "fd": HERE, "name": b"x"}, UNKNOWN, DELEGATED, REFUSED),
    ("channel", "claim", {"ticket": TICKET}, "TICKET_UNKNOWN", DELEGATED, "TICKET_UNKNOWN"),
    ("channel", "grant", {"parent": LEASE}, UNKNOWN, UNKNOWN, DONE),
    ("channel", "attach", {"lease": LEASE, "holder": {"connection": {}}}, UNKNOWN, DELEGATED, DONE),
    ("channel", "attach", {"lease": LEASE, "holder": {"process": {}}}, UNKNOWN, DELEGATED, DONE),
    ("channel", "attach", {"lease": LEASE, "holder": {"process": {"fd": OWN}}}, UNKNOWN, DELEGATED, DONE),
    ("channel", "attach", {"lease": LEASE, "holder": {"descriptor": {"fd": SOCKET}}}, UNKNOWN, DELEGATED, DONE),
    ("channel", "attach", {"lease": LEASE, "holder": TTL}, UNKNOWN, DELEGATED, DONE),
    ("channel", "attach", {"lease": LEASE, "holder": {"hold": {}}}, NOT_PERMITTED, DELEGATED, DONE),
    ("channel", "detach", {"lease": LEASE, "holder": 1}, UNKNOWN, DELEGATED, DONE),
    ("channel", "delegate", {"lease": LEASE}, UNKNOWN, UNKNOWN, DONE),
    ("channel", "keep_alive", {"lease": LEASE}, UNKNOWN, UNKNOWN, "NO_TTL"),
    ("channel", "revoke", {"lease": LEASE}, UNKNOWN, UNKNOWN, DONE),
    ("channel", "revoke", {"lease": LEASE, "wait": 1}, UNKNOWN, UNKNOWN, DONE),
    ("grpc", "Leases.Grant", {"parent": LEASE}, UNKNOWN, None, DONE),
    ("grpc", "Leases.Revoke", {"lease": LEASE}, UNKNOWN, None, DONE),
    ("grpc", "Leases.Get", {"lease": LEASE}, UNKNOWN, None, DONE),
    ("grpc", "Leases.Update", {"lease": LEASE, "labels": {"a": "b"}}, UNKNOWN, None, DONE),
    ("grpc", "Leases.Update", {"lease": LEASE, "limits": {"bytes": 1}}, UNKNOWN, None, "NO_LIMIT"),
    ("grpc", "Leases.Attach", {"lease": LEASE, "holder": {"process": {}}}, UNKNOWN, None, DONE),
    ("grpc", "Leases.Attach", {"lease": LEASE, "holder": TTL}, UNKNOWN, None, DONE),
    ("grpc", "Leases.Detach", {"lease": LEASE, "holder": 1}, UNKNOWN, None, DONE),
    ("grpc", "Leases.Keep", {"lease": LEASE, "keep_for": {"seconds": 60}}, UNKNOWN, None, DONE),
    ("grpc", "Leases.Undelete", {"lease": LEASE}, UNKNOWN, None, DONE),
    ("grpc", "Areas.Create", {"lease": LEASE, "kind": FILE}, UNKNOWN, None, DONE),
    ("grpc", "Areas.Create", {"lease": LEASE, "kind": ANONYMOUS}, UNKNOWN, None, DONE),
    ("grpc", "Areas.Release", {"lease": LEASE, "area": b"file"}, UNKNOWN, None, DONE),
    ("grpc", "Areas.Get", {"lease": LEASE, "area": b"file"}, UNKNOWN, None, DONE),
    ("grpc", "Areas.List", {"lease": LEASE}, UNKNOWN, None, DONE),
    ("grpc", "Leases.Grant", {"tenant": 0}, NOT_PERMITTED, None, None),
    ("grpc", "Admin.Drain", {"deadline": {}}, NOT_PERMITTED, None, None),
    ("grpc", "Admin.Undrain", {}, NOT_PERMITTED, None, DONE),
    ("grpc", "Admin.Reap", {"foreign": True}, NOT_PERMITTED, None, DONE),
)


def become(user, group=None):
    if user:
        os.setgroups([group] if group else [])
        os.setgid(user)
        os.setuid(user)


def in_process(act):
    """In a forked process, with a socket to it; whatever goes wrong there is told there."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child:
        theirs.close()
        return child, ours.makefile("rw")
    ours.close()
    try:
        act(theirs.makefile("rw"))
    except SystemExit:
        os._exit(1)
    except BaseException as error:  # nothing may get back into the caller's code
        print(f"FAILED {type(error).__name__} {error}", flush=True)
        os._exit(1)
    os._exit(0)


def victim(stubs, user):
    """Answers each line with a lease that is new instead of the last, and `?` and a lease with what is found in that one."""

    def act(pipe):
        become(user)
        with Channel(HANDLE, stubs.messages) as channel, Grpc(GRPC, stubs) as grpc:
            last = None
            for line in pipe:
                asked = line.strip()
                if not asked and last:
                    ended(channel, last["lease"])
                answer = seen(grpc, asked[1:]) if asked else (last := granted(channel, grpc))
                pipe.write(json.dumps(answer) + "\n")
                pipe.flush()

    return in_process(act)


def granted(channel, grpc):
    nonce = os.urandom(16)
    lease, _ = channel.grant(nonce=nonce)
    path = os.fsdecode(lease.path)
    for kind, name in ((FILE, b"file"), (DIRECTORY, b"directory")):
        channel.create(lease=lease.id, kind=kind, name=name)
    with open(os.path.join(path, "file"), "wb") as file:
        file.write(b"precious")
    _, (anonymous,) = channel.create(lease=lease.id, kind=ANONYMOUS)
    os.close(anonymous)
    create = grpc.stubs.messages["CreateRequest"](lease=lease.id, kind=ANONYMOUS)
    ticket = grpc.call("Areas", "Create", create)[0].ticket
    return {"lease": lease.id, "path": path, "ticket": ticket.hex(), "nonce": nonce.hex(), "pid": os.getpid()}


def ended(channel, lease):
    try:
        channel.revoke(lease)
    except Refused as refusal:
        check("an admin has ended it", refusal.reason == UNKNOWN, refusal)


def seen(grpc, lease):
    """All that a tenant sees of its own lease."""
    messages = grpc.stubs.messages
    found = grpc.call("Leases", "Get", messages["GetLeaseRequest"](lease=lease))[0]
    areas = grpc.call("Areas", "List", messages["ListAreasRequest"](lease=lease))[0]
    with open(os.path.join(os.fsdecode(found.path), "file"), "rb") as file:
        content = file.read().decode()
    holders = [(holder.id, holder.WhichOneof("kind")) for holder in found.holders]
    return [found.state, holders, dict(found.labels), [area.id.decode() for area in areas.areas], content]


class Actor:
    """One who asks. A sandbox has a channel and nothing else."""

    def __init__(self, stubs, channel, grpc=None):
        self.stubs, self.channel, self.grpc = stubs, channel, grpc
        self.here = tempfile.mkdtemp()

    def ask(self, road, call, fields, lease, things):
        """What it is told: `done`, or a reason and all that was said with it."""
        descriptors = []
        values = {LEASE: lease, TICKET: bytes.fromhex(things["ticket"])}

        def filled(value):
            if isinstance(value, dict):
                return {key: filled(inner) for key, inner in value.items()}
            if value in (OWN, SOCKET, HERE):
                descriptors.append(self.descriptor(value))
                return True
            return values.get(value, value) if isinstance(value, str) else value

        request = {name: filled(value) for name, value in fields.items()}
        try:
            if road == "channel":
                name = "".join(part.capitalize() for part in call.split("_")) + "Request"
                _, received = self.channel.call(call, self.stubs.messages[name](**request), descriptors)
                for descriptor in received:
                    os.close(descriptor)
            else:
                service, method = call.split(".")
                name = self.stubs.services[service].methods_by_name[method].input_type.name
                self.grpc.call(service, method, self.stubs.messages[name](**request))
            return DONE, ""
        except Refused as refusal:
            said = str(refusal).replace(refusal.metadata.get("request_id", "no id"), "ID")
            return refusal.reason, said.replace(lease, "LEASE")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def descriptor(self, kind):
        if kind == HERE:
            return os.open(self.here, os.O_RDONLY | os.O_DIRECTORY)
        if kind == SOCKET:
            one, other = socket.socketpair()
            self.other_end = other
            return one.detach()
        return os.pidfd_open(os.getpid())


def new(pipe):
    pipe.write("\n")
    pipe.flush()
    return json.loads(pipe.readline())


def look(pipe, lease):
    pipe.write(f"?{lease}\n")
    pipe.flush()
    return json.loads(pipe.readline())


def none_of_his(who, actor, pipe, column):
    """Each operation: refused, as for a lease that never was; and the victim's is as it was."""
    for road, call, fields, *told in OPERATIONS:
        wanted = told[column]
        if wanted is None:
            continue
        things = new(pipe)
        before = look(pipe, things["lease"])
        foreign = actor.ask(road, call, fields, things["lease"], things)
        unknown = actor.ask(road, call, fields, NOBODYS, {**things, "ticket": "00" * 16})
        check(f"{who}: {road} {call} {fields}: {wanted}", foreign[0] == wanted, foreign)
        check(f"{who}: {road} {call}: the same for what never was", foreign == unknown, (foreign, unknown))
        after = look(pipe, things["lease"])
        check(f"{who}: {road} {call}: the victim's is as it was", before == after, (before, after))


def for_admins(who, actor, pipe):
    for road, call, fields, *told in OPERATIONS:
        if told[2] is None:
            continue
        things, wanted = new(pipe), told[2] if isinstance(told[2], tuple) else (told[2],)
        answer = actor.ask(road, call, fields, things["lease"], things)
        check(f"{who}: {road} {call} {fields}: {wanted}", answer[0] in wanted, answer)


def by_other_means(actor, pipe, stubs):
    """What is not a request about a lease."""
    things = new(pipe)
    scratch = os.path.join(os.path.dirname(things["path"]), ".scratch")
    for path in (things["path"], os.path.join(things["path"], "file"), scratch, f"/proc/{things['pid']}/fd"):
        try:
            os.close(os.open(path, os.O_RDONLY))
            closed = None
        except PermissionError as error:
            closed = error
        check(f"another user: {path} is closed", closed)
    granted, _ = actor.channel.grant(nonce=bytes.fromhex(things["nonce"]))
    check("another user: a nonce is the tenant's own", granted.id != things["lease"], granted)
    pidfd = os.pidfd_open(things["pid"])
    attach = lambda: actor.channel.attach_process(granted.id, pidfd)
    refused("another user: the victim's process holds nothing", "HOLDER_INVALID", attach)
    os.close(pidfd)
    messages = stubs.messages
    own = {granted.id}
    listed = actor.grpc.call("Leases", "List", messages["ListLeasesRequest"]())[0]
    check("another user: lists its own", {lease.id for lease in listed.leases} == own, listed)
    watched = actor.grpc.first("Leases", "Watch", messages["WatchRequest"](lease=things["lease"], held=True))
    check("another user: nothing happens to it", not watched.HasField("event") or watched.lease == "", watched)
    verified = actor.grpc.call("Admin", "Verify", messages["VerifyRequest"]())[0]
    check("another user: verify tells of its own", not verified.findings, verified)
    owed = actor.grpc.call("Admin", "ListDebt", messages["ListDebtRequest"]())[0]
    check("another user: no debts of others", not owed.debts, owed)
    status = actor.grpc.call("Admin", "Status", messages["StatusRequest"]())[0]
    check("another user: its own figures", status.leases == 1, status)
    actor.channel.revoke(granted.id)


def delegated(stubs):
    """A sandbox's channel, below a lease of this process's user."""
    channel = Channel(HANDLE, stubs.messages)
    return channel, channel.delegate()[1]


def main(user, other, group):
    user, other, group = int(user), int(other), int(group)
    directory = tempfile.mkdtemp()
    stubs = Stubs(directory)
    child, pipe = victim(stubs, user)

    def another_user(_):
        become(other)
        with Channel(HANDLE, stubs.messages) as channel, Grpc(GRPC, stubs) as grpc:
            actor = Actor(stubs, channel, grpc)
            by_other_means(actor, pipe, stubs)
            none_of_his("another user", actor, pipe, 0)

    def sandbox_of(who):
        def act(_):
            become(who)
            worker, channel = delegated(stubs)
            none_of_his(f"a sandbox of user {who}", Actor(stubs, channel), pipe, 1)
            worker.close()

        return act

    def admin(who, its_group):
        def act(_):
            become(who, its_group)
            with Channel(HANDLE, stubs.messages) as channel, Grpc(GRPC, stubs) as grpc:
                for_admins(f"an admin, user {who}", Actor(stubs, channel, grpc), pipe)

        return act

    for act in (another_user, sandbox_of(other), sandbox_of(user), sandbox_of(0), admin(other, group), admin(0, None)):
        actor, _ = in_process(act)
        _, status = os.waitpid(actor, 0)
        check("all of it", status == 0, status)
    pipe.close()
    os.waitpid(child, 0)


main(*sys.argv[1:])
