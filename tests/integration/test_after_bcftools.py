"""Steps after the files are combined, run by the node's own pipeline and a real bcftools: they see the whole selection,
and what they print is what bcftools prints by hand."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from divbase_gateway.domain.files import CataloguedFile
from divbase_gateway.domain.planning import make_plan
from divbase_gateway.domain.queries import OutputFormat, Plan, Process, QueryRequest, Selection
from divbase_jobscripts import node

from tests.bcftools import bcftools_for_tests
from tests.integration.test_planning_bcftools import Content, Genotypes, Site, catalogued, make_contents, write_file

pytestmark = pytest.mark.slow  # real programs

EVERYONE = Selection(all_samples=True)


@pytest.fixture(scope="module")
def bcftools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bcftools_for_tests(tmp_path_factory.mktemp("bcftools"))


@dataclass(frozen=True)
class Lab:
    """Two files of other samples at the same sites, and a bcftools that the node finds."""

    folder: Path
    program: Path
    contents: tuple[Content, ...]
    catalogue: tuple[CataloguedFile, ...]

    def by_hand(self, *argv: str) -> str:
        done = subprocess.run([self.program, *argv], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout

    def merged(self) -> str:
        """The path of both files merged by hand."""
        keys = sorted(content.key for content in self.contents)
        self.by_hand("merge", "-Ob", "-o", "merged.bcf", *keys)
        return "merged.bcf"

    def answer(self, after: str, command: str = "view", output: OutputFormat | None = None) -> bytes:
        """The bytes of the result."""
        request = QueryRequest(EVERYONE, command=command, after=after, output=output)
        return self.run(make_plan(request, self.catalogue, None)).read_bytes()

    def run(self, plan: Plan) -> Path:
        scratch = self.folder / f"scratch.{len(list(self.folder.glob('scratch.*')))}"
        for name in ("in", "samples", "out", "tmp"):
            (scratch / name).mkdir(parents=True)
        for entry in plan.inputs:
            os.symlink(self.folder / entry.key, scratch / f"in/{entry.number}.{entry.format}")
            os.symlink(self.folder / f"{entry.key}.csi", scratch / f"in/{entry.number}.{entry.format}.csi")
        processes = [node.Process([word.encode() for word in noted(process)]) for process in plan.processes]
        node.check_pipeline(processes)
        job = SimpleNamespace(scratch=str(scratch), path=lambda *names: str(scratch.joinpath(*names)), manifest={})
        node.Pipeline(job, processes).run()
        return scratch / f"out/{plan.output_name}"

    def records(self, body: bytes) -> list[list[str]]:
        """The cells of each record of a result."""
        (self.folder / "result").write_bytes(body)
        return [line.split("\t") for line in self.by_hand("view", "-H", "result").splitlines()]


def noted(process: Process) -> list[str]:
    """The words that the script would note down."""
    sources = [word for source in process.sources for word in ("--from", source)]
    stored = ["--materialise"] if process.materialise else []
    output = ["--output", process.output] if process.output else []
    return [process.id, *sources, *stored, *output, "--", *process.argv]


@pytest.fixture
def lab(tmp_path: Path, bcftools: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("PATH", f"{bcftools.parent}:{os.environ['PATH']}")
    rng = random.Random(11)
    first, second = make_contents(rng, [["A", "B"], ["C", "D", "E", "F"]], 1, same_headers=True)
    sites: dict[Site, Genotypes] = {
        site: {name: rng.choice(["0/0", "0/1", "1/1"]) for name in second.samples} for site in first.sites
    }
    contents = (first, Content(second.key, second.samples, second.contigs, sites))
    return Lab(tmp_path, bcftools, contents, tuple(write_file(content, tmp_path) for content in contents))


def share(genotypes: Sequence[str]) -> float:
    """The frequency of the second allele."""
    alleles = [allele for call in genotypes for allele in call.split("/") if allele != "."]
    return alleles.count("1") / len(alleles) if alleles else 0.0


def frequent(contents: Sequence[Content], least: float) -> set[Site]:
    """The sites at which the allele is frequent among all samples of these files."""
    sites = contents[0].sites
    return {site for site in sites if share([c for one in contents for c in one.sites[site].values()]) >= least}


def sites_of(rows: list[list[str]]) -> set[Site]:
    return {(row[0], int(row[1])) for row in rows}


def test_a_filter_after_the_merge_sees_the_whole_selection(lab: Lab) -> None:
    """Frequencies are those of all samples together, which those of each file are not."""
    whole = sites_of(lab.records(lab.answer("view -q 0.5")))
    assert whole == frequent(lab.contents, 0.5)
    each = [frequent([content], 0.5) for content in lab.contents]
    assert whole not in (each[0], each[1], each[0] | each[1], each[0] & each[1])
    assert sites_of(lab.records(lab.answer("", command="view -q 0.5"))) == each[0] | each[1]


def test_tags_after_the_merge_mean_the_whole_selection(lab: Lab) -> None:
    """AF and NS of +fill-tags are over all samples of all files."""
    known = subprocess.run([lab.program, "plugin", "-l"], capture_output=True, text=True, check=False).stdout
    if "fill-tags" not in known:
        pytest.skip("this bcftools has no plugins")
    rows = lab.records(lab.answer("+fill-tags -- -t AF,NS"))
    assert len(rows) == len(lab.contents[0].sites)
    for row in rows:
        info = dict(item.split("=") for item in row[7].split(";"))
        calls = [call for content in lab.contents for call in content.sites[(row[0], int(row[1]))].values()]
        assert float(info["AF"]) == pytest.approx(share(calls), rel=1e-4)
        assert int(info["NS"]) == sum(call != "./." for call in calls)


def test_a_table_is_what_bcftools_query_prints(lab: Lab) -> None:
    """Byte for byte, with and without a line break at the end of the format."""
    wanted = 'N_PASS(GT="alt")>3'
    expected = lab.by_hand("query", "-f", r"%CHROM\t%POS\t%REF/%ALT[\t%GT]\n", "-i", wanted, lab.merged())
    assert expected.count("\n") > 5
    for end in (r"\n", ""):
        step = rf"query -f '%CHROM\t%POS\t%REF/%ALT[\t%GT]{end}' -i '{wanted}'"
        assert lab.answer(step).decode() == expected


def test_statistics_are_those_of_bcftools_stats(lab: Lab) -> None:
    """Every number; only the comments and the name of the file differ."""

    def numbers(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith(("#", "ID\t"))]

    expected = numbers(lab.by_hand("stats", "-s", "-", "-d", "0,100,1", lab.merged()))
    assert any(line.startswith("PSC\t0\tF\t") for line in expected)
    assert numbers(lab.answer("stats -s - -d 0,100,1").decode()) == expected


def test_rows_are_split_and_joined_and_annotations_removed(lab: Lab) -> None:
    """norm and annotate work on the stream, alone and in a row."""
    lines = (lab.folder / lab.contents[0].key).with_name("multi.txt")
    lines.write_text(
        "##fileformat=VCFv4.2\n##contig=<ID=1,length=1000>\n"
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
        '##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth">\n'
        "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tA\n"
        "1\t7\trs7\tA\tC,G\t9\tPASS\tDP=4\tGT\t1/2\n"
    )
    lab.by_hand("view", "--no-version", "-Ob", "-o", "multi.bcf", "multi.txt")
    lab.by_hand("index", "multi.bcf")
    catalogue = (catalogued(lab.folder / "multi.bcf", "multi.bcf"),)
    for after, expected in (
        ("norm -m -any", ["7 rs7 A C 9 PASS DP=4 GT 1/0", "7 rs7 A G 9 PASS DP=4 GT 0/1"]),
        ("norm -m -any; norm -m +any", ["7 rs7 A C,G 9 PASS DP=4 GT 1/2"]),
        ("annotate -x ID,QUAL,INFO/DP", ["7 . A C,G . PASS . GT 1/2"]),
        ("norm -m -; annotate -x INFO; view -G", ["7 rs7 A C 9 PASS .", "7 rs7 A G 9 PASS ."]),
    ):
        plan = make_plan(QueryRequest(EVERYONE, after=after), catalogue, None)
        rows = lab.records(lab.run(plan).read_bytes())
        assert [" ".join(row[1:]) for row in rows] == expected


EVERY_OPTION = (
    "norm -m +any -d exact --old-rec-tag OLD -s",
    "norm -a --atom-overlaps . --old-rec-tag OLD",
    "annotate -x ^INFO/DP,ID,QUAL,FILTER/PASS",
    r"""query -f '%CHROM\t%POS[\t%SAMPLE=%GT]\t%N_PASS(GT="alt")\n' -i 'QUAL>0' -H -u""",
    "stats -s - -1 -I -d 0,100,5 --af-bins 0.1,0.5,1 -f PASS,. -e 'QUAL<0'",
    "view -t 1 --targets-overlap 1 -i 'QUAL>=0' -f PASS -v snps -m2 -M2 -g ^miss -n -c 1 -C 12 -q 0 -Q 1 -P -U -a",
    "view -V indels -e 'QUAL<0' -I -u",
    "view -G -p -k",
)


@pytest.mark.parametrize("after", EVERY_OPTION, ids=lambda text: text.split()[0])
def test_what_is_allowed_is_taken_by_bcftools(lab: Lab, after: str) -> None:
    """No allowed option fails on the installed release."""
    assert lab.answer(after)
