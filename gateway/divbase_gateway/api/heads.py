"""Bounds what a client can send before the gateway knows what it wants: httptools itself takes a head of any size.

It must not know the app.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""As much as h11 takes, uvicorn's other parser. Read in pieces, so up to one piece of 256 KiB may come on top."""


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol over httptools, which answers 400 and hangs up where a request's line and headers go on for
    longer than `MAX_HEAD_BYTES`."""

    _head_bytes: int | None = 0
    """Of the head that is being read; None while none is."""

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_bytes is None or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response(f"The request's line and headers have more than {MAX_HEAD_BYTES} bytes.")
