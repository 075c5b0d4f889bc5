"""What a query costs beyond its bcftools pipeline: from `query run` to the verified result, against the same commands
run by hand with the same bcftools on local files.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from divbase_client import Client
from divbase_client.models import JobDetail, JobState, Query
from divbase_client.transfers import Failed
from divbase_client.uploads import Source

from benchmarks.figures import Section, Table, spread
from benchmarks.machine import BIN, settle
from benchmarks.stack import Stack, running_stack, say
from benchmarks.transfers import run
from demo.simulate import simulate_survey

_LOOK_S = 0.01
_MEANINGS = (
    "accepted: planning, and the answer to the POST",
    "submitted: until the scheduler has the job",
    "started: until its script runs",
    "claimed: until the node helper has the attempt",
    "staged, ran, pushed: the helper's own times",
    "helper: its starts in between, the log and the report",
    "ended: until the scheduler's job is over",
    "settled: until the three witnesses agree",
    "seen: until a client that looks every 10 ms knows",
)


@dataclass(frozen=True)
class Case:
    """A question to a project. `query` without its name: each repetition gets a new one."""

    title: str
    project: str
    files: tuple[Path, ...]
    query: Query


@dataclass(frozen=True)
class Timing:
    """Seconds of one repetition. `steps` add up to `job`; `command` is `divbase query run --download` as a process."""

    bare: float
    job: float
    command: float
    steps: dict[str, float]


def measure(folder: Path, quick: bool) -> Section:
    """Simulate, upload and race in `folder`; quick: a tenth of the data."""
    say("simulating")
    raw: dict[str, Any] = {}
    tables = []
    with running_stack(folder / "stack", {"DIVBASE_SERVER__LOG_LEVEL": "warning"}) as stack, stack.client() as client:
        for case in _cases(folder, quick):
            _upload(client, case)
            timings = _repeat(stack, client, case, folder / "bare" / case.project, 2 if quick else 5)
            raw[case.title] = [{**vars(timing)} for timing in timings]
            tables += [_totals(case, timings), _breakdown(case, timings)]
    words = (
        "By hand: the plan's bcftools commands with pipes between them, on local files, with the bcftools that the job "
        "used, and the index of the result. The job: from the POST until its state is SUCCEEDED: scheduler, "
        "report and store agree. The process: `divbase query run --download`, its start and the download included.",
        f"Steps of a job: {'; '.join(_MEANINGS)}.",
    )
    return Section("overhead", "A query beyond its bcftools pipeline", words, tuple(tables), raw)


# --- the cases ---------------------------------------------------------------------------------------------------


def _cases(folder: Path, quick: bool) -> list[Case]:
    small = simulate_survey(folder / "small", sites_per_contig=1_000 if quick else 10_000)
    sites = 10_000 if quick else 100_000
    large = [path for path in simulate_survey(folder / "large", sites).files if path.name.startswith("coast.")]
    regions = "chr21:15000000-25000000,chr22:15000000-25000000"
    return [
        Case(
            f"Small: {len(small.files)} files, 76 samples, two regions, merged",
            "small",
            small.files,
            Query(all_samples=True, command=f'view -r {regions}; view -i "QUAL>=30"'),
        ),
        Case(
            f"Large: {len(large)} files, 40 samples, {2 * sites:,} sites, all of it",
            "large",
            tuple(large),
            Query(all_samples=True, command='view -i "QUAL>=30"'),
        ),
    ]


def _upload(client: Client, case: Case) -> None:
    client.projects.create(case.project)
    for outcome in client.files.upload_all(case.project, [Source(path, path.name) for path in case.files]):
        if isinstance(outcome, Failed):
            raise outcome.error
    for path in case.files:
        client.files.wait_until_indexed(case.project, path.name)


# --- the race ----------------------------------------------------------------------------------------------------


def _repeat(stack: Stack, client: Client, case: Case, folder: Path, rounds: int) -> list[Timing]:
    """The first round is not counted: it shows the commands and warms the caches."""
    first, _, _ = _job_time(client, case, "warm-up")
    by_hand = _prepare_bare(stack, client, case, first, folder)
    timings = []
    for number in range(rounds):
        settle()
        bare = by_hand.time()
        settle()
        job, took, seen_at = _job_time(client, case, f"round-{number}")
        settle()
        command = _command_time(stack, case, f"typed-{number}", folder / f"typed-{number}")
        timings.append(Timing(bare, took, command, _steps(stack, job, took, seen_at)))
        say(f"{case.project}, round {number + 1}: by hand {bare:.2f} s, job {took:.2f} s, process {command:.2f} s")
    return timings


def _job_time(client: Client, case: Case, name: str) -> tuple[JobDetail, float, float]:
    """(the ended job, seconds from the POST until it was seen to have succeeded, wall clock time of that)."""
    begun = time.perf_counter()
    job = client.jobs.submit(case.project, case.query.model_copy(update={"name": name}))
    while not job.state.is_end:
        time.sleep(_LOOK_S)
        job = client.jobs.get(case.project, job.id)
    took, seen_at = time.perf_counter() - begun, time.time()
    if job.state is not JobState.SUCCEEDED:
        raise RuntimeError(f"{case.title}: the job is {job.state}: {job.message}")
    return job, took, seen_at


def _command_time(stack: Stack, case: Case, name: str, target: Path) -> float:
    words = [
        "query",
        "run",
        "--all-samples",
        "--command",
        case.query.command,
        "--name",
        name,
        "--download",
        str(target),
    ]
    begun = time.perf_counter()
    run([str(BIN / "divbase"), *words], stack.environment(case.project))
    return time.perf_counter() - begun


def _steps(stack: Stack, job: JobDetail, took: float, seen_at: float) -> dict[str, float]:
    """The job's way by its own timestamps, in seconds; together they are `took`."""
    with sqlite3.connect(f"file:{stack.folder / 'divbase.sqlite3'}?mode=ro", uri=True) as database:
        row = database.execute(
            "SELECT jobs.created_at, submitted_at, attempts.started_at, claimed_at, reported_at, attempts.ended_at, "
            "jobs.ended_at, report FROM attempts JOIN jobs ON jobs.id = job_id WHERE public_id = ?",
            (job.id,),
        ).fetchone()
    database.close()
    created, submitted, started, claimed, reported, ended, settled = (
        datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() for text in row[:7]
    )
    timings = json.loads(row[7])["timings"]
    staged, ran, pushed = (timings[name] for name in ("staging_s", "running_s", "pushing_s"))
    return {
        "accepted": created - (seen_at - took),
        "submitted": submitted - created,
        "started": started - submitted,
        "claimed": claimed - started,
        "staged": staged,
        "ran": ran,
        "pushed": pushed,
        "helper": reported - claimed - staged - ran - pushed,
        "ended": ended - reported,
        "settled": settled - ended,
        "seen": seen_at - settled,
    }


# --- by hand -----------------------------------------------------------------------------------------------------


def _prepare_bare(stack: Stack, client: Client, case: Case, job: JobDetail, folder: Path) -> ByHand:
    """Lay the inputs out as the commands name them, run them once and compare the result with the job's."""
    assert job.plan is not None
    for name in ("in", "out", "tmp", "samples"):
        (folder / name).mkdir(parents=True)
    for outcome in client.jobs.download(case.project, job.id, folder / "first"):
        if isinstance(outcome, Failed):
            raise outcome.error
    record = json.loads((folder / "first" / "provenance.json").read_text())
    by_hand = ByHand(folder, _environment(stack), _bash(record["commands"]))
    for planned in job.plan.inputs:
        source = next(path for path in case.files if path.name == planned.key)
        staged = f"in/{planned.number}.vcf.gz"
        shutil.copyfile(source, folder / staged)
        by_hand.shell(f"bcftools index --csi {staged}")
        if planned.samples is not None:
            (folder / "samples" / f"{planned.number}.txt").write_text("".join(f"{name}\n" for name in planned.samples))
    by_hand.time()
    made, first = (folder / place / job.plan.output for place in ("out", "first"))
    if made.read_bytes() != first.read_bytes():
        raise RuntimeError(f"{case.title}: by hand the result is another: {made}, {first}")
    return by_hand


@dataclass(frozen=True)
class ByHand:
    """The commands as a person would write them into a script, with all that they read in `folder`."""

    folder: Path
    environment: dict[str, str]
    script: str

    def time(self) -> float:
        begun = time.perf_counter()
        self.shell(self.script)
        return time.perf_counter() - begun

    def shell(self, script: str) -> None:
        command = ["bash", "-euo", "pipefail", "-c", script]
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "check": True}
        subprocess.run(command, cwd=self.folder, env=self.environment, **options)


def _environment(stack: Stack) -> dict[str, str]:
    """The job's bcftools first on the PATH."""
    own = stack.folder / "jobs" / "bin"
    return os.environ | {"PATH": f"{own}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def _bash(commands: list[dict[str, Any]]) -> str:
    """The processes of a provenance record, in order: pipes, process substitutions, indexed files between levels."""
    by_id = {each["id"]: each for each in commands}
    lines = [
        f"{_typed(each, by_id)} > {_file(each)} && bcftools index {_file(each)} &"
        for each in commands
        if each["materialise"]
    ]
    last = commands[-1]
    result = last["argv"][last["argv"].index("-o") + 1]
    return "\n".join([*lines, "wait", _typed(last, by_id), f"bcftools index --csi --force {shlex.quote(result)}"])


def _typed(process: dict[str, Any], by_id: dict[str, Any]) -> str:
    words = shlex.join(process["argv"])
    sources = [by_id[name] for name in process["from"]]
    if len(sources) == 1 and not sources[0]["materialise"]:
        return f"{_typed(sources[0], by_id)} | {words} -"
    return " ".join([words, *(_file(each) if each["materialise"] else f"<({_typed(each, by_id)})" for each in sources)])


def _file(process: dict[str, Any]) -> str:
    return f"tmp/{process['id']}.bcf"


# --- tables ------------------------------------------------------------------------------------------------------


def _totals(case: Case, timings: list[Timing]) -> Table:
    bare = [timing.bare for timing in timings]
    rows = [("bcftools by hand", str(spread(bare)), "", "1")]
    for name, taken in (("job", [each.job for each in timings]), ("process", [each.command for each in timings])):
        beyond = spread([mine - own for mine, own in zip(taken, bare, strict=True)])
        ratio = spread([mine / own for mine, own in zip(taken, bare, strict=True)])
        rows.append((name, str(spread(taken)), str(beyond), str(ratio)))
    return Table(case.title, ("", "seconds", "beyond by hand, s", "ratio"), tuple(rows))


def _breakdown(case: Case, timings: list[Timing]) -> Table:
    rows = []
    for step in timings[0].steps:
        share = spread([100 * timing.steps[step] / timing.job for timing in timings])
        rows.append((step, str(spread([1000 * timing.steps[step] for timing in timings])), f"{share.median:.0f} %"))
    return Table(f"{case.title.partition(':')[0]}: where a job's time goes", ("step", "ms", "of the job"), tuple(rows))
