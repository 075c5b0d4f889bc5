"""What every request gets, whatever its route: an id, one log line, and an answer even when we fail.

It must never log a header, a query string or a body: they hold keys and signatures.
"""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from divbase_gateway.api.errors import REQUEST_ID_HEADER, unexpected

_log = structlog.get_logger()

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestLog:
    """The outermost layer of the app.

    Bodies above `max_body_bytes` are refused with 413. A request id that comes in is kept if it is sane (up to 64 of
    A-Z a-z 0-9 . _ -), else one is made; it is in every log line of the request and in the answer.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int):
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, _limited(scope, receive, self.max_body_bytes), send_with_id)
            except Exception:
                _log.exception("request.crashed", method=scope["method"], path=_template(scope))
                if status:
                    raise  # the answer is under way: only breaking it off tells the client
                await unexpected(request_id)(scope, receive, send_with_id)
            _log.info(
                "request.answered",
                method=scope["method"],
                path=_template(scope),
                status=status,
                ms=round((time.perf_counter() - started) * 1000, 1),
                user=state.get("user"),
            )


def _limited(scope: Scope, receive: Receive, most: int) -> Receive:
    """`receive`, which refuses to read more than `most` bytes of body, announced or not."""
    announced = Headers(scope=scope).get("content-length", "")
    too_large = announced.isdecimal() and int(announced) > most
    received = 0

    async def receive_some() -> Message:
        nonlocal received
        if too_large:
            raise HTTPException(413)
        message = await receive()
        received += len(message.get("body", b""))
        if received > most:
            raise HTTPException(413)
        return message

    return receive_some


def _request_id(given: str | None) -> str:
    return given if given and _SANE_ID.fullmatch(given) else uuid.uuid4().hex


def _template(scope: Scope) -> str:
    """The route's path with its parameters by name; of unknown paths only that they are."""
    templates: dict[object, str | None] = scope["app"].state.templates
    return templates.get(scope.get("endpoint")) or "(no such route)"
