"""Runs the conformance table against a broker: `conformance.py FILE…` with SCRATCHD_RUNTIME_DIR set, the broker started as the
files say. `conformance.py --check FILE…` needs no broker: it looks over the table's form, and that it has every call.

Prints a line for each case and road, then the counts. Ends with status 1 if one did not hold.
"""

import base64
import os
import pathlib
import sys
import tempfile

from conformance_roads import BY_SDK, connect
from conformance_steps import Case
from conformance_table import calls_made, calls_there_are, look_over, read
from conformance_values import Mismatch
from scratch_grpc import Stubs


# Where another file system than the pool's may be found.
PLACES = ("/dev/shm", "/var/tmp", "/tmp")


def surroundings(stubs):
    """What every case may know: the broker's process, its sockets and its pool, and a place that is not on the pool's file
    system, or nothing where there is none."""
    connection = connect("grpc", stubs)
    status = connection.call("Admin.Status", {}).reply
    connection.close()
    pool = base64.b64decode(status["pools"][0]["root"]).decode()
    devices = {place: os.stat(place).st_dev for place in PLACES if os.access(place, os.W_OK)}
    others = [place for place, device in devices.items() if device != os.stat(pool).st_dev]
    known = {"broker.pid": status["pid"], "runtime": os.environ["SCRATCHD_RUNTIME_DIR"], "pool": pool}
    return known | {"elsewhere": next(iter(others), None)}


def missing(case, variables):
    """Why a case can't run here, if it can't."""
    needs = case.get("needs", [])
    if BY_SDK and any("packet" in step for step in case["steps"]):
        return "the SDK sends no packets but its own"
    if "root" in needs and os.geteuid() != 0:
        return "needs root"
    if "another file system" in needs and variables["elsewhere"] is None:
        return "needs another file system than the pool's in one of " + ", ".join(PLACES)
    return None


def run_case(case, road, stubs, directory, variables):
    """What went wrong, if something did."""
    with tempfile.TemporaryDirectory(dir=variables["elsewhere"]) as elsewhere:
        steps = Case(road, stubs, directory, variables | {"elsewhere": elsewhere})
        try:
            steps.run(case["steps"])
        except Mismatch as mismatch:
            return str(mismatch)
        finally:
            steps.clean()
    return None


def run(files, stubs, directory):
    held, failed, left_out = 0, 0, 0
    variables = surroundings(stubs)
    for file, content in files.items():
        for case in content["cases"]:
            for road in case["roads"]:
                if BY_SDK and road != "channel":
                    continue
                what = f"{file}: {case['name']} ({road})"
                why = missing(case, variables)
                if why:
                    left_out += 1
                    print(f"left out {what}: {why}", flush=True)
                    continue
                wrong = run_case(case, road, stubs, directory, variables)
                print(f"FAILED {what}: {wrong}" if wrong else f"ok {what}", flush=True)
                held, failed = held + (not wrong), failed + bool(wrong)
    print(f"{held} held, {failed} failed, {left_out} left out")
    return failed == 0


def check(files, stubs):
    wrong = look_over(files)
    made = {call for content in files.values() for call in calls_made(content)}
    there = set(calls_there_are(stubs))
    wrong += [f"no case calls {call} over {road}" for road, call in sorted(there - made)]
    print("\n".join(wrong) or f"{len(there)} calls, each has a case on each road it has")
    return not wrong


def main():
    checking = sys.argv[1:2] == ["--check"]
    paths = map(pathlib.Path, sys.argv[2 if checking else 1 :])
    files = {path.name: read(path) for path in paths}
    # elsewhere.json has none.
    files = {name: content for name, content in files.items() if "cases" in content}
    with tempfile.TemporaryDirectory() as directory:
        # Other processes of other users read it, too.
        os.chmod(directory, 0o755)
        stubs = Stubs(directory)
        holds = check(files, stubs) if checking else run(files, stubs, directory)
    sys.exit(not holds)


if __name__ == "__main__":
    main()
