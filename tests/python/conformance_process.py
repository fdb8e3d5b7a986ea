"""Another process of the conformance table, with a connection of its own: takes calls on stdin, answers on stdout, one JSON
object a line. Run as `conformance_process.py ROAD STUBS [UID]`; with a UID as that user, which needs root.
"""

import json
import os
import signal
import subprocess
import sys

from conformance_roads import Answer, connect
from scratch_channel import Refused
from scratch_grpc import Stubs


class Retold:
    """A refusal that another process got."""

    def __init__(self, fields):
        self.code, self.reason, self.message = fields["code"], fields["reason"], fields["message"]
        self.metadata = fields["metadata"]


class Child:
    """A process that does nothing until it is killed."""

    command = ["sleep", "100000"]

    def __init__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        # Kept beyond its end, so that it can be passed when there is nobody behind it any more.
        self.pidfd = os.pidfd_open(self.pid)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self):
        self.kill()
        self.process.stdin.close()
        self.process.stdout.close()
        os.close(self.pidfd)


class Stream:
    """A stream of another process: nothing of it is here."""

    def cancel(self):
        pass


class Client(Child):
    """Another process that talks to the broker."""

    def __init__(self, road, stubs_directory, uid=None):
        self.road = road
        user = [] if uid is None else [str(uid)]
        self.command = [sys.executable, __file__, road, str(stubs_directory), *user]
        super().__init__()

    def call(self, name, request, descriptors=(), headers=None):
        if descriptors:
            raise AssertionError("descriptors are passed by the runner's own connections")
        return self.ask([name, request, False])

    def stream(self):
        """The process has one, which ends with it."""
        return Stream()

    def renew(self, stream, request):
        return self.ask(["Leases.KeepAlive", request, True])

    def ask(self, question):
        print(json.dumps(question), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        if "reason" in answer:
            raise Refused(None, Retold(answer))
        return Answer(answer["reply"])


def main():
    road, directory, *user = sys.argv[1:]
    # Before it is another user, who may not be able to read any of it.
    stubs = Stubs(directory)
    for uid in map(int, user):
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    connection = connect(road, stubs)
    stream = None
    for line in sys.stdin:
        name, request, streamed = json.loads(line)
        try:
            if streamed:
                stream = stream or connection.stream()
                answer = connection.renew(stream, request)
            else:
                answer = connection.call(name, request)
            for descriptor in answer.descriptors:
                os.close(descriptor)
            told = {"reply": answer.reply}
        except Refused as refused:
            told = {"code": refused.code, "reason": refused.reason, "message": str(refused)}
            told["metadata"] = refused.metadata
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
