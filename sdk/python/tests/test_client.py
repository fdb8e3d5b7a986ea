"""Leases, and what is made under them."""

import errno
import fcntl
import gc
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import Broker, eventually

import scratchd
from scratchd import Client, Holder, Replace, _channel
from scratchd.errors import ForeignBroker, NoBroker, NoPath, Refused


def test_a_lease_is_a_directory_that_goes_at_its_end(client: Client, broker: Broker) -> None:
    with client.lease(labels={"why": "test"}) as lease:
        assert os.path.isdir(lease.path)
        assert lease.id in broker.leases()
        assert os.fspath(lease) == lease.path
        assert lease.has_path
        assert len(lease.holders) == 1
        assert lease.granted_ttl is None
        assert lease.note == ""
        assert lease.generation >= 1
        assert lease.firmness in ("soft", "cooperative", "hard")
    assert not os.path.exists(lease.path)
    assert not lease.is_guarded


def test_the_short_form_shares_a_connection(broker: Broker) -> None:
    with scratchd.lease() as lease, scratchd.lease(parent=lease) as below:
        assert os.path.isdir(below.path)


def test_revoke_says_whether_all_is_freed(client: Client) -> None:
    lease = client.lease()
    Path(lease.path, "file").write_text("x")
    assert lease.revoke(wait=True)
    with pytest.raises(Refused) as refused:
        lease.revoke()
    assert (refused.value.reason, refused.value.errno) == ("LEASE_UNKNOWN", errno.ENOENT)


def test_a_lease_that_is_left_is_ended_by_its_id(client: Client, broker: Broker) -> None:
    left = client.lease().leave()
    gc.collect()
    assert left in broker.leases()
    client.revoke(left)
    assert left not in broker.leases()


def test_a_forgotten_lease_ends_and_says_so(client: Client, broker: Broker) -> None:
    lease = client.lease()
    known = lease.id
    with pytest.warns(ResourceWarning, match=known):
        del lease
        gc.collect()
    client.ping()
    eventually(lambda: known not in broker.leases())


def test_a_lease_below_ends_with_its_parent(client: Client, broker: Broker) -> None:
    with client.lease() as lease:
        below = lease.lease(labels={"a": "b"})
        assert os.path.isdir(below.path)
    assert below.id not in broker.leases()
    with below:
        pass


def test_a_file_is_a_file_object_with_a_path(client: Client) -> None:
    with client.lease() as lease:
        with lease.file("w+", prefix="a-", suffix=".txt", encoding="utf-8") as file:
            file.write("grüße\n")
            file.seek(0)
            assert list(file) == ["grüße\n"]
            assert os.path.dirname(file.path) == lease.path
            assert os.path.basename(file.path).startswith("a-")
            assert file.path.endswith(".txt")
            assert file.name == os.fspath(file) == file.path
            assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600
            assert not os.get_inheritable(file.fileno())
        assert file.closed
        assert not os.path.exists(file.path)
        file.close()


def test_names_and_modes_are_exact(client: Client) -> None:
    before = os.umask(0o077)
    try:
        with client.lease() as lease, lease.file(name="this", permissions=0o644) as file:
            assert file.path == os.path.join(lease.path, "this")
            assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o644
            with pytest.raises(FileExistsError):
                lease.file(name="this")
            with lease.directory(name="that", permissions=0o755) as directory:
                assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o755
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    "wrong", [{"name": "a/b"}, {"name": ".."}, {"suffix": "/x"}, {"prefix": "\0"}, {"permissions": 0o4755}]
)
def test_names_that_lead_elsewhere_are_refused(client: Client, wrong: dict[str, str]) -> None:
    with client.lease() as lease, pytest.raises(ValueError, match=r"name|permission"):
        lease.file(**wrong)  # type: ignore[arg-type]


def test_what_can_not_be_opened_is_not_left(client: Client) -> None:
    with client.lease() as lease:
        with pytest.raises(ValueError, match="mode"):
            lease.file("no such mode")
        client.ping()
        eventually(lambda: os.listdir(lease.path) == [])


def test_a_closed_descriptor_leaves_the_file(client: Client) -> None:
    with client.lease() as lease, lease.file() as file:
        file.write(b"for another program")
        file.file.close()
        assert subprocess.check_output(["cat", file.path]) == b"for another program"


def test_a_directory_goes_with_everything_in_it(client: Client) -> None:
    with client.lease() as lease:
        with lease.directory(suffix=".d") as directory:
            Path(directory, "a", "b").mkdir(parents=True)
            Path(directory.path, "a", "b", "c").write_text("x")
            assert directory.name.endswith(".d")
        assert not os.path.exists(directory.path)


def test_forgotten_areas_go(client: Client) -> None:
    with client.lease() as lease:
        file, directory = lease.file(), lease.directory()
        with pytest.warns(ResourceWarning, match="Implicitly removing"):
            del file, directory
            gc.collect()
        client.ping()
        eventually(lambda: os.listdir(lease.path) == [])


def test_files_without_names(client: Client) -> None:
    with client.lease() as lease, lease.anonymous() as anonymous, lease.memory() as memory:
        for file in (anonymous, memory):
            file.write(b"x")
            assert os.fstat(file.fileno()).st_nlink == 0
        memory.flush()
        fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        assert os.listdir(lease.path) == []


def test_persisting_takes_a_file_out_of_its_lease(client: Client, target: Path, near: Path) -> None:
    for place in (target, near):
        with client.lease() as lease:
            with lease.file() as file:
                file.write(b"whole")
                assert file.persist(place / "kept") == str(place / "kept")
                with lease.file() as other, pytest.raises(FileExistsError):
                    other.persist(place / "kept")
                with lease.file() as other:
                    other.write(b"newer")
                    other.persist(place / "kept", Replace.ALWAYS)
            with lease.directory() as directory:
                Path(directory, "x").write_text("x")
                directory.persist(place / "tree")
        assert (place / "kept").read_bytes() == b"newer"
        assert (place / "tree" / "x").read_text() == "x"


def test_persisting_can_exchange(client: Client, near: Path) -> None:
    (near / "old").write_text("old")
    with client.lease() as lease, lease.file("w") as file:
        file.write("new")
        inside = file.path
        file.persist(near / "old", Replace.EXCHANGE)
        assert Path(inside).read_text() == "old"
    assert (near / "old").read_text() == "new"


def test_what_a_process_has_made_by_itself_is_persisted_and_released(client: Client, target: Path) -> None:
    with client.lease() as lease:
        Path(lease.path, "a", "b").mkdir(parents=True)
        lease.persist("a/b", target / "b")
        lease.persist(os.path.join(lease.path, "a"), target / "a")
        assert sorted(os.listdir(target)) == ["a", "b"]
        Path(lease.path, "c").write_text("x")
        assert lease.release("c", wait=True)
        assert not lease.release("c")


def test_a_kept_area_stays_until_its_lease_ends(client: Client) -> None:
    with client.lease() as lease:
        with lease.file() as file:
            path = file.keep()
        assert os.path.exists(path)
    assert not os.path.exists(path)


def test_files_beside_what_they_replace(client: Client, target: Path) -> None:
    with client.lease() as lease:
        with lease.file_in(target, suffix=".new") as file, lease.directory_in(target) as directory:
            assert os.path.dirname(file.path) == os.path.dirname(directory.path) == str(target)
            Path(directory, "x").write_text("x")
        eventually(lambda: os.listdir(target) == [])
        with lease.file_in(target) as file:
            file.write(b"new")
            file.persist(target / "it", Replace.ALWAYS)
        with lease.file_in(target) as file, pytest.raises(FileExistsError):
            file.persist(target / "it")
        with lease.file_in(target, name="kept") as file:
            file.keep()
        forgotten = lease.file_in(target, name="forgotten")
        assert os.path.exists(forgotten.path)
    eventually(lambda: sorted(os.listdir(target)) == ["it", "kept"])
    assert (target / "it").read_bytes() == b"new"


def test_a_ttl_is_renewed_by_hand_and_in_the_background(client: Client, broker: Broker) -> None:
    with client.lease(ttl=1) as lease:
        assert lease.granted_ttl is not None
        assert lease.renew() >= 1
        with lease.renew_in_background() as renewal:
            eventually(lambda: renewal.last_error is None)
            lease.revoke()
            eventually(lambda: renewal.is_over)
        assert isinstance(renewal.last_error, Refused)
        assert renewal.last_error.reason in ("LEASE_UNKNOWN", "LEASE_ENDING")
    with client.lease() as lease, pytest.raises(Refused, match="NO_TTL"):
        lease.renew()
    timed = client.lease(ttl=1).leave()
    eventually(lambda: timed not in broker.leases())


def test_holders_come_and_go(client: Client, broker: Broker) -> None:
    with client.lease(holders=[Holder.connection()]) as lease:
        ours, other = socket.socketpair(socket.AF_UNIX)
        with ours, other:
            number = lease.attach(Holder.descriptor(ours.fileno()))
        with subprocess.Popen(["sleep", "1000"]) as child:
            pidfd = os.pidfd_open(child.pid)
            process = lease.attach(Holder.process(pidfd))
            os.close(pidfd)
            lease.detach(process)
            child.kill()
        with pytest.raises(Refused, match="HOLDER_UNKNOWN"):
            lease.detach(process)
        assert number != process
        assert os.path.isdir(lease.path)


def test_a_lease_held_by_its_connection_ends_with_it(broker: Broker) -> None:
    client = scratchd.connect()
    lease = client.lease(holders=[Holder.connection()])
    lease.leave()
    client.close()
    eventually(lambda: lease.id not in broker.leases())


def test_a_lease_of_another_process_is_attached_to(client: Client, broker: Broker) -> None:
    code = "import scratchd, sys; l = scratchd.connect().lease(); print(l.leave(), flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        with client.attach(name, path=str(broker.pool / name)) as lease:
            child.kill()
            child.communicate()
            with lease.file() as file:
                assert file.path.startswith(str(broker.pool / name))
            with client.attach(name) as again:
                with pytest.raises(NoPath):
                    _ = again.path
                assert again.holders == lease.holders
        eventually(lambda: name not in broker.leases())
    with pytest.raises(Refused, match="LEASE_UNKNOWN"):
        client.attach(name)


def test_holders_are_told_by_their_ids(client: Client) -> None:
    lease = client.lease(ttl=60)
    assert client.renew(lease.id) >= 60
    client.detach(lease.id, lease.holders[0])
    eventually(lambda: not os.path.exists(lease.path))
    lease.leave()


def test_a_delegated_channel_reaches_its_lease_alone(client: Client) -> None:
    code = """if True:
        import os, scratchd
        with scratchd.connect() as client:
            own = client.own_lease()
            assert own.id == "" and not own.has_path
            with own.file() as file, own.directory() as directory, own.lease() as below:
                file.write(b"x")
                assert file.name and directory.name and below.id
                below.file(name="left").file.close()
            with own.anonymous() as anonymous, own.memory() as memory:
                anonymous.write(b"x")
            os.close(client.delegate())
    """
    with client.lease() as lease:
        channel = lease.delegate(inodes=20)
        environment = {**os.environ, "SCRATCHD_CHANNEL": str(channel)}
        subprocess.run([sys.executable, "-c", code], pass_fds=(channel,), env=environment, check=True)
        os.close(channel)


def test_limits_are_held(client: Client) -> None:
    with client.lease(inodes=2, soft=True) as lease:
        with pytest.raises(Refused, match="LIMIT_INODES") as refused:
            lease.lease(inodes=100, soft=True)
        assert refused.value.metadata["limit"]


def test_a_lifetime_ends_it_whatever_holds_it(client: Client, broker: Broker) -> None:
    lease = client.lease(lifetime_max=0.2)
    eventually(lambda: lease.id not in broker.leases())
    with lease:
        pass


def test_wrong_times_are_refused_here(client: Client) -> None:
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="time"):
            client.lease(ttl=wrong)


def test_the_own_lease_is_replaced_when_it_has_ended(client: Client) -> None:
    own = client.own_lease()
    assert client.own_lease() is own
    own.revoke()
    with client.in_own_lease(lambda lease: lease.file()) as file:
        assert os.path.exists(file.path)
    assert client.own_lease() is not own


def test_threads_share_a_client(client: Client) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with client.lease() as lease:
                for _ in range(20):
                    with lease.file() as file, lease.directory() as directory:
                        file.write(b"x")
                        assert os.path.isdir(directory.path)
                    lease.anonymous().close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_finalizers_do_not_wait_for_a_call_that_is_under_way(
    client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cycles are collected wherever an object is made, in the middle of calls too: nothing may wait there."""
    receive = _channel.receive

    def collecting(connection: socket.socket, flags: int = 0) -> _channel.Answer:
        gc.collect()
        return receive(connection, flags)

    class Cycle:
        def __init__(self) -> None:
            self.own = self
            self.lease = client.lease()
            self.areas = self.lease.file(), self.lease.directory()

    monkeypatch.setattr(_channel, "receive", collecting)
    known = set()
    with pytest.warns(ResourceWarning):
        for _ in range(20):
            known.add(Cycle().lease.id)
        gc.collect()
    eventually(lambda: client.ping() is None and not known & broker.leases())


def test_a_clean_up_in_the_middle_of_a_call_does_not_wait(
    client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a signal handler, or a callback of a weak reference."""
    lease = client.lease()
    receive = _channel.receive

    def ending(connection: socket.socket, flags: int = 0) -> _channel.Answer:
        monkeypatch.setattr(_channel, "receive", receive)
        with lease:
            pass
        return receive(connection, flags)

    monkeypatch.setattr(_channel, "receive", ending)
    client.ping()
    eventually(lambda: client.ping() is None and lease.id not in broker.leases())


def test_no_broker_is_said_with_the_remedy(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoBroker, match=rf"{target}/handle\.sock.*SCRATCHD_FALLBACK"):
        scratchd.connect(str(target), start=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("SCRATCHD_BIN", raising=False)
    with pytest.raises(NoBroker, match="scratch"):
        scratchd.connect(str(target))


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to be two users")
def test_a_broker_of_another_user_is_not_trusted(target: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        os.seteuid(1000)
        try:
            os.seteuid(0)
            os.chmod(target, 0o777)
            os.seteuid(1000)
            listener.bind(str(target / "handle.sock"))
            listener.listen()
        finally:
            os.seteuid(0)
        # Root trusts none but root's.
        with pytest.raises(ForeignBroker):
            scratchd.connect(str(target))


def test_who_makes_areas_is_one_of_two(broker: Broker) -> None:
    with pytest.raises(ValueError, match="broker"):
        scratchd.connect(create="nobody")  # type: ignore[arg-type]


def test_what_takes_long_keeps_no_other_thread_waiting(
    client: Client, broker: Broker, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file that is copied to another file system."""
    receive, goes_on = _channel.receive, threading.Event()

    def slow(connection: socket.socket, flags: int = 0) -> _channel.Answer:
        if threading.current_thread() is thread:
            assert goes_on.wait(60)
        return receive(connection, flags)

    with client.lease() as lease, lease.file() as file:
        thread = threading.Thread(target=lambda: file.persist(target / "kept"))
        monkeypatch.setattr(_channel, "receive", slow)
        thread.start()
        with client.lease() as other, other.file():
            pass
        assert thread.is_alive()
        goes_on.set()
        thread.join()
    assert os.listdir(target) == ["kept"]


def test_what_is_forgotten_during_anothers_call_goes_when_that_is_over(
    client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive, is_in_call, goes_on = _channel.receive, threading.Event(), threading.Event()

    def slow(connection: socket.socket, flags: int = 0) -> _channel.Answer:
        if not flags:
            is_in_call.set()
            assert goes_on.wait(60)
        return receive(connection, flags)

    lease = client.lease()
    name = lease.id
    thread = threading.Thread(target=client.ping)
    monkeypatch.setattr(_channel, "receive", slow)
    thread.start()
    assert is_in_call.wait(60)
    with pytest.warns(ResourceWarning):
        del lease
        gc.collect()
    goes_on.set()
    thread.join()
    eventually(lambda: name not in broker.leases())
