"""The operator's commands over a database with jobs and a SLURM of executables: what they print, and how they end."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from divbase_gateway import main
from divbase_gateway.bootstrap import SystemClock
from divbase_gateway.db.models import AttemptRow, JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.ports import SlurmRef, Submission
from divbase_gateway.services import usage
from divbase_gateway.slurm.commands import SlurmCommands
from divbase_gateway.slurm.runners import LocalRunner
from divbase_gateway.slurm.scheduler import CliScheduler

from tests.fakes.slurm_cluster import FakeCluster
from tests.integration.test_commands import Run
from tests.integration.test_usage import Books

pytestmark = pytest.mark.slow  # real programs

MINUTE = timedelta(minutes=1)


@dataclass
class Entry:
    """The program's entry point, called in this process: a process for every command would take too long."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self.monkeypatch.setattr(sys, "argv", ["divbase-gateway", *arguments])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.run()
        printed = self.capsys.readouterr()
        status = ended.value.code if isinstance(ended.value.code, int) else 0
        return subprocess.CompletedProcess(arguments, status, printed.out, printed.err)


@dataclass
class Site:
    """A database, the books of its jobs, a SLURM, and the command that looks at both."""

    books: Books
    cluster: FakeCluster
    scheduler: CliScheduler
    run: Entry
    settings: dict[str, str]

    @property
    def database(self) -> Database:
        return self.books.database

    def ran(self, name: str, script: str = "exit 0", **faults: object) -> SlurmRef:
        """A run that has ended at the scheduler."""
        self.cluster.fault(**faults)
        body = f"#!/bin/bash\n{script}\n"
        ref = self.scheduler.submit(Submission(name, body, {}, "test", cores=1, memory_mb=64, minutes=5))
        deadline = time.monotonic() + 20
        while any(run.sighting.ended_at is None for run in self.scheduler.history(ref.submitted_at - MINUTE)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return ref

    def job(self, ref: SlurmRef | None, state: str = "SUCCEEDED", **values: Any) -> str:
        """A job of an hour ago whose one attempt is this run; its id."""
        now = SystemClock().now()
        then = now - timedelta(hours=1)
        outcome = "succeeded" if state == "SUCCEEDED" else None
        name = values.pop("name", None) or (ref.name if ref else "divbase-none")
        known = {"slurm_job_id": ref.job_id if ref else None, "slurm_name": name, "outcome": outcome}
        attempt_id = self.books.attempt(**{"created_at": then, "started_at": then, **known, **values})
        with self.database.write() as session:
            attempt = session.get_one(AttemptRow, attempt_id)
            job = session.get_one(JobRow, attempt.job_id)
            job.state, job.created_at, job.state_since, job.started_at = state, then, then, attempt.started_at
            return job.public_id

    def change(self, job: str, **values: object) -> None:
        with self.database.write() as session:
            row = session.query(JobRow).filter(JobRow.public_id == job).one()
            for name, value in values.items():
                setattr(row, name, value)

    def print(self, *arguments: str, status: int = 0) -> str:
        answer = self.run(*arguments)
        assert answer.returncode == status, answer.stdout + answer.stderr
        return answer.stdout

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.print(*arguments, "--json", status=status))


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """The commands set logging up for a process of their own, which this one is not."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def site(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    restored_logging: None,
) -> Iterator[Site]:
    cluster = FakeCluster(tmp_path / "cluster")
    settings = {
        "DIVBASE_DATABASE__URL": database.url,
        "DIVBASE_SCHEDULER__KIND": "slurm-local",
        "DIVBASE_SCHEDULER__BIN_DIR": str(cluster.bin_dir),
        "DIVBASE_SCHEDULER__WORK_DIR": str(cluster.work_dir),
        "DIVBASE_SCHEDULER__CLUSTER": "fake",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    commands = SlurmCommands(PurePosixPath(cluster.bin_dir))
    scheduler = CliScheduler(LocalRunner(), commands, PurePosixPath(cluster.work_dir), "fake", SystemClock())
    try:
        yield Site(Books(database), cluster, scheduler, Entry(monkeypatch, capsys), settings)
    finally:
        cluster.close()


# --- audit -------------------------------------------------------------------------------------------------------


def test_audit_of_a_site_where_all_is_well(site: Site) -> None:
    """Guards: exit status 0, a table, and nothing to do; a run that sbatch submitted twice is listed."""
    site.job(site.ran("divbase-pelican-a"))
    site.job(site.ran("divbase-pelican-b", "[ $SLURM_JOB_ID = 2 ] || exit 3", twice=True))
    printed = site.print("audit", "--since", "1d")
    assert "Jobs accepted since" in printed
    assert "SUCCEEDED │ 2" in printed
    assert "idle_copy" in printed
    assert printed.endswith("Clean.\n")


def test_the_program_s_exit_status_is_the_audit_s(site: Site, tmp_path: Path) -> None:
    """Guards: cron and CI look at the status of the real program; 0 clean, 1 findings."""
    program = Run(tmp_path, site.settings)
    clean = program("audit")
    assert (clean.returncode, clean.stdout.splitlines()[-1]) == (0, "Clean.")
    site.ran("divbase-pelican-c")
    found = program("audit")
    assert (found.returncode, found.stdout.splitlines()[-1]) == (1, "1 finding.")


def test_audit_names_what_does_not_match(site: Site) -> None:
    """Guards: exit status 1; each finding with its job, its run and what to do."""
    twice = site.job(site.ran("divbase-pelican-a", "exit 0", twice=True))
    lost = site.job(None, state="SUCCEEDED", slurm_job_id="999", name="divbase-pelican-b")
    stranger = site.ran("divbase-pelican-c")
    found = site.json("audit", status=1)
    assert (found["clean"], found["by_state"]["SUCCEEDED"]) == (False, {"none": 1, "one": 0, "more": 1, "counted": 1})
    assert {(each["kind"], each["job"], each["slurm_job_id"]) for each in found["findings"]} == {
        ("two_runs_worked", twice, "2"),
        ("not_in_accounting", lost, "999"),
        ("unknown_run", None, stranger.job_id),
    }
    assert all(each["what_to_do"] for each in found["findings"])
    assert site.print("audit", status=1).endswith("3 findings.\n")


def test_audit_without_accounting_concludes_nothing(site: Site) -> None:
    """Guards: exit status 1 and why; no table that could be taken for an answer."""
    site.job(site.ran("divbase-pelican-a"))
    site.cluster.fault(dbd_away=True)
    answer = site.run("audit")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "sacct failed" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_audit_looks_no_further_back_than_asked(site: Site) -> None:
    """Guards: an old job is not judged by what accounting has of the last minutes."""
    site.job(None, slurm_job_id="999", name="divbase-pelican-b")
    assert site.json("audit", "--since", "30m")["by_state"] == {}
    assert "is no duration" in site.run("audit", "--since", "soon").stderr


# --- usage -------------------------------------------------------------------------------------------------------


def test_usage_by_project_and_by_user(site: Site) -> None:
    """Guards: hours, not seconds; efficiency; the table and JSON say the same."""
    now = SystemClock().now()
    site.books.attempt("pelican", "ada@example.org", started_at=now - timedelta(hours=1), ended_at=now)
    (line,) = site.json("usage")
    assert line == {
        "month": f"{now:%Y-%m}",
        "name": "pelican",
        "jobs": 1,
        "attempts": 1,
        "core_hours": 2.0,
        "cpu_hours": 0.5,
        "efficiency": 0.25,
        "stored_bytes": 0,
    }
    printed = site.print("usage", "--by", "user", "--months", "2")
    assert "ada@example.org │ 1    │ 1        │ 2.00       │ 0.50      │ 25%" in printed
    assert "is no month" in site.run("usage", "--month", "May").stderr


def test_usage_says_what_projects_keep(site: Site) -> None:
    """Guards: in the present month's lines, also of a project that used nothing; not by user, not of months past."""
    now = SystemClock().now()
    site.books.attempt("pelican", "ada@example.org", started_at=now - timedelta(hours=1), ended_at=now)
    quiet = site.books.attempt("quail", "ada@example.org", started_at=None)
    with site.database.write() as session:
        session.get_one(JobRow, site.books.job_of(quiet)).result_bytes = 2_500_000
    assert [(line["name"], line["stored_bytes"]) for line in site.json("usage")] == [("pelican", 0), ("quail", 2500000)]
    assert re.search(r"quail .* 2\.5 MB", site.print("usage"))
    assert "keeps" not in site.print("usage", "--by", "user")
    assert site.json("usage", "--month", "2020-05") == []


def test_usage_asks_accounting_for_what_it_could_not_tell(site: Site) -> None:
    """Guards: an attempt that ended while slurmdbd was away gets its numbers later, and until then that is said."""
    ref = site.ran("divbase-pelican-a", "sleep 1.1")
    site.job(ref, elapsed_s=None, cpu_s=None, alloc_cpus=None, ended_at=SystemClock().now())
    site.cluster.fault(dbd_away=True)
    assert "nothing yet of 1 attempts" in site.run("usage", "--json").stderr
    assert len(site.json("usage")) == 1
    printed = site.run("usage")
    assert "nothing yet of 1 attempts" in printed.stdout
    assert "was not asked" in printed.stderr
    site.cluster.fault(dbd_away=False)
    assert "nothing yet" not in site.print("usage")
    with site.database.read() as session:
        attempt = session.query(AttemptRow).one()
        assert (attempt.alloc_cpus, attempt.cpu_s, (attempt.elapsed_s or 0) >= 1) == (1, 1.5, True)


def test_filling_in_takes_no_run_that_has_not_ended_and_none_of_another_name(site: Site) -> None:
    """Guards: ids wrap, and a requeued job may run again."""
    ref = site.ran("divbase-pelican-a")
    site.job(ref, name="divbase-pelican-b", elapsed_s=None)
    since = SystemClock().now() - timedelta(days=1)
    assert usage.fill_in(site.database, site.scheduler, since) == 1
    assert usage.count_missing(site.database, since) == 1


# --- jobs --------------------------------------------------------------------------------------------------------


def test_jobs_of_all_projects(site: Site) -> None:
    """Guards: open ones unless asked, newest first, with what the scheduler says of each, and why it is stuck."""
    ref = SlurmRef("fake", "7", "divbase-pelican-a", SystemClock().now())
    waits = site.job(ref, "QUEUED", started_at=None, slurm_state="PENDING", slurm_reason="JobHeldAdmin")
    site.change(waits, stuck="The cluster's administrator holds it.", started_at=None)
    runs = site.job(
        SlurmRef("fake", "8", "divbase-heron-b", ref.submitted_at),
        "RUNNING",
        project="heron",
        user="eve@example.org",
        slurm_state="RUNNING",
        node="c1",
        elapsed_s=None,
    )
    done = site.job(SlurmRef("fake", "9", "divbase-heron-c", ref.submitted_at), project="heron")
    assert [line["job"] for line in site.json("jobs")] == [runs, waits]
    printed = site.print("jobs")
    assert "QUEUED  │ 7 PENDING (JobHeldAdmin)" in printed
    assert "The cluster's administrator holds it." in printed
    assert "8 RUNNING" in printed
    assert "1h00m/1h30m" in printed
    assert [line["job"] for line in site.json("jobs", "--all", "--limit", "1")] == [done]
    assert [line["job"] for line in site.json("jobs", "--project", "heron")] == [runs]
    assert [line["job"] for line in site.json("jobs", "--user", "Ada@example.org")] == [waits]
    assert [line["job"] for line in site.json("jobs", "--state", "SUCCEEDED")] == [done]
    assert site.print("jobs", "--user", "nobody@example.org") == "There are no such jobs.\n"


# --- drain -------------------------------------------------------------------------------------------------------


def test_drain_and_resume_may_be_repeated(site: Site) -> None:
    """Guards: both say how it is now; the reason changes, the time does not; `jobs` mentions it."""
    first = site.print("drain", "--reason", "New disks.")
    assert first.startswith("Submission is held back since ")
    assert first.endswith(" UTC: New disks.\n")
    assert site.print("drain", "--reason", "It takes longer.") == first.replace("New disks.", "It takes longer.")
    assert "held back" in site.run("jobs").stderr
    assert site.print("resume").endswith("It takes longer.\n")
    assert site.print("resume") == "Submission was not held back; nothing was changed.\n"
    assert "1 to 500 characters" in site.run("drain", "--reason", " ").stderr
