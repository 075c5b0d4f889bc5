"""The allow-lists of the commands that may follow once all files are one stream: what `--after` takes.

It knows the options of each command, not steps or their order. Rows follow bcftools 1.16 to 1.24; what is not in a
list does not exist.
"""

from __future__ import annotations

import re
from dataclasses import replace

from divbase_gateway.domain.options import (
    Option,
    check_expression,
    check_filters,
    flag,
    matching,
    one_of,
    refused,
    valued,
)
from divbase_gateway.domain.samples import close_matches
from divbase_gateway.domain.step_grammar import Command
from divbase_gateway.domain.view_options import EXCLUSIVE, VIEW_OPTIONS

_TAG = r"[A-Za-z_][A-Za-z0-9_.]*"
_NUMBER = r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]-?[0-9]{1,3})?"
_MOST_BINS = 100_000

_REGIONS = "here all files are one stream; put -r into the first step of --command, or use view -t"
_TARGETS = "use view -t in a step of its own"
_FILE = "a query reads the files of its plan and nothing else"
_ANNOTATIONS = "annotations of another file are not available"
_SAMPLES = "the samples are chosen with --samples, --samples-file or --where of the query"
_OUTPUT = "where and how results are written is chosen with --output, --level and --name of the query"
_CORES = "how many cores a job gets is decided by the plan"
_SILENT = "it does not change the result"
_VERSION = "DivBase always sets it, so that equal queries give equal files"
_INDEX = "DivBase always indexes a result that can be indexed"
_FILTER_FIRST = "use view -i or view -e in a step of its own"
_FORCE = "what bcftools calls an error ends the job"
_HELP = "it gives no result"


def _younger(release: str) -> str:
    return f"bcftools before {release} does not have it, and results would depend on the node"


_PLACES = (
    refused("regions", "r", _REGIONS, takes_value=True),
    refused("regions-file", "R", _FILE, takes_value=True),
    refused("regions-overlap", "", _REGIONS, takes_value=True),
    refused("targets-file", "T", _FILE, takes_value=True),
)
_NO_TARGETS = (
    refused("targets", "t", _TARGETS, takes_value=True),
    refused("targets-overlap", "", _TARGETS, takes_value=True),
)
_FILE_OUTPUT = (
    refused("output", "o", _OUTPUT, takes_value=True),
    refused("output-type", "O", _OUTPUT, takes_value=True),
    refused("write-index", "W", _INDEX),
    refused("no-version", "", _VERSION),
    refused("threads", "", _CORES, takes_value=True),
)


# --- view ------------------------------------------------------------------------------------------------------------

_NOT_AFTER = {
    "regions": _REGIONS,
    "regions-overlap": _REGIONS,
    "samples": "the samples are cut down in the steps of each file; here they are all there",
    "private": "there is no rest to compare the chosen samples with once the files are one stream",
    "exclude-private": "there is no rest to compare the chosen samples with once the files are one stream",
}


def _after(option: Option) -> Option:
    reason = _NOT_AFTER.get(option.long)
    return replace(option, refused=reason, check=None) if reason else option


VIEW = Command("view", tuple(_after(option) for option in VIEW_OPTIONS), EXCLUSIVE)


# --- +fill-tags ------------------------------------------------------------------------------------------------------

GENOTYPE_TAGS = ("AN", "AC", "AC_Hom", "AC_Het", "AC_Hemi", "AF", "MAF", "NS", "HWE", "ExcHet", "F_MISSING")
"""They are counted from genotypes: without any they stay away, or are 0, and bcftools does not say so."""
TAGS = (*GENOTYPE_TAGS, "VAF", "VAF1", "END", "TYPE")


def _check_tags(value: str) -> str:
    """The bare names: bcftools before 1.20 does not take INFO/AF."""
    names = [re.sub("^(INFO|FORMAT|FMT)/", "", item) for item in value.split(",")]
    for name in names:
        if name == "all":
            raise ValueError("'all' means other tags in other releases of bcftools; name them")
        if re.search("[=()]", name):
            raise ValueError("expressions are not allowed, only the names of tags")
        if name not in TAGS:
            meant = close_matches(name, TAGS)
            question = f"; did you mean {' or '.join(meant)}?" if meant else ""
            raise ValueError(f"{name!r} is none of {', '.join(TAGS)}{question}")
    return ",".join(names)


FILL_TAGS = Command(
    "+fill-tags",
    (
        valued("tags", "t", _check_tags),
        flag("drop-missing", "d"),
        refused("samples-file", "S", _FILE, takes_value=True),
        refused("list-tags", "l", _HELP),
    ),
    needs=("tags",),
    general=(
        *_PLACES,
        *_NO_TARGETS,
        *_FILE_OUTPUT,
        refused("include", "i", _FILTER_FIRST, takes_value=True),
        refused("exclude", "e", _FILTER_FIRST, takes_value=True),
        refused("version", "V", _HELP),
        refused("verbose", "v", _SILENT),
        refused("verbosity", "", _SILENT, takes_value=True),
        refused("list-plugins", "l", _HELP),
        refused("help", "h", _HELP),
    ),
)


# --- norm ------------------------------------------------------------------------------------------------------------

_rows = matching("[-+](snps|indels|both|any)?", "- (split) or + (join), with snps, indels, both or any after it")

NORM = Command(
    "norm",
    (
        valued("multiallelics", "m", _rows, dashed=True),
        valued("rm-dup", "d", one_of("snps", "indels", "both", "all", "exact")),
        flag("atomize", "a"),
        valued("atom-overlaps", "", one_of("*", ".")),
        valued("keep-sum", "", one_of("AD")),
        valued("old-rec-tag", "", matching(_TAG, "the name of an INFO tag")),
        flag("strict-filter", "s"),
        # refused
        refused("remove-duplicates", "D", "bcftools gives it up; write -d exact"),
        refused("fasta-ref", "f", f"{_FILE}; indels cannot be left-aligned without a reference", takes_value=True),
        refused("check-ref", "c", "it needs a reference, and there is none here", takes_value=True),
        refused("gff-annot", "g", _FILE, takes_value=True),
        refused("no-realign", "N", "nothing is realigned without a reference"),
        refused("do-not-normalize", "", "nothing is realigned without a reference"),
        refused("right-align", "", "nothing is realigned without a reference"),
        refused("site-win", "w", "nothing is realigned without a reference", takes_value=True),
        refused("multi-overlaps", "", _younger("1.17"), takes_value=True),
        refused("sort", "S", _younger("1.21"), takes_value=True),
        refused("include", "i", _younger("1.21"), takes_value=True),
        refused("exclude", "e", _younger("1.21"), takes_value=True),
        refused("force", "", _FORCE),
        refused("verbosity", "v", _SILENT, takes_value=True),
        refused("verbose", "", _SILENT, takes_value=True),
        refused("help", "h", _HELP),
        *_PLACES,
        *_NO_TARGETS,
        *_FILE_OUTPUT,
    ),
    needs=("multiallelics", "rm-dup", "atomize"),
)


# --- annotate --------------------------------------------------------------------------------------------------------

_REMOVABLE = re.compile(
    r"(\^?)(?:(INFO|INF|FORMAT|FMT|FILTER)/([A-Za-z0-9_][A-Za-z0-9_.+-]*)|(ID|QUAL|FILTER|INFO|FORMAT|FMT))"
)
_FULL_NAMES = {"INF": "INFO", "FMT": "FORMAT"}


def read_removed(value: str) -> list[tuple[bool, str, str]]:
    """(kept, kind, name) of each item of `annotate -x`; the name is empty where all of a kind is meant.

    bcftools lets one `^` count for all names of its kind, wherever it stands.

    Raises:
        ValueError: this is no list of annotations.
    """
    items = []
    for item in value.split(","):
        match = _REMOVABLE.fullmatch(item)
        if not match or (match[1] and not match[3]):
            raise ValueError(f"{item!r} is none of INFO/TAG, FORMAT/TAG, FILTER/NAME, INFO, FORMAT, FILTER, ID, QUAL")
        kind = match[2] or match[4]
        items.append((bool(match[1]), _FULL_NAMES.get(kind, kind), match[3] or ""))
    first: dict[str, bool] = {}
    for index, (kept, kind, name) in enumerate(items):
        if not name and any(other[1] == kind for other in items[:index] + items[index + 1 :]):
            raise ValueError(f"{kind} stands beside one of its own names")
        if kept and not first.setdefault(kind, kept):
            raise ValueError(f"'^' turns the meaning of all {kind} names round; put it before the first of them")
        first.setdefault(kind, kept)
        items[index] = (first[kind], kind, name)
    return items


def _check_removed(value: str) -> str:
    read_removed(value)
    return value


ANNOTATE = Command(
    "annotate",
    (
        valued("remove", "x", _check_removed),
        # refused
        refused("annotations", "a", _ANNOTATIONS, takes_value=True),
        refused("columns", "c", _ANNOTATIONS, takes_value=True),
        refused("columns-file", "C", _ANNOTATIONS, takes_value=True),
        refused("header-line", "H", _ANNOTATIONS, takes_value=True),
        refused("header-lines", "h", _FILE, takes_value=True),
        refused("mark-sites", "m", _ANNOTATIONS, takes_value=True),
        refused("merge-logic", "l", _ANNOTATIONS, takes_value=True),
        refused("min-overlap", "", _ANNOTATIONS, takes_value=True),
        refused("pair-logic", "", _ANNOTATIONS, takes_value=True),
        refused("collapse", "", _ANNOTATIONS, takes_value=True),
        refused("single-overlaps", "", _ANNOTATIONS),
        refused("rename-annots", "", _FILE, takes_value=True),
        refused("rename-chrs", "", _FILE, takes_value=True),
        refused("set-id", "I", "identifiers stay as the files have them", takes_value=True),
        refused("include", "i", _FILTER_FIRST, takes_value=True),
        refused("exclude", "e", _FILTER_FIRST, takes_value=True),
        refused("keep-sites", "k", "it goes with -i and -e, which are not allowed here"),
        refused("samples", "s", _SAMPLES, takes_value=True),
        refused("samples-file", "S", _SAMPLES, takes_value=True),
        refused("force", "", _FORCE),
        refused("verbosity", "v", _SILENT, takes_value=True),
        *_PLACES,
        *_NO_TARGETS,
        *_FILE_OUTPUT,
    ),
    needs=("remove",),
)


# --- query -----------------------------------------------------------------------------------------------------------

_PERL = re.compile(r"perl\s*[:.]", re.IGNORECASE)


def _check_format(value: str) -> str:
    r"""A format that reads no file, with the `\n` that bcftools 1.19 and later would put at its end by themselves.

    `%N_PASS(…)` and the functions hold expressions, in which `@` makes bcftools read a file; elsewhere it is text.
    """
    if not value.strip():
        raise ValueError("the format is empty")
    if len(re.findall(r"\\*$", value)[0]) % 2:
        raise ValueError("the format ends with a backslash")
    if "%" not in value:
        raise ValueError(r"no field is named; a field is written as %CHROM, %POS, %INFO/DP or [%GT]")
    if "(" in value and "@" in value:
        raise ValueError('"@" beside a function could make bcftools read a file, which is not allowed')
    if "(" in value and _PERL.search(value):
        raise ValueError("Perl filters are not allowed")
    return value if r"\n" in value else value + r"\n"


QUERY = Command(
    "query",
    (
        valued("format", "f", _check_format, dashed=True),
        valued("include", "i", check_expression),
        valued("exclude", "e", check_expression),
        flag("print-header", "H"),
        flag("allow-undef-tags", "u"),
        # refused
        refused("list-samples", "l", "`divbase query plan` shows the samples"),
        refused("print-filtered", "F", _younger("1.19"), takes_value=True),
        refused("disable-automatic-newline", "N", _younger("1.19")),
        refused("annots", "a", "it is an old form of -f", takes_value=True),
        refused("collapse", "c", "bcftools has given it up", takes_value=True),
        refused("vcf-list", "v", _FILE, takes_value=True),
        refused("samples", "s", _SAMPLES, takes_value=True),
        refused("samples-file", "S", _SAMPLES, takes_value=True),
        refused("force-samples", "", "DivBase checks every sample name before anything runs"),
        refused("output", "o", _OUTPUT, takes_value=True),
        refused("output-file", "", _OUTPUT, takes_value=True),
        refused("verbosity", "", _SILENT, takes_value=True),
        refused("help", "h", _HELP),
        *_PLACES,
        *_NO_TARGETS,
    ),
    (("include", "exclude"),),
    needs=("format",),
)


# --- stats -----------------------------------------------------------------------------------------------------------


def _check_bins(value: str) -> str:
    """A list of shares: bcftools takes what has no comma for the name of a file."""
    parts = value.split(",")
    if len(parts) < 2 or not all(re.fullmatch(_NUMBER, part) for part in parts):
        raise ValueError(f"{value!r} is not a list of at least two numbers such as 0.1,0.5,1")
    numbers = [float(part) for part in parts]
    if numbers != sorted(set(numbers)) or numbers[0] < 0 or numbers[-1] > 1:
        raise ValueError(f"{value!r} does not rise from 0 to 1")
    return value


def _check_depth(value: str) -> str:
    if not re.fullmatch(r"[0-9]{1,9},[0-9]{1,9},[0-9]{1,9}", value):
        raise ValueError(f"{value!r} is not MIN,MAX,SIZE such as 0,500,1")
    low, high, width = map(int, value.split(","))
    if not (low < high and 1 <= width <= high - low + 1 and (high - low) / width <= _MOST_BINS):
        raise ValueError(f"{value!r} gives no bins, or more than {_MOST_BINS}")
    return value


_user_tstv = matching(
    rf"{_TAG}(?:\[[0-9]{{1,4}}\])?(?::{_NUMBER}:{_NUMBER}:[1-9][0-9]{{0,4}})?", "TAG or TAG:MIN:MAX:BINS"
)

STATS = Command(
    "stats",
    (
        valued("samples", "s", matching("-", "'-', which stands for all samples of the result"), dashed=True),
        valued("depth", "d", _check_depth),
        valued("af-bins", "", _check_bins),
        valued("af-tag", "", matching(_TAG, "the name of an INFO tag")),
        valued("user-tstv", "u", _user_tstv),
        valued("include", "i", check_expression),
        valued("exclude", "e", check_expression),
        valued("apply-filters", "f", check_filters),
        flag("1st-allele-only", "1"),
        flag("split-by-ID", "I"),
        # refused
        refused("samples-file", "S", "write -s - for all samples of the result", takes_value=True),
        refused("collapse", "c", "it compares two files, and here is one stream", takes_value=True),
        refused("exons", "E", _FILE, takes_value=True),
        refused("fasta-ref", "F", _FILE, takes_value=True),
        refused("verbose", "", "it compares two files, and here is one stream"),
        refused("verbosity", "v", _SILENT),
        refused("threads", "", _CORES, takes_value=True),
        refused("help", "h", _HELP),
        *_PLACES,
        *_NO_TARGETS,
    ),
    (("include", "exclude"),),
)

AFTER_COMMANDS = (VIEW, FILL_TAGS, NORM, ANNOTATE, QUERY, STATS)
