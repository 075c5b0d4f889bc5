"""One pooled HTTP connection to a gateway: authentication, retries, pages, and problems turned into errors.

It knows how the API answers, but none of its nouns; those are in the modules beside it.
"""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TypeVar
from urllib.parse import quote, urlsplit
from urllib.request import getproxies

import httpx
from pydantic import BaseModel, ValidationError

from divbase_client.errors import GatewayUnreachable, InvalidSettings, UnexpectedAnswer, api_error
from divbase_client.models import Page, Problem, Wire
from divbase_client.retry import Retry, seconds_of_retry_after

A = TypeVar("A", bound=BaseModel)
Params = Mapping[str, str | int | bool | None]

API = "/api/v1"
PAGE_SIZE = 500
_WORTH_RETRYING = {429, 502, 503, 504}


@cache
def user_agent() -> str:
    """`divbase-cli/<version>`, for the gateway's log."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"divbase-cli/{version('divbase-cli')}"
    except PackageNotFoundError:
        return "divbase-cli/unknown"


def base_url(url: str) -> str:
    """The gateway's address without path of the API and without slash at the end. Raises InvalidSettings."""
    url = url.strip().rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidSettings(
            f"{url!r} is not the address of a gateway.", hint="Write it as https://divbase.example.org."
        )
    if parts.username or parts.password:
        raise InvalidSettings("The gateway's address holds a user name or password.", hint="Use an API key instead.")
    return url.removesuffix(API)


def _certificates(url: str) -> ssl.SSLContext | bool:
    """Whom to trust: nobody where there is no TLS, as reading all authorities takes longer than many an answer."""
    if url.startswith("http://") and not getproxies():
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # that trusts none
    return True


_DOTS = {".": "%2E", "..": "%2E%2E"}  # which httpx would resolve, as a shell does


def path_of(*words: str) -> str:
    """`/projects/<name>/...` with each word quoted, so that no value can leave its place in the path."""
    return "/" + "/".join(_DOTS.get(word) or quote(word, safe="") for word in words)


class Connection:
    """Calls to one gateway with one key. Threads may share it.

    Raises GatewayUnreachable when no answer came after all retries, UnexpectedAnswer when it is not DivBase that
    answers, and the ApiError that belongs to the status otherwise.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        timeout: float = 30.0,
        retry: Retry | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = base_url(url)
        self.retry = retry or Retry()
        headers = {"User-Agent": user_agent(), "Accept": "application/json"}
        if api_key is not None:
            headers["Authorization"] = f"Bearer {_checked(api_key)}"
        self._http = httpx.Client(
            base_url=self.url + API,
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=16),
            verify=_certificates(self.url),
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, answer: type[A], params: Params | None = None) -> A:
        return self._read(self._send("GET", path, params=params), answer)

    def post(self, path: str, answer: type[A], body: BaseModel | None = None, *, creates: bool = False) -> A:
        """Repeatable: either the route is safe to repeat, or (`creates`) an Idempotency-Key makes it so."""
        headers = {"Idempotency-Key": str(uuid.uuid4())} if creates else {}
        return self._read(self._send("POST", path, body=body or Wire(), headers=headers), answer)

    def put(self, path: str, answer: type[A], body: BaseModel | None = None) -> A:
        return self._read(self._send("PUT", path, body=body), answer)

    def patch(self, path: str, answer: type[A], body: BaseModel, *, nulls: bool = False) -> A:
        """`nulls`: every field that was set is sent, null too, because it takes something away."""
        return self._read(self._send("PATCH", path, body=body, nulls=nulls), answer)

    def delete(self, path: str, answer: type[A], params: Params | None = None) -> A:
        """Not repeated once the gateway may have seen it: the second answer would say that there is nothing."""
        return self._read(self._send("DELETE", path, params=params, repeatable=False), answer)

    def discard(self, path: str) -> None:
        """DELETE of what answers 204."""
        self._send("DELETE", path, repeatable=False)

    def pages(self, path: str, item: type[A], params: Params | None = None) -> Iterator[A]:
        """Every item of a listing, a page at a time."""
        cursor: str | None = None
        while True:
            page = self.get(path, Page[item], {**(params or {}), "cursor": cursor, "limit": PAGE_SIZE})  # type: ignore[valid-type]
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: BaseModel | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
        nulls: bool = False,
    ) -> httpx.Response:
        request = self._http.build_request(
            method,
            path.lstrip("/"),
            params={name: _text(value) for name, value in (params or {}).items() if value is not None},
            # Defaults stay unsaid, so that an older gateway does not meet a field that it does not know.
            content=None
            if body is None
            else body.model_dump_json(exclude_defaults=not nulls, exclude_unset=nulls).encode(),
            headers={**(headers or {}), **({} if body is None else {"Content-Type": "application/json"})},
        )
        return _accepted(self._try(request, repeatable), self.url)

    def _try(self, request: httpx.Request, repeatable: bool) -> httpx.Response:
        for attempt in range(1, self.retry.attempts + 1):
            last = attempt == self.retry.attempts
            retry_after = None
            try:
                response = self._http.send(request)
                if last or not repeatable or response.status_code not in _WORTH_RETRYING:
                    return response
                retry_after = seconds_of_retry_after(response.headers.get("Retry-After"))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                # The request never left, so even what must not be repeated may be tried again.
                if last:
                    raise self._unreachable(error) from error
            except httpx.TransportError as error:
                if last or not repeatable:
                    raise self._unreachable(error) from error
            self.retry.sleep(self.retry.pause(attempt, retry_after))
        raise AssertionError("a Retry with no attempts")  # pragma: no cover

    def _unreachable(self, error: httpx.TransportError) -> GatewayUnreachable:
        reason = str(error) or type(error).__name__
        return GatewayUnreachable(
            f"The gateway at {self.url} cannot be reached ({reason}).",
            hint="Check the address and your network, then run the same again.",
        )

    def _read(self, response: httpx.Response, answer: type[A]) -> A:
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise UnexpectedAnswer(
                f"{self.url} gave an answer that this client does not understand ({error.error_count()} faults, "
                f"the first: {error.errors()[0]['msg']}).",
                hint="Check that the address is a DivBase gateway, and update divbase-cli.",
            ) from error


def _checked(api_key: str) -> str:
    key = api_key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidSettings("The API key holds characters that no key has.", hint="Copy it again, all on one line.")
    return key


def _text(value: str | int | bool | None) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _accepted(response: httpx.Response, url: str) -> httpx.Response:
    if response.is_success:
        return response
    if response.is_redirect:
        raise UnexpectedAnswer(
            f"{url} sends callers on to another address.",
            hint=f"Use that address itself: {response.headers.get('Location', 'not given')}.",
        )
    raise api_error(_problem(response, url))


def _problem(response: httpx.Response, url: str) -> Problem:
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:
        kind = response.headers.get("Content-Type", "no content type")
        return Problem(
            type="about:blank",
            title=response.reason_phrase,
            status=response.status_code,
            detail=f"{url} answered {response.status_code} {response.reason_phrase} ({kind}), not in DivBase's form.",
            code="foreign_answer",
            hint="Something in front of the gateway may have answered; check the address.",
            request_id=response.headers.get("X-Request-Id"),
        )
