"""Random projects and random queries: the planner and the node helper against bcftools by hand on the whole files.

A case is its seed, which is in the test's name: files of any layout, contigs and formats, with indels and structural
variants that reach far; then regions, filters and samples. Equal have to be header, samples in order, and records; and
in shards, the bytes of the result.

    DIVBASE_DIFFERENTIAL_CASES=5000 DIVBASE_DIFFERENTIAL_FROM=1000 pytest tests/integration/test_differential.py

Each question is asked in one number of shards, mostly a small one: sixteen start a hundred processes. With
DIVBASE_DIFFERENTIAL_SHARDS=2,5,16 it is asked in all of these.

DIVBASE_TEST_BCFTOOLS names another bcftools than that of pysam.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from divbase_gateway.domain import spans
from divbase_gateway.domain.bgzf import unpack_prefix, virtual_offset
from divbase_gateway.domain.errors import InvalidSelection
from divbase_gateway.domain.files import CataloguedFile, Contig, FileFormat, FileState, IndexKind, IndexRef
from divbase_gateway.domain.index_maps import FileMap, map_contigs
from divbase_gateway.domain.indexes import parse_index
from divbase_gateway.domain.planning import make_plan
from divbase_gateway.domain.plans import part_to_dict
from divbase_gateway.domain.queries import Plan, Process, QueryRequest, Selection
from divbase_gateway.domain.vcf import measure_header, parse_header
from divbase_jobscripts.render import node_helper_source

from tests.bcftools import bcftools_for_tests, release_of, run_by_hand
from tests.fakes.node_gateway import TOKEN, NodeGateway
from tests.variants import bgzf

pytestmark = pytest.mark.slow  # real programs

CASES = int(os.environ.get("DIVBASE_DIFFERENTIAL_CASES", "25"))
FIRST = int(os.environ.get("DIVBASE_DIFFERENTIAL_FROM", "0"))
SHARDS = os.environ.get("DIVBASE_DIFFERENTIAL_SHARDS")
AFTER_S = 2
"""A query that takes longer is also spread over jobs: each of these does, and it gives three of them."""
ROUND = (2, 2, 5, 2, 2, 2, 5, 2, 2, 16)
CONTIGS = {"chr1": 8_000_000, "chr-2": 400_000, "HLA:3-1": 60_000, "chr4": 3_000_000}
GIANT = {"giant": 900_000_000}
MOST_BYTES, MOST_SECONDS = 1 << 20, 60
FILTERS = (
    ("-i", "QUAL>40"),
    ("-e", "QUAL<20"),
    ("-v", "snps"),
    ("-V", "indels"),
    ("-m2", "-M2"),
    ("-c", "1"),
    ("-g", "het"),
    ("-f", "PASS"),
    ("-a",),
)
ODD_CALLS = ("./.:.", "./.:.", ".", "0", "1:9", ".:3", "0|1:7", "./1:2", "1|.", "0/1/1:4")
"""Missing, haploid, half known, phased, triploid, and with fields left out."""
HEADER = """\
##fileformat=VCFv4.2
##FILTER=<ID=q10,Description="Quality below 10">
##ALT=<ID=DEL,Description="Deletion">
##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth">
##INFO=<ID=END,Number=1,Type=Integer,Description="End">
##INFO=<ID=SVTYPE,Number=1,Type=String,Description="Type">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Depth">
"""


class Endless(Exception):
    """bcftools writes without end: the merge of 1.18 to 1.21 does at some records with END."""


@dataclass(frozen=True)
class Bcftools:
    """The one that both sides run, in a folder."""

    program: Path
    folder: Path
    release: tuple[int, ...]

    def __call__(self, *words: str) -> str:
        ended = run_by_hand(self.program, words, self.folder, MOST_BYTES)
        if ended.status == -signal.SIGXFSZ:
            raise Endless(words)
        assert ended.status == 0, (words, ended.stderr)
        assert not any("[E::" in line and "##pedigreeDB=<" not in line for line in ended.stderr.splitlines())
        return ended.stdout

    def can(self, plan: Plan) -> bool:
        """Whether this release has what the plan needs; where not, the node is to say so."""
        words = [word for process in plan.processes for word in process.argv]
        if "merge" in words and (1, 19) <= self.release < (1, 21):
            return False
        return self.release >= (1, 18) or not any("{" in word for word in words)


@dataclass(frozen=True)
class Question:
    """`regions` as bcftools takes them, None for everything; `by` is the option that takes them.

    `together`: the first filter is asked for in the step of the regions, and not in one of its own.
    """

    regions: str | None
    by: str
    filters: tuple[tuple[str, ...], ...]
    together: bool
    samples: tuple[str, ...] | None

    @property
    def request(self) -> QueryRequest:
        steps = [["view", *((self.by, self.regions) if self.regions else ())]]
        for number, words in enumerate(self.filters):
            if number == 0 and self.together:
                steps[0].extend(words)
            else:
                steps.append(["view", *words])
        chosen = Selection(all_samples=True) if self.samples is None else Selection(samples=self.samples)
        return QueryRequest(chosen, command="; ".join(map(shlex.join, steps)))


# --- random projects ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """A record without its genotypes."""

    contig: str
    position: int
    columns: str


def make_sites(rng: random.Random, contigs: Mapping[str, int]) -> list[Site]:
    """In the order of the contigs; on some there is nothing, positions come in crowds and more than once."""
    sites = []
    for contig, length in contigs.items():
        crowds = [rng.randrange(1, length) for _ in range(rng.choice([0, 1, 3, 8]))]
        positions = [crowd + rng.choice([0, 1, 40, 3000]) * step for crowd in crowds for step in range(25)]
        for position in sorted(each for each in positions if each < length):
            sites.append(Site(contig, position, _columns(rng, length, position)))
    return sites


def _columns(rng: random.Random, length: int, position: int) -> str:
    """SNP, indel, several alleles, or a deletion of up to 3 Mb: ID to INFO."""
    ref, info = _reference(position, 1), f"DP={rng.randint(1, 999)}"
    others = rng.sample(sorted(set("ACGT") - {ref}), 2)
    alt, kind = others[0], rng.random()
    if kind < 0.1:
        ref, alt = _reference(position, rng.randint(2, 60)), ref
    elif kind < 0.2:
        alt = ref + "".join(rng.choices("ACGT", k=rng.randint(1, 60)))
    elif kind < 0.3:
        alt = ",".join(others)
    elif kind < 0.36:
        alt, end = "<DEL>", min(length, position + rng.choice([10, 20_000, 400_000, 3_000_000]))
        info += f";END={end};SVTYPE=DEL"
    quality = rng.randint(1, 99)
    return "\t".join([".", ref, alt, str(quality), "PASS" if quality >= 10 else "q10", info])


def _reference(position: int, length: int) -> str:
    """The same bases for every record that has them, or bcftools could not merge."""
    return "".join("ACGT"[(each * 2_654_435_761 >> 9) & 3] for each in range(position, position + length))


def deal(rng: random.Random, sites: Sequence[Site], parts: int) -> list[list[Site]]:
    """The sites of a group for its files: whole contigs each, or site by site."""
    dealt: list[list[Site]] = [[] for _ in range(parts)]
    by_contig = rng.random() < 0.5
    owner: dict[object, int] = {}
    for site in sites:
        place = site.contig if by_contig else (site.contig, site.position)
        dealt[owner.setdefault(place, rng.randrange(parts))].append(site)
    return dealt


def make_project(rng: random.Random, bcftools: Bcftools) -> list[CataloguedFile]:
    """One to six files: groups of samples, each with one file or several that share its sites."""
    contigs = rng.choice([CONTIGS, CONTIGS, {**CONTIGS, **GIANT}])
    shared = make_sites(rng, contigs)
    files = []
    for group in range(rng.choice([1, 1, 2, 3])):
        samples = [f"G{group}.{number}" for number in range(rng.randint(1, 4))]
        own = sorted({*rng.sample(shared, len(shared) * 3 // 4)}, key=shared.index)
        for part, sites in enumerate(deal(rng, own, rng.randint(1, 2))):
            header = list(contigs) if rng.random() < 0.7 else [name for name in contigs if rng.random() < 0.7]
            header = [name for name in contigs if name in header or any(site.contig == name for site in sites)]
            key = f"{rng.randrange(100):02}.{group}.{part}{rng.choice(['.vcf.gz', '.vcf.gz', '.bcf'])}"
            files.append(write_file(rng, key, rng.sample(samples, len(samples)), header, sites, bcftools))
    return files


def write_file(
    rng: random.Random,
    key: str,
    samples: Sequence[str],
    header: Sequence[str],
    sites: Sequence[Site],
    bcftools: Bcftools,
) -> CataloguedFile:
    """In blocks of random size, with an index of a random kind; answers what the catalogue would know."""
    lengths = {**CONTIGS, **GIANT}
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *samples]
    lines = [HEADER, *(f"##contig=<ID={name},length={lengths[name]}>\n" for name in header), "\t".join(columns) + "\n"]
    for site in sites:
        alleles = "012" if "," in site.columns else "01"
        calls = [f"{rng.choice(alleles)}/{rng.choice(alleles)}:{rng.randint(1, 60)}" for _ in samples]
        calls = [call if rng.random() < 0.9 else rng.choice(ODD_CALLS) for call in calls]
        lines.append("\t".join([site.contig, str(site.position), site.columns, "GT:DP", *calls]) + "\n")
    path = bcftools.folder / key
    text = "".join(lines).encode()
    if path.suffix == ".bcf":
        (bcftools.folder / "plain.vcf").write_bytes(text)
        bcftools("view", "--no-version", "-Ob0", "-o", key, "plain.vcf")
        text = unpack_prefix(path.read_bytes(), 1 << 30).data
    path.write_bytes(bgzf(text, block=rng.choice([400, 1500, 60_000]), level=rng.choice([0, 6])))
    can_be_tbi = path.suffix != ".bcf" and "giant" not in header
    kind = IndexKind.TBI if can_be_tbi and rng.random() < 0.4 else IndexKind.CSI
    bcftools("index", f"--{kind}", key)
    return catalogued(key, kind, samples, header, sites, path)


def catalogued(
    key: str, kind: IndexKind, samples: Sequence[str], header: Sequence[str], sites: Sequence[Site], path: Path
) -> CataloguedFile:
    index = IndexRef(f"{key}.{kind}", "v1", kind, Path(f"{path}.{kind}").stat().st_size, "e")
    counts = tuple(Contig(name, None, sum(site.contig == name for site in sites)) for name in header)
    form = FileFormat.BCF if path.suffix == ".bcf" else FileFormat.VCF_GZ
    size = path.stat().st_size
    return CataloguedFile(key, "v1", size, key, None, form, FileState.READY, None, tuple(samples), counts, index)


def load_maps(folder: Path, files: Sequence[CataloguedFile]) -> dict[str, FileMap]:
    """What the catalogue keeps of the indexes."""
    maps = {}
    for file in files:
        assert file.index is not None
        prefix = unpack_prefix((folder / file.key).read_bytes(), 1 << 26)
        end = measure_header(prefix.data, whole=True)
        assert end is not None
        contigs = map_contigs(parse_index((folder / file.index.key).read_bytes()), parse_header(prefix.data[:end]))
        maps[file.key] = FileMap(virtual_offset(prefix.blocks, end), contigs)
    return maps


def make_question(rng: random.Random, files: Sequence[CataloguedFile]) -> Question:
    contigs = list(dict.fromkeys(contig.name for file in files for contig in file.contigs))
    names = list(dict.fromkeys(name for file in files for name in file.samples))
    asked = None if rng.random() < 0.15 else ",".join(_region(rng, contigs) for _ in range(rng.choice([1, 1, 2, 5])))
    chosen = None if rng.random() < 0.5 else tuple(rng.sample(names, rng.randint(1, len(names))))
    filters = tuple(rng.choice(FILTERS) for _ in range(rng.choice([0, 1, 2])))
    return Question(asked, rng.choice(["-r", "-r", "-r", "-t"]), filters, rng.random() < 0.5, chosen)


def _region(rng: random.Random, contigs: Sequence[str]) -> str:
    contig = rng.choice(contigs)
    length = {**CONTIGS, **GIANT}[contig]
    start = rng.choice([rng.randint(1, length), rng.randint(0, length >> 14) << 14 or 1])
    width = rng.choice([0, 100, 1 << 14, length // 10, length // 2])
    return f"{{{contig}}}" if rng.random() < 0.2 else f"{{{contig}}}:{start}-{start + width}"


# --- the two sides -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a job ended with: its status, its log, and the path of the result."""

    status: int
    log: str
    result: Path


def by_tasks(plan: Plan, bcftools: Bcftools, scratch: Path) -> Answer:
    """Stage and run every shard as a job of its own, and then what they wrote as the job does that joins it."""
    shards = []
    for number, task in enumerate(plan.task_plans, start=1):
        answer = by_node(task, bcftools, scratch / str(number))
        if answer.status:
            return answer
        shards.append(answer.result)
    return by_node(plan, bcftools, scratch / "gather", shards)


def by_node(plan: Plan, bcftools: Bcftools, scratch: Path, shards: Sequence[Path] = ()) -> Answer:
    """Stage and run the plan as a job does, on its inputs or on what the jobs of shards wrote."""
    for name in ("job", "work"):
        (scratch / name).mkdir(parents=True)
    (scratch / "job/divbase_node.py").write_bytes(node_helper_source())
    with NodeGateway() as gateway:
        for number, path in enumerate(shards, start=1):
            gateway.add_input(path, key=f"shards/{number}.bcf")
        for entry in () if shards else plan.inputs:
            read = entry.source
            index = bcftools.folder / read.index.key if read.part is None else None
            part = None if read.part is None else part_to_dict(read.part)
            samples = None if entry.samples is None else list(entry.samples)
            gateway.add_input(bcftools.folder / read.key, samples=samples, index=index, part=part, begins=read.begins)
        _, manifest = gateway.answer("claim", {"claimant": "c"}, f"Bearer {TOKEN}")
        (scratch / "job/job.json").write_text(json.dumps(gateway.ticket()))
        (scratch / "work/state.json").write_text(json.dumps({"manifest": manifest}))
        (scratch / "work/pipeline").write_bytes(b"".join(map(noted, plan.processes)))
        steps = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({MOST_BYTES}, {MOST_BYTES})); "
        steps += 'import sys; sys.path.insert(0, ""); import divbase_node as node; '
        steps += 'sys.exit(node.main(["stage"]) or node.main(["run"]))'
        path = f"{bcftools.program.parent}{os.pathsep}{os.environ['PATH']}"
        try:
            ended = subprocess.run(
                [sys.executable, "-IS", "-c", steps],
                cwd=scratch / "job",
                env={"PATH": path, "LANG": "C.UTF-8", "DIVBASE_SCRATCH": str(scratch / "work")},
                capture_output=True,
                text=True,
                timeout=MOST_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Answer(124, "it does not end", scratch)
    result = scratch / "work" / (plan.processes[-1].output or "")
    return Answer(ended.returncode, ended.stdout + ended.stderr, result)


def noted(process: Process) -> bytes:
    """As the script's `pipe` notes a process down."""
    words = [process.id, *(word for source in process.sources for word in ("--from", source))]
    words += ["--materialise"] if process.materialise else []
    words += ["--output", process.output] if process.output else []
    words += ["--", *process.argv]
    return b"".join(word.encode() + b"\0" for word in (str(len(words)), *words))


def by_hand(question: Question, files: Sequence[CataloguedFile], bcftools: Bcftools) -> str:
    """Region, samples, filters, each to a file; then `concat` of equal samples, and `merge`. Text of the result.

    Args:
        files: those that take part, in key order.
    """
    groups: dict[frozenset[str], list[str]] = {}
    columns: dict[frozenset[str], list[str]] = {}
    for number, file in enumerate(files):
        kept = [name for name in file.samples if question.samples is None or name in question.samples]
        names = columns.setdefault(frozenset(kept), kept)
        steps = [place_of(question, file, bcftools)]
        if question.samples is not None:
            steps.append(["-s", ",".join(names)])
        elif names != list(file.samples):
            steps.append(["--no-update", "-s", ",".join(names)])
        now = file.key
        for step, words in enumerate([*steps, *question.filters]):
            now, before = f"hand.{number}.{step}.bcf", now
            bcftools("view", "--no-version", *words, "-Ob", "-o", now, before)
        bcftools("index", "-f", now)
        groups.setdefault(frozenset(kept), []).append(now)
    heads: list[str] = []
    for number, members in enumerate(groups.values()):
        heads.extend(members if len(members) == 1 else [f"hand.group.{number}.bcf"])
        if len(members) > 1:
            bcftools("concat", "--no-version", "-a", "-Ob", "-o", heads[-1], *members)
            bcftools("index", "-f", heads[-1])
    return bcftools("merge" if len(heads) > 1 else "view", "--no-version", *heads)


def place_of(question: Question, file: CataloguedFile, bcftools: Bcftools) -> list[str]:
    """Regions in the order of the file's contigs, for bcftools reads in theirs; it refuses contigs of other files."""
    if question.regions is None:
        return []
    names = [contig.name for contig in file.contigs]
    regions = [each[1:].partition("}")[::2] for each in question.regions.split(",")]
    known = sorted(((name, place) for name, place in regions if name in names), key=lambda each: names.index(each[0]))
    if bcftools.release >= (1, 18):
        return [question.by, ",".join(f"{{{name}}}{place}" for name, place in known) or "{nowhere}"]
    if not any(":" in name for name, _ in known):  # what is in braces would be taken for another name
        return [question.by, ",".join(name + place for name, place in known) or "nowhere"]
    lines = [f"{name}\t{(place[1:] or '1-2147483647').replace('-', chr(9))}\n" for name, place in known]
    (bcftools.folder / "regions.tsv").write_text("".join(lines))
    return [question.by.upper(), "regions.tsv"]


def takes_part(question: Question, file: CataloguedFile) -> bool:
    return question.samples is None or bool(set(question.samples) & set(file.samples))


# --- the comparison ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[int, ...]]:
    """bcftools and its release."""
    path = bcftools_for_tests(tmp_path_factory.mktemp("bcftools"))
    return path, release_of(path)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + CASES))
def test_a_random_query_is_answered_as_by_hand(
    tmp_path: Path, program: tuple[Path, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever the project and the question; and a file that is left out has nothing to say to it."""
    monkeypatch.setattr(spans, "WHOLE_FROM", 10.0)  # files are small, and are to be read in parts all the same
    monkeypatch.setattr(spans, "GAP_BYTES", 500)
    rng = random.Random(seed)
    (tmp_path / "files").mkdir()
    bcftools = Bcftools(program[0], tmp_path / "files", program[1])
    files = make_project(rng, bcftools)
    maps = load_maps(bcftools.folder, files)

    def find_maps(some: Sequence[CataloguedFile], _: Sequence[str]) -> dict[str, FileMap]:
        return {file.key: maps[file.key] for file in some}

    for number in range(2):
        question = make_question(rng, files)
        asked = [file for file in sorted(files, key=lambda file: file.key) if takes_part(question, file)]
        try:
            plan = make_plan(question.request, files, None, find_maps)
        except InvalidSelection:
            assert not any(has_records(question, file, bcftools) for file in asked), (seed, question)
            continue
        read = {entry.key for entry in plan.inputs}
        assert not any(has_records(question, file, bcftools) for file in asked if file.key not in read), (
            seed,
            question,
        )
        answer = by_node(plan, bcftools, tmp_path / f"scratch.{number}")
        if not bcftools.can(plan):
            assert answer.status == 1, (seed, question)
            assert "later. The site's administrator" in answer.log, (seed, question, answer.log)
            continue
        try:
            hand = by_hand(question, [file for file in asked if file.key in read], bcftools)
        except Endless:
            assert (1, 18) <= bcftools.release < (1, 22), (seed, question)
            assert answer.status != 0, (seed, question)
            continue
        assert answer.status == 0, (seed, question, answer.log)
        result = bcftools("view", "--no-version", str(answer.result))
        assert result.splitlines() == hand.splitlines(), (seed, question)
        for count in map(int, SHARDS.split(",")) if SHARDS else [ROUND[(seed + number) % len(ROUND)]]:
            cut = make_plan(question.request, files, None, find_maps, shards=count)
            if cut.shards > 1 and bcftools.can(cut):
                again = by_node(cut, bcftools, tmp_path / f"scratch.{number}.{count}")
                assert again.status == 0, (seed, question, count, again.log)
                assert again.result.read_bytes() == answer.result.read_bytes(), (seed, question, count)
                assert indexed(again.result) == indexed(answer.result), (seed, question, count)
        if number == seed % 2:
            spread = make_plan(question.request, files, None, find_maps, spread_after_s=AFTER_S)
            if spread.spread is not None and bcftools.can(plan):
                apart = by_tasks(spread, bcftools, tmp_path / f"scratch.{number}.spread")
                assert apart.status == 0, (seed, question, apart.log)
                assert apart.result.read_bytes() == answer.result.read_bytes(), (seed, question)
                assert indexed(apart.result) == indexed(answer.result), (seed, question)


def indexed(result: Path) -> bytes:
    return Path(f"{result}.csi").read_bytes()


def has_records(question: Question, file: CataloguedFile, bcftools: Bcftools) -> bool:
    return bool(bcftools("view", "-H", *place_of(question, file, bcftools), file.key))
