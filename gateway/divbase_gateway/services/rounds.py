"""One round over things that lie in the buckets of several projects: a bucket that refuses keeps only its own waiting.

What S3 answers about one bucket is quick and says nothing about the others. A store that does not answer costs a
timeout each time, so a few of those end the round.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from divbase_gateway.domain.errors import DivBaseError, StoreUnavailable, Unavailable

log = structlog.get_logger()

_UNANSWERED_A_ROUND = 3
"""So many buckets of which the store says nothing, and it is taken for away."""
_NOT_THIS_BUCKET = {"AccessDenied", "Forbidden", "403"}
"""What S3 says where the gateway may not do this in this bucket."""


class Round:
    """What refused in it. Look for things in `passes`, ask `skips` before each, do it within `at`; `end` the round."""

    def __init__(self) -> None:
        self._refused: dict[str, DivBaseError] = {}
        self._unanswered = 0

    def skips(self, bucket: str) -> bool:
        """Whether the bucket has refused: what else is to be done there waits for the next round."""
        return bucket in self._refused

    def passes(self) -> Iterator[frozenset[str]]:
        """The buckets to leave out of what is looked for: none, and once more with each that has refused since, so that
        no number of things in those takes the place of the others'."""
        without: frozenset[str] | None = None
        while without != frozenset(self._refused):
            without = frozenset(self._refused)
            yield without

    @contextmanager
    def at(self, bucket: str) -> Iterator[None]:
        """Note that the bucket refuses, where it does, and go on.

        Raises:
            StoreUnavailable: the store does not answer, now and for other buckets before.
        """
        try:
            yield
        except DivBaseError as error:
            if isinstance(error, Unavailable) and not isinstance(error, StoreUnavailable):
                raise
            log.warning("bucket.refused", bucket=bucket, error=str(error))
            self._refused[bucket] = error
            self._unanswered += _is_silence(error)
            if self._unanswered >= _UNANSWERED_A_ROUND:
                self.end()

    def end(self) -> None:
        """Say whether everything was done.

        Raises:
            StoreUnavailable: some of it waits for the next round; the first bucket that refused is named.
        """
        for bucket, error in self._refused.items():
            others = len(self._refused) - 1
            raise StoreUnavailable(
                f"What is to be done in bucket {bucket!r}{f' and {others} others' if others else ''} waits: "
                f"{error.message}",
                hint=error.hint,
                details=error.details,
            ) from error


def _is_silence(error: DivBaseError) -> bool:
    return isinstance(error, StoreUnavailable) and error.details.get("code") not in _NOT_THIS_BUCKET
