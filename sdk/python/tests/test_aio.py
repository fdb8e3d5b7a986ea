"""The lease API of asyncio."""

import asyncio
import gc
import os
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conftest import Broker, eventually

from scratchd import Holder, Replace, aio
from scratchd.errors import ChannelClosed, NoBroker, Refused

Work = Callable[[aio.Client], Awaitable[None]]


@pytest.fixture(params=["auto", "broker"])
def run(request: pytest.FixtureRequest, broker: Broker) -> Callable[[Work], None]:
    """Runs a test in a loop that allows no slips."""

    def run(work: Work) -> None:
        async def within() -> None:
            async with await aio.connect(create=request.param) as client:
                await work(client)

        asyncio.run(within(), debug=True)

    return run


async def soon(holds: Callable[[], object]) -> None:
    """As eventually(), while the loop goes on."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


def test_leases_and_areas(run: Callable[[Work], None], broker: Broker) -> None:
    async def work(client: aio.Client) -> None:
        async with client.lease(labels={"a": "b"}) as lease:
            assert lease.id in broker.leases()
            async with lease.file("w+", suffix=".txt") as file, lease.directory() as directory:
                file.write("x")
                file.flush()
                assert Path(file.path).read_text() == "x"
                assert os.path.isdir(directory.path)
                with pytest.raises(FileExistsError):
                    await lease.file(name=os.path.basename(file.path))
            assert os.listdir(lease.path) == []
            with await lease.anonymous() as anonymous, await lease.memory() as memory:
                anonymous.write(b"x")
                memory.write(b"x")
            kept = await lease.file()
            assert await kept.keep() == kept.path
            await kept.aclose()
            assert os.path.exists(kept.path)
            assert await lease.release(kept.path, wait=True)
            async with lease.lease() as below:
                assert below.id in broker.leases()
        assert lease.id not in broker.leases()
        assert await (await client.lease()).revoke(wait=True)

    run(work)


def test_what_is_persisted_or_elsewhere(run: Callable[[Work], None], target: Path) -> None:
    async def work(client: aio.Client) -> None:
        async with client.lease() as lease:
            async with lease.file() as file, lease.directory() as directory:
                file.write(b"x")
                await file.persist(target / "file")
                await directory.persist(target / "directory")
            async with lease.file() as file:
                file.write(b"y")
                await file.persist(target / "file", Replace.ALWAYS)
            Path(lease.path, "own").write_text("x")
            await lease.persist("own", target / "own")
            async with lease.file_in(target) as file, lease.directory_in(target) as directory:
                assert os.path.dirname(file.path) == os.path.dirname(directory.path) == str(target)
            async with lease.file_in(target, name="kept") as file:
                await file.keep()

    run(work)
    eventually(lambda: sorted(os.listdir(target)) == ["directory", "file", "kept", "own"])
    assert (target / "file").read_bytes() == b"y"


def test_holders_and_ttls(run: Callable[[Work], None], broker: Broker) -> None:
    async def work(client: aio.Client) -> None:
        async with client.lease(ttl=1, holders=[Holder.connection()]) as lease:
            assert await lease.renew() >= 1
            assert await client.renew(lease.id) >= 1
            with lease.renew_in_background() as renewal:
                number = await lease.attach(Holder.process())
                await lease.detach(number)
                await client.detach(lease.id, lease.holders[1])
                await soon(lambda: renewal.is_over)
            assert isinstance(renewal.last_error, Refused)
            async with client.attach(lease.id) as again:
                assert again.id == lease.id
        left = (await client.lease()).leave()
        await client.revoke(left)
        os.close(await client.delegate(inodes=5))
        assert (await client.own_lease()).id in broker.leases()

    run(work)


def test_tasks_share_a_connection(run: Callable[[Work], None]) -> None:
    async def work(client: aio.Client) -> None:
        async def one() -> None:
            async with client.lease() as lease:
                for _ in range(10):
                    async with lease.file() as file, lease.directory():
                        file.write(b"x")

        await asyncio.gather(*(one() for _ in range(50)))

    run(work)


def test_more_than_fits_into_the_socket_is_sent(run: Callable[[Work], None]) -> None:
    async def work(client: aio.Client) -> None:
        async with client.lease() as lease:
            await asyncio.gather(*(lease.release("x" * 255 + "/y" * 1000) for _ in range(500)))

    run(work)


def test_a_cancelled_task_leaves_nothing(broker: Broker, target: Path) -> None:
    async def work(client: aio.Client) -> None:
        async def one(lease: aio.Lease, turn: int) -> None:
            makings: list[Callable[[], Awaitable[object]]] = [lease.file, lease.directory, lease.anonymous, lease.memory]
            makings += [lease.lease, lease.delegate, lambda: lease.file_in(target), client.lease]
            made = await makings[turn % len(makings)]()
            if isinstance(made, int):
                os.close(made)
            elif hasattr(made, "__aexit__"):
                async with made:
                    pass
            else:
                made.close()  # type: ignore[attr-defined]

        async with client.lease() as lease:
            await client.ping()
            before, descriptors = broker.leases(), len(os.listdir("/proc/self/fd"))
            cancelled = 0
            for turn in range(400):
                task = asyncio.create_task(one(lease, turn))
                for _ in range(random.randrange(4)):
                    await asyncio.sleep(0)
                if turn % 3 == 0:
                    await asyncio.sleep(random.random() / 3000)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    cancelled += 1
            assert cancelled > 100
            del task
            await soon(lambda: broker.leases() == before and os.listdir(lease.path) == os.listdir(target) == [])
            await client.ping()
            gc.collect()
            await soon(lambda: len(os.listdir("/proc/self/fd")) == descriptors)

    async def within() -> None:
        async with await aio.connect(create="broker") as client:
            await work(client)

    asyncio.run(within())


def test_a_cancelled_end_is_an_end(run: Callable[[Work], None], broker: Broker) -> None:
    async def work(client: aio.Client) -> None:
        # One that has not begun is its guard's to end.
        for pauses in range(1, 6):
            lease = await client.lease()
            area = await lease.directory()
            for end in (area.aclose, lease.__aexit__):
                task = asyncio.create_task(end(*([None] * 3 if end == lease.__aexit__ else [])))  # type: ignore[arg-type]
                for _ in range(pauses):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            await soon(lambda: lease.id not in broker.leases())  # noqa: B023

    run(work)


def test_what_was_cancelled_last_is_gone_when_the_client_is_closed(run: Callable[[Work], None], broker: Broker) -> None:
    before: set[str] = set()

    async def work(client: aio.Client) -> None:
        before.update(broker.leases())
        tasks = [asyncio.ensure_future(client.lease()) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(work)
    assert broker.leases() <= before


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_forgotten_guards_end_what_they_guard(run: Callable[[Work], None], broker: Broker) -> None:
    async def work(client: aio.Client) -> None:
        lease = await client.lease()
        area = await lease.directory()
        name, path = lease.id, area.path
        del area
        gc.collect()
        await soon(lambda: not os.path.exists(path))
        del lease
        gc.collect()
        await soon(lambda: name not in broker.leases())

    run(work)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_broker_that_was_started_anew_is_gone_on_with(run: Callable[[Work], None], broker: Broker, how: str) -> None:
    async def work(client: aio.Client) -> None:
        lease, held = await client.lease(), await client.lease(holders=[Holder.connection()])
        file = await lease.file()
        getattr(broker, how)()
        broker.start()
        calls = [client.ping(), lease.lease(), lease.directory()]
        _, below, directory = await asyncio.gather(*calls)  # type: ignore[call-overload]
        assert held.id in broker.leases()
        for guard in (file, directory, below, held, lease):
            async with guard:
                pass
        assert not {lease.id, held.id} & broker.leases()

    run(work)


def test_calls_that_are_under_way_are_sent_again(broker: Broker) -> None:
    async def within() -> None:
        async with await aio.connect(create="broker") as client, client.lease() as lease:
            tasks = [asyncio.ensure_future(lease.file()) for _ in range(100)]
            await asyncio.sleep(0)
            broker.kill()
            broker.start()
            for file in await asyncio.gather(*tasks):
                assert os.path.exists(file.path)
                await file.aclose()
            assert os.listdir(lease.path) == []

    asyncio.run(within())


@asynccontextmanager
async def _child_of(lease: aio.Lease) -> AsyncIterator[aio.Client]:
    channel = await lease.delegate()
    os.environ["SCRATCHD_CHANNEL"] = str(channel)
    try:
        async with await aio.connect() as client:
            os.close(channel)
            yield client
    finally:
        del os.environ["SCRATCHD_CHANNEL"]


def test_a_delegated_channel_is_used_as_it_is(broker: Broker) -> None:
    async def within() -> None:
        async with await aio.connect() as client, client.lease() as lease, _child_of(lease) as child:
            own = await child.own_lease()
            async with own.file() as file, own.lease() as below:
                file.write(b"x")
                assert below.id
            await lease.revoke()
            with pytest.raises((ChannelClosed, Refused)):
                await own.file()

    asyncio.run(within())


def test_a_client_goes_on_in_the_next_loop(broker: Broker) -> None:
    client = aio.Client()

    async def use() -> None:
        async with client.lease() as lease, lease.file():
            pass

    for _ in range(2):
        asyncio.run(use())

    async def elsewhere() -> None:
        await use()
        with pytest.raises(RuntimeError, match="loop"):
            await asyncio.to_thread(asyncio.run, use())
        await client.aclose()

    asyncio.run(elsewhere())


def test_a_forked_child_has_a_connection_of_its_own(broker: Broker) -> None:
    code = """if True:
        import asyncio, os
        from scratchd import aio

        async def hold():
            return await client.lease(holders=[aio.Holder.connection()])

        async def use(lease):
            async with client.lease() as own, own.file(), lease:
                pass

        client = aio.Client()
        with asyncio.Runner() as runner:
            lease = runner.run(hold())
            child = os.fork()
            if not child:
                asyncio.run(use(lease))
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert os.path.isdir(lease.path)
            runner.run(use(lease))
            assert not os.path.isdir(lease.path)
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_no_broker_is_said_with_the_remedy(target: Path) -> None:
    with pytest.raises(NoBroker, match=rf"{target}/handle\.sock"):
        asyncio.run(aio.connect(str(target), start=False))


def test_what_can_not_be_sent_is_said(run: Callable[[Work], None]) -> None:
    async def work(client: aio.Client) -> None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            await client.lease(holders=[Holder.process(9999)])
        await client.ping()
        ours, _ = socket.socketpair()
        with ours, pytest.raises(Refused):
            await client.lease(holders=[Holder.process(ours.fileno())])

    run(work)
