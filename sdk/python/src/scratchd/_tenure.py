"""What is asked of the broker about leases, for callers that block and for those that await."""

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scratchd._channel import Answer
from scratchd._process import WAIT_FREED, _is_own
from scratchd._road import Road, attach_connection
from scratchd._wire import Message
from scratchd.errors import Refused, ScratchError
from scratchd.holders import Holder, Replace, Seconds, duration, seconds_of

_FIRMNESS = ("unspecified", "soft", "cooperative", "hard")


@dataclass(frozen=True)
class Tenure:
    """A lease, as its Grant told it."""

    id: str
    # Empty: none that this process can use.
    path: str = ""
    granted_ttl: float | None = None
    holders: tuple[int, ...] = ()
    firmness: str = "unspecified"
    generation: int = 0
    note: str = ""


def grant_request(
    *,
    ttl: Seconds | None = None,
    labels: Mapping[str, str] | None = None,
    pool: str = "",
    parent: str = "",
    size: int = 0,
    inodes: int = 0,
    soft: bool = False,
    lifetime_max: Seconds | None = None,
    grace: Seconds | None = None,
    preemptible: bool = False,
    search_environment: bool = False,
    holders: Sequence[Holder] = (),
) -> tuple[Message, list[Holder]]:
    """A Grant, and what is to hold the lease."""
    asked = [*holders, *([Holder.ttl(ttl)] if ttl is not None else [])]
    values: Message = {
        "pool": pool,
        "nonce": os.urandom(16),
        "holders": [holder._values for holder in asked],
        "limits": {"bytes": size, "inodes": inodes} if size or inodes else None,
        "soft": soft,
        "lifetime_max": None if lifetime_max is None else duration(lifetime_max),
        "labels": dict(labels) if labels else None,
        "parent": parent,
        "grace": None if grace is None else duration(grace),
        "preemptible": preemptible,
        "search_environment": search_environment,
    }
    return values, asked


async def grant(road: Road, values: Message, holders: Sequence[Holder]) -> Tenure:
    """Grants a lease.

    Raises:
        Refused: LEASE_UNKNOWN for a parent that is not there, limits, what can't hold it.
    """
    answer = await road.call("grant", values, _descriptors(holders))
    close(answer.descriptors)
    granted = answer.values
    path = os.fsdecode(granted.get("path", b""))
    firmness = granted.get("firmness", 0)
    tenure = Tenure(
        id=granted["id"],
        path=path if path and _is_own(path) else "",
        granted_ttl=seconds_of(granted.get("granted_ttl")),
        holders=tuple(holder.get("id", 0) for holder in granted.get("holders", [])),
        firmness=_FIRMNESS[firmness] if firmness < len(_FIRMNESS) else str(firmness),
        generation=granted.get("generation", 0),
        note=granted.get("note", ""),
    )
    if any(holder.is_connection for holder in holders):
        try:
            await hold(road, tenure.id)
        except BaseException:
            road.held.discard(tenure.id)
            road.tell("revoke", {"lease": tenure.id})
            raise
    return tenure


async def hold(road: Road, lease: str) -> int:
    """Has the connection hold the lease, this one and each one that follows; says which holder that is."""
    road.held.add(lease)
    # The Grant may have been answered on a connection that was lost since.
    return _holder_id(await road.call("attach", attach_connection(lease)))


async def revoke(road: Road, lease: str, wait: bool) -> bool:
    """Ends a lease. Says whether all of it is gone, which without `wait` is not known to be so.

    Raises:
        Refused: LEASE_UNKNOWN where there is none.
    """
    road.held.discard(lease)
    try:
        answer = await road.call("revoke", {"lease": lease, "wait": WAIT_FREED if wait else None})
    except Refused as refused:
        if refused.reason == "LEASE_UNKNOWN" and refused.resent:
            return True
        raise
    return bool(answer.values.get("freed", False))


async def release(road: Road, lease: str, area: bytes, wait: bool) -> bool:
    """Takes something in a lease away. Says whether it was there."""
    answer = await road.call("release", {"lease": lease, "area": area, "wait": WAIT_FREED if wait else None})
    return bool(answer.values.get("existed", False))


async def renew(road: Road, lease: str) -> float:
    """Renews ttl holders; how many seconds each has now."""
    renewed = await road.call("keep_alive", {"lease": lease})
    return seconds_of(renewed.values.get("granted_ttl")) or 0.0


async def attach(road: Road, lease: str, holder: Holder) -> int:
    """Adds a holder; its id."""
    if holder.is_connection:
        return await hold(road, lease)
    return _holder_id(await road.call("attach", {"lease": lease, "holder": holder._values}, _descriptors([holder])))


async def detach(road: Road, lease: str, holder: int) -> None:
    """Takes a holder away."""
    await road.call("detach", {"lease": lease, "holder": holder})


async def delegate(road: Road, lease: str, size: int, inodes: int) -> int:
    """A channel that reaches a new lease below this one."""
    limits = {"bytes": size, "inodes": inodes} if size or inodes else None
    answer = await road.call("delegate", {"lease": lease, "limits": limits})
    if len(answer.descriptors) != 1:
        close(answer.descriptors)
        raise ScratchError(errno.EPROTO, "a delegated channel without a descriptor")
    return answer.descriptors[0]


async def persist(road: Road, lease: str, area: bytes, target: Any, replace: Replace, node: tuple[int, int] | None) -> str:
    """Moves what is in a lease to a path for good; that path. `node` is what it is, if known."""
    path = os.path.abspath(os.fsdecode(target))
    parent, name = os.path.split(path)
    held = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        values = {"lease": lease, "area": area, "fd": True, "name": os.fsencode(name), "replace": int(replace)}
        await road.call("persist", values, (held,))
    except Refused as refused:
        if refused.reason == "PATH_UNKNOWN" and refused.resent and node is not None and _node_in(held, name) == node:
            return path
        if refused.reason == "NAME_EXISTS":
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from refused
        raise
    finally:
        os.close(held)
    return path


def close(descriptors: Sequence[int]) -> None:
    """Closes what nobody wants."""
    for descriptor in descriptors:
        os.close(descriptor)


def _descriptors(holders: Sequence[Holder]) -> list[int]:
    return [holder._descriptor for holder in holders if holder._descriptor is not None]


def _holder_id(answer: Answer) -> int:
    return int(answer.values.get("holder", {}).get("id", 0))


def _node_in(directory: int, name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    return found.st_dev, found.st_ino
