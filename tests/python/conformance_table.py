"""The conformance table as files: read, and looked over for what no broker is needed to see."""

import json

from conformance_roads import ROADS, operation
from conformance_steps import VERBS

FILE_KEYS = {"subject", "broker", "cases"}
CASE_KEYS = {"name", "why", "roads", "needs", "steps"}
STEP_KEYS = {
    "call": {"request", "raw", "descriptors", "headers", "via", "stream", "repeat", "eventually", "expect"},
    "packet": {"via", "expect"},
    "open": {"road", "descriptor", "expect"},
    "close": set(),
    "cancel": set(),
    "child": set(),
    "client": {"road", "tenant"},
    "kill": set(),
    "stop": set(),
    "make": {"path", "content", "target", "mode", "as"},
    "check": {"kind", "mode", "links", "content", "entries", "uid", "eventually"},
    "descriptor": {"kind", "mode", "links", "content", "write", "path"},
    "let": set(),
}
EXPECT_KEYS = {"reply", "error", "descriptors", "headers", "closed"}
NEEDS = {"root", "another file system"}


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def unknown(place, found, known):
    return [f"{place}: unknown {key!r}" for key in sorted(set(found) - known)]


def look_over(files):
    """What is wrong in the table's form: one line each. `files`: name and content."""
    wrong, names = [], set()
    for name, content in files.items():
        wrong += unknown(name, content, FILE_KEYS)
        for case in content["cases"]:
            place = f"{name}: {case['name']}"
            wrong += unknown(place, case, CASE_KEYS)
            wrong += unknown(place, case.get("needs", []), NEEDS) + unknown(place, case["roads"], set(ROADS))
            if case["name"] in names:
                wrong.append(f"{place}: twice")
            names.add(case["name"])
            for step in case["steps"]:
                wrong += look_over_step(place, step)
    return wrong


def look_over_step(place, step):
    verbs = [verb for verb in step if verb in VERBS]
    if not verbs:
        return [f"{place}: a step without a verb: {step}"]
    # A step's first key is its verb.
    known = STEP_KEYS[verbs[0]] | {verbs[0], "roads"}
    return unknown(place, step, known) + unknown(place, step.get("expect", {}), EXPECT_KEYS)


def calls_made(content):
    """Each road and call that has a case."""
    for case in content["cases"]:
        for road in case["roads"]:
            at = {"main": road}
            for step in case["steps"]:
                if road not in step.get("roads", [road]):
                    continue
                for verb in ("open", "client"):
                    if verb in step:
                        at[step[verb]] = step.get("road", road)
                if "call" in step:
                    yield at[step.get("via", "main")], step["call"]


def calls_there_are(stubs):
    """Each road and call of the contract."""
    ops = {field.name for field in stubs.messages["ChannelRequest"].DESCRIPTOR.oneofs_by_name["op"].fields}
    for service in stubs.services.values():
        for method in service.methods:
            yield "grpc", f"{service.name}.{method.name}"
            # Get, List and their like are gRPC's alone; Leases and Areas both have them.
            if operation(method.name) in ops:
                yield "channel", f"{service.name}.{method.name}"
                ops.remove(operation(method.name))
    for op in ops:
        yield "channel", "Channel." + "".join(word.title() for word in op.split("_"))
