"""The client: connects, grants leases, and makes areas under a lease of its own."""

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from scratchd import _tenure
from scratchd._lease import Lease
from scratchd._road import Blocking, block
from scratchd._tenure import Tenure
from scratchd.errors import Refused
from scratchd.holders import Holder, Replace, Seconds

if TYPE_CHECKING:
    from scratchd.watch import LeaseInfo, Watch

__all__ = ["Client", "Holder", "Lease", "Replace", "connect", "default", "lease"]

T = TypeVar("T")
Create = Literal["auto", "broker"]


def connect(runtime_directory: str | None = None, *, create: Create | None = None, start: bool = True) -> "Client":
    """Connects to the broker, and starts one for this user where there is none.

    Args:
        runtime_directory: Where it is; by default it is looked for as docs/protocol.md says. On a delegated channel
            (SCRATCHD_CHANNEL) where that is set and this is not.
        create: Who makes areas: "auto", this process where it can, else the broker; "broker", always the broker. By default
            SCRATCHD_CREATE, else "auto".
        start: Whether to start one.

    Raises:
        NoBroker: There is none; it names the socket and the remedy.
        ForeignBroker: It belongs to another user.
    """
    client = Client(runtime_directory, create=create, start=start)
    client.ping()
    return client


def lease(
    ttl: Seconds | None = None,
    labels: Mapping[str, str] | None = None,
    pool: str = "",
    parent: Lease | str | None = None,
    *,
    size: int = 0,
    inodes: int = 0,
    soft: bool = False,
    lifetime_max: Seconds | None = None,
    grace: Seconds | None = None,
    preemptible: bool = False,
    holders: Sequence[Holder] = (),
) -> Lease:
    """Grants a lease over a connection that is shared by all of the process; as Client.lease."""
    return default().lease(
        ttl,
        labels,
        pool,
        parent,
        size=size,
        inodes=inodes,
        soft=soft,
        lifetime_max=lifetime_max,
        grace=grace,
        preemptible=preemptible,
        holders=holders,
    )


def by_broker(create: Create | None) -> bool:
    """Whether areas are made by the broker only, as this and the environment say."""
    chosen = create or os.environ.get("SCRATCHD_CREATE") or "auto"
    if chosen not in ("auto", "broker"):
        raise ValueError(f'create (SCRATCHD_CREATE) is "auto" or "broker", not {chosen!r}')
    return chosen == "broker"


class Client:
    """A connection to the broker, made when it is first needed and again when it was lost. Threads may share it.

    A forked child makes one of its own; what its parent has made stays its parent's. `close()`, or the end of a `with`, ends
    the connection and the leases that are held by it. Other leases end by their guards and holders.
    """

    def __init__(self, runtime_directory: str | None = None, *, create: Create | None = None, start: bool = True) -> None:
        self._road = Blocking(runtime_directory, start, by_broker(create))
        # With the process that it is for.
        self._own: tuple[int, Lease] | None = None

    def ping(self) -> None:
        """Asks the broker nothing and waits for its answer."""
        block(self._road.call("ping", {}))

    def lease(
        self,
        ttl: Seconds | None = None,
        labels: Mapping[str, str] | None = None,
        pool: str = "",
        parent: Lease | str | None = None,
        *,
        size: int = 0,
        inodes: int = 0,
        soft: bool = False,
        lifetime_max: Seconds | None = None,
        grace: Seconds | None = None,
        preemptible: bool = False,
        search_environment: bool = False,
        holders: Sequence[Holder] = (),
    ) -> Lease:
        """Grants a lease: `with client.lease() as lease:`.

        It is held by this process, unless `ttl` or `holders` say otherwise.

        Args:
            ttl: Seconds. The lease is held by time that `renew()` renews, and with no `holders` by nothing else.
            labels: For people and for `scratch ls`.
            pool: By default the parent's, else the first one.
            parent: The new lease ends with this one at the latest.
            size: How many bytes it may take; 0: no limit of its own.
            inodes: How many files and directories; 0: no limit of its own.
            soft: Limits that the pool can't enforce are taken all the same, for book-keeping.
            lifetime_max: Seconds after which it ends whatever holds it.
            grace: Seconds that it lives on for after its last holder has gone by itself, so that another one can come.
            preemptible: It may be ended when its pool is too full, where that is configured.
            search_environment: Processes with SCRATCHD_LEASE=<id> in their environment hold it when nothing else does any more.
            holders: What holds it.

        Raises:
            Refused: LEASE_UNKNOWN for a parent that is not there, LIMITS_NOT_FIRM, LIMIT_LEASES, …
            NoBroker: There is none.
        """
        values, asked = _tenure.grant_request(
            ttl=ttl,
            labels=labels,
            pool=pool,
            parent=parent.id if isinstance(parent, Lease) else parent or "",
            size=size,
            inodes=inodes,
            soft=soft,
            lifetime_max=lifetime_max,
            grace=grace,
            preemptible=preemptible,
            search_environment=search_environment,
            holders=holders,
        )
        return Lease(self._road, block(_tenure.grant(self._road, values, asked)))

    def own_lease(self) -> Lease:
        """The lease for what needs none of its own: granted when it is first asked for, held by this process, and ended by
        `close()`.

        On a delegated channel it is the channel's. A forked child gets another one.
        """
        with self._road.lock:
            if self._own is None or self._own[0] != os.getpid():
                lease = Lease(self._road, Tenure("")) if self._road.is_delegated else self.lease()
                lease.leave()
                self._own = os.getpid(), lease
            return self._own[1]

    def in_own_lease(self, make: Callable[[Lease], T]) -> T:
        """Makes something under `own_lease()`, and under another one where that has ended meanwhile."""
        lease = self.own_lease()
        try:
            return make(lease)
        except Refused as refused:
            if refused.reason not in ("LEASE_UNKNOWN", "LEASE_ENDING", "LEASE_LOST", "LEASE_KEPT") or not lease.id:
                raise
        with self._road.lock:
            if self._own is not None and self._own[1] is lease:
                self._own = None
        return make(self.own_lease())

    def attach(self, lease: str, holder: Holder | None = None, *, path: str = "") -> Lease:
        """Holds a lease that another process of this user was granted, by its id.

        Args:
            lease: Its id.
            holder: By default this process.
            path: Its directory, if it is known, as from TMPDIR under `scratch run`. Without it the broker makes all areas.

        Returns:
            A guard whose end takes this holder away, and ends the lease only where it was the last one.

        Raises:
            Refused: LEASE_UNKNOWN where there is none.
        """
        number = block(_tenure.attach(self._road, lease, holder or Holder.process()))
        return Lease(self._road, Tenure(lease, path, holders=(number,)), ends_by=number)

    def detach(self, lease: str, holder: int) -> None:
        """As Lease.detach, by the lease's id."""
        block(_tenure.detach(self._road, lease, holder))

    def renew(self, lease: str) -> float:
        """As Lease.renew, by the lease's id."""
        return block(_tenure.renew(self._road, lease))

    def revoke(self, lease: str, wait: bool = False) -> bool:
        """As Lease.revoke, by the lease's id."""
        return block(_tenure.revoke(self._road, lease, wait))

    def delegate(self, *, size: int = 0, inodes: int = 0) -> int:
        """As Lease.delegate, below `own_lease()`."""
        return self.own_lease().delegate(size=size, inodes=inodes)

    def leases(self) -> "list[LeaseInfo]":
        """This user's leases; everybody's for root and the admin group. Needs grpcio (`pip install scratchd[grpc]`)."""
        from scratchd.watch import leases

        return leases(self._road)

    def get(self, lease: str) -> "LeaseInfo":
        """One lease, why it is there, and for a while after its end why it went. Needs grpcio.

        Raises:
            Refused: LEASE_UNKNOWN where there is none.
        """
        from scratchd.watch import get

        return get(self._road, lease)

    def watch(self, *, since: str = "", lease: str = "", held: bool = False) -> "Watch":
        """Tells what happens to leases, as it happens: `for event in client.watch():`. Needs grpcio.

        Args:
            since: Go on after this revision, which an event had. By default from now on.
            lease: Only of this one, and restarts.
            held: Without `since`: first all that the broker still knows to have happened.
        """
        from scratchd.watch import Watch

        return Watch(self._road, since=since, lease=lease, held=held)

    def close(self) -> None:
        """Ends the connection, and the leases that it holds. A later call makes another one."""
        with self._road.lock:
            own, self._own = self._own, None
        try:
            if own is not None and own[0] == os.getpid() and own[1].id:
                with contextlib.suppress(Refused):
                    own[1].revoke()
        finally:
            self._road.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


_default: Client | None = None
_default_lock = threading.Lock()


def default() -> Client:
    """The client that the short forms share."""
    global _default
    with _default_lock:
        if _default is None:
            _default = Client()
        return _default


def _after_fork() -> None:
    # They may be held by threads that are not here.
    global _default_lock
    _default_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
