"""A broker of the tests' own. It removes trees as root: these tests run only where nothing else can be written."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import scratchd
from scratchd import Client

pytest_plugins = ["pytester"]

_WAIT_SECONDS_MAX = 60.0


def pytest_configure() -> None:
    if not os.statvfs("/").f_flag & os.ST_RDONLY:
        pytest.exit("these tests run contained, where / is read-only", returncode=77)


class Broker:
    """A process of scratchd, its pool and its runtime directory."""

    def __init__(self, root: Path) -> None:
        root.chmod(0o755)
        self.pool = root / "pool"
        self.runtime = root / "run"
        self._log = root / "log"
        for directory in (self.pool, self.runtime):
            directory.mkdir(mode=0o755)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        program = os.path.join(os.environ.get("SCRATCH_BINARIES", ""), "scratchd")
        command = [program, "--pool", str(self.pool), "--runtime-dir", str(self.runtime)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "ready" in line:
                return
        raise AssertionError(self._log.read_text())

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.communicate()

    def leases(self) -> set[str]:
        """By their directories."""
        return {entry.name for entry in self.pool.iterdir() if not entry.name.startswith(".")}


def eventually(holds: Callable[[], object]) -> None:
    """Waits for a state."""
    deadline = time.monotonic() + _WAIT_SECONDS_MAX
    while not holds():
        assert time.monotonic() < deadline, "that never came about"
        time.sleep(0.01)


def run_python(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, to its end."""
    environment = {**os.environ, **variables}
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


@pytest.fixture(scope="session")
def session_broker() -> Iterator[Broker]:
    root = Path("/tmp/scratchd-tests")
    root.mkdir(mode=0o755)
    broker = Broker(root)
    broker.start()
    yield broker
    broker.stop()
    shutil.rmtree(root)


@pytest.fixture
def broker(session_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setenv("SCRATCHD_RUNTIME_DIR", str(session_broker.runtime))
    return session_broker


@pytest.fixture(params=["auto", "broker"])
def client(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Client]:
    with scratchd.connect(create=request.param) as client:
        yield client


@pytest.fixture
def target() -> Iterator[Path]:
    """A directory outside of any lease, on another file system than the pool's if there is one."""
    path = Path("/var/tmp/scratchd-target")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def near(broker: Broker) -> Iterator[Path]:
    """A directory outside of any lease, on the pool's file system."""
    path = broker.pool.parent / "near"
    path.mkdir()
    yield path
    shutil.rmtree(path)
