"""Uploads that are kept in memory while they are small."""

import io
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from conftest import Broker

from scratchd import Client, SpooledUpload, UploadTooLarge


def test_small_uploads_stay_in_memory(broker: Broker) -> None:
    with SpooledUpload(max_memory=10).buffer_stream([b"0123", b"456789"]) as upload:
        assert upload.is_in_memory
        assert upload.read() == b"0123456789"
        assert upload.size == 10
    assert upload.closed


def test_larger_ones_go_to_a_lease(client: Client) -> None:
    with client.lease() as lease:
        with SpooledUpload(lease, max_memory=10, suffix=".bin") as upload:
            upload.write(b"0123456789")
            upload.seek(5)
            upload.write(b"abcdefgh")
            assert not upload.is_in_memory
            assert upload.tell() == 13
            upload.seek(0)
            assert upload.read(5) == b"01234"
            buffer = bytearray(20)
            assert upload.readinto(buffer) == 8
            (name,) = os.listdir(lease.path)
            assert name.endswith(".bin")
            assert os.fstat(upload.fileno()).st_size == upload.size == 13
            assert upload.truncate(2) == 2
        assert os.listdir(lease.path) == []


def test_what_would_be_too_much_is_not_written(client: Client) -> None:
    with client.lease() as lease:
        upload = SpooledUpload(lease, max_memory=4, max_size=8)
        upload.write(b"01234567")
        with pytest.raises(UploadTooLarge):
            upload.write(b"8")
        with pytest.raises(UploadTooLarge):
            upload.truncate(9)
        assert upload.size == 8
        upload.close()
        taken: list[bytes] = []

        def stream() -> "object":
            for chunk in (b"01234", b"56789", b"never asked for"):
                taken.append(chunk)
                yield chunk

        upload = SpooledUpload(lease, max_memory=4, max_size=8)
        with pytest.raises(UploadTooLarge, match="8 bytes"):
            upload.buffer_stream(stream())  # type: ignore[arg-type]
        assert upload.closed
        assert len(taken) == 2
        assert os.listdir(lease.path) == []


@pytest.mark.parametrize("size", [3, 3000])
def test_an_upload_is_persisted_from_wherever_it_is(broker: Broker, target: Path, size: int) -> None:
    with SpooledUpload(max_memory=100) as upload:
        upload.write(b"x" * size)
        assert upload.persist(target / "kept") == str(target / "kept")
        upload.seek(0)
        assert len(upload.read()) == size
    assert (target / "kept").stat().st_size == size


def test_it_is_a_file_object_to_others(broker: Broker) -> None:
    with SpooledUpload(max_memory=100) as upload:
        with zipfile.ZipFile(upload, "w") as archive:
            archive.writestr("a", "b" * 1000)
        upload.seek(0)
        assert zipfile.ZipFile(upload).read("a") == b"b" * 1000
        upload.seek(0)
        copy = io.BytesIO()
        shutil.copyfileobj(upload, copy)
        upload.seek(0)
        assert copy.getvalue() == b"".join(upload.readlines())
        assert upload.readable() and upload.writable() and upload.seekable()
        upload.flush()
        upload.rollover()
        assert not upload.is_in_memory


def test_a_forgotten_upload_is_gone(client: Client) -> None:
    with client.lease() as lease:
        upload = SpooledUpload(lease, max_memory=0)
        upload.write(b"x")
        del upload
        client.ping()
        assert os.listdir(lease.path) == []
