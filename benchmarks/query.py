"""How long a part of many VCF files takes to get, and what it costs: DivBase against whole downloads and bcftools.

Every way answers the same question from the same S3 server over the same way there; where the answers are not equal in
every record, the figures do not count.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pysam
from divbase_client import Client
from divbase_client.transfers import Failed
from divbase_client.uploads import Source

from benchmarks.figures import Section, Table, spread
from benchmarks.genomes import GenomeFile, Population, Region, region_of
from benchmarks.machine import settle
from benchmarks.network import Distance, Network
from benchmarks.query_chart import draw
from benchmarks.query_ways import ByHand, ByJob, ByNode, Question, Reader, Scene, Taken, Way, emptied
from benchmarks.stack import Stack, running_stack, say
from benchmarks.starts import Start, start_of_bcftools, start_of_helper

REAL = Path(__file__).parents[2] / "shared" / "data"
CHART = Path(__file__).parents[1] / "docs" / "query-speed.svg"
TARGETS = {0.1: 30, 1: 15, 10: 7, 100: 6}
"""Percent of the genome -> how many times faster than whole downloads, step by step."""
MOST_BYTES = 1.1

NEAR = Distance("on the same machine")
FAR = Distance("10 ms to the first byte, 90 MB/s a connection", 0.01, 90e6)
_MOST_ROUNDS = 3
_HEAD_BYTES = 1000
"""More than the head of an answer has; heads are counted, but are not what the target is about."""


@dataclass(frozen=True)
class Cell:
    """One question to one project over one distance: `percent` of the genome, `share` % of each file's samples."""

    project: str
    percent: float
    share: int
    distance: Distance

    @property
    def title(self) -> str:
        return f"{self.percent:g} % / {self.share} %"


@dataclass(frozen=True)
class Size:
    """What a run does: the populations by project, the cells, and the seconds after which a cell is not repeated."""

    populations: dict[str, Population]
    cells: tuple[Cell, ...]
    enough_s: float
    with_real: bool = True


QUICK = Size(
    {"ten": Population("5 files, 10 samples each, 10,000 sites", 5, 10, 10_000)},
    (
        Cell("ten", 10, 20, NEAR),
        Cell("ten", 0.1, 100, FAR),
        Cell("ten", 100, 100, FAR),
    ),
    0,
)
FULL = Size(
    {
        "one": Population("1 file, 200 samples, 100,000 sites", 1, 200, 100_000),
        "ten": Population("10 files, 50 samples each, 160,000 sites", 10, 50, 160_000),
        "hundred": Population("100 files, 5 samples each, 20,000 sites", 100, 5, 20_000),
    },
    (
        *(Cell("one", percent, share, FAR) for percent in TARGETS for share in (100, 20)),
        *(Cell("one", percent, 100, NEAR) for percent in (0.1, 1, 10)),
        *(Cell("ten", percent, share, FAR) for percent in TARGETS for share in (100, 20)),
        *(Cell("ten", percent, 100, NEAR) for percent in (0.1, 1, 10)),
        *(Cell("hundred", percent, share, FAR) for percent in TARGETS for share in (100, 20)),
        *(Cell("hundred", percent, 100, NEAR) for percent in (0.1,)),
    ),
    40,
)


def _chosen(size: Size) -> Size:
    """What DIVBASE_BENCH_PROJECTS names (`ten`, or `one,real`), where that is set: all of it takes most of an hour."""
    names = os.environ.get("DIVBASE_BENCH_PROJECTS", "").replace(",", " ").split()
    if not names:
        return size
    kept = {name: each for name, each in size.populations.items() if name in names}
    return Size(kept, tuple(cell for cell in size.cells if cell.project in kept), size.enough_s, "real" in names)


@dataclass(frozen=True)
class Outcome:
    """A cell's measurements: for every way one of each round; `digests` has one entry if all results are equal."""

    cell: Cell
    taken: dict[str, list[Taken]]
    digests: frozenset[str]
    limit: int
    """Of the bytes that may be moved: those of the overlapping blocks and as many again as the target grants."""

    @property
    def void(self) -> bool:
        return len(self.digests) != 1

    def ratio(self, title: str) -> list[float]:
        """How many times faster than the first way, round by round."""
        first = next(iter(self.taken.values()))
        return [base.wall / own.wall for base, own in zip(first, self.taken[title], strict=True)]


def measure(folder: Path, quick: bool) -> Section:
    """Simulate, upload and race in `folder`. Writes the chart beside the page of the documentation, if not quick."""
    size = QUICK if quick else _chosen(FULL)
    outcomes: list[Outcome] = []
    titles: dict[str, str] = {}
    with ExitStack() as stays:
        network = stays.enter_context(Network())
        (folder / "stack" / "scratch").mkdir(parents=True)
        settings = {"DIVBASE_SERVER__LOG_LEVEL": "warning", "DIVBASE_S3__NODE_ENDPOINT": network.url}
        settings["TMPDIR"] = str(folder / "stack" / "scratch")
        stack = stays.enter_context(running_stack(folder / "stack", settings))
        network.lead_to(stack.s3()[0])
        client = stays.enter_context(stack.client())
        settle()
        starts = [start_of_bcftools(_bcftools_of(stack)), start_of_helper(folder)]
        for project, population in size.populations.items():
            say(f"simulating {population.title}")
            files = population.write(folder / project)
            titles[project] = f"{population.title}, {sum(file.size for file in files) / 1e6:.0f} MB"
            cells = [cell for cell in size.cells if cell.project == project]
            outcomes += _race(_scene(stack, client, network, project, files, folder / "work"), cells, size.enough_s)
            shutil.rmtree(folder / project)
        if REAL.is_dir() and size.with_real:
            percents = (10,) if quick else (1, 10, 100)
            files, cells = _real_files(folder / "real"), [Cell("real", percent, 100, FAR) for percent in percents]
            titles["real"] = f"{len(files)} files of a public data set, {sum(file.size for file in files) / 1e6:.0f} MB"
            outcomes += _race(_scene(stack, client, network, "real", files, folder / "work"), cells, size.enough_s)
    if not quick and "ten" in titles:
        CHART.write_text(draw("ten", titles["ten"], outcomes), encoding="utf-8")
    return _section(titles, outcomes, starts, quick)


# --- the race ----------------------------------------------------------------------------------------------------


def _scene(
    stack: Stack, client: Client, network: Network, project: str, files: Sequence[GenomeFile], work: Path
) -> Scene:
    """The files in a project of their own; indexes go with them, so that no job has to make any."""
    network.become(NEAR)
    bucket = client.projects.create(project).bucket
    paths = [path for file in files for path in (file.index, file.path)]
    for outcome in client.files.upload_all(project, [Source(path, path.name) for path in paths]):
        if isinstance(outcome, Failed):
            raise outcome.error
    for file in files:
        client.files.wait_until_indexed(project, file.path.name)
    return Scene(stack, client, network, project, bucket, tuple(files), work, _bcftools_of(stack))


def _bcftools_of(stack: Stack) -> Path:
    """That of the jobs."""
    return Path(shutil.which("bcftools") or stack.folder / "jobs" / "bin" / "bcftools")


def _race(scene: Scene, cells: Sequence[Cell], enough_s: float) -> list[Outcome]:
    jobs = ByJob(scene)
    ways: list[Way] = [ByHand(scene, piped=False), ByHand(scene, piped=True), jobs, ByNode(scene, jobs)]
    reader = Reader(scene.bcftools)
    outcomes = []
    for cell in cells:
        scene.network.become(cell.distance)
        question = _question(cell, scene.files)
        taken: dict[str, list[Taken]] = {way.title: [] for way in ways}
        digests: set[str] = set()
        begun, rounds = time.monotonic(), 0
        while rounds == 0 or (rounds < _MOST_ROUNDS and (time.monotonic() - begun) * (rounds + 1) / rounds < enough_s):
            for way in ways if rounds % 2 == 0 else [*ways[2:], *ways[:2]]:
                settle()
                one = way.answer(question, emptied(scene.folder))
                taken[way.title].append(one)
                digests.add(reader.digest(one.result))
            rounds += 1
        outcomes.append(Outcome(cell, taken, frozenset(digests), _limit(question, scene.files)))
        walls = ", ".join(f"{title} {spread([one.wall for one in each])} s" for title, each in taken.items())
        say(f"{cell.project}, {cell.title}, {cell.distance.title}{' VOID' if len(digests) > 1 else ''}: {walls}")
    return outcomes


def _question(cell: Cell, files: Sequence[GenomeFile]) -> Question:
    region = region_of(cell.percent)
    if cell.project == "real" and region is not None:
        contig, length = _contig_of(files[0])
        region = Region(contig, length // 3, length // 3 + int(length * cell.percent / 100))
    chosen = tuple(file.samples[: max(1, len(file.samples) * cell.share // 100)] for file in files)
    return Question(region, None if cell.share == 100 else chosen)


def _limit(question: Question, files: Sequence[GenomeFile]) -> int:
    """The most bytes that may be moved. All of a file, its index with it, is right from where the target grants it."""
    whole = sum(file.size + file.index.stat().st_size for file in files)
    if question.region is None:
        return whole
    blocks = sum(file.block_bytes(question.region) + 2 * file.largest_block for file in files)
    return min(whole, int(MOST_BYTES * blocks))


def _real_files(folder: Path) -> list[GenomeFile]:
    folder.mkdir()
    files = []
    for name in ("pinf_americas.vcf.gz", "pinf_old_world.vcf.gz"):
        path = Path(shutil.copyfile(REAL / name, folder / name))
        with pysam.VariantFile(str(path)) as file:
            files.append(GenomeFile(path, tuple(file.header.samples)))
        pysam.bcftools.index("--csi", str(path))
    return files


def _contig_of(file: GenomeFile) -> tuple[str, int]:
    with pysam.VariantFile(str(file.path)) as variants:
        contig = next(iter(variants.header.contigs.values()))
        return contig.name, contig.length or max(record.pos for record in variants)


# --- tables ------------------------------------------------------------------------------------------------------


_WORDS = (
    "Whole downloads, step by step, are what people do today: every file whole with boto3 (its defaults), "
    "`bcftools index`, `view` of region and samples to a file with an index for each, `merge`, `sort`, `index`. "
    "With pipes: the same downloads and indexes, then all processes at once with `-Ou` between them. The job: from the "
    "POST until its state is SUCCEEDED, by a look at the database every 10 ms. Stage and run: these two steps of the "
    "same plan alone, without claim, upload and report. All run the same bcftools.",
    "A row is the share of the genome / of each file's samples. Faster: than step by step in the same round. CPU: of "
    "all processes of the way, without S3's. From S3: bytes and requests as they pass between node and S3. Disk and "
    "memory: the most at a time, by a look every 50 ms; what ends between two looks shows 0.",
    "The target is met by the job (yes), by stage and run alone (steps), or not. Heads of answers do not count against "
    "the target for bytes. An index does not say where the last block of a part ends, so up to 64 KiB are read for it, "
    "which in small files with small blocks is more than the target grants. Around a job's own three steps: planning, "
    "the scheduler, claim, log and report, and what three witnesses have to say before a job has succeeded.",
    "Starts alone: the helper's, and those of all bcftools on all cores; no byte is read and nothing is reported yet.",
    "A cell counts only if samples and records of all results are equal, and says VOID otherwise.",
)


def _section(titles: dict[str, str], outcomes: Sequence[Outcome], starts: Sequence[Start], quick: bool) -> Section:
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.cell.project, outcome.cell.distance.title), []).append(outcome)
    tables = [_targets(titles, outcomes), _floor(titles, outcomes, *starts)]
    tables += [_bytes(titles, outcomes), _steps(titles, outcomes)]
    tables += [_times(f"{titles[project]}, {distance}", group) for (project, distance), group in groups.items()]
    passed = [one.traffic.cpu / one.wall for outcome in outcomes for each in outcome.taken.values() for one in each]
    named = os.environ.get("DIVBASE_BENCH_PROJECTS")
    words = (
        *_WORDS,
        *(() if quick or not named else (f"Of all projects of this benchmark only `{named}`, as asked for.",)),
        f"Between node and S3 is a process that counts and delays; it used {max(passed):.0%} of a core at most, "
        f"{sum(passed) / len(passed):.0%} on average. `{os.cpu_count()}` cores are shared by it, the S3 server, the "
        "gateway and the node.",
        *(() if quick or "ten" not in titles else ("![Seconds by region](query-speed.svg)",)),
    )
    raw = {"cells": [_raw(outcome) for outcome in outcomes]}
    return Section("query", "A part of many files", words, tuple(tables), raw)


def _targets(titles: dict[str, str], outcomes: Sequence[Outcome]) -> Table:
    rows = []
    for outcome in outcomes:
        cell, target = outcome.cell, TARGETS[outcome.cell.percent]
        job, node = (spread(outcome.ratio(title)) for title in (ByJob.title, ByNode.title))
        piped = spread(outcome.ratio(list(outcome.taken)[1]))
        met = "VOID" if outcome.void else "yes" if job.median >= target else "steps" if node.median >= target else "no"
        what = f"{titles[cell.project].partition(',')[0]}, {cell.distance.title}"
        rows.append((what, cell.title, f"{target}x", str(job), str(node), str(piped), met))
    columns = ("", "region / samples", "target", "job", "stage and run", "pipes by hand", "met")
    return Table("Times faster than whole downloads, step by step", columns, tuple(rows))


def _floor(titles: dict[str, str], outcomes: Sequence[Outcome], bcftools: Start, helper: Start) -> Table:
    """What the targets allow, and what it takes to start the programs alone."""
    cores, rows = os.cpu_count() or 1, []
    for outcome in outcomes:
        by_hand, _, jobs, nodes = outcome.taken.values()
        count = int(nodes[0].steps["processes"])
        allowed = spread([one.wall / TARGETS[outcome.cell.percent] for one in by_hand]).median
        first = helper.wall + max(bcftools.wall, count * bcftools.cpu / cores)
        what = f"{titles[outcome.cell.project].partition(',')[0]}, {outcome.cell.title}"
        seconds = (
            allowed,
            first,
            spread([one.wall for one in nodes]).median,
            spread([one.wall for one in jobs]).median,
        )
        rows.append((what, str(count), *(f"{each:.2f}" for each in seconds)))
    title = (
        f"What the starts of programs leave of it, in seconds: bcftools {1000 * bcftools.cpu:.1f} ms of a core each, "
        f"the helper {1000 * helper.wall:.0f} ms"
    )
    columns = ("", "processes", "the target allows", "starts alone", "stage and run", "job")
    return Table(title, columns, tuple(rows))


def _bytes(titles: dict[str, str], outcomes: Sequence[Outcome]) -> Table:
    rows = []
    for outcome in outcomes:
        hand, _, job, _ = (each[0].traffic.received for each in outcome.taken.values())
        heads = _HEAD_BYTES * outcome.taken[ByJob.title][0].traffic.requests
        met = "yes" if job <= outcome.limit + heads else "no"
        what = f"{titles[outcome.cell.project].partition(',')[0]}, {outcome.cell.title}"
        rows.append((what, _mb(outcome.limit), _mb(job), _mb(hand), met))
    columns = ("", f"{MOST_BYTES} x the blocks and two a file, MB", "job, MB", "whole downloads, MB", "met")
    return Table("Bytes from S3", columns, tuple(rows))


def _steps(titles: dict[str, str], outcomes: Sequence[Outcome]) -> Table:
    rows = []
    for outcome in outcomes:
        jobs = outcome.taken[ByJob.title]
        what = f"{titles[outcome.cell.project].partition(',')[0]}, {outcome.cell.title}"
        found = {name: [one.steps[name] for one in jobs] for name in ("staging", "running", "pushing")}
        own = [sum(each) for each in zip(*found.values(), strict=True)]
        found["around them"] = [one.wall - mine for one, mine in zip(jobs, own, strict=True)]
        found["job's CPU"] = [one.steps["job's CPU"] for one in jobs]
        found["gateway's CPU"] = [one.cpu - one.steps["job's CPU"] for one in jobs]
        rows.append((what, *(str(spread(values)) for values in found.values())))
    columns = ("", "staging", "running", "pushing", "around them", "job's CPU", "gateway's CPU")
    return Table("Where a job's seconds go", columns, tuple(rows))


def _times(title: str, outcomes: Sequence[Outcome]) -> Table:
    rows = []
    for outcome in outcomes:
        for way, taken in outcome.taken.items():
            what = f"{outcome.cell.title}{' VOID' if outcome.void else ''}"
            row = [f"{what}: {way}", str(spread([one.wall for one in taken])), str(spread(outcome.ratio(way)))]
            row += [str(spread([one.cpu for one in taken])), _mb(taken[0].traffic.received)]
            row += [str(taken[0].traffic.requests), *(_mb(max(getattr(one, n) for one in taken)) for n in _PEAKS)]
            rows.append(tuple(row))
    columns = ("", "seconds", "faster", "CPU, s", "from S3, MB", "requests", "disk, MB", "memory, MB")
    return Table(title, columns, tuple(rows))


_PEAKS = ("scratch", "memory")


def _mb(count: int) -> str:
    return f"{count / 1e6:.2f}" if count < 10e6 else f"{count / 1e6:.0f}"


def _raw(outcome: Outcome) -> dict[str, Any]:
    ways = {
        title: [{**asdict(one), "result": one.result.name} for one in each] for title, each in outcome.taken.items()
    }
    return {**asdict(outcome.cell), "void": outcome.void, "limit_bytes": outcome.limit, "ways": ways}
