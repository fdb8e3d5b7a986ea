"""The examples do what they say."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import Broker, eventually

from scratchd import client

_EXAMPLES = Path(__file__).parents[1] / "examples"


def _load(name: str, target: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, _EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules.get(name) or importlib.util.module_from_spec(spec)
    if name not in sys.modules:
        # Django looks it up by its name.
        sys.modules[name] = module
        spec.loader.exec_module(module)
    monkeypatch.setattr(module, "KEPT_IN", str(target))
    monkeypatch.setattr(module, "MEMORY_MAX", 1000)
    monkeypatch.setattr(module, "SIZE_MAX", 1 << 20)
    return module


def _in_lease() -> list[str]:
    return os.listdir(client.default().own_lease().path)


@pytest.mark.parametrize("size", [10, 500_000])
def test_django_keeps_uploads(broker: Broker, target: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    pytest.importorskip("django")
    _load("django_upload", target, monkeypatch)
    from django.core.files.uploadedfile import SimpleUploadedFile
    from django.test import Client

    response = Client().post("/upload", {"file": SimpleUploadedFile("../x/name.bin", b"x" * size)})
    assert (response.status_code, response.json()) == (201, {"kept": str(target / "name.bin"), "size": size})
    assert (target / "name.bin").read_bytes() == b"x" * size
    eventually(lambda: _in_lease() == [])


def test_django_refuses_what_is_too_large(broker: Broker, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("django")
    _load("django_upload", target, monkeypatch)
    from django.core.files.uploadedfile import SimpleUploadedFile
    from django.test import Client

    response = Client().post("/upload", {"file": SimpleUploadedFile("name.bin", b"x" * (2 << 20))})
    assert response.status_code == 413
    assert os.listdir(target) == []
    eventually(lambda: _in_lease() == [])


@pytest.mark.parametrize("size", [10, 500_000])
def test_starlette_keeps_uploads(broker: Broker, target: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    testclient = pytest.importorskip("starlette.testclient")
    example = _load("starlette_upload", target, monkeypatch)
    response = testclient.TestClient(example.app).put("/name.bin", content=b"x" * size)
    assert (response.status_code, response.json()) == (201, {"kept": str(target / "name.bin"), "size": size})
    assert (target / "name.bin").read_bytes() == b"x" * size
    eventually(lambda: _in_lease() == [])


def test_starlette_refuses_what_is_too_large(broker: Broker, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    testclient = pytest.importorskip("starlette.testclient")
    example = _load("starlette_upload", target, monkeypatch)
    chunks = (b"x" * 100_000 for _ in range(50))
    assert testclient.TestClient(example.app).put("/name.bin", content=chunks).status_code == 413
    assert os.listdir(target) == []
    eventually(lambda: _in_lease() == [])
