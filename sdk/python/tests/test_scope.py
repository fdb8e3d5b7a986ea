"""Scopes, and files with secrets."""

import os
import stat
from pathlib import Path

import pytest
from conftest import Broker

import scratchd
from scratchd import Client, Scope


def test_all_of_a_scope_goes_at_its_end(client: Client, broker: Broker) -> None:
    with Scope(client, prefix="app_") as scope:
        with scope.temp_file(suffix=".json") as file:
            file.write(b"{}")
            assert os.path.basename(file.path).startswith("app_")
        assert not os.path.exists(file.path)
        with scope.temp_directory() as directory:
            Path(directory, "file").write_text("x")
        assert not os.path.exists(directory)
        paths = [scope.create_temp_file(".dat"), scope.create_temp_dir(), scope.secure_temp_write(b"x")]
        with scope.temp_file(delete=False) as file, scope.temp_directory(delete=False) as directory:
            paths += [file.path, directory]
        assert all(os.path.exists(path) for path in paths)
        lease = scope.lease.id
    assert not any(os.path.exists(path) for path in paths)
    assert lease not in broker.leases()


def test_a_scope_that_was_cleaned_up_begins_anew(client: Client) -> None:
    scope = Scope(client)
    scope.cleanup_all()
    first = scope.create_temp_file()
    scope.cleanup_all()
    assert not os.path.exists(first)
    second = scope.create_temp_file()
    assert os.path.exists(second)
    scope.cleanup_all()


def test_failed_work_loses_what_it_made(client: Client) -> None:
    scope = Scope(client)
    with pytest.raises(KeyError), scope.temp_file(delete=False) as file:
        raise KeyError
    with pytest.raises(KeyError), scope.temp_directory(delete=False) as directory:
        raise KeyError
    assert not os.path.exists(file.path)
    assert not os.path.exists(directory)
    scope.cleanup_all()


def test_failed_work_may_be_left_to_be_looked_at(client: Client) -> None:
    with pytest.raises(KeyError) as failed, Scope(client, cleanup_on_error=False) as scope:
        lease = scope.lease
        with scope.temp_file() as file:
            raise KeyError
    assert os.path.exists(file.path)
    assert lease.path in failed.value.__notes__[-1]
    lease.revoke()


def test_a_scope_below_a_lease_ends_with_it(client: Client) -> None:
    with client.lease() as lease:
        scope = Scope(client, parent=lease, labels={"a": "b"})
        path = scope.create_temp_dir()
    assert not os.path.exists(path)
    scope.cleanup_all()


def test_secrets_are_for_this_user_alone(broker: Broker) -> None:
    before = os.umask(0)
    try:
        path = scratchd.secure_temp_write(b"secret", suffix=".key")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert path.endswith(".key")
    assert Path(path).read_bytes() == b"secret"
    os.unlink(path)
    with pytest.raises(TypeError):
        scratchd.secure_temp_write("text")  # type: ignore[arg-type]
    assert os.listdir(os.path.dirname(path)) == []
