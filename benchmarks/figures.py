"""Measured numbers and how they are shown: medians with their spread, tables as text and as Markdown.

It must not know what was measured.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


class NotHere(Exception):
    """A benchmark needs something that this machine has not; the words say what."""


@dataclass(frozen=True)
class Spread:
    """The middle of several repetitions, and the least and the most of them."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)} to {_short(self.high)})"


@dataclass(frozen=True)
class Table:
    """Cells are text that is ready to be shown; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """One benchmark's outcome.

    Attributes:
        words: sentences: what was measured and how to read it.
        raw: every single measurement, for `--json`.
    """

    name: str
    title: str
    words: tuple[str, ...]
    tables: tuple[Table, ...]
    raw: dict[str, Any] = field(default_factory=dict)


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError when there are no values."""
    if not values:
        raise ValueError("a spread of nothing")
    return Spread(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def as_text(sections: Sequence[Section], facts: dict[str, str]) -> str:
    """Everything for a terminal."""
    lines = [f"{name}: {value}" for name, value in facts.items()]
    for section in sections:
        lines += ["", section.title, "=" * len(section.title), *section.words]
        for table in section.tables:
            lines += ["", table.title, *_aligned(table)]
    return "\n".join(lines) + "\n"


def as_markdown(sections: Sequence[Section], facts: dict[str, str], page: str = "") -> str:
    """The page docs/benchmarks.md. What `page` has of benchmarks that were not run stays as it is."""
    lines = ["# Benchmarks", ""]
    lines += [
        "This page is written by `python -m benchmarks --markdown docs/benchmarks.md`; no figure is typed by hand."
    ]
    lines += [
        "Figures of one table come from one run on one machine. Ratios carry over to other machines; the rest may not."
    ]
    lines += [
        "Each cell is the median of several alternating repetitions, with the least and the most in parentheses.",
        "",
    ]
    known = _sections_of(page)
    for section in sections:
        known[section.title] = _markdown_of(section, facts)
    return "\n".join([*lines, *(line for text in known.values() for line in ["", *text])]).rstrip() + "\n"


def _markdown_of(section: Section, facts: dict[str, str]) -> list[str]:
    """Each section has the facts of its own run: they need not have been run together."""
    lines = [f"## {section.title}", "", *(f"- {name}: {value}" for name, value in facts.items()), "", *section.words]
    for table in section.tables:
        lines += ["", f"### {table.title}", "", *_piped(table)]
    return lines


def _sections_of(page: str) -> dict[str, list[str]]:
    """Title -> lines, in the order of the page."""
    sections = (text.rstrip().split("\n") for text in f"\n{page}".split("\n## ")[1:])
    return {lines[0]: [f"## {lines[0]}", *lines[1:]] for lines in sections}


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _aligned(table: Table) -> list[str]:
    rows = [table.columns, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (table.columns, tuple("-" * width for width in widths), *table.rows)
    ]


def _piped(table: Table) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "---|" * len(table.columns)
    return [line(table.columns), rule, *map(line, table.rows)]
