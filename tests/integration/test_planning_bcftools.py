"""Plans run by the real bcftools: the result has the records that a plain reading of the files says, sorted, indexed.

The processes run one after the other through files; that they also run through pipes is the node helper's test.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pysam
import pysam.bcftools
import pytest
from divbase_gateway.domain.errors import InvalidSelection, OverlappingSamples
from divbase_gateway.domain.files import CataloguedFile, Contig, FileFormat, FileState, IndexKind, IndexRef
from divbase_gateway.domain.planning import make_plan
from divbase_gateway.domain.queries import CombineKind, OutputFormat, Plan, Process, QueryRequest, Selection
from hypothesis import given, reject, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow  # real programs

REAL = Path(__file__).parents[3] / "shared" / "data"
CONTIGS = ("1", "2", "X:y")
Site = tuple[str, int]
Genotypes = dict[str, str]


@dataclass(frozen=True)
class Content:
    """One generated file: samples, contigs of its header, and the genotypes at each site."""

    key: str
    samples: tuple[str, ...]
    contigs: tuple[str, ...]
    sites: dict[Site, Genotypes]


def bcftools(*argv: str) -> str:
    """Run bcftools in this process; its exit status other than 0 is an error."""
    command = getattr(pysam.bcftools, argv[0])
    return str(command(*argv[1:], catch_stdout="-o" not in argv))


def write_file(content: Content, folder: Path) -> CataloguedFile:
    """Write content as an indexed VCF or BCF, and say what the catalogue would."""
    text = folder / (content.key.replace("/", "_") + ".txt")
    text.write_text("".join(vcf_lines(content)))
    path = folder / content.key
    bcftools("view", "--no-version", "-Ob" if content.key.endswith(".bcf") else "-Oz", "-o", str(path), str(text))
    bcftools("index", "--csi", str(path))
    return catalogued(path, content.key)


def vcf_lines(content: Content) -> Iterator[str]:
    yield '##fileformat=VCFv4.2\n##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
    for contig in content.contigs:
        yield f"##contig=<ID={contig},length=100000>\n"
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO"]
    yield "\t".join([*columns, *(["FORMAT", *content.samples] if content.samples else [])]) + "\n"
    for (contig, position), genotypes in sorted(
        content.sites.items(), key=lambda s: (content.contigs.index(s[0][0]), s)
    ):
        fixed = [contig, str(position), ".", "A", "C", str(position % 50), "PASS", "."]
        yield "\t".join([*fixed, *(["GT", *(genotypes[s] for s in content.samples)] if content.samples else [])]) + "\n"


def catalogued(path: Path, key: str) -> CataloguedFile:
    index = next(p for p in (Path(f"{path}.csi"), Path(f"{path}.tbi")) if p.exists())
    with pysam.VariantFile(str(path)) as file:
        samples, contigs = tuple(file.header.samples), tuple(file.header.contigs)
    counted = dict(line.split("\t")[::2] for line in bcftools("index", "--stats", str(path)).splitlines())
    return CataloguedFile(
        key=key, version_id="v1", size=path.stat().st_size, etag=key, sha256=None,
        format=FileFormat.BCF if key.endswith(".bcf") else FileFormat.VCF_GZ, state=FileState.READY, reason=None,
        samples=samples, contigs=tuple(Contig(name, None, int(counted.get(name, 0))) for name in contigs),
        index=IndexRef(index.name, "v1", IndexKind(index.suffix[1:]), index.stat().st_size, "e"),
    )  # fmt: skip


def run_plan(plan: Plan, folder: Path, scratch: Path) -> Path:
    """Do what the node does, one process after the other, and return the path of the indexed result."""
    for name in ("in", "samples", "out", "tmp"):
        (scratch / name).mkdir(parents=True)
    for entry in plan.inputs:
        source = folder / entry.key
        os.symlink(source, scratch / f"in/{entry.number}.{entry.format}")
        suffix = entry.index.kind.value
        os.symlink(f"{source}.{suffix}", scratch / f"in/{entry.number}.{entry.format}.{suffix}")
        if entry.samples is not None:
            (scratch / f"samples/{entry.number}.txt").write_text("".join(f"{name}\n" for name in entry.samples))
    for process in plan.processes:
        run_process(process, scratch)
    result = scratch / (plan.processes[-1].output or "")
    bcftools("index", "--csi", str(result))
    return result


def run_process(process: Process, scratch: Path) -> None:
    argv = [str(scratch / word) if word.startswith(("in/", "samples/", "out/")) else word for word in process.argv]
    argv += [str(scratch / f"tmp/{source}.bcf") for source in process.sources]
    if process.output is None:
        argv[1:1] = ["-o", str(scratch / f"tmp/{process.id}.bcf")]
    bcftools(*argv)
    if process.materialise:
        bcftools("index", str(scratch / f"tmp/{process.id}.bcf"))


def read_result(path: Path) -> tuple[tuple[str, ...], list[tuple[Site, Genotypes]]]:
    """Samples in column order, and the records in file order; contigs have to follow the header."""
    with pysam.VariantFile(str(path)) as file:
        samples = tuple(file.header.samples)
        rank = {name: index for index, name in enumerate(file.header.contigs)}
        lines = [str(record).rstrip("\n").split("\t") for record in file]
    places = [(rank[line[0]], int(line[1])) for line in lines]
    assert places == sorted(places)
    return samples, [((line[0], int(line[1])), dict(zip(samples, line[9:], strict=True))) for line in lines]


def expected_records(contents: Sequence[Content], samples: Sequence[str]) -> list[tuple[Site, Genotypes]]:
    """What a person would say: at each site of a file with a selected sample, the genotypes, missing elsewhere.

    A site that two files of one group have is there twice, as plain `concat` leaves it; with several groups there is
    no plain answer to that, and the caller does not ask.
    """
    groups: dict[frozenset[str], list[tuple[Site, Genotypes]]] = {}
    for content in contents:
        chosen = frozenset(content.samples) & frozenset(samples)
        for site, genotypes in content.sites.items():
            groups.setdefault(chosen, []).append((site, {name: genotypes[name] for name in chosen}))
    groups.pop(frozenset(), None)
    if len(groups) == 1:
        return next(iter(groups.values()))
    sites: dict[Site, Genotypes] = {}
    for records in groups.values():
        for site, genotypes in records:
            row = sites.setdefault(site, dict.fromkeys(samples, "./."))
            if any(row[name] != "./." for name in genotypes):
                reject()
            row.update(genotypes)
    return list(sites.items())


def by_place(records: list[tuple[Site, Genotypes]]) -> list[tuple[Site, list[tuple[str, str]]]]:
    return sorted((site, sorted(genotypes.items())) for site, genotypes in records)


def make_contents(rng: random.Random, groups: Sequence[Sequence[str]], parts: int, same_headers: bool) -> list[Content]:
    """For each group of samples `parts` files that share its sites: by contig, or dealt out so that they interleave."""
    contents = []
    for number, group in enumerate(groups):
        by_contig = rng.random() < 0.5
        files: list[dict[Site, Genotypes]] = [{} for _ in range(parts)]
        for contig in CONTIGS:
            for position in rng.sample(range(1, 60), 6):
                part = CONTIGS.index(contig) % parts if by_contig else rng.randrange(parts)
                files[part][(contig, position)] = {name: rng.choice(["0/0", "0/1", "1/1", "./."]) for name in group}
        for part, sites in enumerate(files):
            used = {site[0] for site in sites}
            contigs = list(CONTIGS if same_headers else [c for c in CONTIGS if c in used or rng.random() < 0.5])
            if not same_headers:
                rng.shuffle(contigs)
            samples = list(group)
            rng.shuffle(samples)
            suffix = rng.choice(["vcf.gz", "bcf"])
            key = f"{rng.randrange(1000):03}_{number}_{part}.{suffix}"
            contents.append(Content(key, tuple(samples), tuple(contigs) or CONTIGS, sites))
    return contents


REGIONS = {
    "": {"1": 1, "2": 1, "X:y": 1},
    "-r 2": {"2": 1},
    "-r {X:y},1:20-": {"X:y": 1, "1": 20},
    "-r 2:30-,1:30-,{X:y}:30-": {"1": 30, "2": 30, "X:y": 30},
}
"""Region option -> contig -> first position."""


def inside(content: Content, region: str) -> Content:
    starts = REGIONS[region]
    sites = {site: row for site, row in content.sites.items() if site[1] >= starts.get(site[0], 10**6)}
    return replace(content, sites=sites)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    parts=st.integers(1, 3),
    same_headers=st.booleans(),
    overlap=st.booleans(),
    region=st.sampled_from(list(REGIONS)),
    everyone=st.booleans(),
    output=st.sampled_from([OutputFormat.VCF_GZ, OutputFormat.BCF]),
)
def test_a_plan_is_right_or_refuses(
    seed: int, sizes: list[int], parts: int, same_headers: bool, overlap: bool, region: str, everyone: bool,
    output: OutputFormat,
) -> None:  # fmt: skip
    """Whatever the layout of files and samples, the result has every selected genotype, or the overlap is named."""
    rng = random.Random(seed)
    groups = [[f"S{number}.{index}" for index in range(size)] for number, size in enumerate(sizes)]
    if overlap and len(groups) > 1:
        groups[1].append(groups[0][0])
    contents = [c for c in make_contents(rng, groups, parts, same_headers) if c.sites]
    names = sorted({name for content in contents for name in content.samples})
    wanted = names if everyone else sorted(rng.sample(names, rng.randint(1, len(names))))
    chosen = Selection(all_samples=True) if everyone else Selection(samples=tuple(wanted))
    request = QueryRequest(chosen, command=f"view {region}", output=output)
    touched = [
        set(c.samples) & set(wanted) for c in contents if any(contig in REGIONS[region] for contig, _ in c.sites)
    ]
    overlapping = any(one & other and one != other for one in touched for other in touched)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalogue = [write_file(content, folder) for content in contents]
        if not any(touched):
            with pytest.raises(InvalidSelection):
                make_plan(request, catalogue, None)
            return
        if overlapping:
            assert_refused_with_a_way_out(request, catalogue)
            return
        plan = make_plan(request, catalogue, None)
        samples, records = read_result(run_plan(plan, folder, folder / "scratch"))
    assert samples == plan.samples
    assert set(plan.samples) == set().union(*touched)
    assert set(plan.dropped_samples) == set(wanted) - set(plan.samples)
    assert by_place(records) == by_place(expected_records([inside(c, region) for c in contents], plan.samples))


def assert_refused_with_a_way_out(request: QueryRequest, catalogue: Sequence[CataloguedFile]) -> None:
    with pytest.raises(OverlappingSamples) as caught:
        make_plan(request, catalogue, None)
    usable = caught.value.details["usable_samples"]
    assert isinstance(usable, list)
    make_plan(replace(request, selection=Selection(samples=tuple(usable))), catalogue, None)


def two_groups(tmp_path: Path) -> tuple[list[Content], list[CataloguedFile]]:
    contents = make_contents(random.Random(7), [["A", "B", "C"], ["D", "E"]], 1, same_headers=True)
    return contents, [write_file(content, tmp_path) for content in contents]


@pytest.mark.parametrize(
    ("command", "processes", "kept"),
    [
        ("view -i 'GT=\"het\"'", 2, lambda genotypes, _: genotypes["A"] == "0/1"),
        ("view -g het", 2, lambda genotypes, _: genotypes["A"] == "0/1"),
        ("view -c 1", 1, lambda genotypes, _: genotypes["A"] in ("0/1", "1/1")),
        ("view -i 'QUAL>20'", 1, lambda _, position: position % 50 > 20),
        ("view -s -i 'GT=\"het\"'", 1, lambda genotypes, _: "0/1" in genotypes.values()),
        ("view -i 'GT=\"het\"'; view -s", 2, lambda genotypes, _: "0/1" in genotypes.values()),
        ("view; view -s; view -g het", 3, lambda genotypes, _: genotypes["A"] == "0/1"),
    ],
)
def test_samples_are_cut_where_the_steps_say(tmp_path: Path, command: str, processes: int, kept: object) -> None:
    """Without a mark the cut comes before every filter; with one, the filters before it see all samples."""
    assert callable(kept)
    contents, catalogue = two_groups(tmp_path)
    plan = make_plan(QueryRequest(Selection(samples=("A",)), command=command), catalogue, None)
    assert len(plan.processes) == processes
    samples, records = read_result(run_plan(plan, tmp_path, tmp_path / "scratch"))
    content = next(content for content in contents if "A" in content.samples)
    assert samples == ("A",)
    assert dict(records) == {
        site: {"A": genotypes["A"]} for site, genotypes in content.sites.items() if kept(genotypes, site[1])
    }
    assert 0 < len(records) < len(content.sites)


def test_dropped_genotypes_leave_a_table_of_sites(tmp_path: Path) -> None:
    """With -G the result has no samples, merged or not."""
    contents, catalogue = two_groups(tmp_path)
    plan = make_plan(QueryRequest(Selection(all_samples=True), command="view -G"), catalogue, None)
    samples, records = read_result(run_plan(plan, tmp_path, tmp_path / "scratch"))
    assert (samples, plan.samples) == ((), ())
    assert {site for site, _ in records} == {site for content in contents for site in content.sites}


def test_the_same_plan_gives_the_same_bytes(tmp_path: Path) -> None:
    """No date, path or random name gets into the result."""
    _, catalogue = two_groups(tmp_path)
    plan = make_plan(QueryRequest(Selection(all_samples=True)), catalogue, None)
    first = run_plan(plan, tmp_path, tmp_path / "one").read_bytes()
    assert run_plan(plan, tmp_path, tmp_path / "two").read_bytes() == first


def test_a_wide_merge_becomes_a_tree_with_the_samples_in_order(tmp_path: Path) -> None:
    """More files than one merge takes are merged in groups, and the columns are those of a flat merge."""
    rng = random.Random(3)
    contents = make_contents(rng, [[f"S{index}"] for index in range(70)], 1, same_headers=True)
    catalogue = [write_file(content, tmp_path) for content in contents]
    plan = make_plan(QueryRequest(Selection(all_samples=True)), catalogue, None)
    assert [len(p.sources) for p in plan.processes if p.argv[0] == "merge"] == [35, 35, 2]
    samples, records = read_result(run_plan(plan, tmp_path, tmp_path / "scratch"))
    assert samples == tuple(content.samples[0] for content in sorted(contents, key=lambda content: content.key))
    assert by_place(records) == by_place(expected_records(contents, samples))


@pytest.mark.realdata
@pytest.mark.skipif(not (REAL / "pinf_americas.vcf.gz").exists(), reason=f"the research files are not in {REAL}")
def test_real_files_give_what_plain_bcftools_gives(tmp_path: Path) -> None:
    """A merge of a region over two real files has the records and genotypes of bcftools run by hand."""
    keys = ["pinf_americas.vcf.gz", "pinf_old_world.vcf.gz"]
    catalogue = [catalogued(REAL / key, key) for key in keys]
    chosen = ("NL07434", "P10127", "blue13", "RS2009P1_us8")
    request = QueryRequest(Selection(samples=chosen), command="view -r Supercontig_1.50:1-200000")
    plan = make_plan(request, catalogue, None)
    assert plan.combine is CombineKind.MERGE
    result = run_plan(plan, REAL, tmp_path / "scratch")
    parts = []
    for key, names in zip(keys, ("P10127,RS2009P1_us8", "blue13,NL07434"), strict=True):
        part = str(tmp_path / key)
        bcftools("view", "-r", "Supercontig_1.50:1-200000", "-s", names, "-Oz", "-o", part, str(REAL / key))
        bcftools("index", part)
        parts.append(part)
    by_hand = bcftools("merge", "-Ov", *parts)
    ours = bcftools("view", str(result))
    records = [line for line in by_hand.splitlines() if not line.startswith("##")]
    assert [line for line in ours.splitlines() if not line.startswith("##")] == records
    assert len(records) > 100
