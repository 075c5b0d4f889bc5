"""Plays the gateway's side of docs/node-protocol.md and the S3 behind it, on loopback, with faults on request.

It must not share code with the node helper or the gateway: it says what the protocol says, a second time.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "job-token-that-nobody-may-see"
SIGNATURE = "signature-that-nobody-may-see"
ATTEMPT = "k3v9.1"


@dataclass
class Faults:
    """What goes wrong; a number says how often, and counts down.

    Attributes:
        claimed: somebody else has the attempt.
        refused_calls: gateway calls that are answered 401, by name.
        failing_calls: calls of the gateway that are answered 503, by name.
        failing_gets, failing_puts: S3 requests that are answered 503.
        dropped_bodies: GETs whose connection ends in the middle of the body.
        short_bodies: GETs whose answer says how long it is, and is one byte shorter than what was asked for.
        expired: GETs of the first generation of URLs are answered 403, for ever.
        expired_for_ever: every GET is.
        wrong_bytes: objects whose first byte is another one, by key.
        short_objects: objects that have lost their last byte, by key.
        missing: objects that are not there, by key.
        damaged_puts: PUTs whose bytes S3 finds damaged (400 BadDigest).
        expired_puts: PUTs that are answered 403.
        mismatched: completions after which the gateway finds something else in the store (409).
        get_headers: headers of the answers to GETs, besides those that every S3 sends.
        on_get: called with the key of every GET before it is answered.
        on_call: called with the name of every call before it is answered.
    """

    claimed: bool = False
    refused_calls: set[str] = field(default_factory=set)
    failing_calls: dict[str, int] = field(default_factory=dict)
    failing_gets: int = 0
    failing_puts: int = 0
    dropped_bodies: int = 0
    short_bodies: int = 0
    expired: bool = False
    expired_for_ever: bool = False
    wrong_bytes: set[str] = field(default_factory=set)
    short_objects: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    damaged_puts: int = 0
    expired_puts: int = 0
    mismatched: int = 0
    get_headers: dict[str, str] = field(default_factory=dict)
    on_get: Callable[[str], None] = lambda key: None
    on_call: Callable[[str], None] = lambda name: None


@dataclass(frozen=True)
class StoredOutput:
    """An output that was completed."""

    body: bytes
    role: str
    parts: int


class NodeGateway:
    """The server. `calls` is what the node said, in order; `outputs` what it pushed, by name.

    `cache`: what the manifest says of the cache that jobs share.
    """

    def __init__(self, kind: str = "query", part_size: int = 1 << 20, retry_for_s: float = 30) -> None:
        self.faults = Faults()
        self.kind = kind
        self.part_size = part_size
        self.retry_for_s = retry_for_s
        self.objects: dict[str, bytes] = {}
        self.inputs: list[dict[str, Any]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.outputs: dict[str, StoredOutput] = {}
        self.gets: list[tuple[str, str]] = []  # key, Range
        self.generation = 1
        self.claimant: str | None = None
        self.cache: dict[str, Any] | None = None
        self.names_versions = False  # as S3 does of a bucket with versions
        self._announced: dict[str, dict[str, Any]] = {}
        self._parts: dict[tuple[str, int], bytes] = {}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))

    def __enter__(self) -> NodeGateway:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    # --- arranging ---

    def add_input(
        self,
        path: Path,
        *,
        key: str | None = None,
        samples: list[str] | None = None,
        index: Path | None = None,
        checksum: str = "sha256",
        part: dict[str, Any] | None = None,
        begins: Sequence[int] = (),
    ) -> None:
        """Store a file, with its index, as the next input; of a `part` of it the manifest has what the protocol says.

        `checksum`: what the manifest knows, sha256, md5 or none.
        """
        number = len(self.inputs) + 1
        name = path.name if key is None else key
        form = "bcf" if path.suffix == ".bcf" else "vcf.gz"
        entry = {"number": number, "key": name, "format": form, "samples": samples, "index": None}
        entry |= self._stored(name, path.read_bytes(), checksum)
        if index is not None:
            stored = self._stored(f"{name}.index", index.read_bytes(), "md5")
            entry["index"] = {"kind": index.suffix[1:], **{k: v for k, v in stored.items() if k != "sha256"}}
        if part is not None:
            entry["part"] = part
        if begins:
            entry["begins"] = list(begins)
        self.inputs.append(entry)

    def _stored(self, key: str, body: bytes, checksum: str) -> dict[str, Any]:
        self.objects[key] = body
        etag = _md5(body).hexdigest() if checksum != "none" else _md5(body).hexdigest() + "-3"
        sha256 = hashlib.sha256(body).hexdigest() if checksum == "sha256" else None
        return {"size": len(body), "etag": etag, "sha256": sha256, "object": key}

    def ticket(self) -> dict[str, Any]:
        """The contents of job.json."""
        return {"gateway": self.url, "attempt": ATTEMPT, "token": TOKEN, "retry_for_s": self.retry_for_s}

    # --- looking ---

    def bodies(self, call: str) -> list[dict[str, Any]]:
        return [body for name, body in self.calls if name == call]

    @property
    def report(self) -> dict[str, Any]:
        """The one report of the end."""
        (body,) = self.bodies("finish")
        return body

    # --- the protocol ---

    def answer(self, name: str, body: dict[str, Any], token: str) -> tuple[int, dict[str, Any]]:
        self.faults.on_call(name)
        with self._lock:
            if token != f"Bearer {TOKEN}" or name in self.faults.refused_calls:
                return 401, {"title": "Unauthenticated", "detail": "The token is dead."}
            if self.faults.failing_calls.get(name, 0) > 0:
                self.faults.failing_calls[name] -= 1
                return 503, {"title": "Unavailable"}
            self.calls.append((name, body))
            return {
                "claim": self._claim,
                "urls": self._urls,
                "progress": lambda _: (200, {}),
                "outputs": self._announce,
                "outputs/complete": self._complete,
                "finish": lambda _: (200, {}),
            }[name](body)

    def _claim(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.faults.claimed or self.claimant not in (None, body["claimant"]):
            return 409, {"title": "Conflict", "detail": "Another run of this job has claimed the attempt."}
        self.claimant = body["claimant"]
        manifest = {
            "job": "k3v9",
            "attempt": 1,
            "kind": self.kind,
            "inputs": [self._signed_input(entry) for entry in self.inputs],
            "part_size": self.part_size,
            "retry_for_s": self.retry_for_s,
            "provenance": {"query": "as it was asked"},
            "cache": self.cache,
        }
        return 200, manifest

    def _urls(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.generation += 1
        fresh = [self._signed_input(entry) for entry in self.inputs]
        return 200, {
            "inputs": [
                {
                    "number": entry["number"],
                    "request": entry["request"],
                    "index_request": entry["index"] and entry["index"]["request"],
                }
                for entry in fresh
            ]
        }

    def _signed_input(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        signed = {k: v for k, v in entry.items() if k != "object"} | {"request": self._get_request(entry["object"])}
        if entry["index"] is not None:
            index = {k: v for k, v in entry["index"].items() if k != "object"}
            signed["index"] = index | {"request": self._get_request(entry["index"]["object"])}
        return signed

    def _get_request(self, key: str) -> dict[str, Any]:
        number = list(self.objects).index(key)
        return self._request("GET", f"/s3/get/{number}", {})

    def _request(self, method: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
        query = f"X-Amz-Signature={SIGNATURE}&generation={self.generation}"
        url = f"{self.url}{path}?{query}"
        return {"method": method, "url": url, "headers": headers, "expires_at": "2030-01-01T00:00:00Z"}

    def _announce(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self._announced[body["name"]] = body
        requests = [
            {
                "number": number,
                "request": self._request("PUT", f"/s3/put/{body['name']}/{number}", {"Content-MD5": md5}),
            }
            for number, md5 in enumerate(body["md5s"], start=1)
        ]
        return 200, {"upload": "up-1" if len(requests) > 1 else None, "requests": requests}

    def _complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.faults.mismatched > 0:
            self.faults.mismatched -= 1
            return 409, {"title": "Conflict", "detail": "The store has other bytes than were announced."}
        announced = self._announced[body["name"]]
        parts = [self._parts[body["name"], part["number"]] for part in body["parts"]]
        for part, sent in zip(parts, body["parts"], strict=True):
            assert _md5(part).hexdigest() == sent["etag"]
        whole = b"".join(parts)
        assert (len(whole), hashlib.sha256(whole).hexdigest()) == (announced["size"], announced["sha256"])
        self.outputs[body["name"]] = StoredOutput(whole, announced["role"], len(parts))
        return 200, {"version_id": "v1", "etag": _md5(whole).hexdigest()}

    # --- S3 ---

    def get(self, number: int, generation: int, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes, bool]:
        """(status, headers, body, whether the connection ends in the middle of the body)"""
        key = list(self.objects)[number]
        body = self.objects[key]
        self.faults.on_get(key)
        with self._lock:
            self.gets.append((key, headers.get("Range", "")))
            if (self.faults.expired and generation == 1) or self.faults.expired_for_ever:
                return 403, {}, _s3_error("AccessDenied", "Request has expired"), False
            if self.faults.failing_gets > 0:
                self.faults.failing_gets -= 1
                return 503, {}, _s3_error("SlowDown", "Please reduce your request rate."), False
            drop = self.faults.dropped_bodies > 0
            self.faults.dropped_bodies -= drop
            short = self.faults.short_bodies > 0
            self.faults.short_bodies -= short
        if key in self.faults.missing:
            return 404, {}, _s3_error("NoSuchVersion", "The version does not exist."), False
        if headers.get("If-Match", f'"{self._etag(key)}"') != f'"{self._etag(key)}"':
            return 412, {}, _s3_error("PreconditionFailed", "The ETag is another one."), False
        if key in self.faults.wrong_bytes:
            body = bytes([body[0] ^ 1]) + body[1:]
        if key in self.faults.short_objects:
            body = body[:-1]
        first, last = (int(word) for word in headers["Range"].removeprefix("bytes=").split("-"))
        last = min(last, len(body) - 1)
        told = {"Content-Range": f"bytes {first}-{last}/{len(body)}", "ETag": f'"{self._etag(key)}"'}
        return 206, told | self.faults.get_headers, body[first : last + 1 - short], drop

    def _etag(self, key: str) -> str:
        entries = [*self.inputs, *(entry["index"] for entry in self.inputs if entry["index"])]
        return next(str(entry["etag"]) for entry in entries if entry["object"] == key)

    def put(self, name: str, number: int, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        with self._lock:
            if self.faults.expired_puts > 0:
                self.faults.expired_puts -= 1
                return 403, {}, _s3_error("AccessDenied", "Request has expired")
            if self.faults.failing_puts > 0:
                self.faults.failing_puts -= 1
                return 503, {}, _s3_error("SlowDown", "Please reduce your request rate.")
            damaged = self.faults.damaged_puts > 0
            self.faults.damaged_puts -= damaged
            digest = _md5(body).digest()
            if damaged or base64.b64encode(digest).decode() != headers["Content-MD5"]:
                return 400, {}, _s3_error("BadDigest", "The Content-MD5 did not match.")
            self._parts[name, number] = body
            said = {"ETag": f'"{digest.hex()}"'}
            announced = self._announced[name]
            if self.names_versions and len(announced["md5s"]) == 1:
                assert hashlib.sha256(body).hexdigest() == announced["sha256"]
                self.outputs[name] = StoredOutput(body, announced["role"], 1)
                said["x-amz-version-id"] = f"v-{name}"
            return 200, said, b""


def _md5(body: bytes) -> hashlib._Hash:
    return hashlib.md5(body, usedforsecurity=False)


def _s3_error(code: str, message: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A node that goes away is no error here; anything else is printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _handler_of(gateway: NodeGateway) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            name = self.path.removeprefix(f"/api/v1/attempts/{ATTEMPT}/")
            body = json.loads(self._body())
            status, answer = gateway.answer(name, body, self.headers.get("Authorization", ""))
            self._send(status, {"Content-Type": "application/json"}, json.dumps(answer).encode())

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            number = int(url.path.rpartition("/")[2])
            self._send(*gateway.get(number, int(query["generation"][0]), self.headers))

        def do_PUT(self) -> None:
            _, name, number = urlsplit(self.path).path.rsplit("/", 2)
            self._send(*gateway.put(name, int(number), self.headers, self._body()))

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _send(self, status: int, headers: dict[str, str], body: bytes, drop: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if drop else body)
            if drop:
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, format: str, *args: object) -> None:
            """Silent: the tests look at what was recorded."""

    return Handler
