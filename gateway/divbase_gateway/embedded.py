"""DivBase on one machine: S3 server, SQLite, local scheduler and API in one folder, started and stopped together.

What the settings leave at their defaults is filled in here; what the operator has set stays as it is.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from divbase_gateway.bootstrap import Gateway, build
from divbase_gateway.clock import SystemClock
from divbase_gateway.db import revision
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import Conflict
from divbase_gateway.local.seaweedfs import S3Endpoint, SeaweedServer
from divbase_gateway.services import keys, users
from divbase_gateway.settings import LoadedSettings, Settings, Source

ADMIN_EMAIL = "admin@localhost"


@dataclass(frozen=True)
class EmbeddedStack:
    """A stack that is up but does not serve yet.

    Attributes:
        listener: the socket that the API is to be served on.
        admin_key: the file with the first admin's API key, mode 0600.
    """

    gateway: Gateway
    listener: socket.socket
    admin_key: Path


@contextmanager
def bring_up(loaded: LoadedSettings, folder: Path) -> Iterator[EmbeddedStack]:
    """Start everything in `folder`, or take over where the last start left it; stop everything at the end.

    Raises:
        Conflict: another stack runs in this folder, or the port is taken.
        StoreUnavailable: the S3 server did not come up; the message says why.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    server_settings = loaded.settings.server
    with _sole_user_of(folder), _listening(server_settings.host, server_settings.port, folder) as listener:
        s3 = SeaweedServer(folder / "s3")
        endpoint = s3.start()
        try:
            settings = embedded_settings(loaded, folder, endpoint, listener.getsockname()[1])
            _bring_up_to_date(settings.database.url)
            admin_key = folder / "admin.key"
            _ensure_admin(settings, admin_key)
            gateway = build(settings)
            gateway.start()
            try:
                yield EmbeddedStack(gateway, listener, admin_key)
            finally:
                gateway.stop(end_jobs=True)
        finally:
            s3.stop()


def embedded_settings(loaded: LoadedSettings, folder: Path, endpoint: S3Endpoint, port: int) -> Settings:
    """The settings of a stack in `folder`: the operator's where there are any, else the embedded defaults."""
    defaults: dict[str, dict[str, object]] = {
        "database": {"url": f"sqlite:///{folder / 'divbase.sqlite3'}"},
        "s3": {
            "endpoint": endpoint.endpoint_url,
            "access_key": endpoint.access_key,
            "secret_key": endpoint.secret_key,
        },
        "scheduler": {"folder": folder / "jobs", "slots": max(2, os.cpu_count() or 2)},
        "server": {"log_format": "console"},
    }
    untouched = {line.name for line in loaded.lines() if line.source is Source.DEFAULT}
    tree = loaded.settings.model_dump()
    for group, values in defaults.items():
        tree[group] |= {name: value for name, value in values.items() if f"{group}.{name}" in untouched}
    tree["server"]["port"] = port
    return Settings.model_validate(tree)


def _bring_up_to_date(url: str) -> None:
    if revision.current(url) != revision.head():
        from divbase_gateway.db import migrate

        migrate.upgrade(url)


def _ensure_admin(settings: Settings, key_file: Path) -> None:
    """On the first start make an admin and keep the key in a file that only its owner can read."""
    database = Database(settings.database.url, pool_size=1)
    try:
        with database.write() as session:
            if users.first_admin(session) is not None:
                return
            now = SystemClock().now()
            admin = users.create_user(session, ADMIN_EMAIL, "Administrator", is_admin=True, now=now)
            created = keys.create_key(session, admin, "first key", None, now, settings.limits.keys_per_user)
            # Written before the commit: a key that nobody has seen must not be the only one.
            _write_secret(key_file, str(created.text))
    finally:
        database.close()


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{text}\n")


@contextmanager
def _sole_user_of(folder: Path) -> Iterator[None]:
    with (folder / "pid").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"Another DivBase runs in {folder}.", hint="Stop that one (Ctrl-C), or choose another --folder."
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


@contextmanager
def _listening(host: str, port: int, folder: Path) -> Iterator[socket.socket]:
    """A socket on `port`. Port 0 takes a free one and keeps it for this folder: jobs that outlive a crash know it."""
    remembered = folder / "port"
    if port == 0 and remembered.is_file():
        port = int(remembered.read_text())
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol said, asyncio sends answers at once; without, each waits 40 ms for the reader's delayed ACK.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise Conflict(
                f"DivBase cannot listen on {host} port {port}: {error.strerror}.",
                hint="Stop what listens there, or choose another --port.",
            ) from error
        remembered.write_text(f"{listener.getsockname()[1]}\n")
        yield listener
