"""Protocol buffers, as far as the broker speaks them: messages are dicts, absent fields are absent.

By hand, so that `from scratchd import tempfile` takes no longer than the standard module: the protobuf runtime alone takes ten
times as long to import.
"""

from typing import Any

from scratchd._messages import MESSAGES

Message = dict[str, Any]

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_BY_NAME: dict[str, dict[str, tuple[int, str]]] = {}
_BY_NUMBER: dict[str, dict[int, tuple[str, str]]] = {}


class Malformed(ValueError):
    """Bytes that are no message."""


def encode(message: str, values: Message) -> bytes:
    """The bytes of a message of that name. A field that is None is absent."""
    fields = _BY_NAME.get(message)
    if fields is None:
        fields = _BY_NAME[message] = {name: (number, kind) for name, number, kind in MESSAGES[message]}
    out = bytearray()
    for name, value in values.items():
        if value is None:
            continue
        number, kind = fields[name]
        if kind == "map":
            for pair in value.items():
                entry = bytearray()
                for position, text in enumerate(pair, 1):
                    _put(entry, position, "string", text)
                _put_bytes(out, number, entry)
        elif kind[0] == "*":
            for one in value:
                _put(out, number, kind[1:], one)
        else:
            _put(out, number, kind, value)
    return bytes(out)


def decode(message: str, data: bytes) -> Message:
    """The message of that name in `data`. Fields that this version does not know are left out.

    Raises:
        Malformed: It is none.
    """
    fields = _BY_NUMBER.get(message)
    if fields is None:
        fields = _BY_NUMBER[message] = {number: (name, kind) for name, number, kind in MESSAGES[message]}
    values: Message = {}
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        wire, known = key & 7, fields.get(key >> 3)
        if wire == _VARINT:
            raw: Any
            raw, position = _varint(data, position)
        elif wire == _LENGTH:
            length, position = _varint(data, position)
            raw, position = data[position : position + length], position + length
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            raw, position = None, position + (8 if wire == _EIGHT_BYTES else 4)
        else:
            raise Malformed(f"{message}: wire type {wire}")
        if position > end:
            raise Malformed(f"{message}: cut off")
        if known is not None:
            _take(values, known[0], known[1], raw)
    return values


def _take(values: Message, name: str, kind: str, raw: Any) -> None:
    if isinstance(raw, int) != (kind.removeprefix("*") == "varint"):
        # Numbers that come many at a time: nothing in this version does.
        raise Malformed(f"{name}: not a {kind}")
    if kind == "map":
        entry = _entry(raw)
        values.setdefault(name, {})[entry[0]] = entry[1]
    elif kind[0] == "*":
        values.setdefault(name, []).append(_value(kind[1:], raw))
    else:
        values[name] = _value(kind, raw)


def _value(kind: str, raw: Any) -> Any:
    if kind == "varint":
        # The only negative numbers are times before 1970, which do not occur.
        return raw
    if kind == "bytes":
        return bytes(raw)
    if kind == "string":
        return raw.decode("utf-8", "replace")
    return decode(kind, raw)


def _entry(data: bytes) -> tuple[str, str]:
    parts = {1: "", 2: ""}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        length, position = _varint(data, position)
        parts[key >> 3] = data[position : position + length].decode("utf-8", "replace")
        position += length
    return parts[1], parts[2]


def _put(out: bytearray, number: int, kind: str, value: Any) -> None:
    if kind == "varint":
        _put_varint(out, number << 3 | _VARINT)
        _put_varint(out, int(value))
    elif kind == "bytes":
        _put_bytes(out, number, value)
    elif kind == "string":
        _put_bytes(out, number, value.encode())
    else:
        _put_bytes(out, number, encode(kind, value))


def _put_bytes(out: bytearray, number: int, value: bytes | bytearray) -> None:
    _put_varint(out, number << 3 | _LENGTH)
    _put_varint(out, len(value))
    out += value


def _put_varint(out: bytearray, value: int) -> None:
    value &= 0xFFFF_FFFF_FFFF_FFFF
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    try:
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
            if shift > 63:
                raise Malformed("a number without end")
    except IndexError:
        raise Malformed("cut off in a number") from None
