"""The filter language: what each form matches, and that nothing malformed widens a result silently."""

from __future__ import annotations

import re
from pathlib import Path

import divbase_gateway
import pytest
from divbase_gateway.domain.errors import InvalidFilter, InvalidMetadata
from divbase_gateway.domain.samples import (
    SampleTable,
    compare_with_files,
    filter_warnings,
    parse_filter,
    read_table,
    select,
)

REAL_TABLE = Path(__file__).parents[3] / "shared" / "data" / "sample_metadata.tsv"

TABLE = read_table(
    b'#Sample_ID\tArea\tYear\tDepth:mean\tTags\tLevels\tOdd\n'
    b'S1\tNorth\t2001\t-5\t["a","b"]\t[1,5]\tx,y;z\n'
    b'S2\tWest\t2004\t-1.5\t["b"]\t[10]\tUS-8\n'
    b"S3\tnorth\t\t0\t\t\t\n"
    b'S4\tSouth\t1999\t1e3\tc\t7\tsay "hi"\n'
)  # fmt: skip


def chosen(text: str, table: SampleTable = TABLE) -> str:
    return " ".join(select(table, parse_filter(text, table)))


@pytest.mark.parametrize(
    ("text", "samples"),
    [
        ("", "S1 S2 S3 S4"),
        ("  ", "S1 S2 S3 S4"),
        ("Area:North", "S1"),
        ("Area:North,West", "S1 S2"),
        (" Area : North , West ", "S1 S2"),
        ("Area:North,West;Year:>2001", "S2"),
        ("Area:!North", "S2 S3 S4"),
        ("Area:!North,!West", "S3 S4"),
        ("Area:North,West,!West", "S1"),
        ("Area:North;Area:!North", ""),
        ("Tags:a", "S1"),
        ("Tags:a,c", "S1 S4"),
        ("Tags:!b", "S3 S4"),
        ("Year:2001", "S1"),
        ("Year:2001.0", "S1"),
        ("Year:>2001", "S2"),
        ("Year:>=2001", "S1 S2"),
        ("Year:<2001", "S4"),
        ("Year:<= 2001", "S1 S4"),
        ("Year:1999-2001", "S1 S4"),
        ("Year:!1999-2001", "S2 S3"),
        ("Year:!>=2001", "S3 S4"),
        ("Year:!2001", "S2 S3 S4"),
        ("Year:1999-2004,!2001", "S2 S4"),
        ('Year:!""', "S1 S2 S4"),
        ('"Depth:mean":-5--1', "S1 S2"),
        ('"Depth:mean":-5', "S1"),
        ('"Depth:mean":-2-0', "S2 S3"),
        ('"Depth:mean":1e2-2e3', "S4"),
        ('"Depth:mean":1000', "S4"),
        ("Levels:5", "S1"),
        ("Levels:>6", "S2 S4"),
        ("Levels:2-7", "S1 S4"),
        ("Levels:!>6", "S1 S3"),
        ('Odd:"x,y;z"', "S1"),
        ("Odd:US-8", "S2"),
        ('Odd:"say ""hi"""', "S4"),
        ("Sample_ID:S1,S3", "S1 S3"),
        ("#Sample_ID:!S1", "S2 S3 S4"),
        ("Area:Nowhere", ""),
    ],
)
def test_what_a_filter_selects(text: str, samples: str) -> None:
    """AND, OR, NOT, lists, comparisons, ranges with negative bounds, quotes and empty cells, one row each."""
    assert chosen(text) == samples


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Aera:North", "Aera"),
        ("area:North", "area"),
        ("Area", "Area"),
        ("Area:", "Area"),
        ("Area:North,", "Area"),
        ('Area:""', "Area"),
        ("Area:!", "Area"),
        ("Area:!!North", "Area"),
        ("!Area:North", "Area"),
        ("Area:>5", "Area"),
        ("Area:a:b", "Area"),
        ('Area:No"rt"h', "Area"),
        ("Area:North;", None),
        (";Area:North", None),
        ('Area:"North', None),
        ("Year:recent", "Year"),
        ("Year:>", "Year"),
        ("Year:>=x", "Year"),
        ("Year:=>2001", "Year"),
        ("Year:>>2001", "Year"),
        ("Year:2004-1999", "Year"),
        ("Year:1999-2001-2003", "Year"),
        ("Year:1999-", "Year"),
        ("Year:nan", "Year"),
        ("Year:1e999", "Year"),
        ('Year:">2001"', "Year"),
        ("Depth:mean:5", "Depth"),
    ],
)
def test_a_malformed_filter_is_an_error_with_key_and_columns(text: str, key: str | None) -> None:
    """Nothing that cannot be read is skipped: the error has the key at fault and the columns there are."""
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(text, TABLE)
    assert caught.value.details["key"] == key
    assert caught.value.details["known"] == [
        "#Sample_ID", "Area", "Year", "Depth:mean", "Tags", "Levels", "Odd",
    ]  # fmt: skip


def test_an_unknown_column_suggests_the_one_that_was_meant() -> None:
    """The message has the close match, the hint every column."""
    with pytest.raises(InvalidFilter) as caught:
        parse_filter("Aera:North", TABLE)
    assert caught.value.message == "There is no column 'Aera' in the sample metadata. Did you mean 'Area'?"
    assert caught.value.hint == "The columns are #Sample_ID, Area, Year, Depth:mean, Tags, Levels, Odd."


def test_a_text_that_no_row_has_is_a_warning() -> None:
    """A typing error in a value beside a right one is said, and the rest still counts."""
    parsed = parse_filter("Area:North,Wset;Year:>3000", TABLE)
    assert filter_warnings(TABLE, parsed) == ("No sample has 'Wset' in Area. Did you mean 'West'?",)


def test_faults_of_a_table_become_invalid_metadata() -> None:
    """The gateway's error carries each fault with row, column and message."""
    with pytest.raises(InvalidMetadata) as caught:
        read_table(b"#Sample_ID\tA\nS1\n")
    assert caught.value.details["faults"] == [
        {"row": 2, "column": None, "message": "The line has 1 column(s), the header has 2; separate with tabs."}
    ]


def test_samples_of_only_one_side_are_warnings() -> None:
    """A sample without a file, and one without a row, are named."""
    assert compare_with_files(TABLE, ["S1", "S2", "S4", "X9"]) == (
        "1 sample(s) of the table are in no file yet: S3.",
        "1 sample(s) of the files have no row: X9.",
    )


def test_one_module_of_the_gateway_reads_tables() -> None:
    """Only domain/samples.py imports the validator; everything else gets the table from there (ADR 2)."""
    gateway = Path(divbase_gateway.__file__).parent
    importers = [
        path.relative_to(gateway).as_posix()
        for path in sorted(gateway.rglob("*.py"))
        if re.search(r"^\s*(from|import) divbase_client.*sample_metadata", path.read_text(), re.MULTILINE)
    ]
    assert importers == ["domain/samples.py"]


@pytest.mark.realdata
@pytest.mark.skipif(not REAL_TABLE.exists(), reason=f"{REAL_TABLE} is not there")
@pytest.mark.parametrize(
    ("text", "samples"),
    [
        (
            "Continent:Europe,North America;Year:>=2000",
            "BL2009P4_us23 IN2009T1_us22 P10127 P17777us22 RS2009P1_us8 blue13 NL07434 P11633",
        ),
        ("Tags:tomato;Lineage:!US-22", "BL2009P4_us23"),
        ("Year:!2000-2010;Continent:Europe", "DDR7602 P12204 t30-4"),
    ],
)
def test_filters_over_the_real_table(text: str, samples: str) -> None:
    """Expected rows were picked from the file by eye."""
    assert chosen(text, read_table(REAL_TABLE.read_bytes())) == samples
