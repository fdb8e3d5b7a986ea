"""Clients of the handle channel that do nothing wrong, with nothing but the standard library: they ask and ask, and end with
a message at the first error. usage: client.py SOCKET CONNECTIONS STOP-FILE; prints a line when all are served, and one at
the end."""

import os
import socket
import sys


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out + bytes([number]))


def field(number, value):
    """A varint or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(message):
    """The numbers and values of a message that has only varints and bytes."""
    at = 0

    def number():
        nonlocal at
        result, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            result |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return result

    while at < len(message):
        key = number()
        if key & 7:
            length = number()
            yield key >> 3, message[at : at + length]
            at += length
        else:
            yield key >> 3, number()


class Channel:
    restarts = 0

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.id = self.made = 0

    def ask(self, op, message):
        self.id += 1
        self.socket.send(field(1, self.id) + field(op, message))

    def answer(self, result):
        while True:
            packet = self.socket.recv(1 << 16)
            response = dict(fields(packet))
            if response.get(1, 0) == self.id and result in response:
                return response[result]
            if 13 not in response or response.get(1, 0):
                sys.exit(f"an end, an error or another's answer instead: {packet!r}")
            Channel.restarts += 1


def main(path, connections, stop):
    channels = [Channel(path) for _ in range(int(connections))]
    for channel in channels:
        # Grant, held by this connection.
        channel.ask(3, field(3, field(1, b"")))
    for channel in channels:
        granted = dict(fields(channel.answer(4)))
        channel.lease, channel.area = granted[1], granted[2].decode()
    rounds = 0
    while not os.path.exists(stop):
        for channel in channels:
            channel.ask(5, field(1, channel.lease) + field(2, 1))
        for channel in channels:
            channel.answer(6)
            channel.made += 1
        rounds += 1
        if rounds == 1:
            print("served", flush=True)
    for channel in channels:
        found = len(os.listdir(channel.area))
        if found != channel.made:
            sys.exit(f"{channel.made} made, {found} there: lost, or carried out twice")
    print(f"{len(channels)} connections, {rounds} rounds, {Channel.restarts} restarts, no error", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
