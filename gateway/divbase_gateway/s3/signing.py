"""Signs requests for others to make: Signature Version 4 in the query of a URL. It asks nobody and knows no bucket.

botocore signs as well, at several milliseconds each: a job of a thousand inputs with their indexes would wait for
seconds. Source: "Authenticating Requests: Using Query Parameters" in the S3 API reference.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Literal
from urllib.parse import quote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Credentials:
    """`token` comes with credentials that live for a while (an instance role's); URLs die with it."""

    access_key: str
    secret_key: str
    token: str | None = None


@dataclass(frozen=True)
class Signer:
    """Signs for one address of the store.

    Attributes:
        endpoint: URL under which the bearer of the request reaches the store.
        region: that requests are signed for.
    """

    endpoint: str
    region: str

    def sign(
        self,
        credentials: Credentials,
        method: Literal["GET", "PUT"],
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        now: datetime,
        seconds: int,
    ) -> str:
        """The URL with which `method` may be done to `path` (`bucket/key`, not encoded), until `seconds` after `now`.

        Args:
            query: parameters such as `versionId`, not encoded.
            headers: the bearer must send them exactly so.
        """
        moment = now.strftime("%Y%m%dT%H%M%SZ")
        scope = f"{moment[:8]}/{self.region}/s3/aws4_request"
        host, prefix = _host_and_prefix(self.endpoint)
        signed = {"host": host, **{name.lower(): " ".join(value.split()) for name, value in headers.items()}}
        names = ";".join(sorted(signed))
        asked = {
            **query,
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{credentials.access_key}/{scope}",
            "X-Amz-Date": moment,
            "X-Amz-Expires": str(seconds),
            "X-Amz-SignedHeaders": names,
        }
        if credentials.token:
            asked["X-Amz-Security-Token"] = credentials.token
        address = f"{prefix}/{_encoded(path, '/')}"
        words = "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in sorted(asked.items()))
        lines = "".join(f"{name}:{value}\n" for name, value in sorted(signed.items()))
        canonical = f"{method}\n{address}\n{words}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
        to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = _key_of_the_day(credentials.secret_key, moment[:8], self.region)
        signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
        scheme = urlsplit(self.endpoint).scheme
        return f"{scheme}://{host}{address}?{words}&X-Amz-Signature={signature}"


@lru_cache(maxsize=16)
def _host_and_prefix(endpoint: str) -> tuple[str, str]:
    """The Host header as clients write it (a default port is left out), and what goes before every path."""
    parts = urlsplit(endpoint)
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else str(parts.hostname)
    default = parts.port is None or parts.port == _DEFAULT_PORTS.get(parts.scheme)
    return (name if default else f"{name}:{parts.port}"), parts.path.rstrip("/")


@lru_cache(maxsize=16)
def _key_of_the_day(secret_key: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for word in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    return key


def _encoded(text: str, safe: str = "") -> str:
    return quote(text, safe=safe + "~")
