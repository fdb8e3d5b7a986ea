"""The Python SDK beside the standard module, in this interpreter: `bench.py DIRECTORY`, where the standard one works.

Prints a JSON object: by case, the median of ours and theirs in microseconds, and how many calls each is of.
"""

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile as standard
import time

from scratchd import tempfile

BLOCK, BLOCKS, IMPORTS = 50, 100, 40


def mkstemp(module):
    descriptor, path = module.mkstemp()
    os.close(descriptor)
    os.unlink(path)


def named(module):
    with module.NamedTemporaryFile():
        pass


def directory(module):
    with module.TemporaryDirectory():
        pass


def side_by_side(function):
    """Both see the same machine; the first tenth warms up."""
    times = {tempfile: [], standard: []}
    for block in range(BLOCKS + BLOCKS // 10):
        for module, of in times.items():
            begun = time.perf_counter_ns()
            for _ in range(BLOCK):
                function(module)
            if block >= BLOCKS // 10:
                of.append((time.perf_counter_ns() - begun) / BLOCK / 1000)
    return [statistics.median(of) for of in times.values()] + [BLOCK * BLOCKS]


def importing():
    """In an interpreter of its own each time."""
    text = "import time; begun = time.perf_counter_ns(); {}; print(time.perf_counter_ns() - begun)"
    statements = {"from scratchd import tempfile": [], "import tempfile": []}
    for _ in range(IMPORTS):
        for statement, of in statements.items():
            told = subprocess.run([sys.executable, "-c", text.format(statement)], capture_output=True, check=True)
            of.append(int(told.stdout) / 1000)
    return [statistics.median(of) for of in statements.values()] + [IMPORTS]


def main():
    standard.tempdir = sys.argv[1]
    gc.disable()
    cases = {"python-mkstemp": mkstemp, "python-named": named, "python-directory": directory}
    rows = {case: side_by_side(function) for case, function in cases.items()}
    print(json.dumps(rows | {"python-import": importing()}))


if __name__ == "__main__":
    main()
