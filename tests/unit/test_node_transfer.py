"""The node helper's small parts of moving bytes: spans, slices, checksums, patience, redaction, proxies."""

from __future__ import annotations

import base64
import hashlib
import io
import urllib.parse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from divbase_jobscripts import node
from hypothesis import given
from hypothesis import strategies as st


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def upload(data: bytes, part_size: int) -> Any:
    desk = node.GatewayDesk({"gateway": "http://127.0.0.1:1", "attempt": "k3v9.1", "token": "t"}, 1)
    job = SimpleNamespace(manifest={"part_size": part_size}, desk=desk)
    made = node.Upload(job, "x", "result", io.BytesIO(data))
    made.measure()
    return made


@given(st.integers(0, 10 * node.RANGE_BYTES))
def test_spans_cover_a_file_once(size: int) -> None:
    """The ranges of a file follow each other without gap or overlap, none larger than a range may be."""
    spans = node.whole(SimpleNamespace(size=size))
    edges = [0, *(span.start + span.length for span in spans)]
    assert [span.start for span in spans] == edges[:-1]
    assert edges[-1] == size
    assert all(0 < span.length <= node.RANGE_BYTES and span.at == span.start for span in spans)


@given(st.binary(max_size=50), st.integers(1, 60))
def test_measure(data: bytes, part_size: int) -> None:
    """One reading gives the size, the SHA-256 of all and the MD5 of every part; an empty file is one empty part."""
    made = upload(data, part_size)
    parts = [data[start : start + part_size] for start in range(0, len(data), part_size)] or [b""]
    assert (made.size, made.output["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert made.md5s == [md5(part) for part in parts]


def test_slice(tmp_path: Path) -> None:
    """A part's body is its bytes and no more, whatever the size of the reads."""
    (tmp_path / "x").write_bytes(b"0123456789")
    with (tmp_path / "x").open("rb") as file:
        part = node.Slice(file, 2, 5)
        assert [part.read(3), part.read(3), part.read(3), node.Slice(file, 8, 2).read()] == [b"234", b"56", b"", b"89"]


def test_patience_ends() -> None:
    """Trouble that lasts is given up, with the last trouble's words."""
    patience = node.Patience(0)
    with pytest.raises(node.GaveUp, match="still away"):
        patience.endure("still away")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "GET https://s3.example.org/b/k?X-Amz-Signature=abc&x=1 failed",
            "GET https://s3.example.org/b/k?[hidden] failed",
        ),
        ("/b/k?X-Amz-Credential=abc", "/b/k?[hidden]"),
        ("nothing to hide?", "nothing to hide?"),
    ],
)
def test_redact(text: str, shown: str) -> None:
    """The query of a URL holds its signature and is never printed."""
    assert node.redact(text) == shown


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "https://s3.example.org/x", None),
        ({"https_proxy": "http://proxy.example.org:3128"}, "https://s3.example.org/x", ("proxy.example.org", 3128)),
        ({"https_proxy": "proxy.example.org:3128"}, "https://s3.example.org/x", ("proxy.example.org", 3128)),
        ({"https_proxy": "http://proxy.example.org:3128"}, "http://s3.example.org/x", None),
        (
            {"https_proxy": "http://proxy.example.org:3128", "no_proxy": ".example.org"},
            "https://s3.example.org/x",
            None,
        ),
    ],
)
def test_proxy(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, proxy: tuple[str, int] | None
) -> None:
    """The variables that clusters set for their nodes are followed."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert node.proxy_for(urllib.parse.urlsplit(url)) == proxy


def test_failure_is_recorded_once(tmp_path: Path) -> None:
    """The first failure is the cause; a later one does not hide it, and both are without secrets."""
    job = node.Job.__new__(node.Job)
    job.scratch = str(tmp_path)
    job.state = node.State(str(tmp_path))
    job.record_failure("input_missing", "https://s3.example.org/k?X-Amz-Signature=abc is gone")
    job.record_failure("internal_error", "another")
    kept = node.State(str(tmp_path))["failure"]
    assert kept == {"reason": "input_missing", "message": "https://s3.example.org/k?[hidden] is gone"}
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600
