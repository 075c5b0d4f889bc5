"""Steps after the files are combined: what is normalised to what, that nothing else gets through, what becomes of them
in a plan, and which result they give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from divbase_gateway.domain.after_options import TAGS, read_removed
from divbase_gateway.domain.after_steps import parse_after
from divbase_gateway.domain.errors import InvalidRequest, InvalidSelection, InvalidStep
from divbase_gateway.domain.planning import plan_from_dict, plan_to_dict
from divbase_gateway.domain.queries import OutputFormat
from divbase_gateway.domain.steps import parse_steps
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_planning import argvs, only, plan_of, vcf

TABLE = r"query -f '%POS\t%AC\n'"
TWO = (vcf("a.vcf.gz", "A B"), vcf("b.vcf.gz", "C D"))


def words(text: str) -> list[str]:
    """The last process of a plan of one file with these steps, from its name on."""
    process = plan_of(vcf("a.vcf.gz", "A"), after=text).processes[-1]
    return [word for word in process.argv if word not in ("--no-version", "-Oz3", "-o", "out/result.vcf.gz")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("view -q 0.05:minor -v snps", ["view", "--min-af", "0.05:minor", "--types", "snps"]),
        ("view -t ^1:1-5 --targets-overlap 1", ["view", "--targets", "^1:1-5", "--targets-overlap", "1"]),
        ("+fill-tags -- -t AF,INFO/AN,FORMAT/VAF", ["+fill-tags", "--", "--tags", "AF,AN,VAF"]),
        ("+fill-tags -- --tags=HWE -d", ["+fill-tags", "--", "--tags", "HWE", "--drop-missing"]),
        ("norm -m -any", ["norm", "--multiallelics", "-any"]),
        ("norm -m-", ["norm", "--multiallelics", "-"]),
        ("norm --multiallelics=+both -s", ["norm", "--multiallelics", "+both", "--strict-filter"]),
        ("norm -d exact", ["norm", "--rm-dup", "exact"]),
        ("norm -a --atom-overlaps .", ["norm", "--atomize", "--atom-overlaps", "."]),
        ("annotate -x INFO,FORMAT/DP,ID,QUAL", ["annotate", "--remove", "INFO,FORMAT/DP,ID,QUAL"]),
        ("annotate -x '^INFO/AC,INFO/AN,FILTER'", ["annotate", "--remove", "^INFO/AC,INFO/AN,FILTER"]),
        (TABLE, ["query", "--format", r"%POS\t%AC\n"]),
        ("query -f '[%SAMPLE=%GT ]'", ["query", "--format", r"[%SAMPLE=%GT ]\n"]),
        ("query -f '%CHROM@%POS' -i 'AC>1' -H -u",
         ["query", "--format", r"%CHROM@%POS\n", "--include", "AC>1", "--print-header", "--allow-undef-tags"]),
        ("stats", ["stats"]),
        ("stats -s - -1 -I -d 0,100,5 --af-bins 0.1,0.5,1 --af-tag AF -u 'DP[1]:0:60:20' -f PASS",
         ["stats", "--samples", "-", "--1st-allele-only", "--split-by-ID", "--depth", "0,100,5", "--af-bins",
          "0.1,0.5,1", "--af-tag", "AF", "--user-tstv", "DP[1]:0:60:20", "--apply-filters", "PASS"]),
    ],
)  # fmt: skip
def test_a_step_is_normalised(text: str, expected: list[str]) -> None:
    """Long names, separate values; a plugin's options after its dashes, a line break at the end of a format."""
    assert words(text) == expected


def refusal(text: str) -> InvalidStep:
    with pytest.raises(InvalidStep) as caught:
        parse_after(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "step", "position", "said"),
    [
        (";", 1, 1, "empty"),
        ("view;", 2, 5, "empty"),
        ("filter -e x", 1, 0, "'filter' is no allowed command"),
        ("bcftools view", 1, 0, "'bcftools'"),
        ("qurey -f x", 1, 0, "did you mean query?"),
        ("fill-tags -t AF", 1, 0, "did you mean +fill-tags?"),
        ("+setGT -- -t q", 1, 0, "'+setGT'"),
        ("+/tmp/evil.so -- -t AF", 1, 0, "no allowed command"),
        ("view in.vcf.gz", 1, 5, "stands where an option is expected"),
        ("view -r 1", 1, 5, "put -r into the first step of --command"),
        ("view -s", 1, 5, "cut down in the steps of each file"),
        ("view -x", 1, 5, "no rest to compare"),
        ("view -R a.bed", 1, 5, "not available yet"),
        ("view --regions-overlap 1", 1, 5, "one stream"),
        ("view --targets-overlap 1", 1, 5, "says nothing without --targets"),
        ("view -i ID=@/etc/passwd", 1, 5, '"@" outside quotes'),
        ("view -GR x", 1, 5, "bundles"),
        ("+fill-tags", 1, 0, "stand after a word --"),
        ("+fill-tags -t AF", 1, 11, "-t, --targets before it is not allowed"),
        ("+fill-tags --output=x -- -t AF", 1, 11, "--output before it is not allowed"),
        ("+fill-tags x.vcf -- -t AF", 1, 11, "stand after a word --"),
        ("+fill-tags --", 1, 0, "+fill-tags needs -t, --tags"),
        ("+fill-tags -- -d", 1, 0, "+fill-tags needs -t, --tags"),
        ("+fill-tags -- -t AFF", 1, 14, "did you mean AF"),
        ("+fill-tags -- -t all", 1, 14, "other releases"),
        ("+fill-tags -- -t ''", 1, 14, "'' is none of AN"),
        ("+fill-tags -- -t 'DP:1=int(sum(FORMAT/DP))'", 1, 14, "expressions are not allowed"),
        ("+fill-tags -- -t 'X=N_PASS(GT=@/etc/passwd)'", 1, 14, "expressions are not allowed"),
        ("+fill-tags -- -S /etc/passwd", 1, 14, "reads the files of its plan and nothing else"),
        ("+fill-tags -- --tag AF", 1, 14, "did you mean --tags?"),
        ("+fill-tags -- -dt AF", 1, 14, "bundles"),
        ("+fill-tags -- -t AF -- -t AN", 1, 20, "'--'"),
        ("norm", 1, 0, "norm needs -m, --multiallelics or -d, --rm-dup or -a, --atomize"),
        ("norm -m any", 1, 5, "'any' is not - (split) or + (join)"),
        ("norm -m -f", 1, 5, "'-f' is not - (split)"),
        ("norm -m -any -f ref.fa", 1, 13, "without a reference"),
        ("norm -m -any --multi-overlaps .", 1, 13, "before 1.17"),
        ("norm -m -any -S lex", 1, 13, "before 1.21"),
        ("norm -m -any -d exact", 1, 13, "before 1.21"),
        ("norm -m -any -a", 1, 13, "other records in bcftools before 1.20"),
        ("norm -d any", 1, 5, "'any' is none of snps"),
        ("norm -d all --keep-sum AD", 1, 12, "says nothing without --multiallelics"),
        ("norm -m - --old-rec-tag 'A;B'", 1, 10, "not the name of an INFO tag"),
        ("annotate -a x.vcf.gz", 1, 9, "annotations of another file"),
        ("annotate -x", 1, 9, "needs a value"),
        ("annotate -x DP", 1, 9, "'DP' is none of INFO/TAG"),
        ("annotate -x INFO/DP,", 1, 9, "'' is none of INFO/TAG"),
        ("annotate -x ^INFO", 1, 9, "'^INFO' is none of INFO/TAG"),
        ("annotate -x '##reference'", 1, 9, "'##reference' is none of"),
        ("annotate -x INFO/A,^INFO/B", 1, 9, "put it before the first"),
        ("annotate -x INFO,INFO/B", 1, 9, "INFO stands beside one of its own names"),
        ("annotate -x ID -I %POS", 1, 15, "identifiers stay"),
        ("annotate -x ID --rename-chrs /etc/passwd", 1, 15, "nothing else"),
        ("query", 1, 0, "query needs -f, --format"),
        ("query -f POS", 1, 6, "no field is named"),
        ("query -f ' '", 1, 6, "the format is empty"),
        ("query -f '%POS\\'", 1, 6, "ends with a backslash"),
        ("query -f '%N_PASS(GT=@/etc/passwd)'", 1, 6, '"@" beside a function'),
        ("query -f '%N_PASS(perl.f(1))'", 1, 6, "Perl"),
        ("query -f '%POS\t%AC'", 1, 9, "control character"),
        ("query -f %POS -i ID=@x", 1, 14, '"@" outside quotes'),
        ("query -f %POS -i AC -e AN", 1, 20, "exclude each other"),
        ("query -f %POS -s A", 1, 14, "chosen with --samples"),
        ("query -f %POS -o /tmp/x", 1, 14, "is not allowed"),
        ("query -f %POS -v list.txt", 1, 14, "nothing else"),
        ("query -f %POS -HH", 1, 14, "bundles"),
        ("query -f %POS -F .", 1, 14, "before 1.19"),
        ("query --form %POS", 1, 6, "did you mean --format?"),
        ("stats -s A", 1, 6, "'-', which stands for all samples"),
        ("stats --af-bins /etc/passwd", 1, 6, "not a list of at least two numbers"),
        ("stats --af-bins 0.1", 1, 6, "not a list of at least two numbers"),
        ("stats --af-bins 0.5,0.1", 1, 6, "does not rise from 0 to 1"),
        ("stats -d 0,10,0", 1, 6, "gives no bins"),
        ("stats -d 0,999999999,1", 1, 6, "more than 100000"),
        ("stats -u DP:0:60:0", 1, 6, "TAG:MIN:MAX:BINS"),
        ("stats -F ref.fa", 1, 6, "nothing else"),
        ("stats; view", 1, 0, "stats prints text, so it is the last step"),
        (f"{TABLE}; stats", 1, 0, "query prints text, so it is the last step"),
        ("view -G; +fill-tags -- -t END,AF", 2, 9, "Step 1 removed the genotypes"),
        ("annotate -x FMT/GT; +fill-tags -- -t AF", 2, 20, "Step 1 removed the genotypes"),
        ("annotate -x ^FORMAT/DP; +fill-tags -- -t AF", 2, 24, "Step 1 removed the genotypes"),
        ("view " + "-k " * 4000, 1, 10_000, "longer than"),
    ],
)  # fmt: skip
def test_everything_else_is_refused_with_its_place(text: str, step: int, position: int, said: str) -> None:
    """Other commands and plugins, files, expressions in tags, bad values, bad orders; each says where in --after."""
    error = refusal(text)
    assert (error.details["part"], error.details["step"], error.details["position"]) == ("after", step, position)
    assert said in error.message


def test_a_refusal_lists_what_its_own_command_allows() -> None:
    """The hint is about the command of the step, not about view."""
    error = refusal("view; norm -z")
    assert (error.hint or "").startswith("Allowed in norm: -m, --multiallelics; ")
    assert "-m, --multiallelics" in str(error.details["allowed"])


def test_steps_of_a_file_that_belong_after_are_sent_there() -> None:
    """Who puts norm into --command reads where it belongs."""
    with pytest.raises(InvalidStep) as caught:
        plan_of(vcf("a.vcf.gz", "A"), command="norm -m -any")
    assert "--after" in (caught.value.hint or "")


@given(st.sampled_from(["view", "+fill-tags --", "norm", "annotate", "query", "stats"]), st.text(max_size=60))
def test_any_text_is_read_or_refused(command: str, text: str) -> None:
    """No input fails in any other way, and no control character comes through."""
    try:
        steps = parse_after(f"{command} {text}").steps
    except InvalidStep:
        return
    assert not any(ord(letter) < 32 for step in steps for given in step.options for letter in given.value or "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("INF/A,FMT/B", [(False, "INFO", "A"), (False, "FORMAT", "B")]),
        ("^INFO/A,INFO/B,FILTER", [(True, "INFO", "A"), (True, "INFO", "B"), (False, "FILTER", "")]),
    ],
)
def test_what_annotate_removes(value: str, expected: list[tuple[bool, str, str]]) -> None:
    """One ^ counts for every name of its kind, as in bcftools."""
    assert read_removed(value) == expected


# --- in a plan -------------------------------------------------------------------------------------------------------


def test_after_one_file_each_step_is_a_process() -> None:
    """The file's own chain streams into them, and the last one writes the result."""
    plan = plan_of(vcf("a.vcf.gz", "A B"), command="view -r 1", after="norm -m -any; view -v snps", level=6)
    assert argvs(plan) == [
        "f1 < : view --no-version -Ou --regions 1 in/1.vcf.gz",
        "a1 < f1: norm --no-version -Ou --multiallelics -any",
        "a2 < a1: view --no-version -Oz6 -o out/result.vcf.gz --types snps",
    ]


def test_after_a_merge_the_writing_is_the_last_steps() -> None:
    """The tags are counted behind the merge, and no process is there for compression alone."""
    plan = plan_of(*TWO, selection=only("A", "C"), after="+fill-tags -- -t AF", output=OutputFormat.BCF)
    assert argvs(plan)[-2:] == [
        "m < f1 f2: merge --no-index --no-version -Ou",
        "a1 < m: +fill-tags --no-version -Ob3 -o out/result.bcf -- --tags AF",
    ]


def test_after_a_concat_the_stream_is_not_stored() -> None:
    """Its sources are, its output is not."""
    plan = plan_of(vcf("1.vcf.gz", "A", "1:5 2:0"), vcf("2.vcf.gz", "A", "1:0 2:5"), after=TABLE)
    assert argvs(plan)[-2:] == [
        "c1 < f1 f2: concat --no-version -Ou",
        r"a1 < c1: query --format %POS\t%AC\n",
    ]
    assert plan.processes[-1].output == "out/result.tsv"


@pytest.mark.parametrize(
    ("after", "output", "expected"),
    [
        ("", None, (OutputFormat.VCF_GZ, "x.vcf.gz")),
        ("view", OutputFormat.BCF, (OutputFormat.BCF, "x.bcf")),
        (TABLE, None, (OutputFormat.TSV, "x.tsv")),
        (TABLE, OutputFormat.TSV, (OutputFormat.TSV, "x.tsv")),
        ("view; stats", None, (OutputFormat.STATS, "x.stats.txt")),
    ],
)
def test_the_last_step_decides_the_result(
    after: str, output: OutputFormat | None, expected: tuple[OutputFormat, str]
) -> None:
    """Text where text is printed, and a plan with it can be stored."""
    plan = plan_of(vcf("a.vcf.gz", "A"), after=after, output=output, name="x")
    assert (plan.output, plan.output_name) == expected
    assert plan.processes[-1].output == f"out/{expected[1]}"
    assert plan_from_dict(plan_to_dict(plan)) == plan


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output": OutputFormat.TSV}, "what query prints as the last step of --after"),
        ({"output": OutputFormat.STATS, "after": "view"}, "what stats prints as the last step of --after"),
        ({"output": OutputFormat.STATS, "after": TABLE}, "the result is tsv and cannot be stats"),
        ({"output": OutputFormat.VCF_GZ, "after": "stats"}, "the result is stats and cannot be vcf.gz"),
        ({"level": 3, "after": "stats"}, "has no level"),
        ({"level": 10, "after": "view"}, "no compression level"),
    ],
)
def test_a_format_that_the_steps_do_not_give_is_refused(changes: dict[str, object], said: str) -> None:
    """With what to add or to leave out."""
    with pytest.raises(InvalidRequest) as caught:
        plan_of(vcf("a.vcf.gz", "A"), **changes)  # type: ignore[arg-type]
    assert said in caught.value.message
    assert caught.value.hint


def test_tags_of_genotypes_need_genotypes() -> None:
    """Files without samples and steps that drop them have nothing to count; other tags do not mind."""
    bare = vcf("a.vcf.gz", "")
    assert plan_of(bare, after="+fill-tags -- -t TYPE").samples == ()
    with pytest.raises(InvalidStep, match="the files have no samples"):
        plan_of(bare, after="+fill-tags -- -t AF")
    with pytest.raises(InvalidStep, match="the steps of --command drop them"):
        plan_of(*TWO, command="view -G", after="+fill-tags -- -t AF")


def test_samples_and_contigs_of_the_steps_are_known_to_the_plan() -> None:
    """Dropped genotypes leave no samples; a contig that no file has is refused, wherever it is named."""
    assert plan_of(*TWO, after="view -G").samples == ()
    with pytest.raises(InvalidSelection, match="No file has a contig '9'"):
        plan_of(*TWO, after="view -t 9")


def test_other_steps_are_another_plan() -> None:
    """The digest, by which results are found again, holds them."""
    plans = [plan_of(*TWO, after=after) for after in ("", "view", TABLE, "stats", "+fill-tags -- -t AF")]
    assert len({plan.digest for plan in plans}) == len(plans)


def test_text_needs_more_scratch_than_records() -> None:
    """Nothing compresses it on the node."""
    big = vcf("a.vcf.gz", "A", size=1 << 30)
    assert plan_of(big, after=TABLE).scratch_mb > 5 * plan_of(big).scratch_mb


def test_every_tag_can_be_asked_for() -> None:
    """All in one list."""
    assert words(f"+fill-tags -- -t {','.join(TAGS)}")[-1] == ",".join(TAGS)


def test_the_examples_of_the_documentation_are_taken() -> None:
    """Every --command and --after that docs/queries.md shows."""
    text = (Path(__file__).parents[2] / "docs/queries.md").read_text(encoding="utf-8")
    after = re.findall(r"--after '([^']+)'", text)
    commands = re.findall(r"(?:--command|-c) '([^']+)'", text)
    assert (len(after) >= 4, len(commands) >= 4) == (True, True)
    assert all(parse_after(example).steps for example in after)
    assert all(parse_steps(example).steps for example in commands)
