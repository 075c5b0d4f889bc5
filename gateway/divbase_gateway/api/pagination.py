"""Cursors and limits of listings. A cursor is opaque to clients; it knows the last position, never a row count."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from divbase_client.models import Page
from fastapi import Depends, Query

from divbase_gateway.domain.errors import InvalidRequest

Row = TypeVar("Row")
Item = TypeVar("Item")

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000


@dataclass(frozen=True)
class PageRequest:
    """What part of a listing is wanted: at most `limit` entries after the position `after` (None: from the start).

    A service that lists takes `after` and a limit, and is asked for one more (`fetch`) to learn whether more follows.
    """

    after: str | None
    limit: int

    @property
    def fetch(self) -> int:
        return self.limit + 1

    @property
    def after_id(self) -> int | None:
        """The position as a row id.

        Raises:
            InvalidRequest: the cursor is of another listing.
        """
        if self.after is None:
            return None
        if not (self.after.isascii() and self.after.isdigit()):
            raise _bad_cursor()
        return int(self.after)

    def page(
        self, rows: Sequence[Row], item: Callable[[Row], Item], position: Callable[[Row], str | int]
    ) -> Page[Item]:
        """The page made of up to `fetch` rows, with a cursor at the last one shown if there was one more."""
        shown = rows[: self.limit]
        more = len(rows) > self.limit
        return Page[Item](
            items=[item(row) for row in shown], next_cursor=_cursor(str(position(shown[-1]))) if more else None
        )


async def page_request(
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before", max_length=2000)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Entries on a page")] = DEFAULT_LIMIT,
) -> PageRequest:
    return PageRequest(None if cursor is None else _position(cursor), limit)


Paging = Annotated[PageRequest, Depends(page_request)]


def _cursor(position: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([position]).encode()).decode().rstrip("=")


def _position(cursor: str) -> str:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        value = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise _bad_cursor() from error
    if not (isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)):
        raise _bad_cursor()
    return value[0]


def _bad_cursor() -> InvalidRequest:
    return InvalidRequest(
        "The cursor is not one that this listing gave out.", hint="Pass `next_cursor` of the page before."
    )
