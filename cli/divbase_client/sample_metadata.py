"""The one validator and reader of sample tables (TSV), used by the laptop and by the gateway; standard library only.

It knows the format and nothing else: not the filter language, not which files hold a sample, not where the bytes
came from (docs/adr/0002-one-metadata-validator.md).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

ID_COLUMN = "#Sample_ID"

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BOM = b"\xef\xbb\xbf"


class ColumnKind(StrEnum):
    """How the values of a column compare."""

    TEXT = "text"
    NUMBER = "number"  # every value, or element of a list, is a finite number, and there is at least one


@dataclass(frozen=True)
class Column:
    """A column as its values show it. `is_list`: at least one cell holds a list."""

    name: str
    kind: ColumnKind
    is_list: bool


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. `row` is the 1-based line of the file; `column` its name, None for a whole line."""

    row: int
    column: str | None
    message: str


class InvalidTable(ValueError):
    """A table that cannot be used; `faults` has all that is wrong with it, in line order."""

    def __init__(self, faults: Sequence[Fault]):
        self.faults = list(faults)
        first = self.faults[0]
        where = f"line {first.row}" + (f", column {first.column!r}" if first.column else "")
        super().__init__(f"{len(self.faults)} fault(s) in the sample table; the first, in {where}: {first.message}")


@dataclass(frozen=True)
class SampleTable:
    """A valid table.

    Attributes:
        columns: in file order, `#Sample_ID` first.
        rows: the cells as they are written, one tuple of `len(columns)` for each sample.
        cells: the values of each cell: none for an empty one, several for a list.
        sample_ids: of the rows, in file order.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    cells: tuple[tuple[tuple[str, ...], ...], ...] = field(repr=False)
    sample_ids: tuple[str, ...]

    def values(self, column: int) -> tuple[tuple[str, ...], ...]:
        """The values of the column at this index (0-based), one tuple for each row."""
        return tuple(row[column] for row in self.cells)

    def distinct(self, column: int) -> tuple[str, ...]:
        """The different values of the column at this index (0-based), in order of first appearance."""
        return tuple(dict.fromkeys(value for cell in self.values(column) for value in cell))


def parse_number(text: str) -> float | None:
    """The finite number that `text` writes (`7`, `-5.5`, `1e3`), or None where it writes none."""
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def parse_table(data: bytes) -> SampleTable:
    """Read a sample table: tab-separated UTF-8, a header line, one line for each sample.

    A byte order mark and CRLF line ends are tolerated, and so are empty lines at the end. Every cell is text; one that
    begins with `[` is a JSON list of texts or numbers. Column names may hold any printable character: those that the
    filter language uses (`:;,"!`) are quoted there.

    Raises:
        InvalidTable: with every fault that the table has.
    """
    lines, faults = _decode_lines(data)
    if not lines:
        raise InvalidTable(faults or [Fault(1, None, f"The table is empty; it needs a first line with {ID_COLUMN}.")])
    names = lines[0].split("\t")
    faults.extend(_check_names(names))
    rows = [(number, line.split("\t")) for number, line in enumerate(lines[1:], start=2)]
    faults.extend(_check_widths(rows, len(names)))
    faults.extend(_check_ids(rows))
    cells, cell_faults = _read_cells(rows, names)
    faults.extend(cell_faults)
    if faults:
        raise InvalidTable(sorted(faults, key=lambda fault: fault.row))
    return SampleTable(
        columns=tuple(_describe(name, index, rows, cells) for index, name in enumerate(names)),
        rows=tuple(tuple(row) for _, row in rows),
        cells=tuple(cells),
        sample_ids=tuple(row[0] for _, row in rows),
    )


def _decode_lines(data: bytes) -> tuple[list[str], list[Fault]]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return [], [Fault(1, None, "The file is UTF-16; save it as UTF-8.")]
    raw = data.removeprefix(_BOM).split(b"\n")
    raw = [line.removesuffix(b"\r") for line in raw]
    while raw and not raw[-1]:
        raw.pop()
    lines: list[str] = []
    faults: list[Fault] = []
    for number, line in enumerate(raw, start=1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError as exc:
            faults.append(
                Fault(number, None, f"Byte {exc.start + 1} of the line is not UTF-8; save the file as UTF-8.")
            )
            lines.append(line.decode("utf-8", "replace"))
    return lines, faults


def _check_names(names: list[str]) -> Iterator[Fault]:
    if names[0] != ID_COLUMN:
        yield Fault(1, names[0] or None, f"The first column is called {names[0]!r}; it has to be {ID_COLUMN!r}.")
    seen: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        if not name:
            yield Fault(1, None, f"Column {position} has no name.")
            continue
        problem = _problem_with_text(name)
        if problem:
            yield Fault(1, name, f"The name of column {position} {problem}.")
        if name in seen:
            yield Fault(1, name, f"Columns {seen[name]} and {position} have the same name.")
        elif position > 1 and name == ID_COLUMN.removeprefix("#"):
            yield Fault(1, name, f"{name!r} cannot be told from {ID_COLUMN!r}; choose another name.")
        seen.setdefault(name, position)


def _check_widths(rows: list[tuple[int, list[str]]], width: int) -> Iterator[Fault]:
    for number, row in rows:
        if row == [""]:
            yield Fault(number, None, "The line is empty; remove it.")
        elif len(row) != width:
            yield Fault(number, None, f"The line has {len(row)} column(s), the header has {width}; separate with tabs.")


def _check_ids(rows: list[tuple[int, list[str]]]) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for number, row in rows:
        name = row[0]
        if not name:
            if len(row) > 1:
                yield Fault(number, ID_COLUMN, "The sample has no name.")
        elif name in seen:
            yield Fault(number, ID_COLUMN, f"The sample {name!r} is already in line {seen[name]}.")
        else:
            seen[name] = number


def _read_cells(
    rows: list[tuple[int, list[str]]], names: list[str]
) -> tuple[list[tuple[tuple[str, ...], ...]], list[Fault]]:
    cells: list[tuple[tuple[str, ...], ...]] = []
    faults: list[Fault] = []
    for number, row in rows:
        read: list[tuple[str, ...]] = []
        for index, text in enumerate(row):
            values, problem = _read_cell(text, is_id=index == 0)
            if problem:
                column = names[index] if index < len(names) else None
                faults.append(Fault(number, column or None, f"{text!r} {problem}."))
            read.append(values)
        cells.append(tuple(read))
    return cells, faults


def _read_cell(text: str, is_id: bool) -> tuple[tuple[str, ...], str | None]:
    """The values of a cell and what is wrong with it, as the rest of a sentence that begins with the cell."""
    if not text:
        return (), None
    problem = _problem_with_text(text)
    if problem or is_id:
        return (text,), problem
    if text.startswith('"[') and text.endswith(']"'):
        return (text,), 'is a list inside quotes, as spreadsheets write it; a list is written ["a","b"] without them'
    if text.startswith("["):
        return _read_list(text)
    return (text,), None


def _read_list(text: str) -> tuple[tuple[str, ...], str | None]:
    try:
        items = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return (), 'begins with "[" but is no list; a list is written ["a","b"] or [1,2], with double quotes'
    if not all(isinstance(item, str) for item in items):
        return (), "is a list that holds more than texts and numbers (no lists in lists, true, false or null)"
    values = tuple(items)
    if any(value == "" or _problem_with_text(value) for value in values):
        return values, "is a list with an empty text, a control character or white space around a text"
    return values, None


def _refuse_constant(word: str) -> str:
    raise ValueError(word)


def _problem_with_text(text: str) -> str | None:
    if _CONTROL.search(text):
        return "has a control character in it"
    if text != text.strip():
        return "begins or ends with white space; remove it"
    return None


def _describe(
    name: str, index: int, rows: list[tuple[int, list[str]]], cells: list[tuple[tuple[str, ...], ...]]
) -> Column:
    values = [value for row in cells for value in row[index]]
    numeric = index > 0 and bool(values) and all(parse_number(value) is not None for value in values)
    is_list = index > 0 and any(row[index].startswith("[") for _, row in rows)
    return Column(name, ColumnKind.NUMBER if numeric else ColumnKind.TEXT, is_list)
