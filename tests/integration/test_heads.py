"""What a client may send before the gateway knows what it wants, over a real connection to it as it is served."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest
import uvicorn
from divbase_gateway.api.heads import MAX_HEAD_BYTES
from divbase_gateway.main import server_config

from tests.api import Api

REQUEST = b"%s /api/v1/%s HTTP/1.1\r\nHost: gateway\r\n"


@pytest.fixture
def connection(api: Api) -> Iterator[socket.socket]:
    """To a gateway on loopback; what it does not answer within ten seconds is a failure."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(api.gateway))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with socket.create_connection(listener.getsockname(), timeout=10) as made:
            yield made
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of what comes next."""
    response = HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


@pytest.mark.parametrize("begin", [REQUEST % (b"GET", b"health") + b"X-Long: ", b"GET /"], ids=["header", "path"])
def test_a_head_without_end_is_refused(connection: socket.socket, begin: bytes) -> None:
    """Guards: the gateway's memory, against whoever has no key; the client is told why and hung up on."""
    connection.sendall(begin + b"a" * MAX_HEAD_BYTES)
    status, words = answer(connection)
    assert (status, str(MAX_HEAD_BYTES) in words.decode()) == (400, True)
    assert connection.recv(1) == b""


def test_heads_count_one_by_one_and_bodies_do_not(connection: socket.socket) -> None:
    """Guards: requests that follow each other on one connection, each with a long head, and a body that is longer."""
    head = REQUEST % (b"GET", b"health") + b"X-Long: " + b"a" * (MAX_HEAD_BYTES * 2 // 3) + b"\r\n\r\n"
    for _ in range(3):
        connection.sendall(head)
        assert answer(connection)[0] == 200
    size = 4 * MAX_HEAD_BYTES
    body = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % size
    connection.sendall(REQUEST % (b"POST", b"keys") + body + b" " * (size - 2) + b"{}")
    assert answer(connection)[0] == 401
