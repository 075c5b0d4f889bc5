"""The allow-lists against the real commands: no option of any release is forgotten, and none is there by mistake."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache

import pytest
from divbase_gateway.domain.after_options import AFTER_COMMANDS, ANNOTATE, FILL_TAGS, NORM, QUERY, STATS
from divbase_gateway.domain.options import Option
from divbase_gateway.domain.step_grammar import Command
from divbase_gateway.domain.steps import VIEW

_STREAMED = "regions regions-file regions-overlap targets targets-file targets-overlap"
_WRITTEN = "no-version output output-type threads write-index verbosity"

OPTIONS: dict[str, str] = {
    "view": f"""{_STREAMED} {_WRITTEN} output-file compression-level header-only no-header with-header samples
        samples-file force-samples apply-filters include exclude types exclude-types min-alleles max-alleles genotype
        known novel min-ac max-ac min-af max-af phased exclude-phased uncalled exclude-uncalled private exclude-private
        drop-genotypes trim-alt-alleles trim-unseen-allele no-update""",
    "norm": f"""{_STREAMED} {_WRITTEN} verbose help atomize atom-overlaps check-ref do-not-normalize no-realign
        fasta-ref force gff-annot keep-sum include exclude multiallelics multi-overlaps old-rec-tag remove-duplicates
        rm-dup right-align site-win sort strict-filter""",
    "annotate": f"""{_STREAMED} {_WRITTEN} annotations collapse columns columns-file include exclude force header-line
        header-lines keep-sites mark-sites merge-logic min-overlap pair-logic remove rename-annots rename-chrs samples
        samples-file set-id single-overlaps""",
    "query": f"""{_STREAMED} verbosity help output output-file format list-samples include exclude print-filtered
        print-header samples samples-file force-samples allow-undef-tags annots collapse vcf-list
        disable-automatic-newline""",
    "stats": f"""{_STREAMED} threads verbose verbosity help 1st-allele-only af-bins af-tag apply-filters collapse depth
        include exclude exons fasta-ref samples samples-file split-by-ID user-tstv""",
    "+fill-tags": "tags drop-missing samples-file list-tags",
}
"""Long options that the sources of bcftools 1.16 to 1.24 declare, all releases together."""

TABLES = (VIEW, FILL_TAGS, NORM, ANNOTATE, QUERY, STATS)


def by_name(command: Command) -> dict[str, Option]:
    return {option.long: option for option in command.options}


@pytest.mark.parametrize("command", TABLES, ids=lambda command: command.name)
def test_every_option_of_every_release_has_its_row(command: Command) -> None:
    """Whatever one finds in a manual is either allowed or refused with a reason; nothing is unknown."""
    assert set(by_name(command)) == set(OPTIONS[command.name].split())
    assert len(command.options) == len(by_name(command))


def test_options_before_the_dashes_of_a_plugin_have_their_rows() -> None:
    """bcftools reads these for every plugin; all are refused."""
    general = {option.long: option for option in FILL_TAGS.general or ()}
    assert set(general) == set(f"{_STREAMED} {_WRITTEN} include exclude version verbose help list-plugins".split())
    assert all(option.refused for option in general.values())


@cache
def usage(command: str) -> str:
    """The usage text of the installed bcftools."""
    code = f"import pysam.bcftools as b\ntry:\n    b.{command}('--help')\nexcept Exception as exc:\n    print(exc)"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return text.encode().decode("unicode_escape")


def real_options(command: str) -> dict[str, tuple[str, bool]]:
    """Long name -> (letter, whether a value follows), of the installed bcftools."""
    row = re.compile(r"\s+(?:-(\w)(?:/(\w))?,)?\s+--([\w-]+)(?:/--([\w-]+))?( [^ ]+)?")
    found: dict[str, tuple[str, bool]] = {}
    for line in usage(command).splitlines():
        if match := row.match(line):
            for letter, name in ((match[1], match[3]), (match[2], match[4])):
                if name:
                    found[name] = (letter or "", match[5] is not None)
    return found


OPTIONAL_VALUES = {"no-realign", "verbosity"}
"""Some releases take their values only where they are attached; all are refused."""


@pytest.mark.parametrize("command", [table for table in TABLES if table is not FILL_TAGS], ids=lambda table: table.name)
def test_letters_and_values_are_those_of_the_real_bcftools(command: Command) -> None:
    """A row means the option that bcftools means, and takes a value where bcftools does."""
    real = real_options(command.name)
    ours = {name: (option.short, option.takes_value) for name, option in by_name(command).items()}
    if command is VIEW:
        ours["samples"] = ("s", True)  # in a step it stands alone and only marks the place
    assert len(real) > 15
    for name, found in real.items():
        if name not in OPTIONAL_VALUES:
            assert (name, ours[name]) == (name, found)


@pytest.mark.parametrize("command", [VIEW, *AFTER_COMMANDS], ids=lambda command: command.name)
def test_every_row_either_refuses_or_checks_its_value(command: Command) -> None:
    """No allowed option takes a value that nobody looks at, no letter means two options, refusals have reasons."""
    for option in (*command.options, *(command.general or ())):
        assert (option.check is not None) == (option.takes_value and option.refused is None), option.long
        assert option.refused is None or (len(option.refused) > 5 and not option.refused.endswith("."))
    letters = [option.short for option in command.options if option.short]
    assert len(letters) == len(set(letters))
    assert set(command.needs) <= {option.long for option in command.allowed}
    assert {name for pair in command.exclusive for name in pair} <= set(by_name(command))


def test_view_after_the_files_are_combined_has_the_same_rows() -> None:
    """Of `view`, --after refuses what needs files to seek in or samples to cut; all else is as in a file's steps."""
    after = next(command for command in AFTER_COMMANDS if command.name == "view")
    changed = {one.long for one, other in zip(VIEW.options, after.options, strict=True) if one != other}
    assert changed == {"regions", "regions-overlap", "samples", "private", "exclude-private"}
