"""Creating once, however often it is asked: `idempotently` wraps the work of a POST. It knows not what is created."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from divbase_gateway.api.deps import gateway_of
from divbase_gateway.domain.errors import Conflict, InvalidRequest
from divbase_gateway.services import idempotency
from divbase_gateway.services.idempotency import StoredAnswer
from divbase_gateway.services.keys import Caller

REPLAY_HEADER = "Idempotent-Replay"

_PRINTABLE = re.compile(r"[\x20-\x7e]{1,200}")

Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True)
class OnceOnly:
    """What a request is recognised by when it comes again."""

    key: str | None
    method: str
    path: str
    now: datetime


async def _once_only(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Required. 1 to 200 printable ASCII characters, new for every new request, the same in a repeat"
        ),
    ] = None,
) -> OnceOnly:
    return OnceOnly(idempotency_key, request.method, request.url.path, gateway_of(request).clock.now())


Once = Annotated[OnceOnly, Depends(_once_only)]


def idempotently(
    once: OnceOnly,
    session: Session,
    caller: Caller,
    body: BaseModel | None,
    create: Callable[[], Answer],
    status: int | Callable[[Answer], int] = 201,
    secret: str | None = None,
) -> Response:
    """Answer with what `create` makes, or with the first answer where the request was carried out before.

    The key is stored in the transaction of `session`, with what is created or not at all: of two equal requests at the
    same time one creates and the other waits and gets the same answer.

    Args:
        status: of the answer, or what tells it from the answer.
        secret: set where the answer holds a secret and must not be kept; the sentence that a repeat is refused with.

    Raises:
        InvalidRequest: no key, or a bad one.
        Conflict: the key was used for another request; or for this one, and its answer held a secret.
    """
    key, asked = _checked(once.key), _fingerprint(once, body)
    stored = idempotency.begin(session, caller.user.id, key, asked, once.now)
    if stored is not None:
        return _replayed(stored, secret)
    answer = create()
    code = status if isinstance(status, int) else status(answer)
    text = answer.model_dump_json()
    idempotency.finish(session, caller.user.id, key, StoredAnswer(code, None if secret else text))
    return Response(text, code, media_type="application/json")


def earlier_answer(once: OnceOnly, session: Session, caller: Caller, body: BaseModel | None) -> Response | None:
    """The first answer to this request, for a route that has costly work to do before it can create anything.

    None does not promise that the request is new: `idempotently` finds that out in its transaction.

    Raises:
        InvalidRequest: no key, or a bad one.
    """
    stored = idempotency.answered(session, caller.user.id, _checked(once.key), _fingerprint(once, body))
    return None if stored is None else _replayed(stored, None)


def _fingerprint(once: OnceOnly, body: BaseModel | None) -> str:
    return idempotency.fingerprint(once.method, once.path, None if body is None else body.model_dump(mode="json"))


def _replayed(stored: StoredAnswer, secret: str | None) -> Response:
    if stored.body is None:
        raise Conflict(secret or "The first answer held a secret and is not told again.")
    return Response(stored.body, stored.status, headers={REPLAY_HEADER: "true"}, media_type="application/json")


def _checked(key: str | None) -> str:
    if key is None:
        raise InvalidRequest(
            "The header Idempotency-Key is missing.",
            hint="Send a new random one with every new request (for example a UUID), and the same when repeating it.",
        )
    if not _PRINTABLE.fullmatch(key):
        raise InvalidRequest("The header Idempotency-Key must be 1 to 200 printable ASCII characters.")
    return key
