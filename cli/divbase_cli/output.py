"""What people and programs see: tables, JSON, sizes, times, and text that no terminal can be fooled with.

Answers go to standard output, everything else to standard error. It knows no command and no wire model.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def printable(text: object, *, keep: str = "") -> str:
    """The text with control, invisible and direction-changing characters written as escapes, but those in `keep`."""
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter in keep or not _is_hostile(letter) else _escape(letter) for letter in text)


def _is_hostile(letter: str) -> bool:
    return unicodedata.category(letter) in _INVISIBLE


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape", "backslashreplace").decode("ascii")


def size(count: int | None) -> str:
    """Bytes in powers of 1000, three digits: `416 MB`."""
    if count is None:
        return "-"
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 or value >= 99.95 else f"{value:.1f} {_UNITS[unit]}"


def local_time(moment: datetime | None) -> str:
    """`2024-05-01 12:00` in the zone of this machine."""
    if moment is None:
        return "-"
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone().strftime("%Y-%m-%d %H:%M")


def seconds(count: float | None) -> str:
    """`42 s`, `3 min 5 s`, `2 h 10 min`."""
    if count is None:
        return "-"
    whole = round(count)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def cell(value: object) -> str:
    """One value of a table."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return local_time(value)
    return printable(value)


@dataclass(frozen=True)
class Output:
    """`as_json`: standard output holds one JSON document and nothing else."""

    as_json: bool

    def json(self, document: Any) -> None:
        """Print a JSON document; ASCII only, so that it is harmless on a terminal too."""
        json.dump(document, sys.stdout, indent=2, default=str)
        sys.stdout.write("\n")

    def text(self, line: str) -> None:
        """One line of the answer, for people."""
        sys.stdout.write(printable(line) + "\n")

    def block(self, text: str) -> None:
        """Text of several lines from another machine, such as a log or a script."""
        sys.stdout.write(printable(text, keep="\n\t").rstrip("\n") + "\n")

    def note(self, line: str) -> None:
        """One line about what is going on; not part of the answer, and left out for machine readers."""
        if not self.as_json:
            sys.stderr.write(printable(line) + "\n")
            sys.stderr.flush()

    def warn(self, line: str) -> None:
        """Like `note`, but machine readers get it too, as a JSON line."""
        if self.as_json:
            sys.stderr.write(json.dumps({"warning": line}) + "\n")
        else:
            self.note(f"divbase: warning: {line}")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Columns for a person at a terminal; tab-separated lines in a pipe. No value is ever shortened."""
        cells = [[cell(value) for value in row] for row in rows]
        if not sys.stdout.isatty():
            for row in ([*columns], *cells):
                sys.stdout.write("\t".join(row) + "\n")
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        console = Console()
        for number, name in enumerate(columns):
            # The first column names the thing: it is the last to be folded.
            longest = max((len(row[number]) for row in cells), default=0)
            table.add_column(name, overflow="fold", min_width=min(longest, console.width // 2) if number == 0 else None)
        for row in cells:
            table.add_row(*(Text(value, overflow="fold") for value in row))
        console.print(table)

    def facts(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Names and values, one pair a line."""
        found = [(name, cell(value)) for name, value in pairs]
        width = max((len(name) for name, _ in found), default=0)
        for name, value in found:
            sys.stdout.write(f"{name + ':':<{width + 1}} {value}\n")
