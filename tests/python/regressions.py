"""What went wrong once and shows with descriptors or packets in flight on the handle channel, or with gRPC's own client. One case
a run: its name is the argument. Prints a line for each check and ends with status 1 at the first that fails.
"""

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile

from checks import check, refused
from scratch_channel import Closed, Refused, connect
from scratch_grpc import Grpc, Stubs

FILE, DIRECTORY, ANONYMOUS = 1, 2, 3
PERSISTS_MAX = 8
FIN_WAIT1 = "04"


class Specs:
    """Holders to ask for."""

    def __init__(self, channel):
        message = channel.messages
        spec = message["HolderSpec"]
        self.connection = spec(connection=message["ConnectionHolder"]())
        self.process = spec(process=message["ProcessHolder"]())
        self.passed_process = spec(process=message["ProcessHolder"](fd=True))
        self.descriptor = spec(descriptor=message["DescriptorHolder"](fd=True))

    @staticmethod
    def ttl(channel, seconds):
        ttl = channel.messages["TtlHolder"]()
        ttl.ttl.seconds = seconds
        return channel.messages["HolderSpec"](ttl=ttl)


@contextlib.contextmanager
def pair(kind=socket.SOCK_STREAM):
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    with near, far:
        yield near, far


def the_same_holder_twice():
    with connect() as channel, pair() as (_, far):
        specs = Specs(channel)
        own, passed = os.pidfd_open(os.getpid()), far.fileno()
        for what, holders, descriptors in (
            ("a process twice", [specs.process, specs.process], []),
            ("a connection twice", [specs.connection, specs.connection], []),
            ("a passed process twice", [specs.passed_process] * 2, [own, own]),
            ("a process, also passed", [specs.process, specs.passed_process], [own]),
            ("a process twice, and a socket", [specs.passed_process] * 2 + [specs.descriptor], [own, own, passed]),
            ("a connection twice, and a socket", [specs.connection] * 2 + [specs.descriptor], [passed]),
        ):
            refused(what, "HOLDER_INVALID", lambda: channel.grant(descriptors, holders=holders))
        print("done", flush=True)
        sys.stdin.read()


def sockets_that_never_hang_up():
    with connect() as channel, pair(socket.SOCK_DGRAM) as (_, datagrams), socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0scratch-regressions")
        listener.listen()
        lease, _ = channel.grant()
        descriptor = Specs(channel).descriptor
        attach = channel.messages["AttachRequest"](lease=lease.id, holder=descriptor)
        for what, one in (("one of a datagram pair", datagrams), ("a listening socket", listener)):
            passed = [one.fileno()]
            refused(f"{what} in Grant", "HOLDER_INVALID", lambda: channel.grant(passed, holders=[descriptor]))
            refused(f"{what} in Attach", "HOLDER_INVALID", lambda: channel.call("attach", attach, passed))
        channel.revoke(lease.id)
        print("done", flush=True)
        sys.stdin.read()


def closed_while_attaching():
    with connect() as channel:
        for _ in range(30):
            lease, _ = channel.grant(holders=[Specs.ttl(channel, 1)])
            with connect() as other:
                holder = Specs(other).connection
                other.send("attach", other.messages["AttachRequest"](lease=lease.id, holder=holder))


def closed_while_granted():
    for _ in range(100):
        with connect() as channel, pair() as (_, far):
            specs = Specs(channel)
            request = channel.messages["GrantRequest"](holders=[specs.connection, specs.descriptor])
            channel.send("grant", request, [far.fileno()])


def leaving_a_process():
    """A lease of this process, and a process that only names it in its environment and outlives this one."""
    with connect() as channel:
        lease, _ = channel.grant(search_environment=True)
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        left = subprocess.Popen(["sleep", "100000"], env={**os.environ, "SCRATCHD_LEASE": lease.id}, **quiet)
        print(left.pid)
        print(os.fsdecode(lease.path), flush=True)
        sys.stdin.read()


def fill(channel, op, message, most, others=()):
    """Sends until the socket takes no more, also when whoever reads it had its turn: all `others` were answered many times.
    Returns how often it was sent."""
    channel.socket.setblocking(False)
    sent, turns = 0, 0
    while sent < most and turns < 50:
        try:
            channel.send(op, message, id=1000 + sent)
            sent, turns = sent + 1, 0
        except BlockingIOError:
            turns += 1
            for other in others:
                other.ping()
    return sent


def told_of(channel):
    """The names of what was made, in all replies until the end of the connection."""
    channel.socket.settimeout(60)
    names = set()
    while True:
        try:
            names |= {area.name for area in channel.recv()[0].create.areas}
        except ConnectionResetError:
            pass  # said once, when the broker has not read everything; what it sent before can be read after that
        except Closed:
            return names


def an_unread_reply():
    with connect() as holder, connect() as channel:
        own, _ = holder.grant()
        request = channel.messages["CreateRequest"](lease=own.id, kind=DIRECTORY, count=200, prefix=b"p" * 150)
        sent = fill(channel, "create", request, 1000)
        check("who does not read is not read from", sent < 1000, sent)
        cut_off = select.poll()
        cut_off.register(channel.socket, 0)
        check("and is cut off", cut_off.poll(60_000))
        promised = told_of(channel)
        check("it was told of something, but not of all", 0 < len(promised) < 200 * sent, len(promised))
        there = set(os.listdir(own.path))
        check("what it was told of is there, and nothing else", there == promised, len(there ^ promised))
        print("done", flush=True)
        sys.stdin.read()


class Lingering:
    """A TCP socket whose closing takes 60 s, or until its peer is gone."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.socket = socket.create_connection(server.getsockname())
            self.peer, _ = server.accept()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.send(b"x" * 65536)
        self.inode = str(os.fstat(self.socket.fileno()).st_ino)

    def being_closed(self):
        """Somebody is in close(2): it is shut, and still has its inode."""
        with open("/proc/net/tcp", encoding="ascii") as table:
            rows = [row.split() for row in table]
        return any(row[3] == FIN_WAIT1 and row[9] == self.inode for row in rows[1:])


@contextlib.contextmanager
def stopped(channel):
    """Stops the broker, so that what it is sent is the broker's alone when it looks."""
    broker, _, _ = struct.unpack("3i", channel.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    threads = f"/proc/{broker}/task"
    os.kill(broker, signal.SIGSTOP)
    try:
        signal.alarm(60)
        while any(state(os.path.join(threads, thread)) != "T" for thread in os.listdir(threads)):
            pass
        signal.alarm(0)
        yield
    finally:
        os.kill(broker, signal.SIGCONT)


def state(thread):
    with open(os.path.join(thread, "stat"), encoding="ascii") as stat:
        return stat.read().rpartition(")")[2].split()[0]


def descriptors_that_linger():
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(connect())
        leases = [holder.grant()[0].id for _ in range(4)]
        channels = [stack.enter_context(connect()) for _ in range(8)]
        for channel in channels:
            channel.ping()
        sockets = [Lingering() for _ in channels]
        with stopped(holder):
            for number, (channel, one) in enumerate(zip(channels, sockets)):
                messages = channel.messages
                if number % 2:
                    where = messages["Where"](foreign=messages["ForeignDirectory"](fd=True))
                    request = messages["CreateRequest"](kind=DIRECTORY, where=where)
                    channel.send("create", request, [one.socket.fileno()])
                else:
                    spec = Specs(channel).descriptor
                    request = messages["AttachRequest"](lease=leases[number // 2], holder=spec)
                    channel.send("attach", request, [one.socket.fileno()])
                one.socket.close()
        for channel in channels[::2]:
            refused("a TCP socket as a holder", "HOLDER_INVALID", lambda: channel.result(channel.recv()[0]))
        for channel in channels[1::2]:
            refused("a TCP socket as a directory", "PATH_UNKNOWN", lambda: channel.result(channel.recv()[0]))
        # Each look is the pace; the alarm ends a broker that never closes.
        signal.alarm(60)
        while not (stuck := [one for one in sockets if one.being_closed()]):
            pass
        signal.alarm(0)
        for lease in leases:
            with connect() as other:
                other.ping()
                attach = other.messages["AttachRequest"](lease=lease, holder=Specs(other).connection)
                check("others attach", other.call("attach", attach)[0].holder.id > 0)
        check("while the closing goes on", all(one.being_closed() for one in stuck))
        for one in sockets:
            one.peer.close()


def idle_connections():
    with contextlib.ExitStack() as stack:
        lease, _ = stack.enter_context(connect()).grant()
        for number in range(40):
            channel = stack.enter_context(connect())
            _, descriptors = channel.create(lease=lease.id, kind=ANONYMOUS, count=200)
            check(f"connection {number} got its descriptors", len(descriptors) == 200)
            for descriptor in descriptors:
                os.close(descriptor)


def attaches_in_flight():
    with connect() as channel, contextlib.ExitStack() as stack:
        # Enough of them that each of the broker's threads serves some.
        others = [stack.enter_context(connect()) for _ in range(16)]
        lease, _ = channel.grant()
        print(lease.id, flush=True)
        sys.stdin.readline()
        signal.alarm(60)
        request = channel.messages["AttachRequest"](lease=lease.id, holder=Specs(channel).connection)
        sent = fill(channel, "attach", request, 3000, others)
        # Checked when the broker can go on.
        print("sent", flush=True)
        sys.stdin.readline()
        check("the socket is full before 3000 are accepted", sent < 3000, sent)
        channel.socket.settimeout(60)
        answered = {channel.recv()[0].id for _ in range(sent)}
        check("all that was accepted is answered", answered == set(range(1000, 1000 + sent)))


def persists_in_flight():
    with connect() as channel:
        there, here = channel.grant()[0], channel.grant()[0]
        names = [b"f%d" % number for number in range(PERSISTS_MAX + 1)]
        for name in names:
            channel.create(lease=here.id, kind=FILE, name=name)
        directory = os.open(there.path, os.O_RDONLY | os.O_DIRECTORY)
        print("made", flush=True)
        sys.stdin.readline()
        signal.alarm(60)
        request = channel.messages["PersistRequest"]
        for name in names:
            last = channel.send("persist", request(lease=here.id, area=name, fd=True, name=name), [directory])
        response, _ = channel.recv()
        check("one too many is refused", (response.id, response.error.reason) == (last, "LIMIT_PERSISTS"), response)
        print("refused", flush=True)
        sys.stdin.readline()
        for _ in names[1:]:
            channel.result(channel.recv()[0])
        check("the others are done", sorted(os.listdir(there.path)) == names[:-1], os.listdir(there.path))
        channel.persist(here.id, names[-1], directory, names[-1])
        check("and there is room again", sorted(os.listdir(there.path)) == names, os.listdir(there.path))


def unread_pings():
    with connect() as channel, connect() as other:
        sent = fill(channel, "ping", channel.messages["PingRequest"](), 100_000, [other])
        check("who does not read is not read from", sent < 100_000, sent)
        print("done", flush=True)
        sys.stdin.read()


def errors_about_long_paths():
    """What gRPC's clients take of trailers is little, and what is over is lost with its reason."""
    with tempfile.TemporaryDirectory() as directory:
        stubs = Stubs(directory)
        with Grpc(os.path.join(os.environ["SCRATCHD_RUNTIME_DIR"], "grpc.sock"), stubs) as grpc:
            lease, _ = grpc.call("Leases", "Grant", stubs.messages["GrantRequest"]())
            # Escaped in a message and percent-encoded in a header, each byte is several.
            for length in (200, 800, 3900):
                area = b"/".join([b"\xff" * 200] * 20)[:length]
                request = stubs.messages["GetAreaRequest"](lease=lease.id, area=area)
                try:
                    found = grpc.call("Areas", "Get", request)
                except Refused as error:
                    said = (error.reason, error.domain, bool(error.metadata["request_id"]))
                    check(f"an error about {length} bytes", said == ("AREA_UNKNOWN", "scratchd", True), said)
                else:
                    check(f"an error about {length} bytes", False, found)


CASES = (
    the_same_holder_twice,
    sockets_that_never_hang_up,
    closed_while_attaching,
    closed_while_granted,
    leaving_a_process,
    an_unread_reply,
    descriptors_that_linger,
    idle_connections,
    attaches_in_flight,
    persists_in_flight,
    unread_pings,
    errors_about_long_paths,
)
{case.__name__: case for case in CASES}[sys.argv[1]]()
