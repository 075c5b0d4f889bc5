"""A project, somebody who edits it and the bytes they upload: what tests of files, uploads and metadata start from.

It speaks to the API as a client does and sends bytes through the presigned requests that it is given.
"""

from __future__ import annotations

import hashlib
import threading
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

import httpx
from botocore.exceptions import ClientError
from divbase_gateway.db.models import FileRow, FileVersionRow, JobRow, ProjectRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import DivBaseError, StoreUnavailable
from divbase_gateway.domain.projects import Role
from divbase_gateway.local.seaweedfs import S3Endpoint
from divbase_gateway.ports import ObjectStore, PresignedRequest
from divbase_gateway.s3.errors import translate
from divbase_gateway.s3.store import S3Store
from divbase_gateway.settings import FileSettings, Settings
from httpx import Response
from sqlalchemy import select

from tests.api import Api, Caller, build_api
from tests.fakes.clock import FakeClock
from tests.fakes.object_store import FakeObjectStore
from tests.fakes.scheduler import FakeScheduler

MIB = 1024 * 1024
PART_SIZE = 5 * MIB
SITE = Settings(files=FileSettings(part_size_mib=5))

Send = Callable[[dict[str, Any], bytes], int]


def send_over_http(request: dict[str, Any], body: bytes) -> int:
    """Make a presigned PUT as a laptop does, and return the status."""
    answer = _laptop().request(request["method"], request["url"], headers=request["headers"], content=body)
    return answer.status_code


@cache
def _laptop() -> httpx.Client:
    """One for all: to make a client takes longer than to send a small file with it. It keeps no connection, as servers
    come and go."""
    return httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


def send_in_memory(store: FakeObjectStore) -> Send:
    """The same for the store in memory, which has no address."""

    def send(request: dict[str, Any], body: bytes) -> int:
        expires_at = datetime.fromisoformat(request["expires_at"])
        presigned = PresignedRequest(request["method"], request["url"], request["headers"], expires_at)
        return store.send(presigned, request["headers"], body).status

    return send


@dataclass
class FaultyStore:
    """A store that can be away: `away` names the methods that fail, `calls` has what was called.

    `refusals`: bucket -> S3's code for every request about it.
    """

    inner: ObjectStore
    away: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if name in self.away:
                raise StoreUnavailable(f"The object store does not answer ({name}).", hint="Ask again later.")
            if args and args[0] in self.refusals:
                raise refusal(self.refusals[args[0]], f"{name} in bucket {args[0]!r}")
            self.before.get(name, lambda: None)()
            return method(*args, **kwargs)

        return call


def refusal(code: str, what: str) -> DivBaseError:
    """What the gateway makes of S3's word."""
    return translate(ClientError({"Error": {"Code": code}}, what), what, "http://s3.test")


@dataclass
class Lab:
    """`editor` has the role EDIT in `project`."""

    api: Api
    store: FaultyStore
    project: ProjectRow
    editor: Caller
    send: Send

    @property
    def path(self) -> str:
        return f"/projects/{self.project.name}"

    def begin(self, key: str, data: bytes, once: str | None = None) -> Response:
        sha256 = hashlib.sha256(data).hexdigest()
        return self.editor.post(f"{self.path}/uploads", {"key": key, "size": len(data), "sha256": sha256}, once)

    def send_parts(self, upload: dict[str, Any], data: bytes, numbers: Sequence[int] | None = None) -> None:
        """Send parts of an upload that was begun, all of them or those of `numbers`."""
        pieces = pieces_of(upload, data)
        wanted = [number for number in range(1, len(pieces) + 1) if numbers is None or number in numbers]
        body = {"parts": [{"number": number, "md5": base64_md5(pieces[number - 1])} for number in wanted]}
        answer = self.editor.post(f"{self.path}/uploads/{upload['id']}/urls", body)
        assert answer.status_code == 200, answer.text
        for url in answer.json()["urls"]:
            assert self.send(url["request"], pieces[url["number"] - 1]) == 200

    def complete(self, upload: dict[str, Any], data: bytes) -> Response:
        body = {"parts": stated_parts(upload, data)}
        return self.editor.post(f"{self.path}/uploads/{upload['id']}/complete", body)

    def upload(self, key: str, data: bytes) -> dict[str, Any]:
        """The whole way of a file into the project."""
        begun = self.begin(key, data)
        assert begun.status_code == 201, begun.text
        self.send_parts(begun.json(), data)
        answer = self.complete(begun.json(), data)
        assert answer.status_code == 200, answer.text
        file: dict[str, Any] = answer.json()
        return file

    def upload_file(self, path: Path, key: str | None = None) -> dict[str, Any]:
        return self.upload(key or path.name, path.read_bytes())

    def files(self, **params: Any) -> list[dict[str, Any]]:
        answer = self.editor.get(f"{self.path}/files", **params)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    def info(self, key: str) -> dict[str, Any]:
        answer = self.editor.get(f"{self.path}/files/info", key=key)
        assert answer.status_code == 200, answer.text
        detail: dict[str, Any] = answer.json()
        return detail

    def delete(self, key: str) -> Response:
        return self.editor.request("DELETE", f"{self.path}/files", params={"key": key})

    def refresh(self) -> list[dict[str, Any]]:
        answer = self.editor.post(f"{self.path}/files/refresh")
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    def index_jobs(self) -> list[str]:
        """Names of the jobs that were accepted, oldest first."""
        with self.api.gateway.sessions.read() as session:
            return list(session.scalars(select(JobRow.name).where(JobRow.kind == "index").order_by(JobRow.id)))

    def count_versions(self, key: str) -> int:
        with self.api.gateway.sessions.read() as session:
            query = select(FileVersionRow.id).join(FileRow, FileRow.id == FileVersionRow.file_id)
            return len(session.scalars(query.where(FileRow.key == key)).all())

    def objects(self, key: str) -> list[str]:
        """Version ids that the bucket has of a key, delete markers aside, newest first."""
        versions = self.store.inner.list_versions(self.project.bucket, key)
        return [version.version_id for version in versions if version.key == key and not version.deleted]


def lab_in_memory(database: Database, settings: Settings = SITE) -> Lab:
    """A lab with an empty project on the store in memory."""
    store = FakeObjectStore()
    return build_lab(database, store, send_in_memory(store), "birch", settings)


def lab_on_s3(database: Database, endpoint: S3Endpoint, name: str) -> Lab:
    """A lab on a real S3 server; `name` has to be new to the server."""
    store = S3Store(endpoint.endpoint_url, access_key=endpoint.access_key, secret_key=endpoint.secret_key)
    return build_lab(database, store, send_over_http, name)


def build_lab(database: Database, store: ObjectStore, send: Send, name: str, settings: Settings = SITE) -> Lab:
    faulty = FaultyStore(store)
    clock = FakeClock()
    api = build_api(database, cast("ObjectStore", faulty), FakeScheduler(clock), clock, settings)
    project = api.add_project(name)
    editor = api.add_caller("edda@example.org")
    api.add_member(project, editor.user, Role.EDIT)
    return Lab(api, faulty, project, editor, send)


def pieces_of(upload: dict[str, Any], data: bytes) -> list[bytes]:
    size = upload["part_size"] or len(data) or 1
    return [data[start : start + size] for start in range(0, len(data), size)] or [b""]


def stated_parts(upload: dict[str, Any], data: bytes) -> list[dict[str, Any]]:
    return [
        {"number": number, "etag": hashlib.md5(piece, usedforsecurity=False).hexdigest(), "size": len(piece)}
        for number, piece in enumerate(pieces_of(upload, data), start=1)
    ]


def base64_md5(data: bytes) -> str:
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def together(*calls: Callable[[], Response]) -> list[Response]:
    """Make these calls at the same time and return their answers in order."""
    answers: dict[int, Response] = {}
    start = threading.Barrier(len(calls))

    def run(number: int, call: Callable[[], Response]) -> None:
        start.wait()
        answers[number] = call()

    threads = [threading.Thread(target=run, args=(number, call)) for number, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[number] for number in range(len(calls))]
