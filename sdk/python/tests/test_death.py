"""Processes that die, fork or lose their broker."""

import gc
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import Broker, eventually, run_python

import scratchd
from scratchd import Client, Holder, _channel

_ONE_OF_EACH = """if True:
    import os, sys, scratchd
    from scratchd import tempfile
    target, create = sys.argv[1:]
    client = scratchd.connect(create=create)
    lease = client.lease()
    below = lease.lease()
    held = client.lease(holders=[scratchd.Holder.connection()])
    kept = [lease.file(), lease.directory(), below.file(), held.directory(), lease.anonymous(), lease.memory()]
    open(os.path.join(kept[1].path, "inside"), "w").close()
    kept += [lease.file_in(target), lease.directory_in(target), lease.delegate(), client.delegate()]
    open(os.path.join(kept[-3].path, "inside"), "w").close()
    scope = scratchd.Scope(client)
    scope.create_temp_file(); scope.create_temp_dir()
    scratchd.secure_temp_write(b"secret")
    upload = scratchd.SpooledUpload(max_memory=1)
    upload.write(b"on disk")
    timed = client.lease(ttl=2)
    renewal = timed.renew_in_background()
    drop_in = tempfile.mkdtemp()
    with lease.file() as file:
        file.write(b"whole")
        file.persist(os.path.join(target, "persisted"))
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("create", ["auto", "broker"])
def test_nothing_is_left_of_a_process_that_was_killed(broker: Broker, target: Path, create: str) -> None:
    before = broker.leases()
    command = [sys.executable, "-c", _ONE_OF_EACH, str(target), create]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert len(broker.leases() - before) >= 7
        assert len(os.listdir(target)) == 3
        child.kill()
    eventually(lambda: not broker.leases() - before)
    eventually(lambda: os.listdir(target) == ["persisted"])
    assert (target / "persisted").read_bytes() == b"whole"


def test_a_program_that_ends_says_nothing_and_leaves_nothing(broker: Broker, target: Path) -> None:
    before = broker.leases()
    # Files that are not closed are Python's own to warn of.
    code = _ONE_OF_EACH.replace("sys.stdin.read()", "import warnings; warnings.simplefilter('ignore')")
    done = run_python(code, str(target), "auto")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")
    eventually(lambda: not broker.leases() - before)


def test_a_connection_that_is_open_at_the_end_is_no_warning(broker: Broker) -> None:
    code = "import scratchd; from scratchd import tempfile; tempfile.mkdtemp(); c = scratchd.connect(); c.own_lease(); 1 / 0"
    done = run_python(code)
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert not {"Warning", "ignored"} & set(re.findall(r"Warning|ignored", done.stderr))


def _in_child(work: "object") -> int:
    child = os.fork()
    if not child:
        try:
            work()  # type: ignore[operator]
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_ends_nothing_of_its_parent(client: Client, broker: Broker) -> None:
    lease = client.lease()
    held = client.lease(holders=[Holder.connection()])
    file, directory = lease.file(), lease.directory()
    scope = scratchd.Scope(client)
    scoped = scope.create_temp_file()
    parents_own = client.own_lease().path

    def work() -> None:
        nonlocal file, directory, lease
        assert not lease.is_guarded
        own = client.own_lease()
        assert own.path != parents_own
        with client.lease() as mine, mine.file() as new:
            new.write(b"x")
        scope.cleanup_all()
        assert os.path.dirname(scope.create_temp_file()) != os.path.dirname(scoped)
        scope.cleanup_all()
        file.close()
        directory.close()
        with lease:
            pass
        del file, directory, lease
        gc.collect()
        client.close()

    assert _in_child(work) == 0
    assert os.path.exists(file.path)
    assert os.path.isdir(directory.path)
    assert os.path.exists(scoped)
    assert held.id in broker.leases()
    client.ping()
    scope.cleanup_all()
    for guard in (file, directory, lease, held):
        with guard:
            pass
    assert not os.path.exists(file.path)


def test_a_delegated_channel_is_not_its_childs(broker: Broker) -> None:
    code = """if True:
        import asyncio, os, scratchd
        client, loops = scratchd.connect(), scratchd.aio.Client()
        file = client.own_lease().file()
        child = os.fork()
        if not child:
            for ask in (client.ping, lambda: asyncio.run(loops.ping())):
                try:
                    ask()
                    os._exit(1)
                except scratchd.errors.ChannelClosed:
                    pass
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        file.close()
        client.ping()
    """
    with scratchd.connect() as client, client.lease() as lease:
        channel = lease.delegate()
        environment = {**os.environ, "SCRATCHD_CHANNEL": str(channel)}
        subprocess.run([sys.executable, "-c", code], pass_fds=(channel,), env=environment, check=True)
        os.close(channel)


def test_a_child_that_was_forked_in_the_middle_of_calls_has_a_client_that_works(client: Client) -> None:
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            with client.lease() as lease, lease.file():
                pass

    thread = threading.Thread(target=call)
    thread.start()
    try:

        def work() -> None:
            with client.lease() as lease, lease.file_in("/var/tmp"):
                client.own_lease()

        assert [_in_child(work) for _ in range(10)] == [0] * 10
    finally:
        stop.set()
        thread.join()


def test_a_child_outlives_its_parent_with_what_is_its_own(broker: Broker) -> None:
    code = """if True:
        import os, sys, scratchd
        client = scratchd.connect()
        lease = client.lease()
        ours, childs = os.pipe()
        if os.fork():
            os.read(ours, 1)
            os.kill(os.getpid(), 9)
        mine = client.lease()
        print(lease.id, mine.id, flush=True)
        os.write(childs, b"x")
        sys.stdin.read()
        os._exit(0)
    """
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        parents, childs = child.stdout.readline().split()
        eventually(lambda: parents not in broker.leases())
        assert childs in broker.leases()
    eventually(lambda: childs not in broker.leases())


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_broker_that_was_started_anew_is_gone_on_with(client: Client, broker: Broker, how: str, target: Path) -> None:
    lease = client.lease()
    held = client.lease(holders=[Holder.connection()])
    timed = client.lease(ttl=60)
    file, directory, elsewhere = lease.file(), lease.directory(), lease.file_in(target)
    file.write(b"before")
    getattr(broker, how)()
    broker.start()
    file.write(b" and after")
    with lease.file(name="after") as after:
        assert os.path.exists(after.path)
    assert timed.renew() >= 60
    file.persist(target / "kept")
    for guard in (file, directory, elsewhere):
        guard.close()
    assert os.listdir(target) == ["kept"]
    assert (target / "kept").read_bytes() == b"before and after"
    assert held.id in broker.leases()
    for guard in (held, timed, lease):
        with guard:
            pass
    assert not {held.id, timed.id, lease.id} & broker.leases()


def test_an_exact_name_that_was_there_is_not_taken_for_its_own(broker: Broker) -> None:
    """What was not sent on the lost connection has not arrived."""
    with scratchd.connect(create="broker") as client, client.lease() as lease, lease.file(name="taken"):
        broker.kill()
        broker.start()
        with pytest.raises(FileExistsError):
            lease.file(name="taken")


def test_threads_go_on_with_the_next_broker(client: Client, broker: Broker) -> None:
    failures: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        try:
            while not stop.is_set():
                with client.lease() as lease, lease.file() as file:
                    file.write(b"x")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    # Never without a listener: a client that finds none says so.
    for _ in range(3):
        broker.kill()
        broker.start()
        client.ping()
    stop.set()
    for thread in threads:
        thread.join()
    assert [error for error in failures if not isinstance(error, scratchd.errors.NoBroker)] == []


def test_an_interrupted_call_is_taken_back(broker: Broker, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receive = _channel.receive

    def interrupted(connection: socket.socket, flags: int = 0) -> _channel.Answer:
        monkeypatch.setattr(_channel, "receive", receive)
        raise KeyboardInterrupt

    with scratchd.connect(create="broker") as client, client.lease() as lease:
        before, descriptors = broker.leases(), len(os.listdir("/proc/self/fd"))
        calls = [lease.file, lease.directory, lease.anonymous, lease.memory, lease.delegate, client.lease, lease.lease]
        for call in [*calls, lambda: lease.file_in(target)]:
            monkeypatch.setattr(_channel, "receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                call()
            client.ping()
        # An answer that comes late is read by the next call.
        eventually(lambda: client.ping() is None and broker.leases() == before)
        eventually(lambda: client.ping() is None and os.listdir(lease.path) == os.listdir(target) == [])
        assert len(os.listdir("/proc/self/fd")) == descriptors
