"""The step grammar: what is normalised to what, and that nothing outside the allow-list gets through."""

from __future__ import annotations

import pytest
from divbase_gateway.domain.errors import InvalidStep
from divbase_gateway.domain.options import check_expression, reads_sites_only
from divbase_gateway.domain.regions import Region, parse_regions, sort_by_contig
from divbase_gateway.domain.steps import parse_steps
from hypothesis import given
from hypothesis import strategies as st


def argvs(command: str) -> list[tuple[str, ...]]:
    return [step.argv for step in parse_steps(command).steps]


def refusal(command: str) -> InvalidStep:
    with pytest.raises(InvalidStep) as caught:
        parse_steps(command)
    return caught.value


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("view", ("view",)),
        ("view -r 21:1-100", ("view", "--regions", "21:1-100")),
        ("view --regions=21:1-100", ("view", "--regions", "21:1-100")),
        ("view --regions 21:1-100,22,{HLA:1}:5", ("view", "--regions", "21:1-100,22,{HLA:1}:5")),
        ("view -r21:100-", ("view", "--regions", "21:100-")),
        ("view -r 21:0005-0010", ("view", "--regions", "21:5-10")),
        ("view -t ^21:1-5 --targets-overlap 1", ("view", "--targets", "^21:1-5", "--targets-overlap", "1")),
        ("view -m2 -M2 -v snps", ("view", "--min-alleles", "2", "--max-alleles", "2", "--types", "snps")),
        ("view -i 'QUAL>30 && INFO/DP<\"5\"'", ("view", "--include", 'QUAL>30 && INFO/DP<"5"')),
        ('view -i "QUAL>30"', ("view", "--include", "QUAL>30")),
        ('view -i "ID==\\"rs1\\" & x=\\n"', ("view", "--include", 'ID==\\"rs1\\" & x=\\n'.replace('\\"', '"'))),
        ("view -e QUAL\\<3", ("view", "--exclude", "QUAL<3")),
        ("view --include=-5<QUAL", ("view", "--include", "-5<QUAL")),
        ("view -i 'ID=\"a@b;c\"'", ("view", "--include", 'ID="a@b;c"')),
        ("view -f PASS,.", ("view", "--apply-filters", "PASS,.")),
        ("view -c 1:minor -q 0.05", ("view", "--min-ac", "1:minor", "--min-af", "0.05")),
        ("view -g ^miss -k -p -U -G -a -I",
         ("view", "--genotype", "^miss", "--known", "--phased", "--exclude-uncalled", "--drop-genotypes",
          "--trim-alt-alleles", "--no-update")),
        ("view -s -x", ("view", "--private")),
        ("view\n\t-n\r\n", ("view", "--novel")),
    ],
)  # fmt: skip
def test_a_step_is_normalised(command: str, expected: tuple[str, ...]) -> None:
    """Long names, separate values, quotes gone, the bare -s taken out."""
    assert argvs(command) == [expected]


def test_steps_are_split_outside_quotes_only() -> None:
    """A `;` in quotes belongs to the value."""
    assert argvs("view -r 1 ; view -i 'ID=\"a;b\"';view -s -c 1") == [
        ("view", "--regions", "1"),
        ("view", "--include", 'ID="a;b"'),
        ("view", "--min-ac", "1"),
    ]


def test_the_mark_is_kept() -> None:
    """The bare -s says in which step the samples are cut; without it there is no such step."""
    assert parse_steps("view; view --samples -c 1").cut_at == 1
    assert parse_steps("view; view").cut_at is None


def test_regions_and_targets_are_known_to_the_planner() -> None:
    """Regions of the first step and contigs of every target are values, not text."""
    steps = parse_steps("view -r 21:5-9,22 -t 21; view -t ^X:1-2,21")
    assert steps.regions == (Region("21", 5, 9), Region("22"))
    assert steps.target_contigs == ("21", "X")


@pytest.mark.parametrize(
    ("command", "step", "position", "words"),
    [
        ("", 1, 0, "empty"),
        ("view;", 2, 5, "empty"),
        ("view;;view", 2, 10, "empty"),
        ("norm -m -any", 1, 0, "'norm' is no allowed command"),
        ("bcftools view", 1, 0, "'bcftools'"),
        ("/bin/view", 1, 0, "'/bin/view'"),
        ("view in.vcf.gz", 1, 5, "'in.vcf.gz' stands where an option is expected"),
        ("view -k http://x/y.vcf.gz", 1, 8, "http://x/y.vcf.gz"),
        ("view s3://b/k", 1, 5, "s3://b/k"),
        ("view -", 1, 5, "'-'"),
        ("view -- x", 1, 5, "'--'"),
        ("view | view", 1, 5, "'|'"),
        ("view \u2013r 1", 1, 5, "\u2013r"),
        ("view; view -GR /etc/passwd", 2, 11, "'-GR' bundles several options"),
        ("view -kG", 1, 5, "bundles"),
        ("view --reg 1", 1, 5, "did you mean --regions or --regions-overlap?"),
        ("view --region=1", 1, 5, "did you mean --regions or --regions-overlap?"),
        ("view -regions 1", 1, 5, "did you mean --regions"),
        ("view --inclde x", 1, 5, "did you mean --include"),
        ("view -z", 1, 5, "'-z'"),
        ("view --", 1, 5, "'--'"),
        ("view -R a.bed", 1, 5, "not available yet"),
        ("view -Ra.bed", 1, 5, "not available yet"),
        ("view -T a.bed", 1, 5, "not available yet"),
        ("view -S list.txt", 1, 5, "samples are chosen with"),
        ("view --force-samples", 1, 5, "checks every sample name"),
        ("view -o /tmp/x", 1, 5, "is not allowed"),
        ("view -Oz", 1, 5, "is not allowed"),
        ("view --threads 8", 1, 5, "is not allowed"),
        ("view -W", 1, 5, "is not allowed"),
        ("view -h", 1, 5, "is not allowed"),
        ("view -H", 1, 5, "is not allowed"),
        ("view -l 9", 1, 5, "is not allowed"),
        ("view -A", 1, 5, "before 1.19"),
        ("view --no-version", 1, 5, "is not allowed"),
        ("view -s A,B", 1, 5, "-s stands alone"),
        ("view -sA", 1, 5, "-s stands alone"),
        ("view --samples=A", 1, 5, "-s stands alone"),
        ("view --known=yes", 1, 5, "takes no value"),
        ("view -r", 1, 5, "needs a value"),
        ("view -i -v snps", 1, 5, "needs a value"),
        ("view -r 21:9-5", 1, 5, "ends before it begins"),
        ("view -r 21:0-5", 1, 5, "not between 1"),
        ("view -r 21:1-99999999999", 1, 5, "not between 1"),
        ("view -r 21:a-b", 1, 5, "no region"),
        ("view -r '21 22'", 1, 5, "no region"),
        ("view -r ''", 1, 5, "a region is empty"),
        ("view -r 21,,22", 1, 5, "no region"),
        ("view -r ^21", 1, 5, "no region"),
        ("view -r '{21:1-2'", 1, 5, "no region"),
        ("view -m two", 1, 5, "not a whole number"),
        ("view -m=2", 1, 5, "not a whole number"),
        ("view -v snp", 1, 5, "'snp' is none of snps"),
        ("view -g any", 1, 5, "none of hom"),
        ("view -q 5%", 1, 5, "not a frequency"),
        ("view -i ''", 1, 5, "the expression is empty"),
        ("view -i ID=@/etc/passwd", 1, 5, '"@" outside quotes'),
        ("view -e 'GT[@x]=\"het\"'", 1, 5, '"@" outside quotes'),
        ("view -i 'GT[\"]=@f|ID=\"x\"'", 1, 5, "quotes inside square brackets"),
        ("view -i 'perl:x.pl; perl.f(1)'", 1, 5, "Perl"),
        ("view -i 'QUAL>PERL.f(1)'", 1, 5, "Perl"),
        ("view -i 'ID=\"a'", 1, 5, "opened and not closed"),
        ("view -i 'GT[0'", 1, 5, "opened and not closed"),
        ("view -i 'a\nb'", 1, 8, "control character"),
        ("view -i 'a\x00b'", 1, 8, "control character"),
        ("view -f \"PASS", 1, 8, "opened and not closed"),
        ("view \\", 1, 5, "backslash"),
        ("view -k -k", 1, 8, "given twice"),
        ("view -i x --include y", 1, 10, "given twice"),
        ("view -i QUAL -e QUAL", 1, 13, "exclude each other"),
        ("view -v snps -V indels", 1, 13, "exclude each other"),
        ("view -s -x -X", 1, 11, "exclude each other"),
        ("view; view -r 21", 2, 11, "is for the first step"),
        ("view --regions-overlap 1", 1, 5, "says nothing without --regions"),
        ("view -x", 1, 5, "bare -s"),
        ("view -s -g het", 1, 8, "wrong answers"),
        ("view -s; view -s", 2, 9, "already marks step 1"),
        ("view -G; view -s", 2, 9, "dropped all genotypes"),
        ("view " + "-k " * 4000, 1, 10_000, "longer than"),
    ],
)  # fmt: skip
def test_everything_else_is_refused_with_its_place(command: str, step: int, position: int, words: str) -> None:
    """Unknown, abbreviated, bundled and forbidden options, files, URLs, `@file`, bad values and bad combinations."""
    error = refusal(command)
    assert (error.details["step"], error.details["position"]) == (step, position)
    assert words in error.message
    assert "-r, --regions" in error.details["allowed"]


def test_a_refusal_lists_what_is_allowed() -> None:
    """The hint of an unknown option has every option that there is."""
    hint = refusal("view -z").hint or ""
    assert "-r, --regions" in hint
    assert "-G, --drop-genotypes" in hint
    assert "--output" not in hint


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No input fails in any other way, and no value that comes out holds a control character or begins a file name."""
    try:
        steps = parse_steps("view " + text)
    except InvalidStep:
        return
    for step in steps.steps:
        assert step.argv[0] == "view"
        assert not any(ord(character) < 32 for word in step.argv for character in word)


@pytest.mark.parametrize(
    ("expression", "site_only"),
    [
        ('QUAL>30 && FILTER="PASS"', True),
        ('ID~"GT"', True),
        ("INFO/AC>1", False),
        ("GT[0]='het'", False),
        ("FMT/DP>3", False),
        ("N_ALT>1", False),
        ("F_MISSING<0.1", False),
    ],
)
def test_expressions_that_do_not_depend_on_the_samples(expression: str, site_only: bool) -> None:
    """Only these may share a bcftools process with the cut that has to come before them."""
    assert reads_sites_only(check_expression(expression)) is site_only


def test_regions_are_written_back_as_read() -> None:
    """Text to regions to text, odd names in braces."""
    text = "chr1,chr2:5,chr2:7-9,chr2:11-,{HLA:01}:1-2,{a,b}"
    assert ",".join(map(str, parse_regions(text))) == text


def test_regions_are_ordered_by_contig() -> None:
    """Regions follow the contigs, keep their order on one contig, and leave out contigs that are not there."""
    regions = parse_regions("3:1-2,1:50-60,1:5-6,9")
    assert sort_by_contig(regions, ["1", "2", "3"]) == parse_regions("1:50-60,1:5-6,3:1-2")
