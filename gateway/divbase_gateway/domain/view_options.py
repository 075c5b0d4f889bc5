"""The allow-list of `bcftools view`: one row per option, with a check for its value or the reason why it is refused.

It knows the options of one command, not steps, files or samples. Rows follow `bcftools view` 1.16 to 1.24; what is not
in the list does not exist.
"""

from __future__ import annotations

from divbase_gateway.domain.options import (
    check_expression,
    check_filters,
    check_regions,
    check_targets,
    flag,
    list_of,
    matching,
    one_of,
    refused,
    valued,
)

_COUNT = r"[0-9]{1,9}"
_FRACTION = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]-?[0-9]{1,3})?"
_ALLELES = r"(?::(?:nref|alt1|minor|major|nonmajor))?"
_count = matching(_COUNT, "a whole number")
_allele_count = matching(_COUNT + _ALLELES, "a count such as 2 or 2:minor (nref, alt1, minor, major, nonmajor)")
_allele_share = matching(_FRACTION + _ALLELES, "a frequency such as 0.05 or 0.05:minor")
_types = list_of("snps", "indels", "mnps", "ref", "bnd", "other")
_overlap = one_of("0", "1", "2")
_genotype = one_of("hom", "het", "miss", "^hom", "^het", "^miss")

_WHERE_RESULTS_GO = "where and how results are written is chosen with --output, --level and --name of the query"
_BED = "it takes a BED file of the project, which is not available yet"
_SAMPLES_CHOSEN = "samples are chosen with --samples, --samples-file or --where of the query"

VIEW_OPTIONS = (
    # which records
    valued("regions", "r", check_regions),
    valued("regions-overlap", "", _overlap),
    valued("targets", "t", check_targets),
    valued("targets-overlap", "", _overlap),
    valued("include", "i", check_expression, before_cut=True),
    valued("exclude", "e", check_expression, before_cut=True),
    valued("apply-filters", "f", check_filters),
    valued("types", "v", _types),
    valued("exclude-types", "V", _types),
    valued("min-alleles", "m", _count),
    valued("max-alleles", "M", _count),
    valued("genotype", "g", _genotype, before_cut=True),
    flag("known", "k"),
    flag("novel", "n"),
    valued("min-ac", "c", _allele_count),
    valued("max-ac", "C", _allele_count),
    valued("min-af", "q", _allele_share),
    valued("max-af", "Q", _allele_share),
    flag("phased", "p"),
    flag("exclude-phased", "P"),
    flag("uncalled", "u"),
    flag("exclude-uncalled", "U"),
    flag("private", "x"),
    flag("exclude-private", "X"),
    # what of them
    flag("samples", "s"),  # bare: marks the step in which the samples are cut down; steps.py refuses a value
    flag("drop-genotypes", "G"),
    flag("trim-alt-alleles", "a"),
    flag("no-update", "I"),
    # refused
    refused("samples-file", "S", _SAMPLES_CHOSEN, takes_value=True),
    refused("force-samples", "", "DivBase checks every sample name before anything runs"),
    refused("regions-file", "R", _BED, takes_value=True),
    refused("targets-file", "T", _BED, takes_value=True),
    refused("trim-unseen-allele", "A", "bcftools before 1.19 does not have it, and results would depend on the node"),
    refused("header-only", "h", "the result of a query is a whole file; `divbase files info` shows a header"),
    refused("no-header", "H", "the steps pass whole files to each other"),
    refused("with-header", "", "the steps always pass whole files to each other"),
    refused("output", "o", _WHERE_RESULTS_GO, takes_value=True),
    refused("output-file", "", _WHERE_RESULTS_GO, takes_value=True),
    refused("output-type", "O", _WHERE_RESULTS_GO, takes_value=True),
    refused("compression-level", "l", _WHERE_RESULTS_GO, takes_value=True),
    refused("write-index", "W", "DivBase always indexes the result"),
    refused("no-version", "", "DivBase always sets it, so that equal queries give equal files"),
    refused("threads", "", "how many cores a job gets is decided by the plan", takes_value=True),
    refused("verbosity", "", "it does not change the result", takes_value=True),
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
