"""Plans in shards, run by the real bcftools: the same bytes whatever borders there are, and wherever they lie."""

from __future__ import annotations

import gzip
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from divbase_gateway.domain import spans
from divbase_gateway.domain.files import CataloguedFile
from divbase_gateway.domain.index_maps import ContigMap, FileMap, first_offset
from divbase_gateway.domain.planning import make_plan
from divbase_gateway.domain.queries import OutputFormat, Plan, QueryRequest, Selection

from tests.bcftools import bcftools_for_tests
from tests.integration.test_differential import Answer, Bcftools, by_node, by_tasks, load_maps
from tests.integration.test_planning_bcftools import bcftools, catalogued, run_plan
from tests.variants import bgzf

pytestmark = pytest.mark.slow  # real programs

LENGTH, LEAF = 400, 73  # of the contigs; the first bin of one position, in a scheme of four levels
HEADER = """\
##fileformat=VCFv4.2
##ALT=<ID=DEL,Description="Deletion">
##ALT=<ID=NON_REF,Description="Any other">
##INFO=<ID=END,Number=1,Type=Integer,Description="End">
##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##contig=<ID=c1,length=400>
##contig=<ID=c2,length=400>
##contig=<ID=c3,length=400>
"""
SNPS = ["c1 60 A C .", "c1 63 A C .", "c1 64 A G .", "c1 65 A C .", "c1 96 A T .", "c1 97 A C .", "c1 97 A G .",
        "c1 98 A C .", "c1 129 A C .", "c1 160 A C .", "c2 3 A C .", "c2 49 A C .", "c2 50 A C ."]  # fmt: skip
LONG = ["c1 20 A <DEL> END=90", "c1 62 ATGAC A .", "c1 64 AC A .", "c1 96 A AGG .", "c1 97 A <DEL> END=104",
        "c1 108 A <DEL> END=113", "c1 112 AC A .", "c1 120 A <DEL> END=200", "c2 48 ACGT A ."]  # fmt: skip
BLOCKS = ["c1 1 A <NON_REF> END=58", "c1 61 A <NON_REF> END=95", "c1 97 A G,<NON_REF> .", "c1 98 A <NON_REF> END=128",
          "c1 129 A C .", "c2 1 A <NON_REF> END=48", "c3 7 A C ."]  # fmt: skip
SHARED = [f"{contig} {position} A C ." for contig in ("c1", "c2") for position in range(10, 400, 10)]
"""In every file. A stream into `merge` that ends with its only record of a contig, one of another type than those of
other files at its position, is refused by bcftools (sequences out of order), with shards or without."""
FILES = {
    "a.vcf.gz": ("A B", [*SNPS, *SHARED]),
    "b.bcf": ("B A", [*LONG, *SHARED]),
    "c.vcf.gz": ("C", [*BLOCKS, *SHARED]),
}
EVERYONE = Selection(all_samples=True)
COMMANDS = [
    "view",
    "view -r c1:62-97,c1:98-110,c1:112-120,c1:125-,c2:2-50",
    "view -r c2:50-,c1:64-131 --regions-overlap 0; view -e 'POS=98'",
    "view -r c1:50-150 -t ^c1:64,c2:1; view -m2",
    "view -t c1:61-120,c2:1-100",
    "view -t ^c1:61-100",
    "view -r c3,c1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for key, (samples, sites) in FILES.items():
        columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *samples.split()]
        lines = ["\t".join(columns)]
        for number, site in enumerate(sorted(sites, key=lambda each: (each[:2], int(each.split()[1])))):
            contig, position, ref, alt, info = site.split()
            calls = ["0/1", "1/1"][: len(samples.split())]
            lines.append("\t".join([contig, position, f"{key}.{number}", ref, alt, "9", "PASS", info, "GT", *calls]))
        (folder / "text.vcf").write_text(HEADER + "\n".join(lines) + "\n")
        form = "-Ob" if key.endswith(".bcf") else "-Oz"
        bcftools("view", "--no-version", form, "-o", str(folder / key), str(folder / "text.vcf"))
        bcftools("index", "--csi", str(folder / key))
    return folder


def map_of(file: CataloguedFile, folder: Path) -> FileMap:
    """As if contigs had as many bytes at each position, and an index knew them all: shards are cut anywhere."""
    known = load_maps(folder, [file])[file.key]
    contigs = {}
    for number, (name, contig) in enumerate(known.contigs.items()):
        begin = first_offset(contig)
        chunks = array("Q", (each for at in range(begin, begin + LENGTH) for each in (at, at + 1)))
        bins, ends = array("I", range(LEAF, LEAF + LENGTH)), array("I", range(1, LENGTH + 1))
        contigs[name] = ContigMap(number, 0, 3, bins, array("Q"), ends, chunks, array("Q"))
    return FileMap(known.data_begin, contigs)


def plan_of(
    folder: Path, keys: Sequence[str], request: QueryRequest, shards: int, spread_after_s: int | None = None
) -> Plan:
    def whole(file: CataloguedFile) -> CataloguedFile:
        return replace(file, size=1)  # too small for any part of it

    files = [whole(catalogued(folder / key, key)) for key in keys]
    return make_plan(
        request,
        files,
        None,
        lambda some, _: {file.key: map_of(file, folder) for file in some},
        shards=shards,
        spread_after_s=spread_after_s,
    )


def run(plan: Plan, folder: Path, scratch: Path) -> tuple[bytes, bytes]:
    result = run_plan(plan, folder, scratch)
    return result.read_bytes(), Path(f"{result}.csi").read_bytes()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("keys", [["b.bcf"], ["a.vcf.gz", "b.bcf"], ["c.vcf.gz", "a.vcf.gz", "b.bcf"]])
def test_borders_change_no_byte(tmp_path: Path, folder: Path, command: str, keys: list[str]) -> None:
    """Records across a border, at it, twice at one place and in several files are there once, in their order."""
    request = QueryRequest(EVERYONE, command)
    whole = plan_of(folder, keys, request, 1)
    expected = run(whole, folder, tmp_path / "whole")
    for shards in (5, 16):
        plan = plan_of(folder, keys, request, shards)
        assert (plan.digest, plan.shards) == (whole.digest, shards)
        assert run(plan, folder, tmp_path / str(shards)) == expected


def write_trimmed(folder: Path, key: str, sample: str, sites: Sequence[str]) -> None:
    """A file of one sample; a site has a genotype at its end."""
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", sample]
    lines = ["\t".join(columns)]
    for site in sites:
        contig, position, ref, alt, info, call = site.split()
        lines.append("\t".join([contig, position, ".", ref, alt, "9", "PASS", info, "GT", call]))
    (folder / "text.vcf").write_text(HEADER + "\n".join(lines) + "\n")
    bcftools("view", "--no-version", "-Oz", "-o", str(folder / key), str(folder / "text.vcf"))
    bcftools("index", "--csi", str(folder / key))


def test_a_merge_of_what_trim_leaves_is_not_cut(tmp_path: Path) -> None:
    """Guards: `view -a` leaves a deletion that no sample has without an allele and with its END, for `merge` a block of
    a gVCF. Where that stands beside other records, bcftools leaves END out of all that follow, so shards would differ.
    """
    write_trimmed(tmp_path, "a.vcf.gz", "A", ["c1 20 A <DEL> END=30 0/0", "c1 300 A <DEL> END=350 0/1"])
    others = ["c1 20 A C . 0/1", "c1 20 AT A . 0/1", "c1 310 A C . 0/1"]
    write_trimmed(tmp_path, "b.vcf.gz", "B", others)
    keys = ["a.vcf.gz", "b.vcf.gz"]
    ends = {}
    for command, shards in (("view", 5), ("view -a", 1), ("view; view -m1 -a", 1)):
        request = QueryRequest(EVERYONE, command)
        plan = plan_of(tmp_path, keys, request, 5)
        assert plan.shards == shards
        assert plan_of(tmp_path, keys, request, 1, spread_after_s=1).task_plans == () or shards > 1
        result = run_plan(plan, tmp_path, tmp_path / command.replace(" ", ""))
        ends[command] = bcftools("query", "-i", "POS=300", "-f", "%ALT %INFO/END", str(result)).strip()
    assert ends["view"] == "<DEL> 350"
    assert set(ends.values()) == {"<DEL> 350", "<DEL> ."}  # what bcftools does to a whole file
    assert plan_of(tmp_path, keys[:1], QueryRequest(EVERYONE, "view -a"), 5).shards > 1


@pytest.fixture(scope="module")
def node(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bcftools:
    """bcftools as the node has it, with the files."""
    return Bcftools(bcftools_for_tests(tmp_path_factory.mktemp("bcftools")), folder, (1, 24))


@pytest.mark.parametrize(
    "request_",
    [
        QueryRequest(EVERYONE, "view", output=OutputFormat.BCF, level=0),
        QueryRequest(EVERYONE, "view", level=9),
        QueryRequest(EVERYONE, "view -m2", after="norm -m -any; view -c 1"),
        QueryRequest(EVERYONE, "view", after=r"query -f '%CHROM %POS %ID[ %GT]\n'"),
        QueryRequest(EVERYONE, "view", after="stats -s -"),
    ],
)
def test_every_output_is_the_same_in_shards(
    tmp_path: Path, folder: Path, node: Bcftools, request_: QueryRequest
) -> None:
    """On a node: compressed or not, text, and after steps on the joined stream."""
    answers = [by_node(plan_of(folder, ["b.bcf", "c.vcf.gz"], request_, n), node, tmp_path / str(n)) for n in (1, 3)]
    assert [answer.status for answer in answers] == [0, 0], [answer.log for answer in answers]
    whole, sharded = (answer.result.read_bytes() for answer in answers)
    assert whole == sharded != b""


@pytest.mark.parametrize(
    "request_",
    [
        QueryRequest(EVERYONE, COMMANDS[1]),
        QueryRequest(EVERYONE, COMMANDS[3], output=OutputFormat.BCF, level=0),
        QueryRequest(EVERYONE, "view -m2", after="norm -m -any; view -c 1"),
        QueryRequest(EVERYONE, "view", after=r"query -f '%CHROM %POS %ID[ %GT]\n'"),
    ],
)
def test_shards_as_jobs_of_their_own_change_no_byte(
    tmp_path: Path, folder: Path, node: Bcftools, request_: QueryRequest
) -> None:
    """One job, or a job for each shard and one that joins what they made: the result and its index are equal."""
    keys = ["c.vcf.gz", "a.vcf.gz", "b.bcf"]
    whole = by_node(plan_of(folder, keys, request_, 1), node, tmp_path / "whole")
    plan = plan_of(folder, keys, request_, 1, spread_after_s=1)
    assert plan.spread is not None
    assert plan.spread.tasks >= 5
    apart = by_tasks(plan, node, tmp_path / "apart")
    assert [answer.status for answer in (whole, apart)] == [0, 0], apart.log
    assert apart.result.read_bytes() == whole.result.read_bytes()
    index = Path(f"{whole.result}.csi")
    assert not index.exists() or Path(f"{apart.result}.csi").read_bytes() == index.read_bytes()


@pytest.mark.parametrize("ending", ["vcf.gz", "bcf"])
def test_a_job_of_a_shard_finds_a_record_of_position_0_in_its_part(
    tmp_path: Path, folder: Path, node: Bcftools, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """The one that reads the contig's first record fails and says why; the others have nothing to do with it."""
    monkeypatch.setattr(spans, "WHOLE_FROM", 10.0)  # the file is small, and is to be read in parts all the same
    monkeypatch.setattr(spans, "GAP_BYTES", 0)
    text = gzip.decompress((folder / "a.vcf.gz").read_bytes()).decode()
    for name, content in (("good", text), ("zero", text.replace("c2\t3\t", "c2\t0\t"))):
        path = folder / f"{name}.parts.{ending}"
        data = content.encode()
        if ending == "bcf":
            (folder / "text.vcf").write_text(content)
            bcftools("view", "--no-version", "-Ob", "-o", str(path), str(folder / "text.vcf"))
            data = gzip.decompress(path.read_bytes())
        path.write_bytes(bgzf(data, block=300))
        bcftools("index", "--csi", str(path))
        file = catalogued(path, path.name)
        plan = make_plan(
            QueryRequest(EVERYONE), [file], None, lambda some, _: load_maps(folder, some), spread_after_s=2
        )
        assert [task.regions for task in plan.task_plans] == [("c1",), ("c2",)]
        assert all(task.inputs[0].part is not None for task in plan.task_plans)
        answers = [by_node(task, node, tmp_path / name / str(n)) for n, task in enumerate(plan.task_plans)]
        assert [answer.status for answer in answers] == [0, 0 if name == "good" else 1], answers[0].log
    assert f"zero.parts.{ending} has a record with POS 0" in answers[1].log


def ask(key: str, folder: Path, node: Bcftools, scratch: Path, shards: int) -> Answer:
    plan = plan_of(folder, [key], QueryRequest(EVERYONE), shards)
    assert plan.shards == shards
    return by_node(plan, node, scratch)


def test_a_shard_that_fails_fails_the_job(tmp_path: Path, folder: Path, node: Bcftools) -> None:
    """A block that only the last shard reads is damaged: the job names the file, and there is no result."""
    text = gzip.decompress((folder / "a.vcf.gz").read_bytes())
    packed = bytearray(bgzf(text, block=500))
    (folder / "bad.vcf.gz").write_bytes(packed)
    bcftools("index", "--csi", str(folder / "bad.vcf.gz"))
    plan = plan_of(folder, ["bad.vcf.gz"], QueryRequest(EVERYONE), 4)
    assert by_node(plan, node, tmp_path / "good").status == 0
    packed[-100] ^= 0xFF
    (folder / "bad.vcf.gz").write_bytes(packed)
    answer = by_node(plan, node, tmp_path / "bad")
    assert answer.status == 1
    assert "bad.vcf.gz cannot be read whole" in answer.log
    assert not answer.result.exists()


@pytest.mark.parametrize("key", ["zero.vcf.gz", "zero.bcf"])
def test_a_record_of_position_0_is_not_lost(tmp_path: Path, folder: Path, node: Bcftools, key: str) -> None:
    """No index leads to it: without regions it is in the answer, and in shards the job says why there is none."""
    text = gzip.decompress((folder / "a.vcf.gz").read_bytes()).decode()
    (folder / "text.vcf").write_text(text.replace("c2\t3\t", "c2\t0\t"))
    form = "-Ob" if key.endswith(".bcf") else "-Oz"
    bcftools("view", "--no-version", form, "-o", str(folder / key), str(folder / "text.vcf"))
    bcftools("index", "--csi", str(folder / key))
    whole = ask(key, folder, node, tmp_path / "whole", 1)
    assert "\nc2\t0\t" in node("view", str(whole.result))
    sharded = ask(key, folder, node, tmp_path / "sharded", 2)
    assert sharded.status == 1
    assert f"{key} has a record with POS 0" in sharded.log
