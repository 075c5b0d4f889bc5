"""What the helper concludes where it deals with S3 alone."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest
from divbase_jobscripts import node

EXPIRES_AT = 1_793_000_000
MIB = 1 << 20
GIB = 1 << 30


def desk(part_size: int = 64 * MIB, parts: int = 0) -> Any:
    outputs = {"result": {"request": {}, "part_size": part_size, "parts": [{}] * parts}, "index": {"request": {}}}
    return node.ManifestDesk({"retry_for_s": 1, "part_size": 64 * MIB, "expires_at": EXPIRES_AT, "outputs": outputs})


def refusal(code: str, message: str, date: float | None) -> Any:
    headers = {} if date is None else {"Date": formatdate(date, usegmt=True)}
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return node.Answer(403, headers, body)


@pytest.mark.parametrize(
    ("made", "role", "size", "expected"),
    [
        (desk(), "result", 10, 10),
        (desk(), "result", 0, 1),
        (desk(), "result", 5 * GIB, 5 * GIB),  # no upload was begun: one PUT
        (desk(64 * MIB, 4), "result", 64 * MIB, 64 * MIB),
        (desk(64 * MIB, 4), "result", 64 * MIB + 1, 64 * MIB),
        (desk(128 * MIB, 4), "result", 512 * MIB, 128 * MIB),
        (desk(64 * MIB, 4), "result", 257 * MIB, 257 * MIB),  # more than the parts hold, and not too much for one PUT
        (desk(64 * MIB, 4), "index", 100 * MIB, 100 * MIB),
    ],
)
def test_pieces_are_those_that_were_signed_for(made: Any, role: str, size: int, expected: int) -> None:
    """Guards: parts where they are worth it and enough, else the whole."""
    assert made.part_size(made.manifest, role, size) == expected


@pytest.mark.parametrize("made", [desk(), desk(64 * MIB, 4)])
def test_a_result_that_fits_nowhere_is_told_so(made: Any) -> None:
    """Guards: what S3 would refuse after hours of sending is refused before."""
    with pytest.raises(node.Failed) as caught:
        made.part_size(made.manifest, "result", 5 * GIB + 1)
    assert caught.value.reason == "result_too_large"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (refusal("AccessDenied", "Request has expired", EXPIRES_AT - 100), "urls_expired"),
        (refusal("ExpiredToken", "", None), "urls_expired"),
        (refusal("AccessDenied", "", EXPIRES_AT + 1), "urls_expired"),  # stores that do not say why
        (refusal("AccessDenied", "", EXPIRES_AT - 1), "store_unavailable"),
        (refusal("SignatureDoesNotMatch", "", EXPIRES_AT - 100), "store_unavailable"),
    ],
)
def test_a_refused_signature_is_expired_by_the_stores_word_or_clock(answer: Any, reason: str) -> None:
    """Guards: the node's own clock decides nothing while S3 tells the time."""
    assert desk().lapsed(answer, "the claim").reason == reason
