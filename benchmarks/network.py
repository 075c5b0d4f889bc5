"""The way between a node and S3: it passes bytes on, counts them, and is as far away and as narrow as it is told to be.

It is a process of its own, so that its CPU can be told apart, and moves bodies from socket to socket inside the kernel
(splice), so that it is not what is measured. It must not know S3: it sees requests, answers and their lengths.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from types import TracebackType

_PIPE_BYTES = 1 << 18
_HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class Distance:
    """`first_byte_s`: the least from a request to its answer. `rate`: bytes a second of one connection, 0 for any."""

    title: str
    first_byte_s: float = 0.0
    rate: float = 0.0


@dataclass(frozen=True)
class Traffic:
    """Since the last look: requests, bytes from and to S3 with heads, and the CPU seconds of passing them on."""

    requests: int
    received: int
    sent: int
    cpu: float


class Network:
    """Runs while it is entered; what is sent to `url` reaches the server that `lead_to` names."""

    def __enter__(self) -> Network:
        command = [sys.executable, "-m", "benchmarks.network"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{self._heard()['port']}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def lead_to(self, endpoint: str) -> None:
        self._tell({"target": endpoint.removeprefix("http://")})

    def become(self, distance: Distance) -> None:
        self._tell({"distance": asdict(distance)})

    def traffic(self) -> Traffic:
        told = self._tell({})
        return Traffic(int(told["requests"]), int(told["received"]), int(told["sent"]), told["cpu"])

    def _tell(self, order: dict[str, object]) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._heard()

    def _heard(self) -> dict[str, float]:
        assert self._process.stdout is not None
        heard: dict[str, float] = json.loads(self._process.stdout.readline())
        return heard


# --- the process -------------------------------------------------------------------------------------------------


class _Passage:
    """What all connections share."""

    def __init__(self) -> None:
        self.target = ("127.0.0.1", 0)
        self.distance = Distance("")
        self.counts = {"requests": 0, "received": 0, "sent": 0}
        self.lock = threading.Lock()

    def count(self, **more: int) -> None:
        with self.lock:
            for name, value in more.items():
                self.counts[name] += value

    def look(self) -> dict[str, int]:
        with self.lock:
            found, self.counts = self.counts, dict.fromkeys(self.counts, 0)
        return found


def main() -> None:
    """Orders are lines of JSON on standard input, each answered by the traffic since the one before."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    passage = _Passage()
    threading.Thread(target=_listen, args=(listener, passage), daemon=True).start()
    _say({"port": listener.getsockname()[1]})
    used = time.process_time()
    for line in sys.stdin:
        order = json.loads(line)
        if "target" in order:
            host, _, port = order["target"].partition(":")
            passage.target = (host, int(port))
        if "distance" in order:
            passage.distance = Distance(**order["distance"])
        used, before = time.process_time(), used
        _say({**passage.look(), "cpu": used - before})


def _say(words: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def _listen(listener: socket.socket, passage: _Passage) -> None:
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_serve, args=(client, passage), daemon=True).start()


def _serve(client: socket.socket, passage: _Passage) -> None:
    """One connection, request by request, until a side ends it or says something that is not understood here."""
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        with client, socket.create_connection(passage.target) as server:
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            near, far = _Side(client, reading, writing), _Side(server, reading, writing)
            while _exchange(near, far, passage):
                pass
    except (OSError, ValueError):
        return  # the connection ends, which its user notices
    finally:
        os.close(reading)
        os.close(writing)


class _Side:
    """A socket, and what was read of it beyond a head."""

    def __init__(self, sock: socket.socket, reading: int, writing: int):
        self.sock = sock
        self.rest = b""
        self._pipe = (reading, writing)

    def head(self) -> bytes:
        """Up to and with the empty line; b"" at the end of the connection."""
        data = self.rest
        while b"\r\n\r\n" not in data:
            more = self.sock.recv(_HEAD_BYTES)
            if not more:
                return b""
            data += more
        end = data.index(b"\r\n\r\n") + 4
        self.rest = data[end:]
        return data[:end]

    def pass_on(self, length: int, to: socket.socket, rate: float) -> None:
        """So many bytes, no faster than `rate` bytes a second."""
        begun, left = time.monotonic(), length
        if self.rest and left:
            to.sendall(self.rest[:left])
            left, self.rest = left - len(self.rest[:left]), self.rest[left:]
        while left:
            count = os.splice(self.sock.fileno(), self._pipe[1], min(left, _PIPE_BYTES))
            if not count:
                raise ValueError("the body ended early")
            left -= count
            while count:
                count -= os.splice(self._pipe[0], to.fileno(), count)
            if rate:
                time.sleep(max(0.0, begun + (length - left) / rate - time.monotonic()))


def _exchange(near: _Side, far: _Side, passage: _Passage) -> bool:
    """One request and its answer; whether another may follow on these connections."""
    request = near.head()
    if not request:
        return False
    begun, distance = time.monotonic(), passage.distance
    passage.count(requests=1, sent=len(request))
    far.sock.sendall(request)
    length = _length(request, 0)
    near.pass_on(length, far.sock, distance.rate)
    passage.count(sent=length)
    answer = far.head()
    if not answer:
        return False
    time.sleep(max(0.0, begun + distance.first_byte_s - time.monotonic()))
    near.sock.sendall(answer)
    empty = request.startswith(b"HEAD ") or answer[9:12] in (b"204", b"304")
    length = 0 if empty else _length(answer, None)
    passage.count(received=len(answer) + length)
    far.pass_on(length, near.sock, distance.rate)
    return b"\r\nconnection: close\r\n" not in (request + answer).lower()


def _length(head: bytes, otherwise: int | None) -> int:
    """Content-Length. Raises ValueError where a body has none and must have one."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    if otherwise is None:
        raise ValueError("an answer does not say how long it is")
    return otherwise


if __name__ == "__main__":
    main()
