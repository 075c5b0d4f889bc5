"""S3 as seen through presigned URLs: send a piece of a file, read a range. It knows no gateway and keeps no files.

It uses the standard library's HTTP client, not the one that talks to the gateway: that one copies the rest of the
body after each write to the socket and hands out small chunks, which costs several times the CPU per gigabyte.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import SplitResult, urlsplit

from divbase_client.models import Presigned
from divbase_client.retry import seconds_of_retry_after

PIECE = 1 << 20  # bytes per read or write; large enough that Python's share of the work is small
_IDLE = 5.0  # seconds; servers close idle connections, and a closed one is noticed only after the body was sent
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_TRANSIENT_CODES = {"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable"}
_WRONG_BYTES = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
_CODE = re.compile(rb"<Code>([^<]{1,100})</Code>")
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

Address = tuple[str, str, int | None]


class StoreFault(Exception):
    """S3 did not do what was asked. The text never holds the URL, which is a secret while it lasts."""


class StoreUnavailable(StoreFault):
    """Worth trying again, after `retry_after` seconds if given."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class LinkRefused(StoreFault):
    """403: the URL has expired, most likely. A fresh one may work."""


class WrongBytes(StoreFault):
    """S3 received other bytes than those that the URL was signed for."""


class StoreRefused(StoreFault):
    """Trying again cannot help."""


class Stopped(Exception):
    """The transfer was stopped from outside."""


class Store:
    """Keep-alive connections to S3, shared by the threads of a transfer. `stop()` ends all that is under way."""

    def __init__(self, timeout: float = 60.0) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: dict[Address, list[tuple[HTTPConnection, float]]] = defaultdict(list)
        self._busy: set[HTTPConnection] = set()
        self._tls: ssl.SSLContext | None = None
        self.stopped = threading.Event()

    def put(self, request: Presigned, pieces: Iterator[memoryview], length: int) -> None:
        """Send `length` bytes. The MD5 that the URL was signed for makes S3 refuse anything else."""
        connection, address = self._begin(request, {"Content-Length": str(length)})
        with _Held(self, connection, address) as held:
            whole = _send(connection, pieces, self.stopped)
            response = connection.getresponse()
            _check(response, response.read(65536))
            if not whole:
                raise StoreUnavailable("the connection to S3 broke while sending")
            held.reusable = _is_reusable(response)

    def read(self, request: Presigned, start: int, end: int, buffer: memoryview) -> Iterator[memoryview]:
        """Bytes `start` up to, not including, `end`, as slices of `buffer` that are overwritten by the next.

        Raises StoreUnavailable when the answer ends early.
        """
        connection, address = self._begin(request, {"Range": f"bytes={start}-{end - 1}"})
        with _Held(self, connection, address) as held:
            response = connection.getresponse()
            if response.status != 206:
                _check(response, response.read(65536) if not 200 <= response.status < 300 else b"")
            _check_range(response, start, end)
            left = end - start
            while left:
                count = response.readinto(buffer[: min(left, len(buffer))])
                if count == 0:
                    raise StoreUnavailable(f"the answer ended {left} bytes early")
                if self.stopped.is_set():
                    raise Stopped
                left -= count
                yield buffer[:count]
            response.read(1)  # sees the end, which frees the connection
            held.reusable = _is_reusable(response)

    def stop(self) -> None:
        """Make every thread that is sending or reading give up now."""
        self.stopped.set()
        with self._lock:
            for connection in self._busy:
                _cut(connection)

    def close(self) -> None:
        with self._lock:
            for connections in self._idle.values():
                for connection, _ in connections:
                    connection.close()
            self._idle.clear()

    def _begin(self, request: Presigned, extra: dict[str, str]) -> tuple[HTTPConnection, Address]:
        if self.stopped.is_set():
            raise Stopped
        url = urlsplit(request.url)
        address = (url.scheme, url.hostname or "", url.port)
        connection, proxied = self._take(url, address)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        headers.update({k: v for k, v in extra.items() if k.lower() not in {h.lower() for h in headers}})
        try:
            target = request.url if proxied else f"{url.path or '/'}?{url.query}"
            connection.putrequest(request.method, target, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
        except (OSError, HTTPException) as error:
            self._drop(connection)
            raise StoreUnavailable(_words(error)) from error
        return connection, address

    def _take(self, url: SplitResult, address: Address) -> tuple[HTTPConnection, bool]:
        proxy = _proxy_for(url)
        with self._lock:
            while self._idle[address]:
                connection, since = self._idle[address].pop()
                if time.monotonic() - since < _IDLE:
                    self._busy.add(connection)
                    return connection, proxy is not None and url.scheme == "http"
                connection.close()
        connection = self._connect(url, proxy)
        with self._lock:
            self._busy.add(connection)
        return connection, proxy is not None and url.scheme == "http"

    def _connect(self, url: SplitResult, proxy: SplitResult | None) -> HTTPConnection:
        host, port = (proxy.hostname or "", proxy.port) if proxy else (url.hostname or "", url.port)
        if url.scheme == "http":
            return HTTPConnection(host, port, timeout=self._timeout)
        connection = HTTPSConnection(host, port, timeout=self._timeout, context=self._context())
        if proxy:
            connection.set_tunnel(url.hostname or "", url.port or 443)
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            import httpx  # the same certificates as for the gateway

            self._tls = httpx.create_ssl_context()
        return self._tls

    def _drop(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._busy.discard(connection)
        connection.close()

    def _keep(self, connection: HTTPConnection, address: Address) -> None:
        with self._lock:
            self._busy.discard(connection)
            self._idle[address].append((connection, time.monotonic()))


class _Held:
    """One connection in use: given back when `reusable`, closed otherwise; network faults become StoreUnavailable."""

    def __init__(self, store: Store, connection: HTTPConnection, address: Address) -> None:
        self._store = store
        self._connection = connection
        self._address = address
        self.reusable = False

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.reusable and error is None:
            self._store._keep(self._connection, self._address)
        else:
            self._store._drop(self._connection)
        if self._store.stopped.is_set() and isinstance(error, Exception):
            raise Stopped from error
        if isinstance(error, SourceFault):
            raise error.cause from None
        if isinstance(error, (OSError, HTTPException)):
            raise StoreUnavailable(_words(error)) from error


class SourceFault(Exception):
    """Wraps an OSError of the local file, so that it is not taken for one of the network."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _send(connection: HTTPConnection, pieces: Iterator[memoryview], stopped: threading.Event) -> bool:
    """Send all pieces; False when S3 closed the connection before the end, which its answer then explains."""
    while True:
        try:
            piece = next(pieces, None)
        except OSError as error:
            raise SourceFault(error) from error
        if piece is None:
            return True
        if stopped.is_set():
            raise Stopped
        try:
            connection.send(piece)
        except (BrokenPipeError, ConnectionResetError):
            return False


def _check(response: HTTPResponse, body: bytes) -> None:
    if 200 <= response.status < 300:
        return
    found = _CODE.search(body)
    code = found[1].decode("ascii", "replace") if found else response.reason
    words = f"S3 answered {response.status} {code}"
    if response.status in _TRANSIENT or code in _TRANSIENT_CODES:
        raise StoreUnavailable(words, seconds_of_retry_after(response.getheader("Retry-After")))
    if code in _WRONG_BYTES:
        raise WrongBytes(words)
    if response.status == 403 or code in ("ExpiredToken", "RequestExpired"):
        raise LinkRefused(words)
    raise StoreRefused(words)


def _check_range(response: HTTPResponse, start: int, end: int) -> None:
    found = _RANGE.fullmatch(response.getheader("Content-Range") or "")
    if response.status != 206 or not found or (int(found[1]), int(found[2])) != (start, end - 1):
        raise StoreRefused(f"S3 answered {response.status} with another range than the one asked for")


def _is_reusable(response: HTTPResponse) -> bool:
    return response.isclosed() and not response.will_close


def _proxy_for(url: SplitResult) -> SplitResult | None:
    proxies = urllib.request.getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    if not address or urllib.request.proxy_bypass(url.netloc):
        return None
    return urlsplit(address if "://" in address else f"http://{address}")


def _cut(connection: HTTPConnection) -> None:
    import contextlib
    import socket

    if connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "S3 did not answer in time"
    return f"the connection to S3 broke ({str(error) or type(error).__name__})"
