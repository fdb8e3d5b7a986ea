"""Persists a file and a directory out of a lease with limits into a directory that has none, and looks that they have left
the lease's project. usage: persist.py SOCKET POOL DIRECTORY"""

import array
import os
import socket
import subprocess
import sys

from client import Channel, field, fields


def project(path):
    found = subprocess.run(["lsattr", "-dp", path], capture_output=True, text=True, check=True)
    return int(found.stdout.split()[0])


def persist(channel, lease, area, directory):
    channel.id += 1
    request = field(1, lease) + field(2, area) + field(3, 1) + field(4, area)
    packet = field(1, channel.id) + field(8, request)
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [held]))
    channel.socket.sendmsg([packet], [rights])
    os.close(held)
    return dict(fields(channel.answer(9)))


def main(path, pool, directory):
    channel = Channel(path)
    # Grant: held by this process, 1 MiB.
    channel.ask(3, field(4, field(1, 1 << 20)))
    lease = dict(fields(channel.answer(4)))[1]
    area = os.path.join(pool, lease.decode())
    number = project(area)
    os.makedirs(os.path.join(area, "tree/below"))
    os.symlink("nowhere", os.path.join(area, "tree/link"))
    for name in ("file", "tree/below/file"):
        with open(os.path.join(area, name), "w", encoding="ascii") as file:
            file.write("content")
    copied = [persist(channel, lease, name, directory).get(1, 0) for name in (b"file", b"tree")]
    for name in ("file", "tree", "tree/below", "tree/below/file"):
        found = project(os.path.join(directory, name))
        if found:
            sys.exit(f"{name} is still in project {found}")
    if number == 0 or copied != [0, 1]:
        sys.exit(f"project {number}, copied {copied}")


main(*sys.argv[1:])
