"""What CPython's own tests of tempfile do not catch, of scratchd.tempfile: `dropin.py` with SCRATCHD_RUNTIME_DIR set, the broker there,
and a directory of its own as working directory. SCRATCH names the program, SCRATCHD_CREATE who makes things.

The broker takes 20 areas of one tenant in directories of its own.
"""

import contextlib
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import tempfile as standard
import threading
import time

from checks import check
from dropin_programs import FORKS, HOLDS, LEFT_OPEN, OUTLIVES, SHARES, WITHOUT_BROKER
from scratchd import tempfile

HERE = pathlib.Path.cwd()
DEADLINE_SECONDS = 30


def eventually(what, holds):
    end = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        if time.monotonic() > end:
            check(what, False, sorted(map(str, HERE.rglob("*"))))
        time.sleep(0.01)
    check(what, True)


def place(name):
    directory = HERE / name
    directory.mkdir()
    return directory


def start(program, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        text=True,
    )


def leases():
    told = subprocess.run([os.environ["SCRATCH"], "ls", "--output", "json"], capture_output=True, check=True)
    return told.stdout


def what_the_descriptors_are():
    for where in (None, str(place("flags"))):
        descriptor, path = tempfile.mkstemp(dir=where)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        check(f"a link is never followed: {where}", flags & os.O_NOFOLLOW)
        check("it is not inherited", not os.get_inheritable(descriptor))
        check("it is there, and one's own alone", os.stat(path).st_mode & 0o7777 == 0o600)
        os.close(descriptor)
        os.unlink(path)


def every_attempt_is_audited():
    events = []
    sys.addaudithook(lambda event, arguments: events.append((event, *arguments)) if event.startswith("tempfile.") else None)
    names = tempfile._get_candidate_names
    for where in (tempfile.gettempdir(), str(place("audit"))):
        for make, event in ((tempfile.mkstemp, "tempfile.mkstemp"), (tempfile.mkdtemp, "tempfile.mkdtemp")):
            kind = event[-7:]
            pathlib.Path(where, "tmptaken" + kind).touch()
            events.clear()
            tempfile._get_candidate_names = lambda kind=kind: iter(["taken" + kind, "free" + kind])
            try:
                make(dir=where)
            finally:
                tempfile._get_candidate_names = names
            expected = [(event, os.path.join(where, "tmp" + word + kind)) for word in ("taken", "free")]
            check(f"{event} in {where}", events == expected, events)


def names_differ_after_a_fork():
    next(tempfile._get_candidate_names())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, next(tempfile._get_candidate_names()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    check("two processes draw other names", os.read(reader, 100).decode() != next(tempfile._get_candidate_names()))
    os.close(reader)
    os.close(writer)


def errors_are_the_standard_ones():
    (HERE / "file").touch()
    long, missing, file = "x" * 300, str(HERE / "missing"), str(HERE / "file")
    cases = [
        {"dir": missing},
        {"dir": file},
        {"prefix": "a/b"},
        {"suffix": "a/b"},
        {"prefix": long},
        {"prefix": "a\0b"},
        {"prefix": b"a", "suffix": "b"},
        {"prefix": 5},
        {"dir": 5},
        {"dir": missing, "prefix": b"a"},
    ]
    if os.geteuid() != 0:
        closed = place("closed")
        closed.chmod(0o500)
        cases.append({"dir": str(closed)})
    for keywords in cases:
        for name in ("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryDirectory"):
            found = [outcome(getattr(module, name), keywords) for module in (standard, tempfile)]
            check(f"{name}({keywords})", found[0] == found[1] is not None, found)


def outcome(function, keywords):
    try:
        function(**keywords)
    except Exception as error:
        return type(error), getattr(error, "errno", None)
    return None


def a_tree_goes_by_one_rename():
    events = []
    sys.addaudithook(lambda event, _: events.append(event) if event.startswith(("os.", "shutil.")) else None)
    for where in (None, str(place("tree"))):
        directory = tempfile.TemporaryDirectory(dir=where)
        for number in range(2000):
            pathlib.Path(directory.name, str(number)).touch()
        events.clear()
        directory.cleanup()
        check("its name is gone", not os.path.exists(directory.name))
        walked = {event for event in events if event in ("os.remove", "os.scandir", "os.listdir", "shutil.rmtree")}
        check(f"nobody has walked: {where}", not walked, walked)


def more_than_may_be_there_come_and_go():
    target = place("targets")
    for number in range(100):
        descriptor, path = tempfile.mkstemp(dir=target)
        os.close(descriptor)
        os.replace(path, target / str(number % 10))
    check("what was renamed is there", len(list(target.iterdir())) == 10)
    with contextlib.ExitStack() as stack:
        for _ in range(15):
            stack.enter_context(tempfile.NamedTemporaryFile(dir=target))
    eventually("what was closed is not", lambda: len(list(target.iterdir())) == 10)


def whoever_names_a_directory_means_it():
    named, other = place("named"), place("other")
    lease = tempfile.gettempdir()
    tempfile.tempdir = str(named)
    descriptor, path = tempfile.mkstemp()
    check("the one that was assigned", os.path.dirname(path) == str(named))
    os.close(descriptor)
    tempfile.tempdir, os.environ["TMPDIR"] = None, str(other)
    check("the one that the environment names now", tempfile.gettempdir() == str(other))
    del os.environ["TMPDIR"]
    tempfile.tempdir = None
    check("and the lease's again", tempfile.gettempdir() == lease)
    inside = tempfile.mkdtemp()
    os.symlink(other, os.path.join(inside, "out"))
    descriptor, path = tempfile.mkstemp(dir=os.path.join(inside, "out"))
    os.close(descriptor)
    check("a link that leads out of the lease", [os.path.basename(path)] == os.listdir(other))
    os.unlink(path)
    with tempfile.TemporaryDirectory(dir=os.path.join(inside, "out")) as directory:
        pathlib.Path(directory, "file").touch()
    eventually("nothing of a tree stays behind it, under whatever name", lambda: not os.listdir(other))


def a_lease_that_was_taken_away_is_followed_by_another():
    before = tempfile.gettempdir()
    held = tempfile.TemporaryDirectory()
    subprocess.run([os.environ["SCRATCH"], "lease", "revoke", "--wait", os.path.basename(before)], check=True)
    descriptor, path = tempfile.mkstemp()
    os.close(descriptor)
    check("a file is made under the next", os.path.dirname(path) == tempfile.gettempdir() != before)
    held.cleanup()
    os.rmdir(tempfile.mkdtemp())


def threads_share_it():
    failed, elsewhere = [], place("threads")

    def work():
        try:
            for number in range(30):
                with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryDirectory() as directory:
                    pathlib.Path(directory, "file").write_bytes(file.read())
                if number % 10 == 0:
                    with tempfile.NamedTemporaryFile(dir=elsewhere), tempfile.TemporaryFile():
                        pass
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check("eight threads", not failed, failed)
    eventually("nothing of them is left elsewhere", lambda: not os.listdir(elsewhere))


def a_killed_process_leaves_nothing():
    elsewhere = place("killed")
    process = start(HOLDS, elsewhere)
    lease = process.stdout.readline().strip()
    check("it holds one of each kind", lease and len(os.listdir(elsewhere)) == 4, (lease, os.listdir(elsewhere)))
    process.kill()
    process.wait()
    eventually("its lease is gone", lambda: not os.path.exists(lease))
    eventually("and what it made elsewhere", lambda: not os.listdir(elsewhere))


def a_forked_child_ends_nothing_and_has_its_own():
    for method in ("fork", "fork_exit", "multiprocessing-fork", "multiprocessing-spawn", "multiprocessing-forkserver"):
        elsewhere = place(method)
        process = start(FORKS, elsewhere, method)
        out, err = process.communicate(timeout=60)
        check(f"{method}: all is there after the child's end", (out, err, process.returncode) == ("well\n", "", 0), (out, err))
        eventually(f"{method}: nothing after both", lambda elsewhere=elsewhere: not os.listdir(elsewhere))


def a_killed_parent_takes_nothing_from_its_child():
    elsewhere = place("orphan")
    process = start(SHARES, elsewhere)
    parents, childs = process.stdout.readline().split()
    process.kill()
    process.wait()
    eventually("the parent's are gone", lambda: not os.path.exists(parents) and len(os.listdir(elsewhere)) == 1)
    check("the child's are not", os.path.exists(childs))
    process.stdin.close()
    eventually("until it ends", lambda: not os.path.exists(childs) and not os.listdir(elsewhere))


def an_interpreter_ends_quietly():
    elsewhere = place("quiet")
    process = start(LEFT_OPEN, elsewhere)
    _, err = process.communicate(timeout=60)
    check("it says nothing", (err, process.returncode) == ("", 0), err)
    eventually("and leaves nothing", lambda: not os.listdir(elsewhere))


def what_is_to_outlive_its_process_does():
    elsewhere, default = place("outlive"), place("default")
    process = start(OUTLIVES, elsewhere, SCRATCHD_OUTLIVE="1", TMPDIR=str(default))
    _, err = process.communicate(timeout=60)
    check("it was asked for", (err, process.returncode) == ("", 0), err)
    for directory in (elsewhere, default):
        found = sorted(path.name.partition("-")[0] for path in directory.iterdir())
        check(f"those and no others: {directory.name}", found == ["directory", "kept", "mkdtemp", "mkstemp"], found)


def without_a_broker():
    nowhere = place("nowhere")
    environment = {"SCRATCHD_RUNTIME_DIR": str(nowhere), "PATH": "/nowhere", "SCRATCHD_BIN": ""}
    process = start(WITHOUT_BROKER, **environment)
    out, err = process.communicate(timeout=60)
    told = str(nowhere / "handle.sock") in out and "systemctl start scratchd" in out and "SCRATCHD_FALLBACK" in out
    check("it says where it looked and what to do", told and not err, (out, err))
    process = start(WITHOUT_BROKER, **environment, SCRATCHD_FALLBACK="local")
    out, err = process.communicate(timeout=60)
    check("or does as the standard module, and warns once", out == "made\n" and err.count("RuntimeWarning") == 1, (out, err))


def a_signal_in_the_middle_of_a_call():
    elsewhere = place("signal")
    made = []

    def handler(*_):
        with tempfile.NamedTemporaryFile(dir=elsewhere) as file, tempfile.TemporaryDirectory() as directory:
            made.append((os.path.exists(file.name), os.path.exists(directory)))
        signal.setitimer(signal.ITIMER_REAL, 0.002)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    end = time.monotonic() + DEADLINE_SECONDS
    while len(made) < 200 and time.monotonic() < end:
        with tempfile.NamedTemporaryFile(dir=elsewhere) as file, tempfile.TemporaryDirectory(dir=elsewhere) as directory:
            assert os.path.exists(file.name) and os.path.exists(directory)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    check("its handler works as well", len(made) >= 200 and all(map(all, made)), len(made))
    eventually("nothing is left", lambda: not os.listdir(elsewhere))


def main():
    before = leases()
    for function in [
        what_the_descriptors_are,
        every_attempt_is_audited,
        names_differ_after_a_fork,
        errors_are_the_standard_ones,
        a_tree_goes_by_one_rename,
        more_than_may_be_there_come_and_go,
        whoever_names_a_directory_means_it,
        a_lease_that_was_taken_away_is_followed_by_another,
        threads_share_it,
        a_signal_in_the_middle_of_a_call,
        a_killed_process_leaves_nothing,
        a_forked_child_ends_nothing_and_has_its_own,
        a_killed_parent_takes_nothing_from_its_child,
        an_interpreter_ends_quietly,
        what_is_to_outlive_its_process_does,
        without_a_broker,
    ]:
        print(function.__name__.replace("_", " "), flush=True)
        function()
    check("nobody else had a lease", before.strip() == b"[]", before)


if __name__ == "__main__":
    main()
