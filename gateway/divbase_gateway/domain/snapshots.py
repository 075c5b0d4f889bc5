"""Snapshots of a project: what they may be called. It knows no rows; which versions one names is in the database."""

from __future__ import annotations

import re

from divbase_gateway.domain.errors import InvalidName

MAX_NOTE = 1000
"""Characters of a note."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def is_snapshot_name(name: str) -> bool:
    """Whether a snapshot can have this name: 1 to 100 letters, digits, `.`, `_`, `-`, no `.` or `-` first."""
    return _NAME.fullmatch(name) is not None


def validate_snapshot(name: str, note: str) -> None:
    """Refuse what cannot be typed back: a name that a shell or a URL would change, a note that moves the cursor.

    Raises:
        InvalidName: with what would be right.
    """
    if not is_snapshot_name(name):
        raise InvalidName(
            f"{name!r} cannot name a snapshot.",
            hint="Use 1 to 100 letters, digits, '.', '_' and '-', beginning with a letter, a digit or '_'.",
            details={"name": name},
        )
    if len(note) > MAX_NOTE or _CONTROL.search(note):
        raise InvalidName(
            f"The note of snapshot {name!r} is longer than {MAX_NOTE} characters or has a control character in it.",
            hint="Write one line of text.",
            details={"name": name},
        )
