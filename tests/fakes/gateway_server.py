"""A small gateway and S3 in one process, over real HTTP on loopback, for tests of the client and the command line.

It keeps everything in memory, answers only what those tests ask, and can be told to misbehave; it checks no roles.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

KEY = "dvb_testtest.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
NOW = "2024-05-01T10:00:00Z"


@dataclass
class Fault:
    """Done to the next `times` requests whose "METHOD path" contains `match`.

    `action`: drop (close without an answer), cut (half of the body, then close), wrong (other bytes, as many),
    slow (pause of `seconds`, then the answer), or a status: with `retry_after` where given, `code` in an S3 body.
    """

    match: str
    action: str | int
    times: int = 1
    seconds: float = 0.0
    retry_after: str | None = None
    code: str = "SlowDown"
    after: int = 0  # first let this many matching requests through


@dataclass
class StoredFile:
    data: bytes
    version: str
    sha256: str | None
    state: str = "READY"
    reason: str | None = None
    deleted: bool = False


@dataclass
class OpenUpload:
    key: str
    size: int
    sha256: str
    mode: str
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    port: int


class Refusal(Exception):
    def __init__(self, status: int, code: str, detail: str, hint: str | None = None) -> None:
        super().__init__(detail)
        self.problem = {
            "type": "about:blank",
            "title": code,
            "status": status,
            "detail": detail,
            "code": code,
            "hint": hint,
            "request_id": "req-1",
            "details": {},
        }


class FakeGateway:
    """`url` is where it listens. Tests arrange by the attributes and look at `seen` afterwards."""

    def __init__(self, part_size: int = 1 << 16) -> None:
        self.part_size = part_size
        self.files: dict[str, list[StoredFile]] = {}
        self.uploads: dict[str, OpenUpload] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.logs_are_stored = True
        self.snapshots: dict[str, dict[str, Any]] = {}
        self.sidecar: dict[str, Any] | None = None  # of every file
        self.job_states: dict[str, list[str]] = {}
        self.used_fields: dict[str, Any] = {}  # of every job whose result was asked for, from then on
        self.job_fields: dict[str, Any] = {}  # of every job that moves on, beside what its state brings
        self.answers: dict[str, Any] = {}  # "METHOD /path" below /api/v1 -> a fixed answer, or a Refusal
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.link_is_expired: Callable[[str], bool] = lambda url: False
        self.key = KEY
        self._replays: dict[str, Any] = {}
        self._links = 0
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def store(self, key: str, data: bytes, **facts: Any) -> StoredFile:
        """Put a new version of a file there, without any request."""
        versions = self.files.setdefault(key, [])
        facts.setdefault("sha256", hashlib.sha256(data).hexdigest())
        versions.append(StoredFile(data, f"v{len(versions) + 1}", **facts))
        return versions[-1]

    def requests(self, match: str) -> list[Seen]:
        """Those whose "METHOD path" contains `match`, in order of arrival."""
        return [one for one in list(self.seen) if match in f"{one.method} {one.path}"]

    def take_fault(self, request: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times and fault.match in request:
                    if fault.after:
                        fault.after -= 1
                        return None
                    fault.times -= 1
                    return fault
        return None

    # --- the API ----------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, headers: dict[str, str]) -> Any:
        """The JSON answer of a route, replayed for a known Idempotency-Key."""
        if path != "/health" and headers.get("authorization") != f"Bearer {self.key}":
            raise Refusal(401, "unauthenticated", "The API key is unknown.", "Make a new one: divbase login URL")
        replay = headers.get("idempotency-key")
        with self._lock:
            if replay and replay in self._replays:
                return self._replays[replay]
            result = self._route(method, path, query, body)
            if replay:
                self._replays[replay] = result
            return result

    def _route(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        fixed = self.answers.get(f"{method} {path}")
        if isinstance(fixed, Refusal):
            raise fixed
        if fixed is not None:
            return fixed(query, body) if callable(fixed) else fixed
        for verb, pattern, handler in _ROUTES:
            found = re.fullmatch(pattern, path)
            if verb == method and found:
                return handler(self, query, body, *map(unquote, found.groups()))
        raise Refusal(404, "not_found", f"There is no {path}.")

    def me(self, query: dict[str, str], body: Any) -> Any:
        return {
            "user": user(),
            "key": api_key(),
            "memberships": [{"project": "vole", "user": "ada@example.org", "user_name": "Ada", "role": "EDIT"}],
        }

    def list_files(self, query: dict[str, str], body: Any, project: str) -> Any:
        found = []
        for key, versions in sorted(self.files.items()):
            if not key.startswith(query.get("prefix", "")) or (versions[-1].deleted and not query.get("deleted")):
                continue
            shown = versions[::-1] if query.get("versions") else versions[-1:]
            found += [file(key, one, latest=one is versions[-1]) for one in shown]
        begin, limit = int(query.get("cursor", "0")), int(query.get("limit", "100"))
        more = begin + limit < len(found)
        return {"items": found[begin : begin + limit], "next_cursor": str(begin + limit) if more else None}

    def _version(self, key: str, version: str | None) -> StoredFile:
        for one in reversed(self.files.get(key, [])):
            if version in (None, one.version):
                return one
        raise Refusal(404, "file_not_found", f"There is no file {key}.", "List them: divbase files ls")

    def file_info(self, query: dict[str, str], body: Any, project: str) -> Any:
        one = self._version(query["key"], query.get("version"))
        extra = {"sample_names": ["S1", "S2"], "contig_list": [], "index_key": None, "index_job": None}
        extra |= {"sidecar": self.sidecar}
        return {**file(query["key"], one), **extra}

    def download(self, query: dict[str, str], body: Any, project: str) -> Any:
        one = self._version(query["key"], query.get("version"))
        return self.download_of(query["key"], one)

    def download_of(self, key: str, one: StoredFile) -> dict[str, Any]:
        return {
            "key": key,
            "version_id": one.version,
            "size": len(one.data),
            "sha256": one.sha256,
            "etag": md5_of(one.data),
            "request": self._presign("GET", f"/s3/object/{key}?versionId={one.version}", {}),
        }

    def _presign(self, method: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
        self._links += 1
        separator = "&" if "?" in path else "?"
        url = f"{self.url}{path}{separator}X-Amz-Signature=secret{self._links}"
        return {"method": method, "url": url, "headers": headers, "expires_at": NOW}

    def remove_file(self, query: dict[str, str], body: Any, project: str) -> Any:
        one = self._version(query["key"], None)
        one.deleted = True
        return file(query["key"], one)

    def restore_file(self, query: dict[str, str], body: Any, project: str) -> Any:
        one = self._version(body["key"], None)
        one.deleted = False
        return file(body["key"], one)

    def begin_upload(self, query: dict[str, str], body: Any, project: str) -> Any:
        current = self.files.get(body["key"], [])
        if current and current[-1].sha256 == body["sha256"] and not current[-1].deleted:
            file_now = file(body["key"], current[-1])
            return {"id": None, "mode": "unchanged", "part_size": None, "parts": [], "file": file_now}
        name = next((name for name, one in self.uploads.items() if _same(one, body)), None)
        if name is None:
            name = f"up{len(self.uploads) + 1}"
            mode = "multipart" if body["size"] > self.part_size else "single"
            self.uploads[name] = OpenUpload(body["key"], body["size"], body["sha256"], mode)
        one = self.uploads[name]
        there = [
            {"number": number, "etag": md5_of(data), "size": len(data)} for number, data in sorted(one.parts.items())
        ]
        part_size = self.part_size if one.mode == "multipart" else None
        return {"id": name, "mode": one.mode, "part_size": part_size, "parts": there, "file": None}

    def upload_urls(self, query: dict[str, str], body: Any, project: str, upload: str) -> Any:
        urls = [
            {
                "number": part["number"],
                "request": self._presign(
                    "PUT", f"/s3/upload/{upload}/{part['number']}", {"Content-MD5": part["md5"], "Host": "ignored"}
                ),
            }
            for part in body["parts"]
        ]
        return {"urls": urls}

    def log(self, query: dict[str, str], body: Any, project: str, job: str) -> Any:
        return {"text": "line one\nline two\n", "complete": self.logs_are_stored}

    def complete_upload(self, query: dict[str, str], body: Any, project: str, upload: str) -> Any:
        one = self.uploads[upload]
        ours = [(number, md5_of(data)) for number, data in sorted(one.parts.items())]
        if ours != [(part["number"], part["etag"]) for part in body["parts"]]:
            raise Refusal(409, "parts_differ", "The parts are not those in S3.")
        data = b"".join(one.parts[number] for number, _ in ours)
        if hashlib.sha256(data).hexdigest() != one.sha256:
            raise Refusal(409, "content_differs", "The bytes are not those that were announced.")
        del self.uploads[upload]
        return file(one.key, self.store(one.key, data))

    def samples(self, query: dict[str, str], body: Any, project: str) -> Any:
        return {"samples": [{"sample": name, "files": ["a.vcf.gz"]} for name in ("S1", "S2")]}

    def plan(self, query: dict[str, str], body: Any, project: str) -> Any:
        return plan()

    def submit(self, query: dict[str, str], body: Any, project: str) -> Any:
        name = f"job{len(self.jobs) + 1}"
        self.jobs[name] = job(name, query={field: value for field, value in body.items() if field != "fresh"})
        return self.jobs[name]

    def get_job(self, query: dict[str, str], body: Any, project: str, name: str) -> Any:
        if name not in self.jobs:
            raise Refusal(404, "job_not_found", f"There is no job {name}.", "List them: divbase jobs ls")
        states = self.job_states.get(name, [])
        if states:
            self.jobs[name] = {**job(name, states.pop(0), query=self.jobs[name]["query"]), **self.job_fields}
        return self.jobs[name]

    def list_jobs(self, query: dict[str, str], body: Any, project: str) -> Any:
        return {"items": list(self.jobs.values())[::-1], "next_cursor": None}

    def cancel(self, query: dict[str, str], body: Any, project: str, name: str) -> Any:
        self.jobs[name] = {**self.jobs[name], "state": "CANCELLED", "cancel_requested": True}
        return self.jobs[name]

    def pin(self, query: dict[str, str], body: Any, project: str, name: str) -> Any:
        self.jobs[name] = {**self.jobs[name], "pinned": True}
        return self.jobs[name]

    def unpin(self, query: dict[str, str], body: Any, project: str, name: str) -> Any:
        self.jobs[name] = {**self.jobs[name], "pinned": False}
        return self.jobs[name]

    def list_snapshots(self, query: dict[str, str], body: Any, project: str) -> Any:
        return {"items": list(self.snapshots.values())[::-1], "next_cursor": None}

    def make_snapshot(self, query: dict[str, str], body: Any, project: str) -> Any:
        made = {"note": "", **body, "created_by": "ada@example.org", "created_at": NOW, "files": 2, "bytes": 7}
        self.snapshots[body["name"]] = made
        return made

    def get_snapshot(self, query: dict[str, str], body: Any, project: str, name: str) -> Any:
        if name not in self.snapshots:
            raise Refusal(404, "not_found", f"There is no snapshot {name}.", "List them: divbase snapshots ls")
        return self.snapshots[name]

    def remove_snapshot(self, query: dict[str, str], body: Any, project: str, name: str) -> Any:
        return self.snapshots.pop(name)

    def snapshot_files(self, query: dict[str, str], body: Any, project: str, name: str) -> Any:
        first = [file(key, versions[0], latest=len(versions) == 1) for key, versions in sorted(self.files.items())]
        return {"items": first, "next_cursor": None}

    def job_result(self, query: dict[str, str], body: Any, project: str, name: str) -> Any:
        if name in self.jobs:
            self.jobs[name] = {**self.jobs[name], **self.used_fields}
        keys = [key for key in self.files if key.startswith(f"results/{name}/")]
        roles = {"csi": "index", "json": "provenance", "log": "log"}
        return {
            "files": [
                {
                    "role": roles.get(key.rsplit(".", 1)[-1], "result"),
                    "download": self.download_of(key, self.files[key][-1]),
                }
                for key in keys
            ]
        }

    # --- S3 ---------------------------------------------------------------------------------------------------------

    def put_part(self, upload: str, number: int, data: bytes, md5: str | None) -> tuple[int, dict[str, str], bytes]:
        if md5 != base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode():
            return 400, {}, b"<Error><Code>BadDigest</Code></Error>"
        with self._lock:
            self.uploads[upload].parts[number] = data
        return 200, {"ETag": f'"{md5_of(data)}"'}, b""

    def get_object(self, key: str, version: str, wanted: str | None) -> tuple[int, dict[str, str], bytes]:
        data = self._version(key, version).data
        if wanted is None:
            return 200, {}, data
        start, end = (int(word) for word in wanted.removeprefix("bytes=").split("-"))
        return 206, {"Content-Range": f"bytes {start}-{end}/{len(data)}"}, data[start : end + 1]


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _same(one: OpenUpload, body: Any) -> bool:
    return (one.key, one.size, one.sha256) == (body["key"], body["size"], body["sha256"])


_PROJECT = r"/projects/([^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("GET", "/health", lambda gateway, query, body: {"status": "ok", "version": "1", "checks": {}}),
    ("GET", "/me", FakeGateway.me),
    ("GET", "/projects", lambda gateway, query, body: {"items": [project()], "next_cursor": None}),
    ("POST", "/projects", lambda gateway, query, body: project(body["name"])),
    ("GET", _PROJECT, lambda gateway, query, body, name: project(name)),
    ("GET", _PROJECT + "/storage", lambda gateway, query, body, name: storage(name)),
    ("PATCH", _PROJECT, lambda gateway, query, body, name: project(name) | body),
    ("GET", _PROJECT + "/files", FakeGateway.list_files),
    ("GET", _PROJECT + "/files/info", FakeGateway.file_info),
    ("GET", _PROJECT + "/files/download", FakeGateway.download),
    ("DELETE", _PROJECT + "/files", FakeGateway.remove_file),
    ("POST", _PROJECT + "/files/restore", FakeGateway.restore_file),
    ("POST", _PROJECT + "/uploads", FakeGateway.begin_upload),
    ("POST", _PROJECT + "/uploads/([^/]+)/urls", FakeGateway.upload_urls),
    ("POST", _PROJECT + "/uploads/([^/]+)/complete", FakeGateway.complete_upload),
    ("GET", _PROJECT + "/samples", FakeGateway.samples),
    ("GET", _PROJECT + "/snapshots", FakeGateway.list_snapshots),
    ("POST", _PROJECT + "/snapshots", FakeGateway.make_snapshot),
    ("GET", _PROJECT + "/snapshots/([^/]+)", FakeGateway.get_snapshot),
    ("GET", _PROJECT + "/snapshots/([^/]+)/files", FakeGateway.snapshot_files),
    ("DELETE", _PROJECT + "/snapshots/([^/]+)", FakeGateway.remove_snapshot),
    ("POST", _PROJECT + "/queries/plan", FakeGateway.plan),
    ("POST", _PROJECT + "/queries/script", lambda gateway, query, body, name: {"script": "#!/bin/bash\n"}),
    ("GET", _PROJECT + "/jobs", FakeGateway.list_jobs),
    ("POST", _PROJECT + "/jobs", FakeGateway.submit),
    ("GET", _PROJECT + "/jobs/([^/]+)", FakeGateway.get_job),
    ("GET", _PROJECT + "/jobs/([^/]+)/log", FakeGateway.log),
    ("GET", _PROJECT + "/jobs/([^/]+)/result", FakeGateway.job_result),
    ("POST", _PROJECT + "/jobs/([^/]+)/cancel", FakeGateway.cancel),
    ("PUT", _PROJECT + "/jobs/([^/]+)/pin", FakeGateway.pin),
    ("DELETE", _PROJECT + "/jobs/([^/]+)/pin", FakeGateway.unpin),
    ("POST", _PROJECT + "/jobs/([^/]+)/rerun", FakeGateway.get_job),
]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    gateway: FakeGateway

    def log_message(self, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.gateway.seen.append(Seen(self.command, self.path, headers, body, self.client_address[1]))
        fault = self.gateway.take_fault(f"{self.command} {self.path}")
        if fault and fault.action == "drop":
            self._hang_up()
            return
        if fault and fault.action == "slow":
            time.sleep(fault.seconds)
        if fault and isinstance(fault.action, int):
            extra = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            self._answer(fault.action, extra, f"<Error><Code>{fault.code}</Code></Error>".encode(), "application/xml")
            return
        self._answer(*self._reply(urlsplit(self.path), headers, body), fault=fault)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the names that http.server looks for

    def _reply(self, url: Any, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes, str]:
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if url.path.startswith("/s3/"):
            return (*self._s3(url.path, query, headers, body), "application/octet-stream")
        try:
            path = url.path.removeprefix("/api/v1")
            answer = self.gateway.answer(self.command, path, query, json.loads(body or b"null"), headers)
            return 200, {}, json.dumps(answer).encode(), "application/json"
        except Refusal as refusal:
            status = int(str(refusal.problem["status"]))
            return status, {}, json.dumps(refusal.problem).encode(), "application/problem+json"

    def _s3(
        self, path: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if self.gateway.link_is_expired(self.path):
            return 403, {}, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
        if path.startswith("/s3/upload/"):
            upload, number = path.removeprefix("/s3/upload/").split("/")
            return self.gateway.put_part(upload, int(number), body, headers.get("content-md5"))
        key = unquote(path.removeprefix("/s3/object/"))
        return self.gateway.get_object(key, query["versionId"], headers.get("range"))

    def _answer(self, status: int, extra: dict[str, str], body: bytes, kind: str, fault: Fault | None = None) -> None:
        if fault and fault.action == "wrong":
            body = bytes(byte ^ 1 for byte in body)
        self.send_response(status)
        for name, value in {**extra, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if fault and fault.action == "cut":
            self.wfile.write(body[: len(body) // 2])
            self._hang_up()
            return
        with suppress(ConnectionError):
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _handler_for(gateway: FakeGateway) -> type[_Handler]:
    return type("Handler", (_Handler,), {"gateway": gateway})


@contextmanager
def running_gateway(part_size: int = 1 << 16) -> Iterator[FakeGateway]:
    gateway = FakeGateway(part_size)
    try:
        yield gateway
    finally:
        gateway.close()


# --- wire values ------------------------------------------------------------------------------------------------------


def user(email: str = "ada@example.org") -> dict[str, Any]:
    return {"id": "u1", "email": email, "name": "Ada", "is_admin": False, "active": True, "created_at": NOW}


def api_key(name: str = "laptop") -> dict[str, Any]:
    return {
        "id": "k1",
        "name": name,
        "prefix": "dvb_testtest",
        "created_at": NOW,
        "expires_at": None,
        "last_used_at": None,
        "revoked_at": None,
    }


def project(name: str = "vole") -> dict[str, Any]:
    return {
        "name": name,
        "description": "Bank voles",
        "bucket": f"divbase-{name}",
        "role": "EDIT",
        "created_at": NOW,
        "files": 2,
        "bytes": 3_500_000,
    }


def storage(name: str = "vole", limit: int | None = 10_000_000) -> dict[str, Any]:
    parts = {"files": 3_500_000, "older_versions": 500_000, "results": 1_000_000}
    parts |= {"indexes": 0, "copies": 0, "records": 0}
    total = sum(parts.values())
    left = None if limit is None else limit - total
    return {"project": name, **parts, "open_uploads": 0, "total": total, "limit": limit, "left": left}


def file(key: str, one: StoredFile, *, latest: bool = True) -> dict[str, Any]:
    return {
        "key": key,
        "version_id": one.version,
        "size": len(one.data),
        "sha256": one.sha256,
        "etag": md5_of(one.data),
        "state": one.state,
        "reason": one.reason,
        "format": "vcf.gz",
        "samples": 2,
        "contigs": 1,
        "variants": 10,
        "index": "csi",
        "uploaded_at": NOW,
        "uploaded_by": "ada@example.org",
        "deleted": one.deleted,
        "is_latest": latest,
    }


def plan() -> dict[str, Any]:
    return {
        "inputs": [
            {
                "number": 1,
                "key": "a.vcf.gz",
                "version_id": "v1",
                "size": 1000,
                "samples": ["S1"],
                "group": 1,
                "bytes_needed": 100,
            }
        ],
        "combine": "single",
        "samples": ["S1"],
        "dropped_samples": [],
        "regions": ["21:1-1000"],
        "output": "result.vcf.gz",
        "commands": ["bcftools view -r 21:1-1000 a.vcf.gz"],
        "bytes_total": 1000,
        "bytes_needed": 100,
        "memory_mb": 512,
        "shards": 1,
        "cores": 1,
        "minutes": 10,
        "expected_s": 7,
        "scratch_mb": 100,
        "account": "owls2024",
        "partition": "core",
        "qos": None,
        "warnings": [],
        "digest": "d" * 64,
    }


def job(name: str, state: str = "ACCEPTED", query: Any = None) -> dict[str, Any]:
    ended = state in ("SUCCEEDED", "FAILED", "CANCELLED", "LOST")
    failed = state == "FAILED"
    return {
        "id": name,
        "project": "vole",
        "kind": "query",
        "name": "result",
        "state": state,
        "reason": "bcftools_failed" if failed else None,
        "message": "bcftools ended with an error; see the log." if failed else None,
        "stuck": None,
        "created_by": "ada@example.org",
        "created_at": NOW,
        "started_at": None,
        "ended_at": datetime(2024, 5, 1, 10, 5, tzinfo=UTC).isoformat() if ended else None,
        "observed_at": NOW,
        "attempt": 1,
        "slurm_job_id": "4711",
        "slurm_state": None,
        "slurm_reason": None,
        "waiting": None,
        "expected_start": None,
        "queue_place": None,
        "queue_length": None,
        "partition": None,
        "node": None,
        "cores": 1,
        "memory_mb": 512,
        "minutes": 10,
        "progress": {"stage": "running", "done": 50, "total": 100} if state == "RUNNING" else None,
        "cancel_requested": False,
        "query": query,
        "plan": plan(),
        "attempts": [],
        "results": [
            {
                "role": "result",
                "key": f"results/{name}/result.vcf.gz",
                "version_id": "v1",
                "size": 5,
                "sha256": "a" * 64,
            }
        ]
        if state == "SUCCEEDED"
        else [],
    }
