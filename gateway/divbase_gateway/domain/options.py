"""Rows of the allow-lists of bcftools options, and the checks of values that several commands share.

It knows single options and their values, not which command has which, nor files or samples.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from divbase_gateway.domain.regions import format_regions, parse_regions

Check = Callable[[str], str]
"""Takes a value, returns it as bcftools gets it, or raises ValueError with a sentence without its full stop."""


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        long: without the dashes.
        short: one letter, or empty.
        check: of its value; None for an option without one.
        refused: why it is not allowed; None for one that is.
        takes_value: whether bcftools reads a value after it.
        dashed: whether the value may begin with a dash, as in `norm -m -any`.
        before_cut: within one `view`, bcftools applies it to the samples as they were before `-s` cuts them down.
    """

    long: str
    short: str
    check: Check | None = None
    refused: str | None = None
    takes_value: bool = False
    dashed: bool = False
    before_cut: bool = False

    @property
    def spelling(self) -> str:
        return f"-{self.short}, --{self.long}" if self.short else f"--{self.long}"


def valued(long: str, short: str, check: Check, *, dashed: bool = False, before_cut: bool = False) -> Option:
    """An allowed option with a value."""
    return Option(long, short, check, takes_value=True, dashed=dashed, before_cut=before_cut)


def flag(long: str, short: str) -> Option:
    """An allowed option without a value."""
    return Option(long, short)


def refused(long: str, short: str, reason: str, takes_value: bool = False) -> Option:
    """An option that bcftools has and a query may not use; `reason` without its full stop."""
    return Option(long, short, refused=reason, takes_value=takes_value)


# --- checks of values ------------------------------------------------------------------------------------------------


def one_of(*words: str) -> Check:
    def check(value: str) -> str:
        if value not in words:
            raise ValueError(f"{value!r} is none of {', '.join(words)}")
        return value

    return check


def list_of(*words: str) -> Check:
    def check(value: str) -> str:
        wrong = [item for item in value.split(",") if item not in words]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is none of {', '.join(words)}")
        return value

    return check


def matching(pattern: str, what: str) -> Check:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return check


def check_regions(value: str) -> str:
    return format_regions(parse_regions(value))


def check_targets(value: str) -> str:
    exclude = value.startswith("^")
    return ("^" if exclude else "") + format_regions(parse_regions(value[exclude:]))


check_filters = matching(r"[^\s;,]+(?:,[^\s;,]+)*", "a list of FILTER names such as PASS,.")

_PERL = re.compile(r"\s*perl:|\bperl\.", re.IGNORECASE)
_STRING = re.compile(r"\"[^\"]*\"|'[^']*'")
_SUBSCRIPT = re.compile(r"\[[^\]]*\]")
_SITE_WORDS = frozenset({"QUAL", "POS", "CHROM", "REF", "ALT", "ID", "FILTER", "TYPE"})


def check_expression(value: str) -> str:
    """Refuse what would make bcftools read a file or run a script; whether the rest makes sense, bcftools says.

    bcftools reads a file at an `@` that begins a value or a subscript; within string quotes `@` is a character. It
    looks for quotes outside square brackets only: quotes inside them would move the border between text and code.
    """
    if not value.strip():
        raise ValueError("the expression is empty")
    code = _blank_strings(value)
    if "@" in code:
        raise ValueError('"@" outside quotes makes bcftools read a file, which is not allowed')
    if _PERL.search(code):
        raise ValueError("Perl filters are not allowed")
    return value


def _blank_strings(value: str) -> str:
    """The expression with its quoted strings emptied, read from left to right as bcftools does."""
    code, position = [], 0
    while position < len(value):
        character = value[position]
        pattern = _SUBSCRIPT if character == "[" else _STRING if character in "'\"" else None
        if pattern is None:
            code.append(character)
            position += 1
            continue
        match = pattern.match(value, position)
        if match is None:
            raise ValueError(f"{character} is opened and not closed")
        if character == "[" and re.search("['\"]", match[0]):
            raise ValueError("quotes inside square brackets are not allowed")
        code.append(match[0] if character == "[" else '""')
        position = match.end()
    return "".join(code)


def reads_sites_only(expression: str) -> bool:
    """Whether a (checked) expression says the same whatever the samples: QUAL, POS and the like, no INFO, no FORMAT."""
    words = re.findall(r"[A-Za-z_%][A-Za-z0-9_./%]*", _blank_strings(expression))
    return "[" not in expression and all(word in _SITE_WORDS for word in words)
