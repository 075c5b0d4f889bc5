"""The name under which compute nodes see an S3 server, with faults on request: a door that passes requests on.

It must not know what the requests mean: they are told apart by method and path.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


@dataclass(frozen=True)
class Passed:
    """A request that was passed on, and the status that came back."""

    method: str
    path: str
    status: int


class S3Door:
    """Listens while it is entered. `passed` is what went through, in order.

    Faults:
        away: every connection ends without an answer.
        lose_answers: so many requests for which `is_hit` holds are passed on, and their answers thrown away.
        fail: so many of these are answered 503 without being passed on.
        is_hit: which requests the last two are about, by method and path.
        before: called with method and path of each request.
    """

    def __init__(self, endpoint: str) -> None:
        self._target = endpoint.removeprefix("http://")
        self.passed: list[Passed] = []
        self.away = False
        self.lose_answers = 0
        self.fail = 0
        self.is_hit: Callable[[str, str], bool] = lambda method, path: True
        self.before: Callable[[str, str], None] = lambda method, path: None
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> S3Door:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def puts(self, part: str) -> list[int]:
        """The statuses of the PUTs whose path has this in it."""
        return [each.status for each in self.passed if each.method == "PUT" and part in each.path]

    def _takes(self, fault: str, method: str, path: str) -> bool:
        with self._lock:
            left: int = getattr(self, fault)
            if left <= 0 or not self.is_hit(method, path):
                return False
            setattr(self, fault, left - 1)
            return True

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self._pass_on()

            def do_PUT(self) -> None:
                self._pass_on()

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.partition("?")[0]
                door.before(self.command, path)
                if door.away:
                    self.close_connection = True
                elif door._takes("fail", self.command, path):
                    self._answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
                else:
                    self._ask(path, body)

            def _ask(self, path: str, body: bytes) -> None:
                connection = http.client.HTTPConnection(door._target, timeout=30)
                try:
                    connection.request(self.command, self.path, body, dict(self.headers.items()))
                    answer = connection.getresponse()
                    content = answer.read()
                finally:
                    connection.close()
                door.passed.append(Passed(self.command, path, answer.status))
                if door._takes("lose_answers", self.command, path):
                    self.close_connection = True
                    return
                self._answer(answer.status, answer.getheaders(), content)

            def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in _HOP_BY_HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Silent: the tests look at what was recorded."""

        return Handler
