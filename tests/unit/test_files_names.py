"""Names of files: what a key may be, and what the refusals say. Pure rules, no store."""

from __future__ import annotations

import posixpath

import pytest
from divbase_gateway.domain.errors import InvalidName
from divbase_gateway.domain.files import FileFormat, format_of, validate_key
from hypothesis import given
from hypothesis import strategies as st

_SEGMENT = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="/\\"), min_size=1, max_size=30
).filter(lambda text: text == text.strip() and text not in (".", "..") and not text.startswith("-"))


@pytest.mark.parametrize(
    "key",
    [
        "a.vcf.gz",
        "north/2021/a.vcf.gz",
        "my samples (final) 100%.vcf.gz",
        'it\'s "quoted" & $(touch x) `y`; rm.vcf.gz',
        "älg.vcf.gz",
        ".hidden.vcf.gz",
        "..a.vcf.gz",
        "a..b.vcf.gz",
        "results.vcf.gz",
        "my/results/a.vcf.gz",
        "*?[a].vcf.gz",
    ],
)
def test_a_name_that_a_person_would_give_is_returned_as_it_is(key: str) -> None:
    """Guards: no rule refuses what scripts can quote."""
    assert validate_key(key, (".vcf.gz",)) == key


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "it is empty"),
        (" a.vcf.gz", "begins or ends with white space"),
        ("a.vcf.gz\n", "begins or ends with white space"),
        ("a\nb.vcf.gz", "control character"),
        ("a\tb.vcf.gz", "control character"),
        ("a\x00b.vcf.gz", "control character"),
        ("a\x1b[31mb.vcf.gz", "control character"),
        ("a\u2028b.vcf.gz", "control character"),
        ("a\ud800b.vcf.gz", "control character"),
        ("..\\a.vcf.gz", "backslash"),
        ("/a.vcf.gz", "begins or ends with '/'"),
        ("a//b.vcf.gz", "contains '//'"),
        ("folder/", "begins or ends with '/'"),
        ("../a.vcf.gz", "'.' or '..'"),
        ("a/../b.vcf.gz", "'.' or '..'"),
        ("a/./b.vcf.gz", "'.' or '..'"),
        ("-o.vcf.gz", "begins with '-'"),
        ("a/--regions.vcf.gz", "begins with '-'"),
        ("results/x/a.vcf.gz", "DivBase's own"),
        (".divbase/indexes/a.csi", "DivBase's own"),
        ("a.exe", "the file types accepted here are .vcf.gz, .csi"),
        ("a.VCF.GZ", "the file types accepted here are .vcf.gz, .csi"),
    ],
)
def test_a_name_that_is_refused_says_why(key: str, words: str) -> None:
    """Guards: each hostile or impossible name is refused in words that name the fault."""
    with pytest.raises(InvalidName) as caught:
        validate_key(key, (".vcf.gz", ".csi"))
    assert words in caught.value.message
    assert caught.value.details == {"name": key}


def test_the_longest_name_is_counted_in_bytes() -> None:
    """Guards: S3's limit is one of UTF-8 bytes, with room left for DivBase's suffixes."""
    assert validate_key("ä" * 450) == "ä" * 450
    with pytest.raises(InvalidName) as caught:
        validate_key("ä" * 450 + "b")
    assert "longer than 900 bytes" in caught.value.message


def test_a_site_that_names_no_types_accepts_all() -> None:
    """Guards: an empty list of suffixes means every type."""
    assert validate_key("notes") == "notes"


@given(st.lists(_SEGMENT, min_size=1, max_size=4).map("/".join))
def test_every_name_of_sane_parts_is_accepted(key: str) -> None:
    """Guards: no name made of sane parts is refused by accident."""
    if len(key.encode()) <= 900 and not key.startswith(("results/", ".divbase/")):
        assert validate_key(key) == key


@given(st.text(max_size=60))
def test_an_accepted_name_stays_inside_the_project_and_on_one_line(key: str) -> None:
    """Guards: whatever passes cannot climb out, look like an option or break a line."""
    try:
        validate_key(key)
    except InvalidName:
        return
    inside = posixpath.normpath(posixpath.join("/project", key))
    assert inside == f"/project/{key}"
    assert len(key.splitlines()) == 1
    assert not any(part.startswith("-") for part in key.split("/"))
    key.encode("utf-8")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a.vcf.gz", FileFormat.VCF_GZ),
        ("a.vcf.bgz", FileFormat.VCF_GZ),
        ("a.vcf", FileFormat.VCF),
        ("a.bcf", FileFormat.BCF),
        ("a.vcf.gz.csi", FileFormat.INDEX),
        ("a.vcf.gz.tbi", FileFormat.INDEX),
        ("a.VCF.GZ", FileFormat.OTHER),
        ("sample_metadata.tsv", FileFormat.OTHER),
    ],
)
def test_the_suffix_says_the_format(key: str, expected: FileFormat) -> None:
    """Guards: a key's suffix decides, letter case included, what the catalogue expects."""
    assert format_of(key) is expected
