"""An S3 server that misbehaves as it is told: signed GETs of whole objects and of ranges, and the gateway's fresh URLs.

It answers whoever asks in the same way, be it a node or bcftools itself. It must not know files nor queries.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

PIECE = 24_000
"""Bytes of a body that arrive where not all of it does."""


@dataclass(frozen=True)
class Get:
    """A GET of the object with faults: the how manieth it is, from 0, and whether its URL is a renewed one."""

    number: int
    renewed: bool


@dataclass(frozen=True)
class Reply:
    """What is different about an answer.

    Attributes:
        status: 503 or 403 in place of the body.
        drop: the connection ends after a piece of the body.
        short: the answer's length is that of a piece, and so is the body; all else says that it is whole.
        flip: a byte in the middle of the body is another one.
        other: the bytes are those of the object that has come in place of this one.
    """

    status: int | None = None
    drop: bool = False
    short: bool = False
    flip: bool = False
    other: bool = False


Behaviour = Callable[[Get], Reply]
WELL: Behaviour = lambda get: Reply()  # noqa: E731


class FaultyStore:
    """Serves while it is entered.

    Attributes:
        objects: by name; `faulty` names the one with faults, `successor` what comes in its place.
        gets: how many GETs of the faulty object there were.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faulty = ""
        self.successor = b""
        self.behaviour: Behaviour = WELL
        self.gets = 0
        self.fresh: dict[str, object] = {"inputs": []}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))

    def __enter__(self) -> FaultyStore:
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

    def signed(self, name: str, generation: int = 1) -> str:
        return f"{self.url}/{name}?X-Amz-Signature=abc&generation={generation}"

    def reset(self, behaviour: Behaviour) -> None:
        self.behaviour, self.gets = behaviour, 0

    def reply_to(self, name: str, renewed: bool) -> Reply:
        if name != self.faulty:
            return Reply()
        with self._lock:
            self.gets += 1
            return self.behaviour(Get(self.gets - 1, renewed))

    def body(self, name: str, reply: Reply) -> bytes:
        return self.successor if reply.other else self.objects[name]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader that goes away is no error here; anything else is printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _handler_of(store: FaultyStore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fresh = store.fresh if self.path.endswith("/urls") else {}
            self._send(200, {"Content-Type": "application/json"}, json.dumps(fresh).encode())

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            name = path.lstrip("/")
            if name not in store.objects:
                return self._send(404, {}, _error("NoSuchKey", "The key does not exist."))
            reply = store.reply_to(name, "generation=2" in query)
            if reply.status == 403:
                return self._send(403, {}, _error("AccessDenied", "Request has expired"))
            if reply.status is not None:
                return self._send(reply.status, {}, _error("SlowDown", "Please reduce your request rate."))
            whole = store.body(name, reply)
            etag = f'"{hashlib.md5(whole, usedforsecurity=False).hexdigest()}"'
            if self.headers.get("If-Match", etag) != etag:
                return self._send(412, {}, _error("PreconditionFailed", "The ETag is another one."))
            return self._send_range(whole, {"ETag": etag, "Accept-Ranges": "bytes"}, reply)

        def _send_range(self, whole: bytes, headers: dict[str, str], reply: Reply) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first = int(asked[1]) if asked else 0
            last = min(int(asked[2]) if asked and asked[2] else len(whole) - 1, len(whole) - 1)
            if first > last:
                return self._send(416, {}, _error("InvalidRange", "The range is not there."))
            body = whole[first : last + 1]
            if reply.flip:
                at = len(body) // 2
                body = body[:at] + bytes([body[at] ^ 64]) + body[at + 1 :]
            if asked:
                headers["Content-Range"] = f"bytes {first}-{last}/{len(whole)}"
            if reply.short:
                body = body[:PIECE]
            return self._send(206 if asked else 200, headers, body, reply.drop)

        def _send(self, status: int, headers: dict[str, str], body: bytes, drop: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:PIECE] if drop else body)
            if drop and len(body) > PIECE:
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, format: str, *args: object) -> None:
            """Silent: what is looked at is the answer that the reader makes of it."""

    return Handler


def _error(code: str, message: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
