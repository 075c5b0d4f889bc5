"""PyslurmScheduler on bad days: a library that refuses, hangs, ends its process, prints noise or cannot be loaded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
from divbase_gateway.domain.errors import SchedulerUnavailable, SubmissionRefused, SubmissionUnknown
from divbase_gateway.ports import ArraySubmission, Sighting, SlurmRef, Submission
from divbase_gateway.slurm.commands import SlurmCommands
from divbase_gateway.slurm.pyslurm_process import WORKER
from divbase_gateway.slurm.pyslurm_scheduler import PyslurmScheduler
from divbase_gateway.slurm.pyslurm_worker import Invalid, header, shown_id
from divbase_gateway.slurm.runners import LocalRunner
from divbase_gateway.slurm.scheduler import CliScheduler

from tests.fakes.pyslurm_worker import FAKE, scheduler_over
from tests.fakes.slurm_cluster import FakeCluster

pytestmark = pytest.mark.slow  # real programs

HEADER = """#SBATCH --job-name=of-the-script
#SBATCH --comment=k3v9,lynx,user7
#SBATCH --account=p2024-17 --partition=core
#SBATCH --qos=short
#SBATCH --wckey=lynx
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=1500M
#SBATCH --time=30
#SBATCH --export=ALL
#SBATCH --no-requeue
#SBATCH --signal=B:USR2@120
#SBATCH --output=elsewhere.log
#SBATCH --open-mode=truncate
"""


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeCluster]:
    made = FakeCluster(tmp_path / "cluster")
    yield made
    made.close()


@pytest.fixture
def scheduler(cluster: FakeCluster) -> Iterator[PyslurmScheduler]:
    made = scheduler_over(cluster, SystemClock())
    yield made
    made.close()


def job(name: str, script: str = "true", head: str = "") -> Submission:
    return Submission(name, f"#!/bin/bash\n{head}{script}\n", {"job.json": b"{}"}, "", cores=1, memory_mb=64, minutes=5)


def asked(cluster: FakeCluster, name: str) -> dict[str, Any]:
    """What pyslurm was given for a job."""
    jobs = json.loads((cluster.folder / "state.json").read_text())["jobs"]
    given: dict[str, Any] = next(each["asked"] for each in jobs if each["name"] == name)
    return given


def seen(scheduler: PyslurmScheduler, ref: SlurmRef, state: str) -> Sighting:
    deadline = time.monotonic() + 15
    while (sighting := scheduler.observe([ref]).seen.get(ref)) is None or sighting.state != state:
        assert time.monotonic() < deadline, f"still {sighting}"
        time.sleep(0.02)
    return sighting


def since() -> datetime:
    return datetime.now(UTC) - timedelta(minutes=1)


# --- submission --------------------------------------------------------------------------------------------------


def test_header_reaches_slurm(cluster: FakeCluster, scheduler: PyslurmScheduler) -> None:
    """Labels and resources are the script's; what identity and safety hang on is not its to say."""
    scheduler.submit(job("divbase-lynx-k3v9-7f3a", head=HEADER))
    directory = cluster.work_dir / "divbase-lynx-k3v9-7f3a"
    assert asked(cluster, "divbase-lynx-k3v9-7f3a") == {
        "name": "divbase-lynx-k3v9-7f3a",
        "comment": "k3v9,lynx,user7",
        "account": "p2024-17",
        "partitions": "core",
        "qos": "short",
        "wckey": "lynx",
        "nodes": 1,
        "ntasks": 1,
        "cpus_per_task": 2,
        "memory_per_node": "1500M",
        "time_limit": 30,
        "signal": {"signal": signal.SIGUSR2, "time": 120, "batch_only": True},
        "environment": "NONE",
        "is_requeueable": False,
        "log_files_open_mode": "append",
        "script": str(directory / "script.sh"),
        "standard_in": "/dev/null",
        "standard_output": "job.log",
        "standard_error": None,
        "working_directory": str(directory),
    }


@pytest.mark.parametrize("line", ["#SBATCH --constraint=big", "#SBATCH -A p1", "#SBATCH --signal=B:NONE@9"])
def test_header_that_cannot_be_passed_on_is_refused(
    cluster: FakeCluster, scheduler: PyslurmScheduler, line: str
) -> None:
    """Never a job that asks for less than its script does."""
    with pytest.raises(SubmissionRefused, match="cannot be handed to pyslurm"):
        scheduler.submit(job("odd", head=f"{line}\n"))
    assert cluster.names() == []
    assert not (cluster.work_dir / "odd").exists()


def test_header_ends_where_the_commands_begin() -> None:
    """As for sbatch."""
    script = "#!/bin/bash\n# a comment\n\n#SBATCH --account=a # ours\numask 077\n#SBATCH --account=b\n"
    assert header(script) == {"account": "a"}
    with pytest.raises(Invalid, match="--mail-user"):
        header("#!/bin/bash\n#SBATCH --mail-user=x\n")


def test_refusal_is_in_slurms_words(cluster: FakeCluster, scheduler: PyslurmScheduler) -> None:
    """It says who can change it, and leaves no directory."""
    cluster.fault(refuse="Invalid account or account/partition combination specified")
    with pytest.raises(SubmissionRefused, match="Invalid account or account/partition combination") as caught:
        scheduler.submit(job("refused"))
    assert "sacctmgr" in (caught.value.hint or "")
    assert not (cluster.work_dir / "refused").exists()


@pytest.mark.parametrize(
    "answer",
    [(1800, "Unable to contact slurm controller (connect failure)"), (2008, "Unable to create job record, try again")],
)
def test_controller_that_takes_nothing_now_is_unavailable(
    cluster: FakeCluster, scheduler: PyslurmScheduler, answer: tuple[int, str]
) -> None:
    """There is no such job for certain, so the next tick may submit it again."""
    cluster.fault(answers=answer)
    with pytest.raises(SchedulerUnavailable, match=answer[1].split(" (")[0]):
        scheduler.submit(job("later"))
    assert not (cluster.work_dir / "later").exists()


@pytest.mark.parametrize("words", ["Resource temporarily unavailable", "Zero Bytes were transmitted or received"])
def test_unclear_answer_is_unknown(cluster: FakeCluster, scheduler: PyslurmScheduler, words: str) -> None:
    """Words of the operating system's do not say what slurmctld did."""
    cluster.fault(answers=(11, words))
    with pytest.raises(SubmissionUnknown, match=words):
        scheduler.submit(job("unclear"))


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ({"lose_answer": "after_accept"}, 1),
        ({"lose_answer": "before_accept"}, 0),
        ({"exits": "after_accept"}, 1),
        ({"exits": "before_accept"}, 0),
    ],
)
def test_lost_answer_is_searched_by_name(
    cluster: FakeCluster, scheduler: PyslurmScheduler, fault: dict[str, str], found: int
) -> None:
    """Whether libslurm gives up or ends the process: the search by a new process tells what became of it."""
    begin = since()
    cluster.fault(**fault)
    with pytest.raises(SubmissionUnknown):
        scheduler.submit(job("lost"))
    time.sleep(0.06)
    assert len(scheduler.find("lost", begin)) == found


# --- a library that misbehaves -----------------------------------------------------------------------------------


def test_call_that_hangs_is_given_up_within_the_limit(cluster: FakeCluster) -> None:
    """A submission that hung is unknown, a look that hung is no answer, and the next process works."""
    scheduler = scheduler_over(cluster, SystemClock(), limit_s=1.0)
    scheduler.ping()
    cluster.fault(hang_s=60)
    began = time.monotonic()
    with pytest.raises(SubmissionUnknown, match="did not answer within 1 s"):
        scheduler.submit(job("hung"))
    assert time.monotonic() - began < 4
    cluster.fault(hang_s=0)
    time.sleep(0.06)
    assert scheduler.find("hung", since()) == []
    scheduler.close()


def test_look_that_hangs_is_no_answer(cluster: FakeCluster) -> None:
    """Nothing follows from it."""
    scheduler = scheduler_over(cluster, SystemClock(), limit_s=1.0)
    ref = scheduler.submit(job("seen", "sleep 60"))
    cluster.fault(hang_s=60)
    with pytest.raises(SchedulerUnavailable, match="did not answer within 1 s"):
        scheduler.observe([ref])
    scheduler.close()


def test_call_that_nobody_ends_ends_by_itself(cluster: FakeCluster) -> None:
    """The kernel ends the worker a few seconds after the limit, where the kill did not reach it."""
    cluster.fault(hang_s=60)
    variables = {"PYTHONPATH": str(FAKE), "FAKE_SLURM": str(cluster.folder)}
    request = {"id": 1, "method": "ping", "params": {}, "limit_s": -4}  # so that "a few seconds after" is at once
    ended = subprocess.run(
        [sys.executable, "-S", str(WORKER)],
        env=variables,
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == -signal.SIGALRM
    assert len(ended.stdout.splitlines()) == 1


def test_noise_on_standard_output_changes_nothing(cluster: FakeCluster, scheduler: PyslurmScheduler) -> None:
    """What a library prints there does not get between the answers."""
    cluster.fault(banner='{"id": 1, "result": []}')
    ref = scheduler.submit(job("quiet", "exit 3"))
    assert seen(scheduler, ref, "FAILED").exit_code == 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"import_exits": "Could not establish a configuration source"}, "fatal: Could not establish a configuration"),
        ({"import_fails": "libslurmfull.so: cannot open shared object file"}, "libslurmfull.so: cannot open shared"),
    ],
)
def test_library_that_cannot_be_loaded_is_named(
    cluster: FakeCluster, scheduler: PyslurmScheduler, fault: dict[str, str], words: str
) -> None:
    """Nothing was submitted, nothing is left behind, and the operator reads what to do."""
    cluster.fault(**fault)
    with pytest.raises(SchedulerUnavailable, match=words) as caught:
        scheduler.submit(job("early"))
    assert "scheduler.slurm_conf" in (caught.value.hint or "")
    assert not (cluster.work_dir / "early").exists()


# --- looking -----------------------------------------------------------------------------------------------------


def test_two_calls_however_many_jobs_ended(cluster: FakeCluster, scheduler: PyslurmScheduler) -> None:
    """One to slurmctld and one to slurmdbd, for all jobs together."""
    refs = [scheduler.submit(job(f"j{number}")) for number in range(6)]
    for ref in refs:
        seen(scheduler, ref, "COMPLETED")
    before = len(cluster.calls())
    scheduler.observe(refs)
    assert cluster.calls()[before:] == ["slurm_load_jobs", "slurmdb_jobs_get"]


def test_job_that_waits_says_why_and_until_when(cluster: FakeCluster, scheduler: PyslurmScheduler) -> None:
    """Priority, partition, reason and SLURM's guess of its start; the evidence is named."""
    running = [scheduler.submit(job(f"j{number}", "sleep 60")) for number in (1, 2)]
    ref = scheduler.submit(job("third"))
    expected = int(time.time()) + 900
    cluster.edit("third", reason="Priority", expected_start=expected)
    waiting = scheduler.observe([ref, *running]).seen[ref]
    assert waiting == Sighting(
        "PENDING",
        reason="Priority",
        expected_start=datetime.fromtimestamp(expected, UTC),
        priority=1000,
        partition="main",
        source="pyslurm",
    )


def test_accounting_knows_what_a_job_used(cluster: FakeCluster, scheduler: PyslurmScheduler) -> None:
    """Seconds, bytes and processors, as from sacct."""
    ref = scheduler.submit(job("user"))
    end = seen(scheduler, ref, "COMPLETED")
    assert (end.cpu_s, end.max_rss_bytes, end.alloc_cpus, end.source) == (1.0, 2048 * 1024, 1, "pyslurm")


def test_job_that_left_while_accounting_is_away_is_not_judged(
    cluster: FakeCluster, scheduler: PyslurmScheduler
) -> None:
    """Its absence says nothing."""
    ref = scheduler.submit(job("left"))
    seen(scheduler, ref, "COMPLETED")
    cluster.fault(dbd_away=True, min_job_age_s=0)
    assert scheduler.observe([ref]).unjudged == {ref}
    with pytest.raises(SchedulerUnavailable, match="Failed to get Jobs from slurmdbd"):
        scheduler.find("left", since())


def test_step_out_of_memory_is_not_success(cluster: FakeCluster, scheduler: PyslurmScheduler) -> None:
    """Steps are read by the same rules as sacct's."""
    ref = scheduler.submit(job("hungry"))
    cluster.edit("hungry", step="OUT_OF_MEMORY")
    assert seen(scheduler, ref, "OUT_OF_MEMORY").ended_at is not None


# --- cancelling --------------------------------------------------------------------------------------------------


def test_error_left_behind_by_an_earlier_call_is_none(cluster: FakeCluster, scheduler: PyslurmScheduler) -> None:
    """pyslurm calls a cancellation that worked a failure when errno is old; the job's state has the last word."""
    for number in (1, 2):
        scheduler.submit(job(f"j{number}", "sleep 60"))
    ref = scheduler.submit(job("third"))
    cluster.fault(old_errno=True)
    scheduler.cancel(ref)
    assert seen(scheduler, ref, f"CANCELLED by {os.getuid()}").started_at is None


def test_cancel_that_failed_is_unavailable(cluster: FakeCluster, scheduler: PyslurmScheduler) -> None:
    """The job still runs, so somebody must ask again."""
    ref = scheduler.submit(job("long", "sleep 60"))
    seen(scheduler, ref, "RUNNING")
    cluster.fault(ctld_away=True)
    with pytest.raises(SchedulerUnavailable, match="Unable to contact slurm controller"):
        scheduler.cancel(ref)


def test_cancel_of_an_id_that_wrapped_touches_nobody(cluster: FakeCluster, scheduler: PyslurmScheduler) -> None:
    """The name must be the job's."""
    ref = scheduler.submit(job("mine", "sleep 60"))
    scheduler.cancel(replace(ref, name="of-last-year"))
    assert seen(scheduler, ref, "RUNNING").state == "RUNNING"


# --- arrays --------------------------------------------------------------------------------------------------------


def test_tasks_of_an_array_are_followed_that_sbatch_submitted(
    cluster: FakeCluster, scheduler: PyslurmScheduler
) -> None:
    """Guards: `scheduler.kind` may be changed while jobs run: each task is seen, found, accounted for and cancelled."""
    work_dir = PurePosixPath(cluster.work_dir)
    commands = SlurmCommands(PurePosixPath(cluster.bin_dir))
    by_commands = CliScheduler(LocalRunner(), commands, work_dir, "fake", SystemClock())
    name = "divbase-p-job-tok.shards"
    scripts = {1: "exit 4", 2: "sleep 60"}
    tasks = {
        number: Submission(f"{name}.{number}", f"#!/bin/bash\n{script}\n", {}, "", 1, 64, 5)
        for number, script in scripts.items()
    }
    failed, running = by_commands.submit_array(ArraySubmission(name, tasks, "job,p,user1"))

    def seen(ref: SlurmRef, state: str) -> Sighting:
        deadline = time.monotonic() + 20
        while (found := scheduler.observe([failed, running]).seen.get(ref)) is None or found.state != state:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found

    assert seen(failed, "FAILED").exit_code == 4
    assert seen(running, "RUNNING").source == "pyslurm"
    assert [ref.job_id for ref in scheduler.find(running.name, running.submitted_at)] == [running.job_id]
    assert {run.ref.name for run in scheduler.history(running.submitted_at)} == {failed.name, running.name}
    scheduler.cancel(running)
    deadline = time.monotonic() + 20
    while not scheduler.observe([running]).seen[running].state.startswith("CANCELLED"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_tasks_that_have_not_begun_are_shown_as_squeue_does() -> None:
    """Guards: pyslurm gives them one job, without a number, and says which are waiting."""
    job = SimpleNamespace(id=7, array_id=7, array_task_id=None, array_tasks_waiting="2-3,9")
    assert shown_id(job) == "7_[2-3,9]"
    assert shown_id(SimpleNamespace(id=8, array_id=7, array_task_id=0)) == "7_0"
    assert shown_id(SimpleNamespace(id=9, array_id=None, array_task_id=None)) == "9"
