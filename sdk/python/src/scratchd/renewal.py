"""When a lease's ttl is renewed again, and a thread that does so."""

import os
import threading
from types import TracebackType
from typing import Self

from scratchd import _tenure
from scratchd._road import Blocking, block
from scratchd._wire import Malformed
from scratchd.errors import ForeignBroker, Refused

# However short a ttl is.
_AFTER_MIN = 0.1
# However long it is: a broker that was away hears soon of who still needs the lease.
_AGAIN_MAX = 1.0
# Too much of something, a deadline, a file system's trouble, a broker that stops: google.rpc.Code.
_PASSING = (4, 8, 13, 14)


class Course:
    """The course of renewing one lease."""

    def __init__(self) -> None:
        self._ttl = 0.0

    def renewed(self, ttl: float) -> float:
        """In how many seconds the next renewal is due."""
        self._ttl = ttl
        return max(ttl / 3, _AFTER_MIN)

    def failed(self, error: Exception) -> float | None:
        """The same after a failure; never, where only the broker could say that there is nothing to renew and has said so."""
        if isinstance(error, ForeignBroker | Malformed) or (isinstance(error, Refused) and error.code not in _PASSING):
            return None
        return min(max(self._ttl / 3, _AFTER_MIN), _AGAIN_MAX)


class Renewal:
    """A daemon thread that renews a lease, until `stop()` or the end of a `with`.

    It has a connection of its own. A broker that was restarted is connected to anew, and one that is away is looked for. A
    forked child has no such thread.
    """

    def __init__(self, road: Blocking, lease: str) -> None:
        self._road = road.another()
        self._is_own = self._road is not road
        self._lease = lease
        self._stop = threading.Event()
        self._last_error: Exception | None = None
        self._is_over = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="scratchd-renewal", daemon=True)
        self._thread.start()

    @property
    def last_error(self) -> Exception | None:
        """Why the last renewal failed; None where it did not."""
        return self._last_error

    @property
    def is_over(self) -> bool:
        """Whether it has ended by itself as there is nothing to renew any more: `last_error` says why, as in LEASE_UNKNOWN."""
        return self._is_over or self._process != os.getpid()

    def stop(self) -> None:
        """Has it end, and does not wait for that."""
        if self._process == os.getpid():
            self._stop.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _run(self) -> None:
        course = Course()
        while not self._stop.is_set():
            try:
                after: float | None = course.renewed(block(_tenure.renew(self._road, self._lease)))
                self._last_error = None
            except Exception as error:
                self._last_error = error
                after = course.failed(error)
            if after is None:
                self._is_over = True
                break
            self._stop.wait(after)
        if self._is_own:
            self._road.close()
