"""Errors as RFC 9457 problem details: one table from class to status, one way to write them down.

It knows the error tree and HTTP; it must not know what any route does.
"""

from __future__ import annotations

import http
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from divbase_client.models import Problem
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from divbase_gateway.domain import errors

_log = structlog.get_logger()

STATUSES: Mapping[type[errors.DivBaseError], tuple[int, str]] = {
    errors.InvalidRequest: (422, "The request is wrong"),
    errors.Unauthenticated: (401, "Not authenticated"),
    errors.Forbidden: (403, "Not allowed"),
    errors.ResultRemoved: (410, "Removed"),
    errors.NotFound: (404, "Not found"),
    errors.Conflict: (409, "Conflict"),
    errors.LimitReached: (409, "A limit is reached"),
    errors.Unavailable: (503, "Not available at the moment"),
    errors.SubmissionError: (502, "The scheduler did not take the job"),
    errors.DivBaseError: (500, "The gateway failed"),
}
"""Error class -> status and title. A subclass without a line of its own has that of its nearest parent."""

REQUEST_ID_HEADER = "X-Request-Id"


def status_of(error: errors.DivBaseError) -> tuple[int, str]:
    """The status and title of an error, by its class or the nearest parent in the table."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of `app` as problem details; an unexpected one is logged whole and told without internals."""
    app.add_exception_handler(errors.DivBaseError, _on_divbase_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_fields)
    app.add_exception_handler(HTTPException, _on_http_error)


def problem(
    status: int,
    title: str,
    detail: str,
    code: str,
    request_id: str,
    *,
    hint: str | None = None,
    details: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem details answer."""
    body = Problem(
        type=f"urn:divbase:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        code=code,
        hint=hint,
        request_id=request_id,
        details=dict(details or {}),
    )
    return Response(body.model_dump_json(), status, headers=headers, media_type="application/problem+json")


def unexpected(request_id: str) -> Response:
    """What is told of a fault of our own: nothing but where to find it."""
    return problem(
        500,
        "The gateway failed",
        "The gateway met a fault of its own; it is in its log.",
        "internal_error",
        request_id,
        hint=f"Tell the operator the request id {request_id}.",
    )


def request_id_of(request: Request) -> str:
    request_id: str = getattr(request.state, "request_id", "")
    return request_id


def _on_divbase_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.DivBaseError)  # noqa: S101 - what it is registered for
    status, title = status_of(error)
    if status >= 500:
        _log.warning("request.failed", code=error.code, message=error.message, request_id=request_id_of(request))
    return problem(
        status,
        title,
        error.message,
        error.code,
        request_id_of(request),
        hint=error.hint,
        details=error.details,
        headers={"WWW-Authenticate": "Bearer"} if status == 401 else None,
    )


def _on_invalid_fields(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    faults = [_fault(fault) for fault in error.errors()]
    words = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
    return problem(
        422,
        "The request is wrong",
        f"{'One field is' if len(faults) == 1 else f'{len(faults)} fields are'} not right: {words}.",
        "invalid_fields",
        request_id_of(request),
        details={"faults": faults},
    )


def _fault(fault: Mapping[str, Any]) -> dict[str, str]:
    """The field by its path (`body.size`, `query.limit`) and what is wrong; never the value, which may be a secret."""
    return {"field": _field_name(fault["loc"]), "message": fault["msg"], "type": fault["type"]}


def _field_name(loc: Sequence[object]) -> str:
    return ".".join(str(part) for part in loc)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    detail, code, hint = _http_words(request, error)
    title = http.HTTPStatus(error.status_code).phrase
    return problem(error.status_code, title, detail, code, request_id_of(request), hint=hint, headers=error.headers)


def _http_words(request: Request, error: HTTPException) -> tuple[str, str, str | None]:
    path = request.url.path
    if error.status_code == 404:
        return f"There is nothing at {path}.", "no_such_route", "The routes are listed in /api/v1/openapi.json."
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{request.method} is not possible at {path}.", "method_not_allowed", f"Use {allowed}."
    if error.status_code == 413:
        return "The body of the request is too large.", "body_too_large", "Files are uploaded to S3, not through here."
    return str(error.detail), "http_error", None
