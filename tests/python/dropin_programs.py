"""Programs that dropin.py starts, as texts: each is a process of its own."""

# Holds one of each kind, in its lease and in the directory that is named, until it is killed.
HOLDS = """
import sys, time
from scratchd import tempfile
elsewhere = sys.argv[1]
held = []
for where in (None, elsewhere):
    held += [tempfile.mkstemp(dir=where), tempfile.mkdtemp(dir=where), tempfile.NamedTemporaryFile(dir=where)]
    held += [tempfile.TemporaryFile(dir=where), tempfile.TemporaryDirectory(dir=where)]
    spooled = tempfile.SpooledTemporaryFile(1, dir=where)
    spooled.write(b"more than that")
    held.append(spooled)
    for _, directory in [(0, held[-5]), (0, held[-2].name)]:
        open(directory + "/file", "w").close()
print(tempfile.gettempdir(), flush=True)
sys.stdin.read()
"""

# Has a child that inherits all it has, makes its own, and ends.
FORKS = """
import multiprocessing, os, sys
from scratchd import tempfile
elsewhere, method = sys.argv[1:]

def child(named, directory):
    fd, path = tempfile.mkstemp()
    assert os.path.dirname(path) == tempfile.gettempdir() != os.path.dirname(named), path
    os.close(fd)
    with tempfile.TemporaryDirectory(dir=directory) as below, tempfile.NamedTemporaryFile(dir=elsewhere) as other:
        assert os.path.exists(below) and os.path.exists(other.name)
    assert not os.path.exists(below) and not os.path.exists(other.name)
    fd, path = tempfile.mkstemp(dir=directory, prefix="result-")
    os.close(fd)

if __name__ == "__main__":
    kept = [tempfile.NamedTemporaryFile(dir=where) for where in (None, elsewhere)]
    directories = [tempfile.TemporaryDirectory(dir=where) for where in (None, elsewhere)]
    for directory in directories:
        open(directory.name + "/file", "w").close()
    arguments = (kept[0].name, directories[0].name)
    if method.startswith("fork"):
        pid = os.fork()
        if pid == 0:
            child(*arguments)
            if method == "fork":
                # As a child that closes what it has inherited.
                for file in kept:
                    file.close()
                for directory in directories:
                    directory.cleanup()
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    else:
        process = multiprocessing.get_context(method.partition("-")[2]).Process(target=child, args=arguments)
        if method.endswith("-fork"):
            process.start()
            process.join()
            assert process.exitcode == 0
        else:
            # Those begin with the main module, which -c has none of: the program is a file.
            import pathlib, subprocess
            program = pathlib.Path(directories[0].name, "program.py")
            program.write_text(PROGRAM)
            subprocess.run([sys.executable, str(program), elsewhere, method.partition("-")[2], *arguments], check=True)
    for path in [file.name for file in kept] + [directory.name + "/file" for directory in directories]:
        assert os.path.exists(path), path
    results = [name for name in os.listdir(directories[0].name) if name.startswith("result-")]
    assert len(results) == 1, results
    for directory in directories:
        directory.cleanup()
        assert not os.path.exists(directory.name)
    print("well")
"""

_STARTED = """
import multiprocessing, os, sys
from scratchd import tempfile
elsewhere, method, named, directory = sys.argv[1:]

def child(named, directory):
    fd, path = tempfile.mkstemp()
    assert os.path.dirname(path) == tempfile.gettempdir() != os.path.dirname(named), path
    os.close(fd)
    with tempfile.NamedTemporaryFile(dir=elsewhere) as other:
        assert os.path.exists(other.name)
    assert not os.path.exists(other.name)
    fd, path = tempfile.mkstemp(dir=directory, prefix="result-")
    os.close(fd)

if __name__ == "__main__":
    process = multiprocessing.get_context(method).Process(target=child, args=(named, directory))
    process.start()
    process.join()
    assert process.exitcode == 0
"""

FORKS = f"PROGRAM = {_STARTED!r}\n" + FORKS

# Parent and child each have a directory of their own; the child lives until its standard input ends.
SHARES = """
import os, sys
from scratchd import tempfile
elsewhere = sys.argv[1]
parents = tempfile.mkdtemp()
held = tempfile.NamedTemporaryFile(dir=elsewhere)
if os.fork() == 0:
    childs = tempfile.mkdtemp()
    own = tempfile.NamedTemporaryFile(dir=elsewhere)
    print(parents, childs, flush=True)
    sys.stdin.read()
else:
    os.close(0)
    os.wait()
"""

# Ends with one of each kind open, in a module's globals, a cycle and a thread that does not end.
LEFT_OPEN = """
import sys, threading
from scratchd import tempfile
elsewhere = sys.argv[1]
for where in (None, elsewhere):
    globals()[f"named{where}"] = tempfile.NamedTemporaryFile(dir=where)
    globals()[f"directory{where}"] = tempfile.TemporaryDirectory(dir=where)
    globals()[f"spooled{where}"] = tempfile.SpooledTemporaryFile(1, dir=where)
    globals()[f"spooled{where}"].write(b"more")
    tempfile.mkstemp(dir=where)
    cycle = [tempfile.NamedTemporaryFile(dir=where), tempfile.TemporaryDirectory(dir=where)]
    open(cycle[1].name + "/file", "w").close()
    cycle.append(cycle)
threading.Thread(target=threading.Event().wait, daemon=True).start()
"""

OUTLIVES = """
import sys
from scratchd import tempfile
for where in (None, sys.argv[1]):
    tempfile.mkstemp(prefix="mkstemp-", dir=where)
    tempfile.mkdtemp(prefix="mkdtemp-", dir=where)
    tempfile.NamedTemporaryFile(prefix="kept-", dir=where, delete=False).close()
    if sys.version_info >= (3, 12):
        tempfile.TemporaryDirectory(prefix="directory-", dir=where, delete=False)
    else:
        tempfile.mkdtemp(prefix="directory-", dir=where)
    deleted = tempfile.NamedTemporaryFile(prefix="deleted-", dir=where)
    removed = tempfile.TemporaryDirectory(prefix="removed-", dir=where)
    globals()[f"deleted{where}"], globals()[f"removed{where}"] = deleted, removed
"""

WITHOUT_BROKER = """
from scratchd import errors, tempfile
try:
    tempfile.mkstemp()
    tempfile.mkdtemp()
    tempfile.TemporaryDirectory().cleanup()
    print("made")
except errors.NoBroker as error:
    print(error)
"""
