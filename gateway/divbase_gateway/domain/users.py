"""Users and their API keys: what an email address, a key and its stored form look like. No rows, no requests."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from divbase_gateway.domain.errors import InvalidName

_PREFIX_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_KEY = re.compile(r"(dvb_[a-z2-7]{8})\.([A-Za-z0-9_-]{43})")
_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f<>,;:\"()\[\]\\]+@[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")


@dataclass(frozen=True)
class KeyText:
    """An API key as its owner holds it: `<prefix>.<secret>`.

    The prefix (`dvb_` and 8 base32 characters) tells keys apart and is no secret; the secret is 256 random bits as 43
    URL-safe base64 characters.
    """

    prefix: str
    secret: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.prefix}.{self.secret}"


def make_key() -> KeyText:
    """A new random key."""
    prefix = "dvb_" + "".join(secrets.choice(_PREFIX_ALPHABET) for _ in range(8))
    return KeyText(prefix, secrets.token_urlsafe(32))


def parse_key(text: str) -> KeyText | None:
    """The key that `text` is, or None where it does not have the form of one."""
    match = _KEY.fullmatch(text)
    return KeyText(match[1], match[2]) if match else None


def hash_secret(secret: str) -> str:
    """What is stored of a secret: its SHA-256 in hex. 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def secret_matches(secret: str, stored: str) -> bool:
    """Whether `stored` is the hash of `secret`, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(hash_secret(secret), stored)


def normalise_email(email: str) -> str:
    """The address in the one spelling that is stored: trimmed and in lower case.

    Raises:
        InvalidName: it has not the form of an address.
    """
    address = email.strip().lower()
    if len(address) > 254 or not _EMAIL.fullmatch(address):
        raise InvalidName(
            f"{email!r} is not an email address.",
            hint="Write it as name@host, without a display name.",
            details={"name": email},
        )
    return address
