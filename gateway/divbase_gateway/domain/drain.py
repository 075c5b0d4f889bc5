"""Submission held back by the operator: accepted jobs wait, everything else goes on. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Drain:
    """Since when, and why, in the operator's words."""

    reason: str
    since: datetime

    @property
    def words(self) -> str:
        """What a user whose job waits for it is told."""
        return f"DivBase's operator holds submission back since {self.since:%Y-%m-%d %H:%M} UTC: {self.reason}"
