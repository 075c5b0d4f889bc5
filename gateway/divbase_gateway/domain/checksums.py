"""Checksums as S3 states them: MD5 in ETags and in Content-MD5. It computes; it reads no object and asks no one.

A store that encrypts with keys of its own (SSE-KMS, SSE-C) has ETags that are no MD5; DivBase does not support those.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence


def md5_of(data: bytes) -> bytes:
    """The 16 bytes of the MD5 of `data`. It guards against accidents on the way, not against people."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def content_md5(md5: bytes) -> str:
    """The value of a `Content-MD5` header (RFC 1864): base64 of the 16 bytes."""
    return b64encode(md5).decode("ascii")


def etag_of_object(md5: bytes) -> str:
    """The ETag, without quotes, of an object that was stored in one piece."""
    return md5.hex()


def etag_of_parts(md5s: Sequence[bytes], *, multipart: bool = True) -> str:
    """The ETag, without quotes, of an object that was joined from parts: the MD5 of their MD5s, and their number.

    Args:
        md5s: the 16-byte MD5 of every part, in part order.
        multipart: False for an object that was stored in one piece, which has one "part" and its MD5 for an ETag.

    Raises:
        ValueError: there is no part, or there are several of an object in one piece.
    """
    if not md5s or (len(md5s) > 1 and not multipart):
        raise ValueError(f"an object {'joined from parts' if multipart else 'in one piece'} has not {len(md5s)} parts")
    if not multipart:
        return etag_of_object(md5s[0])
    return f"{md5_of(b''.join(md5s)).hex()}-{len(md5s)}"


def md5_of_etag(etag: str) -> bytes:
    """The MD5 that the ETag of a part, or of an object in one piece, states. Quotes round it are allowed.

    Raises:
        ValueError: it is no MD5, as the ETag of a joined object never is.
    """
    plain = etag.strip('"')
    if not re.fullmatch(r"[0-9a-f]{32}", plain):
        raise ValueError(f"{etag!r} is not an MD5 in hex")
    return bytes.fromhex(plain)
