"""How often and how long to try again: exponential pauses with jitter, and a bound. It knows no protocol."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from random import SystemRandom

_RANDOM = SystemRandom()


@dataclass(frozen=True)
class Retry:
    """At most `attempts` tries. Pauses double from `first` up to `longest` seconds, each shortened by up to a half.

    A server's Retry-After is kept to, but for no longer than `patience` seconds. `sleep` is there for tests.
    """

    attempts: int = 6
    first: float = 0.25
    longest: float = 8.0
    patience: float = 60.0
    sleep: Callable[[float], object] = time.sleep

    def pause(self, attempt: int, retry_after: float | None = None) -> float:
        """Seconds to wait after failed try number `attempt` (from 1)."""
        grown = min(self.longest, self.first * 2 ** (attempt - 1))
        own: float = grown * _RANDOM.uniform(0.5, 1.0)
        return own if retry_after is None else max(own, min(retry_after, self.patience))


def seconds_of_retry_after(value: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Read a Retry-After header: seconds, or an HTTP date (RFC 9110, 10.2.3). None when absent or unreadable."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now())
    except (TypeError, ValueError):
        return None
