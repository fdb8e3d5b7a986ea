"""A tour of the handle channel: what must work, and what must be refused and how.

Prints a line for each check and ends with status 1 at the first that fails, saying what was expected.
"""

import contextlib
import fcntl
import os
import secrets
import select
import signal
import socket
import stat
import subprocess
import sys

from scratch_channel import PACKET_BYTES_MAX, Closed, Refused, connect

FILE, DIRECTORY, ANONYMOUS, MEMORY = 1, 2, 3, 4


def check(what, holds, found=None):
    if not holds:
        print(f"FAILED {what}" + ("" if found is None else f": found {found!r}"))
        sys.exit(1)
    print(f"ok {what}")


def refused(what, reasons, act):
    """`act` must be refused for one of `reasons`; returns the refusal."""
    reasons = reasons if isinstance(reasons, tuple) else (reasons,)
    try:
        result = act()
    except Refused as refusal:
        check(f"{what}: {' or '.join(reasons)}", refusal.reason in reasons, str(refusal))
        check(f"{what}: with a gRPC code and a message", 0 < refusal.code <= 16 and str(refusal) != "", refusal.code)
        return refusal
    check(f"{what}: {' or '.join(reasons)}", False, result)


@contextlib.contextmanager
def closing(descriptors):
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def looks_right(what, descriptor, kind, mode, links):
    about = os.fstat(descriptor)
    check(f"{what}: type and mode", about.st_mode == kind | mode, oct(about.st_mode))
    check(f"{what}: link count", links is None or about.st_nlink == links, about.st_nlink)
    check(f"{what}: owner", about.st_uid == os.geteuid(), about.st_uid)
    check(f"{what}: close-on-exec", fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if stat.S_ISREG(about.st_mode):
        check(f"{what}: open for reading and writing", flags & os.O_ACCMODE == os.O_RDWR, oct(flags))
        check(f"{what}: empty", about.st_size == 0, about.st_size)
        os.write(descriptor, b"content")
        check(f"{what}: reads back", os.pread(descriptor, 100, 0) == b"content")


def kinds(channel):
    """Each kind once, in the connection's own lease. Returns that lease."""
    channel.ping()
    check("an empty call is answered", True)

    result, descriptors = channel.create(kind=FILE, want_handle=True)
    with closing(descriptors):
        check("the first create grants the connection's own lease", result.HasField("lease"), result)
        own = result.lease
        check("a lease's id is 16 characters of base32", len(own.id) == 16 and own.id.islower(), own.id)
        holders = [(holder.WhichOneof("kind"), holder.process.pid) for holder in own.holders]
        check("it is held by this process", holders == [("process", os.getpid())], holders)
        check("it names its generation and firmness", own.generation > 0 and own.firmness > 0, own)
        looks_right("a file", descriptors[0], stat.S_IFREG, 0o600, 1)
        path = os.path.join(own.path, result.areas[0].name)
        check("its name is tmp and 8 characters", len(result.areas[0].name) == 11, result.areas[0].name)
        check("its descriptor is of its name", os.path.samestat(os.stat(path), os.fstat(descriptors[0])))

    about = os.lstat(own.path)
    check("the lease's directory is 0700 and ours", about.st_mode == stat.S_IFDIR | 0o700, oct(about.st_mode))
    check("the lease's directory carries the lease's id", os.path.basename(own.path) == own.id.encode(), own.path)

    result, descriptors = channel.create(kind=DIRECTORY, want_handle=True, prefix=b"d-", suffix=b".dir")
    with closing(descriptors):
        check("the own lease is granted once", not result.HasField("lease"), result)
        looks_right("a directory", descriptors[0], stat.S_IFDIR, 0o700, None)
        name = result.areas[0].name
        check("prefix and suffix stand", name.startswith(b"d-") and name.endswith(b".dir"), name)
    inner, _ = channel.create(kind=FILE, where=channel.messages["Where"](directory=name))
    inner = os.path.join(own.path, name, inner.areas[0].name)
    check("a file inside a directory area", stat.S_ISREG(os.lstat(inner).st_mode), inner)

    result, descriptors = channel.create(kind=ANONYMOUS)
    with closing(descriptors):
        check("an anonymous file comes as a descriptor, asked or not", len(descriptors) == 1)
        looks_right("an anonymous file", descriptors[0], stat.S_IFREG, 0o600, 0)
        check("it is named by a number", result.areas[0].name.startswith(b"#"), result.areas[0].name)

    result, descriptors = channel.create(kind=MEMORY)
    with closing(descriptors):
        check("a memory file comes as a descriptor", len(descriptors) == 1)
        looks_right("a memory file", descriptors[0], stat.S_IFREG, 0o600, 0)
        fcntl.fcntl(descriptors[0], fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW)
        try:
            os.pwrite(descriptors[0], b"more", 0)
            check("a memory file can be sealed", False)
        except PermissionError:
            check("a memory file can be sealed", True)

    for mode in (0o400, 0o640, 0o777):
        result, _ = channel.create(kind=FILE, mode=mode)
        found = stat.S_IMODE(os.lstat(os.path.join(own.path, result.areas[0].name)).st_mode)
        check(f"mode {mode:o} is exact", found == mode, oct(found))
    result, _ = channel.create(kind=FILE, prefix=b"", random_chars=64)
    check("64 random characters and no prefix", len(result.areas[0].name) == 64, result.areas[0].name)
    result, _ = channel.create(kind=FILE, prefix=b"\xff\n*", random_chars=3)
    check("a name is bytes", os.path.lexists(os.path.join(own.path, result.areas[0].name)))
    result, _ = channel.create(kind=FILE, name=b"n" * 255)
    check("a name of 255 bytes", result.areas[0].name == b"n" * 255)
    return own


def many(channel, own):
    """Batches, and requests in flight."""
    for kind, what in ((FILE, "files"), (ANONYMOUS, "anonymous files")):
        result, descriptors = channel.create(kind=kind, count=200, want_handle=True)
        with closing(descriptors):
            check(f"200 {what} in one request", len(result.areas) == len(descriptors) == 200, len(descriptors))
            inodes = {os.fstat(descriptor).st_ino for descriptor in descriptors}
            check(f"all {what} differ", len(inodes) == len({area.name for area in result.areas}) == 200)
            if kind == FILE:
                paths = [os.path.join(own.path, area.name) for area in result.areas]
                same = all(os.path.samestat(os.lstat(p), os.fstat(d)) for p, d in zip(paths, descriptors))
                check("the k-th descriptor is the k-th area's", same)

    names = [secrets.token_hex(8).encode() for _ in range(50)]
    request = channel.messages["CreateRequest"]
    sent = {}
    for name in names:
        sent[channel.send("create", request(kind=FILE, name=name, want_handle=True))] = name
    while sent:
        response, descriptors = channel.recv()
        with closing(descriptors):
            name = sent.pop(response.id, None)
            same = name is not None and os.path.samestat(
                os.lstat(os.path.join(own.path, name)), os.fstat(descriptors[0])
            )
            if not same or channel.result(response).areas[0].name != name:
                check("50 requests in flight, each answered under its id", False, response)
    check("50 requests in flight, each answered under its id", True)


def endings(channel, own):
    """Release, resend, leases of their own, what holds them."""
    result, _ = channel.create(kind=DIRECTORY)
    name = result.areas[0].name
    path = os.path.join(own.path, name)
    os.makedirs(os.path.join(path, b"a/b/c"))
    check("release finds it", channel.release("", name).existed)
    check("a directory is gone, whatever was in it, when release answers", not os.path.lexists(path))
    check("release of what is not there is no error", not channel.release("", name).existed)
    result, descriptors = channel.create(kind=ANONYMOUS)
    with closing(descriptors):
        check("an anonymous file is released by its number", channel.release(own.id, result.areas[0].name).existed)
        check("and its descriptor lives on", os.write(descriptors[0], b"x") == 1)

    name = b"exact-" + secrets.token_hex(8).encode()
    path = os.path.join(own.path, name)
    _, descriptors = channel.create(kind=FILE, name=name, want_handle=True)
    with closing(descriptors):
        refused("an exact name again", "NAME_EXISTS", lambda: channel.create(kind=FILE, name=name))
        _, again = channel.create(kind=FILE, name=name, want_handle=True, resend=True)
        with closing(again):
            same = os.path.samestat(os.fstat(descriptors[0]), os.fstat(again[0]))
            check("an exact name sent again is the same file", same)
    resend = lambda kind=FILE, name=name: channel.create(kind=kind, name=name, resend=True)
    refused("sent again as another kind", "NAME_EXISTS", lambda: resend(DIRECTORY))
    os.link(path, path + b".link")
    refused("sent again, but it has two links", "NAME_EXISTS", resend)
    os.symlink(b"/etc/passwd", path + b".symlink")
    refused("sent again, but it is a symbolic link", "NAME_EXISTS", lambda: resend(FILE, name + b".symlink"))

    nonce = secrets.token_bytes(16)
    granted, _ = channel.grant(nonce=nonce)
    check("a granted lease is another one", granted.id != own.id and granted.path != own.path, granted)
    check("the same nonce is the same lease", channel.grant(nonce=nonce)[0].id == granted.id)
    result, _ = channel.create(lease=granted.id, kind=FILE)
    check("create in a granted lease grants none", not result.HasField("lease"))
    check("its file is in its directory", os.path.lexists(os.path.join(granted.path, result.areas[0].name)))
    channel.revoke(granted.id)
    check("a revoked lease's directory is gone", not os.path.lexists(granted.path))
    for op in (lambda: channel.create(lease=granted.id, kind=FILE), lambda: channel.revoke(granted.id)):
        refused("a revoked lease", "LEASE_UNKNOWN", op)

    ttl = channel.messages["TtlHolder"]()
    ttl.ttl.seconds = 3600
    timed, _ = channel.grant(holders=[channel.messages["HolderSpec"](ttl=ttl)])
    check("a ttl is granted, never less than asked for", timed.granted_ttl.seconds >= 3600, timed)
    check("keep-alive renews it", channel.keep_alive(timed.id).granted_ttl.seconds >= 3600)
    check("freed means freed", channel.revoke(timed.id, wait=1).freed)

    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    pidfd = os.pidfd_open(child.pid)
    process = channel.messages["HolderSpec"](process=channel.messages["ProcessHolder"](fd=True))
    held, _ = channel.grant([pidfd], holders=[process])
    check("a lease held by a child", held.holders[0].process.pid == child.pid, held)
    holder = channel.attach_process(own.id, pidfd).holder
    check("attach names the process", holder.process.pid == child.pid and holder.id > 0, holder)
    child.stdin.close()
    child.wait()
    # Each round trip is the pace; the alarm ends a broker that never notices.
    signal.alarm(60)
    reason = None
    while reason in (None, "LEASE_ENDING"):
        try:
            channel.create(lease=held.id, kind=FILE)
        except Refused as refusal:
            reason = refusal.reason
    signal.alarm(0)
    check("a lease goes with its process", reason == "LEASE_UNKNOWN", reason)
    check("and its directory", not os.path.lexists(held.path))
    check("a lease with another holder stays", os.path.isdir(own.path))
    os.close(pidfd)


def bad_input(channel, own):
    """What is refused, and that nothing is made by it."""
    before = sorted(os.listdir(own.path))
    create = channel.create
    names = {
        "with a slash": b"a/b", "with NUL": b"a\0b", ".": b".", "..": b"..", "of 256 bytes": b"n" * 256, "/": b"/",
    }
    for what, name in names.items():
        refused(f"a name {what}", "NAME_INVALID", lambda: create(kind=FILE, name=name))
    # A path is refused for its form, or by the kernel, which lets nothing out of the lease's directory.
    outside = ("NAME_INVALID", "PATH_LEAVES", "PATH_UNKNOWN")
    for area in (b"", b".", b"..", b"../x", b"/etc/passwd", b"a\0b"):
        refused(f"release of {area!r}", outside, lambda: channel.release("", area))
    refused("a prefix with a slash", "NAME_INVALID", lambda: create(kind=FILE, prefix=b"../x"))
    refused("a suffix with NUL", "NAME_INVALID", lambda: create(kind=FILE, suffix=b"\0"))
    refused("a name that gets too long", "NAME_INVALID", lambda: create(kind=FILE, prefix=b"p" * 250))
    for directory in (b"..", b"/etc", b"a/../.."):
        where = channel.messages["Where"](directory=directory)
        refused(f"in {directory.decode()}", outside, lambda: create(kind=FILE, where=where))
    refused("a batch of 201", "BATCH_SIZE", lambda: create(kind=FILE, count=201))
    refused("an exact name twice", "KIND_INVALID", lambda: create(kind=FILE, name=b"x", count=2))
    for count in (2, 65):
        refused(f"{count} random characters", "RANDOM_CHARS", lambda: create(kind=FILE, random_chars=count))
    refused("mode 1777", "MODE_INVALID", lambda: create(kind=DIRECTORY, mode=0o1777))
    for kind in (0, 99):
        refused(f"kind {kind}", "KIND_INVALID", lambda: create(kind=kind))
    for lease in ("a" * 16, "x", "../../etc", "A" * 16, "a" * 4000):
        refused(f"lease {lease[:16]}", "LEASE_UNKNOWN", lambda: create(lease=lease, kind=FILE))
    refused("keep-alive of no lease of ours", "LEASE_UNKNOWN", lambda: channel.keep_alive("a" * 16))
    refused("a ticket that was never given", "TICKET_UNKNOWN", lambda: channel.call("claim", channel.messages["ClaimRequest"]()))
    foreign = channel.messages["Where"](foreign={})
    refused("a directory of its own that does not ride along", "REQUEST_INVALID", lambda: create(kind=FILE, where=foreign))

    read_end, write_end = os.pipe()
    ping = channel.messages["PingRequest"]()
    count = "DESCRIPTOR_COUNT"
    refused("a descriptor that is not asked for", count, lambda: channel.call("ping", ping, [read_end]))
    os.close(read_end)
    # Closed on another thread, so perhaps after the reply: the last reader's end is an error on this one.
    closed = select.poll()
    closed.register(write_end, 0)
    check("the broker closed the descriptor it did not ask for", closed.poll(30_000))
    os.close(write_end)
    process = channel.messages["HolderSpec"](process=channel.messages["ProcessHolder"](fd=True))
    refused("a descriptor that is announced and missing", count, lambda: channel.grant(holders=[process]))
    check("nothing was made by what was refused", sorted(os.listdir(own.path)) == before)


def bad_packets():
    """What is no request. What can be told apart gets an answer; the rest ends the connection."""
    with connect() as channel:
        request = channel.messages["ChannelRequest"]
        unknown_op = b"\x08\x07\xa2\x06\x00"  # id 7, and field 100 with nothing in it
        zero = request(id=0, ping={}).SerializeToString()
        for what, packet, id in (("id 0", zero, 0), ("no op", b"\x08\x05", 5), ("an unknown op", unknown_op, 7)):
            channel.send_raw(packet)
            response, _ = channel.recv()
            right = response.error.reason == "REQUEST_INVALID" and response.id == id
            check(f"{what}: REQUEST_INVALID under its id", right, response)
        channel.ping()
        check("the connection stays after a bad request", True)

    too_large = b"\0" * (PACKET_BYTES_MAX + 1)
    for what, packet, reason in (
        ("a packet over 64 KiB", too_large, "PACKET_TOO_LARGE"), ("garbled bytes", b"\xff" * 9, "PACKET_GARBLED"),
    ):
        with connect() as channel:
            channel.send_raw(packet)
            response, _ = channel.recv()
            check(f"{what}: {reason} under id 0", response.id == 0 and response.error.reason == reason, response)
            try:
                check(f"{what}: then the end", False, channel.recv())
            except (Closed, ConnectionResetError):
                check(f"{what}: then the end", True)

    with connect() as channel:
        channel.send_raw(b"")
        channel.socket.shutdown(socket.SHUT_WR)
    with connect() as channel:
        channel.ping()
        check("an empty packet harms nobody", True)


def main():
    with connect() as channel:
        own = kinds(channel)
        many(channel, own)
        endings(channel, own)
        bad_input(channel, own)
        channel.ping()
    bad_packets()
    check("the lease outlives its connection: it is held by the process", os.path.isdir(own.path))


main()
