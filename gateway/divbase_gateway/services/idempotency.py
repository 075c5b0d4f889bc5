"""Carrying out a request once, however often it is sent. It knows fingerprints and stored answers, not HTTP."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from divbase_gateway.db import idempotency as rows
from divbase_gateway.domain.errors import Conflict


@dataclass(frozen=True)
class StoredAnswer:
    """The first answer. `body` is JSON text, None where it held a secret and was not kept."""

    status: int
    body: str | None


def fingerprint(method: str, path: str, body: object) -> str:
    """SHA-256 (hex) of what was asked. `body` is JSON-compatible; the order of its fields does not matter."""
    canonical = json.dumps([method, path, body], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def begin(session: Session, user_id: int, key: str, asked: str, now: datetime) -> StoredAnswer | None:
    """Claim the key inside the caller's transaction.

    Returns:
        None: the request is new; carry it out in this transaction and `finish`. Otherwise the first answer, to be
        given again.

    Raises:
        Conflict: the key was used for something else.
    """
    if rows.claim(session, user_id, key, asked, now):
        return None
    row = rows.get(session, user_id, key)
    if row.fingerprint != asked:
        raise Conflict(
            "The Idempotency-Key was used before, for another request.",
            hint="Send a new Idempotency-Key with a new request.",
            details={"idempotency_key": key},
        )
    return StoredAnswer(row.status, row.body)


def answered(session: Session, user_id: int, key: str, asked: str) -> StoredAnswer | None:
    """The first answer to this request, if it was carried out before; for those who would rather not work in vain.

    It claims nothing: `begin` decides.
    """
    row = rows.find(session, user_id, key)
    return StoredAnswer(row.status, row.body) if row is not None and row.fingerprint == asked else None


def finish(session: Session, user_id: int, key: str, answer: StoredAnswer) -> None:
    """Keep the answer in the transaction that made what it tells of."""
    rows.settle(session, user_id, key, answer.status, answer.body)


def purge(session: Session, now: datetime, keep: timedelta) -> int:
    """Forget answers older than `keep`, and say how many. For the reconciler."""
    return rows.purge(session, now - keep)
