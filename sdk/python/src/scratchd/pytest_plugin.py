"""A pytest plugin: tmp_path and tmp_path_factory are on a lease of the run, and gone when the run is, however it dies.

It is there where scratchd is installed; `-p no:scratchd` does without it. The lease is granted when a test first asks for a
temporary directory. With `--basetemp`, or without pytest's own tmpdir plugin, this one steps aside.

Of a run with failures all but the directories of tests that passed is kept: moved to where pytest itself would have made it,
`pytest-of-<user>/pytest-<number>` in the temporary directory, of which pytest keeps as many as `tmp_path_retention_count`
says. The summary names it. The ini option `scratchd_keep` is `failed` (this), `all` or `none`; pytest's
`tmp_path_retention_policy` goes on to say what it removes while tests run. Nothing is kept of a run that is killed.

Under pytest-xdist the lease is the controller's, and its workers make theirs below.

Where there is no broker tests that ask for a temporary directory fail, and say so; with SCRATCHD_FALLBACK=local they have
pytest's own.
"""

import contextlib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from scratchd._lease import Lease
    from scratchd.client import Client

_KEEP = ("failed", "all", "none")
_RUN = "scratchd-run"
# On a test's report, also on its way from a worker to the controller.
_TMP_PATH = "scratchd_tmp_path"


def pytest_addoption(parser: pytest.Parser) -> None:
    """See pytest."""
    text = f"what of the temporary directories is kept when the run is over: {', '.join(_KEEP)}"
    parser.addini("scratchd_keep", help=text, default=_KEEP[0])


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """See pytest; after its own plugin's."""
    keep = config.getini("scratchd_keep")
    if keep not in _KEEP:
        raise pytest.UsageError(f"scratchd_keep is one of {', '.join(_KEEP)}, not {keep!r}")
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is not None and not config.getoption("basetemp", None):
        config.pluginmanager.register(Run(factory, keep), _RUN)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Notes which directory a test has."""
    outcome = yield
    path = (getattr(item, "funcargs", None) or {}).get("tmp_path")
    if path is not None:
        setattr(outcome.get_result(), _TMP_PATH, str(path))


class Run:
    """The lease of a run, and what becomes of it."""

    def __init__(self, factory: Any, keep: str) -> None:
        self._factory = factory
        self._usual = factory.getbasetemp
        self._keep = keep
        self._client: Client | None = None
        self._lease: Lease | None = None
        self._base: Path | None = None
        self._passed: dict[str, bool] = {}
        self._has_failed = False
        self._kept: Path | None = None
        # Of the instance, so that other plugins find it where they look, and pytest's own directory is made by pytest.
        factory.getbasetemp = self.getbasetemp

    def getbasetemp(self) -> Path:
        """In the place of pytest's."""
        if self._base is None:
            self._base = self._grant() or self._usual()
        return self._base

    def _grant(self) -> Path | None:
        # Not imported by runs that have no use for it.
        from scratchd._connect import runtime_directory
        from scratchd.client import Client
        from scratchd.errors import NoBroker

        # A test may set the variable that says where the broker is; on a delegated channel there is no path.
        self._client = Client(None if os.environ.get("SCRATCHD_CHANNEL") else runtime_directory())
        try:
            lease = self._client.lease(labels={"program": "pytest"})
        except NoBroker as error:
            if os.environ.get("SCRATCHD_FALLBACK") != "local":
                raise
            warnings.warn(f"tmp_path has no lease: {error}", RuntimeWarning, stacklevel=3)
            return None
        self._lease = lease
        return Path(lease.path).resolve() if lease.has_path else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See pytest."""
        self._has_failed |= report.failed
        path = getattr(report, _TMP_PATH, None)
        if path is not None:
            self._passed[path] = self._passed.get(path, True) and not report.failed

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """When all fixtures are done with their directories."""
        is_kept = self._keep == "all" or (self._keep == "failed" and (self._has_failed or int(exitstatus) not in (0, 5)))
        if self._lease is None or self._base is None or not self._lease.has_path or not is_kept:
            return
        try:
            self._move(self._lease, self._base)
        except OSError as error:
            warnings.warn(f"the temporary directories of failed tests are not kept: {error}", RuntimeWarning, stacklevel=1)

    def _move(self, lease: "Lease", base: Path) -> None:
        """Out of the lease, to where pytest would have had it."""
        for path, passed in self._passed.items():
            if passed and self._keep != "all" and base in Path(path).parents:
                lease.release(os.path.relpath(path, base))
        # Links are the ones to the newest directory of a name.
        left = [entry.name for entry in os.scandir(base) if not entry.is_symlink()]
        if not left:
            return
        kept: Path = self._usual()
        for name in left:
            lease.persist(name, kept / name)
        self._kept = kept

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """See pytest."""
        if self._kept is not None:
            terminalreporter.write_line(f"scratchd: {self._base} is kept as {self._kept}")

    def pytest_unconfigure(self) -> None:
        """The end of the lease."""
        self._factory.getbasetemp = self._usual
        # Where that fails it ends with this process.
        with contextlib.suppress(OSError), self._lease or contextlib.nullcontext():
            pass
        if self._client is not None:
            self._client.close()
