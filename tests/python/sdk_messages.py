"""The message tables of the Python SDK: `sdk_messages.py --check` compares them with proto/, `--write` makes them anew.

Needs the FileDescriptorSet that SCRATCH_DESCRIPTORS names.
"""

import os
import pathlib
import sys

from google.protobuf import descriptor_pb2

TARGET = pathlib.Path(__file__).parents[2] / "sdk/python/src/scratchd/_messages.py"

HEAD = '''"""What goes over the wire, by message: (field, number, type). Made from proto/ by tests/python/sdk_messages.py --write.

A type is `varint`, `bytes`, `string`, `map` (of strings) or a message; `*` before it: any number of them.
"""

MESSAGES = {
'''

SCALARS = {
    "TYPE_BYTES": "bytes",
    "TYPE_STRING": "string",
    "TYPE_BOOL": "varint",
    "TYPE_ENUM": "varint",
    "TYPE_INT32": "varint",
    "TYPE_INT64": "varint",
    "TYPE_UINT32": "varint",
    "TYPE_UINT64": "varint",
}


def kind_of(field, maps):
    kind = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)
    if kind != "TYPE_MESSAGE":
        kind = SCALARS[kind]
    elif field.type_name in maps:
        return "map"
    else:
        kind = field.type_name.removeprefix(".scratchd.v1.").removeprefix(".google.protobuf.")
    repeated = field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    return "*" + kind if repeated else kind


def messages_in(prefix, messages):
    for message in messages:
        name = prefix + message.name
        if not message.options.map_entry:
            yield name, message
            yield from messages_in(name + ".", message.nested_type)


def table(path):
    files = descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(path).read_bytes()).file
    wanted = {"google/protobuf/duration.proto", "google/protobuf/timestamp.proto"}
    text, maps = HEAD, set()
    ours = [file for file in files if file.package == "scratchd.v1" or file.name in wanted]
    for file in ours:
        for message in file.message_type:
            entries = [nested for nested in message.nested_type if nested.options.map_entry]
            maps |= {f".{file.package}.{message.name}.{nested.name}" for nested in entries}
    for name, message in sorted(pair for file in ours for pair in messages_in("", file.message_type)):
        fields = sorted(message.field, key=lambda field: field.number)
        parts = [f'("{field.name}", {field.number}, "{kind_of(field, maps)}")' for field in fields]
        if not parts:
            text += f'    "{name}": (),\n'
        elif len(parts) == 1 and len(parts[0]) + len(name) < 90:
            text += f'    "{name}": ({parts[0]},),\n'
        else:
            text += f'    "{name}": (\n' + "".join(f"        {part},\n" for part in parts) + "    ),\n"
    return text + "}\n"


def main():
    made = table(os.environ["SCRATCH_DESCRIPTORS"])
    if sys.argv[1:] == ["--write"]:
        TARGET.write_text(made)
    elif TARGET.read_text() != made:
        sys.exit("sdk/python's message tables are not those of proto/: run tests/python/sdk_messages.py --write")


if __name__ == "__main__":
    main()
