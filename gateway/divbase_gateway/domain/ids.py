"""Random public ids: short enough to read aloud, of characters that S3 keys, job names and shells take as they are."""

from __future__ import annotations

import secrets

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def new_id(length: int = 10) -> str:
    """A fresh id of 5 bits a character; the first is a letter, so that no spreadsheet takes it for a number."""
    return secrets.choice(_ALPHABET[10:]) + "".join(secrets.choice(_ALPHABET) for _ in range(length - 1))
