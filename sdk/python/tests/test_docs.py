"""The examples of the documentation run as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Broker

_PAGE = Path(__file__).parents[1] / "docs" / "leases.md"
_EXAMPLE = re.compile(r"(<!-- needs grpcio -->\n)?```python\n(.*?)^```", re.M | re.S)
_EXAMPLES = [pytest.param(*found) for found in _EXAMPLE.findall(_PAGE.read_text())]


def test_all_examples_are_found() -> None:
    assert len(_EXAMPLES) == _PAGE.read_text().count("```python") >= 10


@pytest.mark.parametrize(("needs", "code"), _EXAMPLES)
def test_an_example(broker: Broker, target: Path, monkeypatch: pytest.MonkeyPatch, needs: str, code: str) -> None:
    if needs:
        pytest.importorskip("grpc")
    monkeypatch.setenv("HOME", str(target))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=target)
    assert (done.returncode, done.stderr) == (0, "")
