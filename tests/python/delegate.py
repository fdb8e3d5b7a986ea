"""A worker, its sandbox and a neighbour, all of one user: what the sandbox reaches by its delegated channel, and what it does
not. The arguments: the user's number or `-` for the one that runs it, and whether the broker is a `system` or a `session` one.
Prints a line for each check and ends with status 1 at the first that fails.
"""

import os
import signal
import socket
import sys
import time

from checks import check, refused
from sandbox import deny_files_and_sockets, enter_namespaces
from scratch_channel import connect

FILE, DIRECTORY, ANONYMOUS, MEMORY = 1, 2, 3, 4
INODES = 16
DEADLINE_SECONDS = 60


def holds(what, act):
    """The errno that a system call must fail with."""
    try:
        act()
    except OSError as error:
        return check(what, error.errno, error)
    check(what, False)


def written(descriptor):
    os.pwrite(descriptor, b"mine", 0)
    content = os.pread(descriptor, 16, 0)
    os.close(descriptor)
    return content == b"mine"


def stays_inside(handle):
    """Whoever holds a directory's handle gets nowhere with `..`, and not by changing its root either."""
    inside = os.fstat(handle)
    os.mkdir("below", dir_fd=handle)
    for path in ("..", "../..", "below/../..", "below/../../../.."):
        check(f"{path} stays inside", os.path.samestat(os.stat(path, dir_fd=handle), inside))
    opened = os.open("../../..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=handle)
    check("opened it is the same", os.listdir(opened) == ["below"], os.listdir(opened))
    os.close(opened)
    # What climbs out of a chroot with a plain descriptor: the root is below, and the descriptor above it.
    os.fchdir(handle)
    os.chroot("below")
    os.fchdir(handle)
    os.chdir("../" * 20)
    check("above a new root it is the top", os.path.samestat(os.stat("."), inside))
    os.rmdir("below")


def directories(channel, broker):
    if broker == "session":
        make = lambda: channel.create(kind=DIRECTORY, want_handle=True)
        refused("a handle that leads out of its directory", "DELEGATED", make)
        return channel.create(kind=DIRECTORY)[0].areas[0].name
    reply, (handle,) = channel.create(kind=DIRECTORY, want_handle=True)
    stays_inside(handle)
    # It is this process's root now, in which nothing else is.
    os.close(handle)
    return reply.areas[0].name


def makes_areas(channel, directory):
    """Of every kind, as many as its limit has inodes and not one more."""
    places = {ANONYMOUS: None, MEMORY: None, FILE: None}
    for kind in places:
        reply, (descriptor,) = channel.create(kind=kind, want_handle=True)
        places[kind] = reply.areas[0].name
        check(f"an area of kind {kind}", written(descriptor))
    where = channel.messages["Where"](directory=directory)
    channel.create(kind=FILE, where=where, want_handle=False)
    rest = channel.create(kind=FILE, count=INODES - 5)[0].areas
    refused("one more", "LIMIT_INODES", lambda: channel.create(kind=ANONYMOUS))
    refused("a lease below", "LIMIT_INODES", lambda: channel.grant())
    channel.release("", places[ANONYMOUS])
    refused("more at once than are left", "LIMIT_INODES", lambda: channel.create(kind=FILE, count=2))
    reply, (descriptor,) = channel.create(kind=ANONYMOUS)
    os.close(descriptor)
    for name in (reply.areas[0].name, places[MEMORY], places[FILE], directory, *(area.name for area in rest)):
        check(f"{name} is released", channel.release("", name).existed)


def grants_below(channel, own):
    child, _ = channel.grant()
    check("a lease below has no path here", child.path == b"", child)
    check("its connection holds it", [holder.WhichOneof("kind") for holder in child.holders] == ["connection"], child)
    channel.create(lease=child.id, kind=FILE)
    ttl = channel.messages["HolderSpec"](ttl={"ttl": {"seconds": 60}})
    timed, _ = channel.grant(holders=[ttl], parent=own, soft=True, limits={"inodes": 1})
    check("a ttl may hold it, too", channel.keep_alive(timed.id).granted_ttl.seconds == 60)
    for lease in (child.id, timed.id):
        channel.revoke(lease)
        refused("what was revoked", "LEASE_UNKNOWN", lambda: channel.create(lease=lease, kind=FILE))


def delegates_on(channel):
    _, second = channel.delegate(inodes=2)
    second.create(kind=FILE, count=2)
    refused("more than was handed on", "LIMIT_INODES", lambda: second.create(kind=FILE))
    second.close()
    channels = [channel]
    for _ in range(7):
        channels.append(channels[-1].delegate()[1])
    refused("nine deep", "LIMIT_DEPTH", lambda: channels[-1].delegate())
    for one in reversed(channels[1:]):
        one.close()


def reaches_no_other_lease(channel, leases):
    """Each verb that names a lease; the answer is the same for one that never was."""
    message = lambda name, /, **fields: channel.messages[name](**fields)
    for whose, lease in (*leases.items(), ("nobody's", "a" * 16)):
        for op, request in (
            ("create", message("CreateRequest", lease=lease, kind=FILE)),
            ("release", message("ReleaseRequest", lease=lease, area=b"precious")),
            ("grant", message("GrantRequest", parent=lease)),
            ("delegate", message("DelegateRequest", lease=lease)),
            ("revoke", message("RevokeRequest", lease=lease)),
            ("keep_alive", message("KeepAliveRequest", lease=lease)),
        ):
            refused(f"{op} of {whose} lease", "LEASE_UNKNOWN", lambda: channel.call(op, request))


def is_kept_from_the_rest(channel, own):
    message = lambda name, /, **fields: channel.messages[name](**fields)
    process = message("HolderSpec", process={})
    foreign = message("Where", foreign={"fd": True})
    pidfd = os.pidfd_open(os.getpid())
    # Passed as whatever is asked for: nobody looks at it.
    for op, request, descriptors in (
        ("attach", message("AttachRequest", lease=own, holder={"ttl": {"ttl": {"seconds": 60}}}), []),
        ("attach", message("AttachRequest", lease=own, holder={"process": {"fd": True}}), [pidfd]),
        ("detach", message("DetachRequest", lease=own, holder=1), []),
        ("claim", message("ClaimRequest", ticket=bytes(16)), []),
        ("persist", message("PersistRequest", area=b"x", fd=True, name=b"x"), [pidfd]),
        ("create", message("CreateRequest", kind=FILE, where=foreign), [pidfd]),
        ("grant", message("GrantRequest", holders=[process]), []),
        ("grant", message("GrantRequest", holders=[{"process": {"fd": True}}]), [pidfd]),
        ("revoke", message("RevokeRequest", lease=own), []),
        ("revoke", message("RevokeRequest"), []),
        ("keep_alive", message("KeepAliveRequest", lease=own), []),
        ("keep_alive", message("KeepAliveRequest"), []),
    ):
        refused(f"{op} {str(request).split()}", "DELEGATED", lambda: channel.call(op, request, descriptors))
    channel.ping()


def sandboxed(channel, own, broker, others, paths):
    """The sandbox's life; then it waits to be killed."""
    enter_namespaces()
    check("an empty root", os.listdir("/") == [], os.listdir("/"))
    directory = directories(channel, broker)
    deny_files_and_sockets()
    holds("no socket", lambda: socket.socket(socket.AF_UNIX))
    holds("no file", lambda: os.open("/", os.O_RDONLY))
    for path in paths:
        holds("no path of others", lambda: os.stat(path))
    makes_areas(channel, directory)
    grants_below(channel, own)
    delegates_on(channel)
    reaches_no_other_lease(channel, others)
    is_kept_from_the_rest(channel, own)
    channel.create(kind=FILE, count=3)
    channel.grant()
    print("sandboxed", flush=True)
    signal.pause()


def start(channel, *arguments):
    """In a process that has nothing but the channel and a pipe to speak through; gives its number and the pipe."""
    heard, said = os.pipe()
    child = os.fork()
    if child:
        os.close(said)
        channel.close()
        return child, heard
    signal.alarm(DEADLINE_SECONDS)
    os.dup2(said, 1)
    kept = channel.socket.fileno()
    os.closerange(3, kept)
    os.closerange(kept + 1, 1024)
    try:
        sandboxed(channel, *arguments)
    except BaseException as error:  # nothing may get back into the worker's code
        print(f"FAILED in the sandbox: {type(error).__name__} {error}", flush=True)
    os._exit(1)


def hear(heard):
    """Hands on what it says until it is where it should be."""
    with os.fdopen(heard, "rb") as lines:
        for line in lines:
            if line == b"sandboxed\n":
                return
            print("sandbox:", line.decode(), end="", flush=True)
    check("the sandbox gets where it should", False)


def wait_gone(path):
    end = time.monotonic() + DEADLINE_SECONDS
    while os.path.lexists(path) and time.monotonic() < end:
        time.sleep(0.005)
    check("what the sandbox had is gone", not os.path.lexists(path), path)


def main(user, broker):
    if user != "-":
        os.setgroups([])
        os.setresgid(int(user), int(user), int(user))
        os.setresuid(int(user), int(user), int(user))
    with connect() as worker, connect() as neighbour:
        lease, _ = worker.grant(limits={"inodes": 40, "bytes": 1000}, soft=True)
        other, _ = neighbour.grant()
        neighbour.create(lease=other.id, kind=FILE, name=b"precious")
        own, channel = worker.delegate(lease.id, inodes=INODES, bytes=500)
        pool, precious = os.path.dirname(lease.path), os.path.join(other.path, b"precious")
        child, heard = start(channel, own, broker, {"its worker's": lease.id, "a neighbour's": other.id}, (pool, precious))
        hear(heard)
        refused("what was carved out", "LIMIT_INODES", lambda: worker.create(lease=lease.id, kind=FILE, count=40 - INODES + 1))
        check("the worker sees it like any lease", worker.create(lease=own, kind=FILE)[0].areas[0].name)
        path = os.path.join(pool, own.encode())
        check("it is where leases are", os.path.isdir(path), path)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        wait_gone(path)
        check("its neighbour's is not", os.path.exists(precious))
        worker.create(lease=lease.id, kind=FILE, count=40)
        worker.revoke(lease.id)
        neighbour.revoke(other.id)


if __name__ == "__main__":
    main(*sys.argv[1:])
