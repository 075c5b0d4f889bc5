"""The allow-list of `bcftools view`: one row per option, with a check for its value or the reason why it is refused.

It knows options and values, not commands, files or samples. Rows follow `bcftools view` 1.16 to 1.24; what is not in
the list does not exist.
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
        before_cut: within one `view`, bcftools applies it to the samples as they were before `-s` cuts them down.
    """

    long: str
    short: str
    check: Check | None = None
    refused: str | None = None
    takes_value: bool = False
    before_cut: bool = False

    @property
    def spelling(self) -> str:
        return f"-{self.short}, --{self.long}" if self.short else f"--{self.long}"


def _one_of(*words: str) -> Check:
    def check(value: str) -> str:
        if value not in words:
            raise ValueError(f"{value!r} is none of {', '.join(words)}")
        return value

    return check


def _list_of(*words: str) -> Check:
    def check(value: str) -> str:
        wrong = [item for item in value.split(",") if item not in words]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is none of {', '.join(words)}")
        return value

    return check


def _matching(pattern: str, what: str) -> Check:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return check


def _check_regions(value: str) -> str:
    return format_regions(parse_regions(value))


def _check_targets(value: str) -> str:
    exclude = value.startswith("^")
    return ("^" if exclude else "") + format_regions(parse_regions(value[exclude:]))


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


_COUNT = r"[0-9]{1,9}"
_FRACTION = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]-?[0-9]{1,3})?"
_ALLELES = r"(?::(?:nref|alt1|minor|major|nonmajor))?"
_count = _matching(_COUNT, "a whole number")
_allele_count = _matching(_COUNT + _ALLELES, "a count such as 2 or 2:minor (nref, alt1, minor, major, nonmajor)")
_allele_share = _matching(_FRACTION + _ALLELES, "a frequency such as 0.05 or 0.05:minor")
_types = _list_of("snps", "indels", "mnps", "ref", "bnd", "other")
_overlap = _one_of("0", "1", "2")
_filters = _matching(r"[^\s;,]+(?:,[^\s;,]+)*", "a list of FILTER names such as PASS,.")
_genotype = _one_of("hom", "het", "miss", "^hom", "^het", "^miss")


def _valued(long: str, short: str, check: Check, before_cut: bool = False) -> Option:
    return Option(long, short, check, takes_value=True, before_cut=before_cut)


def _flag(long: str, short: str) -> Option:
    return Option(long, short)


def _refused(long: str, short: str, reason: str, takes_value: bool = False) -> Option:
    return Option(long, short, refused=reason, takes_value=takes_value)


_WHERE_RESULTS_GO = "where and how results are written is chosen with --output, --level and --name of the query"
_BED = "it takes a BED file of the project, which is not available yet"
_SAMPLES_CHOSEN = "samples are chosen with --samples, --samples-file or --where of the query"

VIEW_OPTIONS = (
    # which records
    _valued("regions", "r", _check_regions),
    _valued("regions-overlap", "", _overlap),
    _valued("targets", "t", _check_targets),
    _valued("targets-overlap", "", _overlap),
    _valued("include", "i", check_expression, before_cut=True),
    _valued("exclude", "e", check_expression, before_cut=True),
    _valued("apply-filters", "f", _filters),
    _valued("types", "v", _types),
    _valued("exclude-types", "V", _types),
    _valued("min-alleles", "m", _count),
    _valued("max-alleles", "M", _count),
    _valued("genotype", "g", _genotype, before_cut=True),
    _flag("known", "k"),
    _flag("novel", "n"),
    _valued("min-ac", "c", _allele_count),
    _valued("max-ac", "C", _allele_count),
    _valued("min-af", "q", _allele_share),
    _valued("max-af", "Q", _allele_share),
    _flag("phased", "p"),
    _flag("exclude-phased", "P"),
    _flag("uncalled", "u"),
    _flag("exclude-uncalled", "U"),
    _flag("private", "x"),
    _flag("exclude-private", "X"),
    # what of them
    _flag("samples", "s"),  # bare: marks the step in which the samples are cut down; steps.py refuses a value
    _flag("drop-genotypes", "G"),
    _flag("trim-alt-alleles", "a"),
    _flag("no-update", "I"),
    # refused
    _refused("samples-file", "S", _SAMPLES_CHOSEN, takes_value=True),
    _refused("force-samples", "", "DivBase checks every sample name before anything runs"),
    _refused("regions-file", "R", _BED, takes_value=True),
    _refused("targets-file", "T", _BED, takes_value=True),
    _refused("trim-unseen-allele", "A", "bcftools before 1.19 does not have it, and results would depend on the node"),
    _refused("header-only", "h", "the result of a query is a whole file; `divbase files info` shows a header"),
    _refused("no-header", "H", "the steps pass whole files to each other"),
    _refused("with-header", "", "the steps always pass whole files to each other"),
    _refused("output", "o", _WHERE_RESULTS_GO, takes_value=True),
    _refused("output-file", "", _WHERE_RESULTS_GO, takes_value=True),
    _refused("output-type", "O", _WHERE_RESULTS_GO, takes_value=True),
    _refused("compression-level", "l", _WHERE_RESULTS_GO, takes_value=True),
    _refused("write-index", "W", "DivBase always indexes the result"),
    _refused("no-version", "", "DivBase always sets it, so that equal queries give equal files"),
    _refused("threads", "", "how many cores a job gets is decided by the plan", takes_value=True),
    _refused("verbosity", "", "it does not change the result", takes_value=True),
)

EXCLUSIVE = (
    ("include", "exclude"),
    ("types", "exclude-types"),
    ("known", "novel"),
    ("phased", "exclude-phased"),
    ("uncalled", "exclude-uncalled"),
    ("private", "exclude-private"),
)
"""Pairs of which bcftools takes one, some of them by ignoring the other silently."""
