"""Sample metadata in the gateway: the table, and the filter language that chooses samples by it.

It knows tables and filters, not files, projects or where a table is kept; the table's format is
`divbase_client.sample_metadata`'s business (docs/adr/0002-one-metadata-validator.md).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from divbase_client.sample_metadata import (
    ID_COLUMN,
    Column,
    ColumnKind,
    Fault,
    InvalidTable,
    SampleTable,
    parse_number,
    parse_table,
)

from divbase_gateway.domain.errors import InvalidFilter, InvalidMetadata

__all__ = [
    "Column",
    "ColumnKind",
    "Fault",
    "Filter",
    "SampleTable",
    "close_matches",
    "compare_with_files",
    "filter_warnings",
    "list_some",
    "parse_filter",
    "read_table",
    "select",
]

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_RANGE = re.compile(rf"({_NUMBER})\s*-\s*({_NUMBER})")
_COMPARISON = re.compile(r"(>=|<=|>|<)\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Term:
    """One value of a condition.

    Attributes:
        text: as it was asked, without quotes and without the `!`.
        negative: whether it excludes what it matches.
        low, high: inclusive bounds of a numeric term; None for a text that has to be equal.
        open_low, open_high: whether the bound itself is left out (`>`, `<`).
    """

    text: str
    negative: bool
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    any_value: bool = False

    def matches(self, values: tuple[str, ...]) -> bool:
        """Whether any of a cell's values is what the term says."""
        if self.any_value:
            return not values
        if self.low is None or self.high is None:
            return self.text in values
        return any(self._holds(number) for number in map(parse_number, values) if number is not None)

    def _holds(self, number: float) -> bool:
        assert self.low is not None and self.high is not None  # noqa: S101, PT018 - matches() has looked
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return above and below


@dataclass(frozen=True)
class Condition:
    """A key with its terms: any positive one has to match (if there are any), no negative one may."""

    column: int
    terms: tuple[Term, ...]

    def holds(self, values: tuple[str, ...]) -> bool:
        positive = [term for term in self.terms if not term.negative]
        if positive and not any(term.matches(values) for term in positive):
            return False
        return not any(term.matches(values) for term in self.terms if term.negative)


@dataclass(frozen=True)
class Filter:
    """A filter that was checked against the columns of one table. No conditions: every row."""

    text: str
    conditions: tuple[Condition, ...]


def read_table(data: bytes) -> SampleTable:
    """Read a sample table.

    Raises:
        InvalidMetadata: with every fault, its row and its column.
    """
    try:
        return parse_table(data)
    except InvalidTable as exc:
        faults = [{"row": fault.row, "column": fault.column, "message": fault.message} for fault in exc.faults]
        raise InvalidMetadata(
            str(exc),
            hint="`divbase metadata validate FILE` lists every fault with its row and column.",
            details={"faults": faults},
        ) from exc


def parse_filter(text: str, table: SampleTable) -> Filter:
    """Read a filter, for example `Area:North,West;Year:>=2000,!2004`, against the columns of `table`.

    `;` is AND, `,` is OR, `!` before a value excludes, quotes take away the special meaning of what is in them (a
    quote inside is doubled). Columns of numbers take `>x`, `>=x`, `<x`, `<=x` and the inclusive range `a-b` too. An
    empty cell matches no value; `!""` excludes the empty ones. White space around keys and values does not count.

    Raises:
        InvalidFilter: naming the key and the columns there are.
    """
    names = {column.name: index for index, column in enumerate(table.columns)}
    names.setdefault(ID_COLUMN.removeprefix("#"), 0)
    if not text.strip():
        return Filter(text, ())
    conditions = tuple(_parse_condition(words, names, table) for words in _split(text, table))
    return Filter(text, conditions)


def select(table: SampleTable, chosen: Filter) -> tuple[str, ...]:
    """The samples that the filter leaves, in the table's order; possibly none."""
    return tuple(
        name
        for name, row in zip(table.sample_ids, table.cells, strict=True)
        if all(condition.holds(row[condition.column]) for condition in chosen.conditions)
    )


def filter_warnings(table: SampleTable, chosen: Filter) -> tuple[str, ...]:
    """A sentence for each plain text value of the filter that no row has: often a typing error."""
    warnings = []
    for condition in chosen.conditions:
        known = table.distinct(condition.column)
        for term in condition.terms:
            if term.low is None and not term.any_value and term.text not in known:
                name = table.columns[condition.column].name
                warnings.append(f"No sample has {term.text!r} in {name}.{did_you_mean(term.text, known)}")
    return tuple(warnings)


def compare_with_files(table: SampleTable, file_samples: Iterable[str]) -> tuple[str, ...]:
    """Sentences about samples that only the table has, or only the files; neither stops a query."""
    in_files = dict.fromkeys(file_samples)
    in_table = set(table.sample_ids)
    without_file = [name for name in table.sample_ids if name not in in_files]
    without_row = [name for name in in_files if name not in in_table]
    warnings = []
    if without_file:
        warnings.append(f"{len(without_file)} sample(s) of the table are in no file yet: {list_some(without_file)}.")
    if without_row:
        warnings.append(f"{len(without_row)} sample(s) of the files have no row: {list_some(without_row)}.")
    return tuple(warnings)


def close_matches(word: str, known: Iterable[str]) -> list[str]:
    """Up to three of the known words that look like `word`, letter case aside, best first."""
    by_lower: dict[str, str] = {}
    for candidate in known:
        by_lower.setdefault(candidate.lower(), candidate)
    return [by_lower[match] for match in difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.6)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing where no known word is close."""
    matches = close_matches(word, known)
    return f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""


def list_some(names: Sequence[str], limit: int = 10) -> str:
    """The first names, and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


# --- reading the text ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Word:
    """A key or value: its text, whether it was quoted, whether `!` came before it."""

    text: str
    quoted: bool
    negative: bool


def _refuse(message: str, table: SampleTable, key: str | None, hint: str | None = None) -> InvalidFilter:
    known = [column.name for column in table.columns]
    return InvalidFilter(
        message,
        hint=hint or f"The columns are {', '.join(known)}.",
        details={"key": key, "known": known},
    )


def _split(text: str, table: SampleTable) -> list[list[_Word]]:
    """Cut a filter into conditions, each a key followed by its values."""
    conditions: list[list[_Word]] = []
    for condition in _split_outside_quotes(text, ";", table):
        if not condition.strip():
            raise _refuse("The filter has an empty condition: two ';' in a row, or one at an end.", table, None)
        key, *rest = _split_outside_quotes(condition, ":", table)
        if not rest:
            raise _refuse(f"{condition.strip()!r} has no ':'; a condition is Key:value.", table, condition.strip())
        name = _word(key, table, None)
        if len(rest) > 1:
            hint = f'If it belongs to the value, quote the value: {name.text}:"…".'
            raise _refuse(f"{condition.strip()!r} has more than one ':'.", table, name.text, hint)
        values = _split_outside_quotes(rest[0], ",", table)
        conditions.append([name, *(_word(value, table, name.text) for value in values)])
    return conditions


def _split_outside_quotes(text: str, separator: str, table: SampleTable) -> list[str]:
    parts, start, quoted = [], 0, False
    for position, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif character == separator and not quoted:
            parts.append(text[start:position])
            start = position + 1
    if quoted:
        raise _refuse(f"A quote is opened and not closed in {text!r}.", table, None, 'A quote inside quotes is "".')
    return [*parts, text[start:]]


def _word(text: str, table: SampleTable, key: str | None) -> _Word:
    word = text.strip()
    negative = word.startswith("!")
    if negative:
        word = word[1:].lstrip()
    if word.startswith('"') and word.endswith('"') and len(word) > 1:
        inner = word[1:-1]
        if '"' not in inner.replace('""', ""):
            return _Word(inner.replace('""', '"'), True, negative)
    if '"' in word:
        raise _refuse(f"{word!r} is quoted in part; put the quotes around the whole of it.", table, key)
    if word.startswith("!"):
        raise _refuse(f"{text.strip()!r} has more than one '!' before it.", table, key)
    return _Word(word, False, negative)


def _parse_condition(words: list[_Word], names: dict[str, int], table: SampleTable) -> Condition:
    key, *values = words
    if key.negative:
        raise _refuse("'!' stands before a value, not before a key.", table, key.text, f"Write {key.text}:!value.")
    if key.text not in names:
        known = ", ".join(column.name for column in table.columns)
        raise _refuse(
            f"There is no column {key.text!r} in the sample metadata.{did_you_mean(key.text, names)}",
            table,
            key.text,
            f"The columns are {known}.",
        )
    index = names[key.text]
    read = _number_term if table.columns[index].kind is ColumnKind.NUMBER else _text_term
    return Condition(index, tuple(_parse_term(value, key.text, table, read) for value in values))


def _parse_term(word: _Word, key: str, table: SampleTable, read: Callable[[_Word, str, SampleTable], Term]) -> Term:
    if word.text:
        return read(word, key, table)
    if word.quoted and word.negative:
        return Term("", negative=True, any_value=True)
    raise _refuse(
        f"A value of {key!r} is empty, and an empty cell matches nothing.",
        table,
        key,
        f'Write {key}:value, or {key}:!"" for the samples that have a value.',
    )


def _text_term(word: _Word, key: str, table: SampleTable) -> Term:
    if not word.quoted and word.text[0] in "<>":
        raise _refuse(
            f"{word.text!r} compares numbers, but {key!r} holds text.",
            table,
            key,
            f'To mean the text itself, quote it: {key}:"{word.text}".',
        )
    return Term(word.text, word.negative)


def _number_term(word: _Word, key: str, table: SampleTable) -> Term:
    infinity = float("inf")
    number = parse_number(word.text)
    if number is not None:
        return Term(word.text, word.negative, number, number)
    comparison = None if word.quoted else _COMPARISON.fullmatch(word.text)
    if comparison:
        bound = parse_number(comparison[2])
        if bound is not None and comparison[1][0] == ">":
            return Term(word.text, word.negative, bound, infinity, open_low=comparison[1] == ">")
        if bound is not None:
            return Term(word.text, word.negative, -infinity, bound, open_high=comparison[1] == "<")
    span = None if word.quoted else _RANGE.fullmatch(word.text)
    low, high = (parse_number(span[1]), parse_number(span[2])) if span else (None, None)
    if low is not None and high is not None and low <= high:
        return Term(word.text, word.negative, low, high)
    what = "is a range that ends before it begins" if low is not None and high is not None else "is no number"
    raise _refuse(
        f"{word.text!r} {what}, and {key!r} is a column of numbers.",
        table,
        key,
        f"Write a number, >x, >=x, <x, <=x or a range a-b, for example {key}:>=10 or {key}:-5--1.",
    )
