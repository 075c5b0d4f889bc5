"""What a BCF copy saves a query and costs to have: equal questions to the same file in two projects, of which one wants
copies, and the copy written at several levels of compression. Unequal records make a cell void.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from divbase_client import Client
from divbase_client.transfers import Failed
from divbase_client.uploads import Source

from benchmarks.figures import Section, Table, spread
from benchmarks.genomes import GenomeFile, Population, region_of
from benchmarks.machine import settle
from benchmarks.network import Network
from benchmarks.query import NEAR
from benchmarks.query_ways import ByJob, ByNode, Question, Reader, Scene, Taken, emptied
from benchmarks.stack import Stack, running_stack, say

CELLS = tuple((percent, share) for percent in (1, 10, 100) for share in (100, 10))
"""Percent of the genome and of the samples."""
LEVELS = (0, 1, 2, 3, 6)
PROJECTS = ("plain", "copied")
_LOOK_S = 0.2
_PATIENCE_S = 1800


@dataclass(frozen=True)
class Outcome:
    """One question: for each project what stage and run took, round by round; and the digests of all results."""

    percent: float
    share: int
    steps: dict[str, list[Taken]]
    jobs: dict[str, list[Taken]]
    digests: frozenset[str]

    @property
    def title(self) -> str:
        return f"{self.percent:g} % / {self.share} %{' VOID' if self.void else ''}"

    @property
    def void(self) -> bool:
        return len(self.digests) != 1


@dataclass(frozen=True)
class Level:
    """A copy at one level: bytes, CPU seconds to write it and to read it again, round by round."""

    level: int
    size: int
    written: list[float]
    read: list[float]


def measure(folder: Path, quick: bool) -> Section:
    """Simulate, upload, let the copy be written, and ask."""
    population = Population("1 file, 20 samples, 8,000 sites", 1, 20, 8_000)
    if not quick:
        population = Population("1 file, 100 samples, 100,000 sites", 1, 100, 100_000)
    rounds = 1 if quick else 3
    say(f"simulating {population.title}")
    [file] = population.write(folder / "files")
    with ExitStack() as stays:
        network = stays.enter_context(Network())
        (folder / "stack" / "scratch").mkdir(parents=True)
        settings = {"DIVBASE_SERVER__LOG_LEVEL": "warning", "DIVBASE_S3__NODE_ENDPOINT": network.url}
        settings["TMPDIR"] = str(folder / "stack" / "scratch")
        stack = stays.enter_context(running_stack(folder / "stack", settings))
        network.lead_to(stack.s3()[0])
        network.become(NEAR)
        client = stays.enter_context(stack.client())
        scenes = {name: _scene(stack, client, network, name, file, folder / "work") for name in PROJECTS}
        written = _write_copy(client, file)
        outcomes = [_ask(scenes, percent, share, rounds) for percent, share in CELLS]
        bcftools = scenes["plain"].bcftools
    levels = [_level(bcftools, file, level, folder, rounds) for level in LEVELS]
    text = [_cpu(bcftools, "view", "--no-version", "-Ou", "-o", os.devnull, str(file.path)) for _ in range(rounds)]
    return _section(f"{population.title}, {file.size / 1e6:.0f} MB", file, outcomes, levels, text, written)


def _scene(stack: Stack, client: Client, network: Network, project: str, file: GenomeFile, work: Path) -> Scene:
    bucket = client.projects.create(project).bucket
    for outcome in client.files.upload_all(project, [Source(path, path.name) for path in (file.index, file.path)]):
        if isinstance(outcome, Failed):
            raise outcome.error
    client.files.wait_until_indexed(project, file.path.name)
    bcftools = shutil.which("bcftools") or str(stack.folder / "jobs" / "bin" / "bcftools")
    return Scene(stack, client, network, project, bucket, (file,), work, Path(bcftools))


@dataclass(frozen=True)
class Written:
    """The job that wrote the copy: bytes of the copy with its index, seconds, CPU seconds."""

    size: int
    elapsed: float
    cpu: float


def _write_copy(client: Client, file: GenomeFile) -> Written:
    """Let the project want copies, and wait for the one of its file."""
    client.projects.change("copied", sidecars=True)
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        found = client.files.info("copied", file.path.name).sidecar
        if found is not None and found.state == "READY" and found.size is not None:
            attempt = client.jobs.get("copied", found.job).attempts[-1]
            say(f"the copy has {found.size / 1e6:.1f} MB; its job took {attempt.elapsed_s} s")
            return Written(found.size, attempt.elapsed_s or 0.0, attempt.cpu_s or 0.0)
        if found is not None and found.state == "NONE":
            raise RuntimeError(f"there is no copy: {found.reason}")
        time.sleep(_LOOK_S)
    raise RuntimeError(f"after {_PATIENCE_S} s there is no copy yet")


# --- asking ----------------------------------------------------------------------------------------------------------


def _ask(scenes: dict[str, Scene], percent: float, share: int, rounds: int) -> Outcome:
    [file] = scenes["plain"].files
    some = (file.samples[: max(1, len(file.samples) * share // 100)],)
    question = Question(region_of(percent), None if share == 100 else some)
    jobs = {name: ByJob(scene) for name, scene in scenes.items()}
    nodes = {name: ByNode(scene, jobs[name]) for name, scene in scenes.items()}
    by_job: dict[str, list[Taken]] = {name: [] for name in scenes}
    by_node: dict[str, list[Taken]] = {name: [] for name in scenes}
    reader, digests = Reader(scenes["plain"].bcftools), set()
    for number in range(rounds):
        for name in PROJECTS if number % 2 == 0 else reversed(PROJECTS):
            for way, taken in ((jobs[name], by_job[name]), (nodes[name], by_node[name])):
                settle()
                taken.append(way.answer(question, emptied(scenes[name].folder)))
                digests.add(reader.digest(taken[-1].result))
    outcome = Outcome(percent, share, by_node, by_job, frozenset(digests))
    cpu = ", ".join(f"{name} {spread([one.cpu for one in each])} s" for name, each in by_node.items())
    say(f"{outcome.title}: CPU of stage and run {cpu}")
    return outcome


# --- levels ----------------------------------------------------------------------------------------------------------


def _level(bcftools: Path, file: GenomeFile, level: int, folder: Path, rounds: int) -> Level:
    path = folder / f"level.{level}.bcf"
    written, read = [], []
    for _ in range(rounds):
        settle()
        written.append(_cpu(bcftools, "view", "--no-version", f"-Ob{level}", "-o", str(path), str(file.path)))
        read.append(_cpu(bcftools, "view", "--no-version", "-Ou", "-o", os.devnull, str(path)))
    return Level(level, path.stat().st_size, written, read)


def _cpu(*command: object) -> float:
    """CPU seconds of a process."""
    process = subprocess.Popen([str(word) for word in command])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime


# --- tables ----------------------------------------------------------------------------------------------------------


_WORDS = (
    "The same file lies in two projects, of which one wants BCF copies. Stage and run: these two steps of the plan, "
    "without claim, upload and report; the result is a `vcf.gz` of level 3, and compressing it is part of it. The job: "
    "from the POST until its state is SUCCEEDED. CPU: of all processes. From S3: bytes as they pass.",
    "A cell counts only if samples and records of all results are equal, and says VOID otherwise.",
)


def _section(
    title: str,
    file: GenomeFile,
    outcomes: Sequence[Outcome],
    levels: Sequence[Level],
    text: Sequence[float],
    written: Written,
) -> Section:
    words = (
        *_WORDS,
        f"{title}. Writing the copy, proving it equal and sending it took {written.elapsed:.1f} s and "
        f"{written.cpu:.1f} s of CPU, once; copy and index have {written.size / file.size:.2f} times the file's bytes.",
    )
    raw: dict[str, Any] = {
        "questions": [_raw(outcome) for outcome in outcomes],
        "levels": [asdict(level) for level in levels],
        "text_read": list(text),
        "written": asdict(written),
    }
    tables = (_questions(outcomes), _levels(file, levels, text))
    return Section("sidecars", "BCF copies", words, tables, raw)


def _questions(outcomes: Sequence[Outcome]) -> Table:
    rows = []
    for outcome in outcomes:
        plain, copied = (outcome.steps[name] for name in PROJECTS)
        for what, taken in (("file", plain), ("BCF copy", copied)):
            job = outcome.jobs["plain" if taken is plain else "copied"]
            less = [base.cpu / own.cpu for base, own in zip(plain, taken, strict=True)]
            faster = [base.wall / own.wall for base, own in zip(plain, taken, strict=True)]
            cells = [[one.cpu for one in taken], less, [one.wall for one in taken], faster, [one.wall for one in job]]
            row = [f"{outcome.title}: {what}", *map(str, map(spread, cells))]
            rows.append((*row, f"{taken[0].traffic.received / 1e6:.2f}"))
    columns = (
        "region / samples: what is read",
        "CPU, s",
        "times less",
        "wall, s",
        "times faster",
        "job, s",
        "from S3, MB",
    )
    return Table("A query with and without a copy: stage and run", columns, tuple(rows))


def _levels(file: GenomeFile, levels: Sequence[Level], text: Sequence[float]) -> Table:
    rows = [("the file itself", "1", "", str(spread(text)), "1")]
    for level in levels:
        less = [one / own for one, own in zip(text, level.read, strict=True)]
        size = f"{level.size / file.size:.2f}"
        rows.append((f"-Ob{level.level}", size, str(spread(level.written)), str(spread(level.read)), str(spread(less))))
    columns = ("", "bytes, of the file's", "CPU to write, s", "CPU to read, s", "times less")
    return Table("Levels of compression: all records, by `view -Ou`", columns, tuple(rows))


def _raw(outcome: Outcome) -> dict[str, Any]:
    def plain(taken: dict[str, list[Taken]]) -> dict[str, Any]:
        return {name: [{**asdict(one), "result": one.result.name} for one in each] for name, each in taken.items()}

    about = {"percent": outcome.percent, "share": outcome.share, "void": outcome.void}
    return {**about, "steps": plain(outcome.steps), "jobs": plain(outcome.jobs)}
