"""The sample table's rules: what is read, and that every fault is reported at once with its place."""

from __future__ import annotations

import subprocess
import sys

import pytest
from divbase_client.sample_metadata import (
    Column,
    ColumnKind,
    Fault,
    InvalidTable,
    parse_number,
    parse_table,
)
from hypothesis import given
from hypothesis import strategies as st


def table_of(*lines: str) -> bytes:
    return "\n".join(lines).encode() + b"\n"


def faults_of(data: bytes) -> list[tuple[int, str | None]]:
    with pytest.raises(InvalidTable) as caught:
        parse_table(data)
    return [(fault.row, fault.column) for fault in caught.value.faults]


def test_reads_columns_rows_and_samples() -> None:
    """A plain table gives its samples, its cells as written and the kind of each column."""
    table = parse_table(table_of("#Sample_ID\tArea\tYear\tTags", 'S1\tNorth\t2001\t["a","b"]', "S2\tWest\t-5.5\t"))
    assert table.sample_ids == ("S1", "S2")
    assert table.rows == (("S1", "North", "2001", '["a","b"]'), ("S2", "West", "-5.5", ""))
    assert table.columns == (
        Column("#Sample_ID", ColumnKind.TEXT, is_list=False),
        Column("Area", ColumnKind.TEXT, is_list=False),
        Column("Year", ColumnKind.NUMBER, is_list=False),
        Column("Tags", ColumnKind.TEXT, is_list=True),
    )
    assert table.values(3) == (("a", "b"), ())
    assert table.distinct(3) == ("a", "b")


def test_sample_names_stay_text() -> None:
    """A sample called 001 or NA keeps its name, and the sample column is never numeric or a list."""
    table = parse_table(table_of("#Sample_ID", "001", "NA", "[1]", "1e3"))
    assert table.sample_ids == ("001", "NA", "[1]", "1e3")
    assert table.columns[0] == Column("#Sample_ID", ColumnKind.TEXT, is_list=False)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1e3", "-5.5", "+.5", ""], ColumnKind.NUMBER),
        (["[1,2.5]", "3"], ColumnKind.NUMBER),
        (['["1","2"]'], ColumnKind.NUMBER),
        (["1", "x"], ColumnKind.TEXT),
        (["", ""], ColumnKind.TEXT),
        (["nan"], ColumnKind.TEXT),
        (["inf"], ColumnKind.TEXT),
        (["1e999"], ColumnKind.TEXT),
        (["1_000"], ColumnKind.TEXT),
        (["٣"], ColumnKind.TEXT),
    ],
)
def test_a_column_is_numeric_when_every_value_is_a_finite_number(cells: list[str], kind: ColumnKind) -> None:
    """Empty cells do not count, list elements do, and what only Python calls a number is text."""
    table = parse_table(table_of("#Sample_ID\tX", *[f"S{i}\t{cell}" for i, cell in enumerate(cells)]))
    assert table.columns[1].kind is kind


def test_byte_order_mark_crlf_and_trailing_lines_are_tolerated() -> None:
    """What Windows editors add changes nothing."""
    table = parse_table(b"\xef\xbb\xbf#Sample_ID\tA\r\nS1\tx\r\n\r\n")
    assert table.rows == (("S1", "x"),)
    assert table.columns[1].name == "A"


def test_a_table_without_rows_is_valid() -> None:
    """A template that nobody filled in yet is not wrong."""
    assert parse_table(b"#Sample_ID\tArea\n").sample_ids == ()


def test_every_fault_is_reported_at_once() -> None:
    """One run over a bad table names all that is wrong with it, each with its line and column."""
    data = table_of(
        "Sample\tA\tA\t", "S1\tx\ty\tz", "S1\tx", "\tx\ty\tz", "S3\t[1,\ty \t[[1]]", "S4\ta\x07b\ty\t[null]"
    )
    assert faults_of(data) == [
        (1, "Sample"),  # not #Sample_ID
        (1, "A"),  # twice
        (1, None),  # a column without a name
        (3, None),  # too short
        (3, "#Sample_ID"),  # twice
        (4, "#Sample_ID"),  # empty
        (5, "A"),  # malformed list
        (5, "A"),  # trailing white space
        (5, None),  # nested list, in the column without a name
        (6, "A"),  # control character
        (6, None),  # null in a list
    ]


@pytest.mark.parametrize(
    "cell",
    [
        "[1,2", "['a']", "[a]", "[[1]]", "[null]", "[true]", '[{"a":1}]', "[NaN]", '[""]', '["a\\u0000"]', '[" a"]',
        '["\\ud800"]', '"[""a""]"', "[" * 5000, "a\x00b", "a\x85b", "a\u2028b", " a", "a\rb",
    ],
)  # fmt: skip
def test_a_bad_cell_is_a_fault_in_its_place(cell: str) -> None:
    """Malformed and nested lists, control characters and stray white space are refused where they stand."""
    assert faults_of(table_of("#Sample_ID\tX\tY", "S1\t1\t1", f"S2\t1\t{cell}")) == [(3, "Y")]


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"", (1, None)),
        (b"\n\n", (1, None)),
        (b"\xff\xfe#\x00", (1, None)),
        (b"#Sample_ID\tA\nS1\t\xe9\n", (2, None)),
        (b"#Sample_ID\tA\n\nS1\tx\n", (2, None)),
        (b"#Sample_ID\tSample_ID\nS1\tx\n", (1, "Sample_ID")),
    ],
)
def test_bad_files_are_faults(data: bytes, place: tuple[int, str | None]) -> None:
    """Empty, UTF-16 and Latin-1 files, empty lines and a second sample column are refused with their line."""
    assert faults_of(data) == [place]


def test_the_message_names_the_first_line_of_a_repeated_sample() -> None:
    """A person can find both lines."""
    with pytest.raises(InvalidTable) as caught:
        parse_table(table_of("#Sample_ID", "S1", "S2", "S1"))
    assert caught.value.faults == [Fault(4, "#Sample_ID", "The sample 'S1' is already in line 2.")]
    assert "line 4, column '#Sample_ID'" in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_faults(data: bytes) -> None:
    """No input makes the reader fail in any other way, and what it accepts has rows of one width."""
    try:
        table = parse_table(data)
    except InvalidTable as exc:
        assert exc.faults  # noqa: PT017 - either outcome is right
    else:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert len(set(table.sample_ids)) == len(table.rows)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_is_read_back(number: float) -> None:
    """What Python writes for a number is a number here too."""
    assert parse_number(repr(number)) == number


def test_the_validator_needs_the_standard_library_only() -> None:
    """A laptop, and the gateway's domain, get no third-party module by reading a table."""
    code = (
        "import sys, divbase_client.sample_metadata as m; "
        "bad = sorted(set(sys.modules) & {'pydantic', 'httpx', 'typer', 'rich'}); print(bad)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
