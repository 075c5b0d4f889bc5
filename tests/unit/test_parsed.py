"""Values of JSON texts that are kept."""

from __future__ import annotations

import json

import pytest
from divbase_gateway.db.parsed import Parsed


def test_a_text_is_read_once_and_another_text_anew() -> None:
    """Guards: what is kept belongs to the very text, so a row that changed is never answered with what it was."""
    read: list[str] = []

    def parse(text: str) -> tuple[int, ...]:
        read.append(text)
        return tuple(json.loads(text))

    parsed = Parsed(parse, 100)
    assert [parsed.of("[1, 2]"), parsed.of("[1, 2]"), parsed.of("[1, 3]")] == [(1, 2), (1, 2), (1, 3)]
    assert read == ["[1, 2]", "[1, 3]"]


def test_no_more_text_is_kept_than_was_said() -> None:
    """Guards: the memory that it takes has a limit, and a text that is longer than that is read all the same."""
    parsed = Parsed(len, 10)
    for text in ("aaaa", "bbbb", "aaaa", "cccc", "d" * 11):
        assert parsed.of(text) == len(text)
        assert parsed.chars <= 10


def test_the_one_that_was_used_last_stays() -> None:
    """Guards: what is asked for again and again is not pushed out by what is asked for once."""
    read: list[str] = []
    parsed = Parsed(read.append, 8)
    for text in ("aaaa", "bbbb", "aaaa", "cccc", "aaaa", "bbbb"):
        parsed.of(text)
    assert read == ["aaaa", "bbbb", "cccc", "bbbb"]


def test_a_text_that_cannot_be_read_is_an_error_each_time() -> None:
    """Guards: nothing is kept of a fault."""
    parsed = Parsed(json.loads, 100)
    for _ in range(2):
        with pytest.raises(ValueError, match="Expecting value"):
            parsed.of("?")
    assert parsed.chars == 0
