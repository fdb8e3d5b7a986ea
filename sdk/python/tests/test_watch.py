"""Looking at leases and watching them, over gRPC."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest
from conftest import Broker

import scratchd
from scratchd import Client, aio
from scratchd.errors import Refused

pytest.importorskip("grpc")


def test_leases_are_listed_and_told(client: Client) -> None:
    with client.lease(ttl=60, labels={"a": "b"}, inodes=7, soft=True, preemptible=True) as lease:
        with lease.lease() as below:
            assert {lease.id, below.id} <= {found.id for found in client.leases()}
            assert client.get(below.id).parent == lease.id
        found = client.get(lease.id)
        assert (found.id, found.state, found.path) == (lease.id, "live", lease.path)
        assert (found.labels, found.inodes, found.size, found.preemptible) == ({"a": "b"}, 7, 0, True)
        (holder,) = found.holders
        assert (holder.id, holder.kind) == (lease.holders[0], "ttl")
        assert holder.expire_time is not None and found.create_time is not None
        assert holder.expire_time > found.create_time
        assert found.reason == "HELD"
        assert found.granted_ttl == lease.granted_ttl
    assert client.get(lease.id).state == "ended"
    with pytest.raises(Refused, match="LEASE_UNKNOWN"):
        client.get("a" * 16)


def test_more_leases_than_fit_on_a_page_are_listed(broker: Broker) -> None:
    with scratchd.connect() as client, client.lease() as lease:
        below = [lease.lease() for _ in range(1100)]
        assert {one.id for one in below} <= {found.id for found in client.leases()}
        for one in below:
            one.leave()


def test_what_happens_is_told_in_order(client: Client) -> None:
    with client.watch() as watch:
        with client.lease() as lease:
            pass
        events = []
        for event in watch:
            if event.lease == lease.id:
                events.append(event)
                if event.code == "ENDED":
                    break
        assert [event.code for event in events] == ["GRANTED", "ENDING", "ENDED"]
        assert all(event.time and event.revision and event.uid == os.geteuid() for event in events)
        assert events[1].metadata["reason"] == "REVOKED"
        with client.watch(since=events[0].revision, lease=lease.id) as again:
            assert next(again).revision == events[1].revision
    assert list(watch) == []


def test_a_watch_ends_when_another_thread_closes_it(client: Client) -> None:
    watch = client.watch()
    thread = threading.Thread(target=lambda: list(watch))
    thread.start()
    watch.close()
    thread.join(60)
    assert not thread.is_alive()


def test_a_watch_goes_on_with_the_next_broker(client: Client, broker: Broker) -> None:
    lease = client.lease()
    with client.watch(lease=lease.id) as watch:
        broker.kill()
        broker.start()
        assert next(watch).code == "LOST"
        with lease:
            pass
        while (event := next(watch)).code != "ENDED":
            assert event.lease in (lease.id, "")


def test_a_revision_of_another_broker_is_compacted(client: Client) -> None:
    with pytest.raises(Refused, match="COMPACTED"):
        client.watch(since="999999.1")


def test_what_was_before_can_be_had(client: Client) -> None:
    with client.lease() as lease, client.watch(lease=lease.id, held=True) as watch:
        while next(watch).code != "GRANTED":
            pass


def test_awaiting(broker: Broker) -> None:
    async def work() -> None:
        async with await aio.connect() as client, client.watch() as watch:
            async with client.lease() as lease:
                assert (await client.get(lease.id)).id == lease.id
                assert lease.id in {found.id for found in await client.leases()}
            codes = []
            async for event in watch:
                if event.lease == lease.id:
                    codes.append(event.code)
                    if event.code == "ENDED":
                        break
            assert codes == ["GRANTED", "ENDING", "ENDED"]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    while True:
                        await anext(watch)
            lease = await client.lease()
            while (await anext(watch)).lease != lease.id:
                pass
            broker.kill()
            broker.start()
            while (await anext(watch)).code != "LOST":
                pass
            async with lease:
                pass
            while (event := await anext(watch)).code != "ENDED":
                pass
            assert event.lease == lease.id
            with pytest.raises(Refused, match="LEASE_UNKNOWN"):
                await client.get("a" * 16)

    asyncio.run(work())


def test_without_grpcio_it_is_said_what_to_install(broker: Broker) -> None:
    code = """if True:
        import sys
        sys.modules["grpc"] = None
        import scratchd
        with scratchd.connect() as client, client.lease():
            client.leases()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("ImportError")
    assert "scratchd[grpc]" in done.stderr
