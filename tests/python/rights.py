"""What a client may not do with files of others, whatever the broker may. The arguments: a case, its user's number or `root`, that
user's groups with commas between, and what the case works on. Starts as root; everything is loaded before it is that user.
Prints a line for each check and ends with status 1 at the first that fails.
"""

import contextlib
import os
import sys

from checks import check, refused
from scratch_channel import connect

FILE = 1


@contextlib.contextmanager
def opened(path):
    """To pass it on, which takes no right to it."""
    directory = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield directory
    finally:
        os.close(directory)


@contextlib.contextmanager
def moved(path, to):
    """A directory stands elsewhere for a while."""
    os.rename(path, to)
    try:
        yield
    finally:
        os.rename(to, path)


def made(channel, lease):
    """A file with something in it."""
    reply, descriptors = channel.create(lease=lease, kind=FILE, want_handle=True)
    os.write(descriptors[0], b"* * * * * root evil\n")
    os.close(descriptors[0])
    return reply.areas[0].name


def an_admin_persists(channel, lease, path):
    name = made(channel, lease)
    with opened(path) as directory:
        refused("an admin", "NOT_PERMITTED", lambda: channel.persist(lease, name, directory, b"evil"))


def root_persists(channel, lease, path):
    name = made(channel, lease)
    with opened(path) as directory:
        channel.persist(lease, name, directory, b"wanted")
    check("root may", os.listdir(path) == ["wanted"], os.listdir(path))


def persist_what_others_have(channel, own, beside, elsewhere):
    """`own`/D is another user's; what is in it may be read, but for `secret`. `elsewhere` is on another file system."""
    lease, _ = channel.grant()
    with moved(own, os.path.join(os.fsdecode(lease.path), "own")), opened(beside) as near, opened(elsewhere) as far:
        for name in (b"file", b"tree", b"secret"):
            refused(f"{name} beside", "PERMISSION", lambda: channel.persist(lease.id, b"own/D/" + name, near, name))
        for name in (b"file", b"tree"):
            reply = channel.persist(lease.id, b"own/D/" + name, far, name)
            check(f"{name} elsewhere is copied", reply.copied, reply)
        refused("what can't be read", "PERMISSION", lambda: channel.persist(lease.id, b"own/D/secret", far, b"secret"))
    arrived = (os.listdir(beside), sorted(os.listdir(elsewhere)))
    check("nothing else arrives", arrived == ([], ["file", "tree"]), arrived)
    for name in ("file", "tree/file"):
        with open(os.path.join(elsewhere, name), "rb") as file:
            check(f"{name} is whole", file.read() == b"precious")


def release_what_others_have(channel, own):
    """`own`/D is another user's, and sticky."""
    lease, _ = channel.grant()
    with moved(own, os.path.join(os.fsdecode(lease.path), "own")):
        for name in (b"file", b"tree"):
            refused(f"{name}", "PERMISSION", lambda: channel.release(lease.id, b"own/D/" + name))


CASES = (an_admin_persists, root_persists, persist_what_others_have, release_what_others_have)


def main(case, user, groups, *arguments):
    # Connects later: it is the user of that moment whom the broker sees.
    act = {case.__name__: case for case in CASES}[case]
    if user != "root":
        os.setgroups([int(group) for group in groups.split(",") if group])
        os.setgid(int(user))
        os.setuid(int(user))
    with connect() as channel:
        act(channel, *arguments)


main(*sys.argv[1:])
