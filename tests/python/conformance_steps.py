"""One case of the conformance table, step by step. tests/conformance/README.md has the words."""

import base64
import os
import signal
import socket
import stat
import subprocess
import time

from google.rpc import code_pb2

from conformance_process import Child, Client
from conformance_roads import connect
from conformance_values import Mismatch, demand, expand, match
from scratch_channel import Closed, Refused

# A second tenant; what it is called does not matter.
OTHER_TENANT = 1234
DEADLINE_SECONDS = 30
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


class Far:
    """The end of a pair that stays here when the other one is given away; or a descriptor that came with a reply."""

    def __init__(self, descriptor):
        self.descriptor = descriptor

    def close(self):
        os.close(self.descriptor)


class Mount:
    """Something is mounted there."""

    def __init__(self, path):
        subprocess.run(["mount", "-n", "-t", "tmpfs", "tmpfs", path], check=True)
        self.descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)

    def close(self):
        # It may have been moved meanwhile, with what it is mounted on.
        path = os.readlink(f"/proc/self/fd/{self.descriptor}")
        os.close(self.descriptor)
        subprocess.run(["umount", "-n", path], check=True)


def look(about):
    """What stat says."""
    found = {"kind": KINDS.get(stat.S_IFMT(about.st_mode), "other"), "mode": f"{stat.S_IMODE(about.st_mode):04o}"}
    return found | {"links": about.st_nlink, "uid": about.st_uid}


def look_at(path, wanted):
    """The same, and what is in it if that is wanted: it may not be ours to open."""
    try:
        found = look(os.lstat(path))
        if "content" in wanted:
            with open(path, "rb") as file:
                found["content"] = file.read().decode(errors="replace")
        if "entries" in wanted:
            found["entries"] = sorted(os.listdir(path))
        return found
    except FileNotFoundError:
        return {"kind": "gone"}


def connected(road, stubs):
    """A new connection that the broker has taken: those of the case before may still be counted."""
    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        connection = connect(road, stubs)
        if road != "channel":
            return connection
        try:
            connection.call("Channel.Ping", {})
            return connection
        except (AssertionError, Closed, ConnectionError):
            # Turned away, by the broker's own word.
            connection.close()
            if time.monotonic() > end:
                raise
        time.sleep(0.005)


class Case:
    """Everything that a case has opened, by name. `main` is its connection."""

    def __init__(self, road, stubs, stubs_directory, variables):
        self.road, self.stubs, self.stubs_directory = road, stubs, stubs_directory
        self.things = {}
        self.leases = []
        self.variables = {"pid": os.getpid(), "uid": os.geteuid(), "tenant": OTHER_TENANT} | variables

    def run(self, steps):
        self.things["main"] = connected(self.road, self.stubs)
        for number, step in enumerate(steps, 1):
            if self.road not in step.get("roads", [self.road]):
                continue
            verb = next(key for key in step if key in VERBS)
            try:
                VERBS[verb](self, step)
            except Exception as error:
                raise Mismatch(f"step {number}, {verb} {step[verb]}: {type(error).__name__} {error}") from error

    def clean(self):
        """Ends what is left of it."""
        for thing in reversed(self.things.values()):
            if hasattr(thing, "cancel"):
                thing.cancel()
            else:
                thing.close()
        if not self.leases:
            return
        try:
            connection = connect("channel", self.stubs)
        except OSError:
            return  # a broker that was drained has nothing left to clean
        for lease in self.leases:
            try:
                connection.call("Leases.Revoke", {"lease": lease, "wait": "WAIT_FREED"})
            except Refused:
                pass  # it has ended
        connection.close()

    def text(self, step, key, default=None):
        return expand(step.get(key, default), self.variables)

    # Calls

    def call(self, step):
        for _ in range(step.get("repeat", 1)):
            if step.get("eventually"):
                self.until(lambda: self.call_once(step))
            else:
                self.call_once(step)

    def until(self, act):
        end = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                return act()
            except Mismatch:
                if time.monotonic() > end:
                    raise
            time.sleep(0.005)

    def call_once(self, step):
        expect = step.get("expect", {})
        connection = self.things[step.get("via", "main")]
        descriptors = [self.descriptor(expand(text, self.variables)) for text in step.get("descriptors", [])]
        try:
            answer = self.answer(step, connection, descriptors)
        except Refused as refused:
            self.refused(expect, refused)
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self.answered(step["call"], expect, answer)

    def answer(self, step, connection, descriptors):
        if "stream" in step and connection.road == "grpc":
            return self.answer_on(step["stream"], connection, self.text(step, "request", {}))
        request = self.text(step, "raw") if "raw" in step else self.text(step, "request", {})
        return connection.call(step["call"], request, descriptors, self.text(step, "headers"))

    def answer_on(self, name, connection, request):
        """On a stream of that name, which is opened if it is not open."""
        if name not in self.things:
            self.things[name] = connection.stream()
        try:
            return connection.renew(self.things[name], request)
        except Refused as refused:
            # That was the stream's end, not one lease's error.
            if hasattr(refused, "headers"):
                self.things.pop(name).cancel()
            raise

    def refused(self, expect, refused):
        found = {"reason": refused.reason, "code": code_pb2.Code.Name(refused.code), "metadata": refused.metadata}
        found["message"] = str(refused)
        demand("error" in expect, expect.get("reply", "a reply"), found, "answer")
        match(expect["error"], found, self.variables, "error")
        headers = getattr(refused, "headers", None)
        if headers is not None:
            request_id = headers.get("x-request-id")
            demand(refused.domain == "scratchd", "domain scratchd", refused.domain, "error")
            demand(request_id and request_id == refused.metadata.get("request_id"), request_id, found, "request_id")
            match(expect.get("headers", {}), headers, self.variables, "headers")

    def answered(self, name, expect, answer):
        names = expect.get("descriptors", [])
        for number, descriptor in enumerate(answer.descriptors):
            self.things[names[number] if number < len(names) else object()] = Far(descriptor)
        granted = answer.reply if name == "Leases.Grant" else answer.reply.get("lease")
        if isinstance(granted, dict) and granted.get("id"):
            self.leases.append(granted["id"])
        demand("error" not in expect, expect, answer.reply, "answer")
        match(expect.get("reply", {}), answer.reply, self.variables, "reply")
        match(expect.get("headers", {}), answer.headers, self.variables, "headers")
        demand(not names or len(names) == len(answer.descriptors), names, len(answer.descriptors), "descriptors")

    def descriptor(self, text):
        """What a request passes: a word, and what it is about."""
        word, _, rest = text.partition(":")
        if word == "pidfd":
            return os.dup(self.things[rest].pidfd) if rest else os.pidfd_open(os.getpid())
        if word in ("pair", "datagrams"):
            kind = socket.SOCK_STREAM if word == "pair" else socket.SOCK_DGRAM
            near, far = socket.socketpair(socket.AF_UNIX, kind)
            self.things[rest] = Far(near.detach())
            return far.detach()
        if word == "directory":
            return os.open(rest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if word == "file":
            return os.open(rest, os.O_RDONLY | os.O_CLOEXEC)
        raise KeyError(text)

    def packet(self, step):
        connection = self.things[step.get("via", "main")]
        response = connection.packet(base64.b64decode(self.text(step, "packet")))
        self.of_broker(step["expect"], connection, response)

    def of_broker(self, expect, connection, response):
        """An error that answers a packet, or nothing at all."""
        demand(response.WhichOneof("result") == "error", expect, str(response), "packet")
        found = {"id": response.id, "reason": response.error.reason, "code": code_pb2.Code.Name(response.error.code)}
        match(expect["error"], found | {"metadata": dict(response.error.metadata)}, self.variables, "error")
        if expect.get("closed"):
            demand(connection.is_closed(), "the end of the connection", "more", "packet")

    # What is open

    def open(self, step):
        road = step.get("road", self.road)
        # A delegated channel is used as it is.
        descriptor = self.things.pop(step["descriptor"]).descriptor if "descriptor" in step else None
        if descriptor is None and "expect" not in step:
            connection = connected(road, self.stubs)
        else:
            connection = connect(road, self.stubs, descriptor)
        self.things[step["open"]] = connection
        if "expect" in step:
            self.of_broker(step["expect"], connection, connection.first_word())

    def close(self, step):
        self.things.pop(step["close"]).close()

    def cancel(self, step):
        self.things.pop(step["cancel"]).cancel()

    def child(self, step):
        self.things[step["child"]] = Child()
        self.variables[step["child"] + ".pid"] = self.things[step["child"]].pid

    def client(self, step):
        uid = OTHER_TENANT if step.get("tenant") else None
        road = step.get("road", self.road)
        self.things[step["client"]] = Client(road, self.stubs_directory, uid)
        self.variables[step["client"] + ".pid"] = self.things[step["client"]].pid

    def kill(self, step):
        self.things[step["kill"]].kill()

    def stop(self, step):
        os.kill(self.variables["broker.pid"], signal.SIGTERM)

    # The file system, seen from outside

    def make(self, step):
        path = self.text(step, "path")
        if step["make"] == "directory":
            os.mkdir(path)
        elif step["make"] == "symlink":
            os.symlink(self.text(step, "target"), path)
        elif step["make"] == "link":
            os.link(self.text(step, "target"), path)
        elif step["make"] == "mount":
            self.things[step["as"]] = Mount(path)
        else:
            with open(path, "x", encoding="utf-8") as file:
                file.write(self.text(step, "content", ""))
        if "mode" in step:
            os.chmod(path, int(step["mode"], 8))

    def check(self, step):
        path = self.text(step, "check")
        wanted = self.looks(step)
        act = lambda: match(wanted, look_at(path, wanted), self.variables, path)
        self.until(act) if step.get("eventually") else act()

    def check_descriptor(self, step):
        descriptor = self.things[step["descriptor"]].descriptor
        if "write" in step:
            os.pwrite(descriptor, self.text(step, "write").encode(), 0)
        found = look(os.fstat(descriptor))
        if "content" in step:
            found["content"] = os.pread(descriptor, 65536, 0).decode(errors="replace")
        match(self.looks(step), found, self.variables, step["descriptor"])
        if "path" in step:
            path = self.text(step, "path")
            demand(os.path.samestat(os.fstat(descriptor), os.lstat(path)), path, "another file", step["descriptor"])

    @staticmethod
    def looks(step):
        return {key: step[key] for key in ("kind", "mode", "links", "content", "entries", "uid") if key in step}

    def let(self, step):
        for name, value in step["let"].items():
            self.variables[name] = expand(value, self.variables)


VERBS = {
    "call": Case.call,
    "packet": Case.packet,
    "open": Case.open,
    "close": Case.close,
    "cancel": Case.cancel,
    "child": Case.child,
    "client": Case.client,
    "kill": Case.kill,
    "stop": Case.stop,
    "make": Case.make,
    "check": Case.check,
    "descriptor": Case.check_descriptor,
    "let": Case.let,
}
