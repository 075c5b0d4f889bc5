"""The check that ends every test of a fault: every accepted job has exactly one run that counted, none is wrong, none
is lost. It asks the API, SLURM's accounting and the bytes of the results, and believes none of them alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pysam
import pysam.bcftools
from divbase_client.models import Job, JobDetail, JobState

from tests.cluster.site import FILE, PATIENCE_S, Site, wait_for

_FIELDS = ("JobID", "JobName", "State", "ExitCode", "End")


@dataclass(frozen=True)
class Run:
    """One run of a job as accounting has it; a requeued job has several."""

    job_id: str
    name: str
    state: str
    exit_code: str
    ended: bool

    @property
    def completed(self) -> bool:
        return self.state == "COMPLETED" and self.exit_code == "0:0"


def runs_of(site: Site) -> list[Run]:
    """Every run that accounting has of the site's jobs."""
    options = ["-X", "--duplicates", "--noheader", "--parsable2", "--starttime=now-4hours", "--user=divbase"]
    lines = site.cluster.run("sacct", *options, f"--format={','.join(_FIELDS)}").splitlines()
    rows = [line.split("|") for line in lines]
    return [
        Run(number, _name_of(number, name), state.split(" ")[0], code, end != "Unknown")
        for number, name, state, code, end in rows
        if name.startswith(f"divbase-{site.project}-")
    ]


def _name_of(number: str, name: str) -> str:
    """What DivBase calls a run: the task of an array has the array's name in SLURM, and its number beside it."""
    array, _, task = number.partition("_")
    return f"{name}.{task}" if name.endswith(".shards") and array and task else name


def check(site: Site, *, lost: int = 0) -> list[JobDetail]:
    """Wait for the end of all jobs of the site and look at each that no earlier test has looked at; returns these,
    newest first.

    Args:
        lost: how many the test itself has made LOST; there may be no other.
    """
    ended = wait_for(lambda: _all_ended(site), "the end of all jobs", 2 * PATIENCE_S)
    jobs = [site.job(job.id) for job in ended if job.id not in site.checked]
    named = {attempt.slurm_name: job for job in jobs for attempt in job.attempts}
    counted = {each.slurm_name for job in jobs for each in job.attempts if each.outcome == "succeeded"}
    written = wait_for(lambda: _ended_runs(site, counted), "the end of all runs in accounting")
    runs = [run for run in written if run.name not in site.checked]
    assert [run for run in runs if run.name not in named] == [], "runs that no job knows of"
    for job in jobs:
        _check_runs(job, [run for run in runs if named[run.name].id == job.id])
    assert sum(job.state is JobState.LOST for job in jobs) == lost, [describe(job) for job in jobs]
    _check_results(site, [job for job in jobs if job.state is JobState.SUCCEEDED and job.kind == "query"])
    site.checked.update(named, (job.id for job in jobs))
    return jobs


def audit(site: Site) -> None:
    """The operator's own comparison of database and accounting finds nothing. Other sites share the account here."""
    found = json.loads(site.operate("audit", "--json", "--shared-account", "--since", "4h"))
    assert found["clean"], found["findings"]


def describe(job: JobDetail) -> str:
    """A job in a line, for a failing test."""
    attempts = [(each.slurm_job_id, each.slurm_state, each.exit_code, each.outcome) for each in job.attempts]
    return f"{job.id} {job.state} {job.reason}: {job.message} {attempts}"


def _all_ended(site: Site) -> list[Job] | None:
    jobs = [job for kind in (None, "shard") for job in site.user.jobs.list(site.project, kind=kind)]
    return jobs if all(job.state.is_end for job in jobs) else None


def _ended_runs(site: Site, counted: set[str]) -> list[Run] | None:
    """All runs, once accounting has the end of each, and those that counted: slurmctld tells it of some much later."""
    runs = runs_of(site)
    return runs if all(run.ended for run in runs) and counted <= {run.name for run in runs} else None


def _check_runs(job: JobDetail, runs: list[Run]) -> None:
    """A success is one completed run of the attempt that counted; what did not succeed has none."""
    counted = [attempt.slurm_name for attempt in job.attempts if attempt.outcome == "succeeded"]
    completed = [run.name for run in runs if run.completed]
    assert len(counted) == (job.state is JobState.SUCCEEDED), describe(job)
    assert completed == counted, f"{describe(job)} {runs}"


def _check_results(site: Site, jobs: list[JobDetail]) -> None:
    """Every result has the records that bcftools finds here, and the bytes that the job said it wrote."""
    for job in jobs:
        (said,) = [result.sha256 for result in job.results if result.role == "result"]
        path = _fetched(site, job)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == said
        assert job.query is not None
        assert records_of(path) == expected_records(site, job.query.command), describe(job)


def _fetched(site: Site, job: JobDetail) -> Path:
    folder = site.folder / "results" / job.id
    for outcome in site.user.jobs.download(site.project, job.id, folder, force=True):
        assert hasattr(outcome, "path"), outcome
    (path,) = folder.glob("*.vcf.gz")
    return path


def records_of(path: Path) -> list[str]:
    with pysam.BGZFile(str(path)) as file:
        lines = [line.decode() for line in file]
    return [line for line in lines if not line.startswith("#")]


def expected_records(site: Site, command: str) -> list[str]:
    """Of a command `view -r REGION`."""
    region = command.split()[-1]
    text: str = pysam.bcftools.view("-H", "-r", region, str(site.folder / FILE))
    return text.splitlines()
