"""A SeaweedFS server for the whole test session, one per xdist worker, and a bucket of its own for every test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from divbase_gateway.local.seaweedfs import S3Endpoint, SeaweedServer


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    """Endpoint and keys of a real S3 server on loopback. Use buckets of your own: tests share it."""
    server = SeaweedServer(tmp_path_factory.mktemp("seaweed"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def bucket_name() -> str:
    """A bucket name that no other test uses."""
    return f"test-{secrets.token_hex(8)}"
