"""CliScheduler on bad days: executables that lose answers, hang, print banners, forget jobs or lag behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import pytest
from divbase_gateway.domain.errors import SchedulerUnavailable, SubmissionRefused, SubmissionUnknown
from divbase_gateway.ports import Observation, SlurmRef, Submission
from divbase_gateway.slurm.commands import SlurmCommands
from divbase_gateway.slurm.runners import Completed, LocalRunner, RunnerUnavailable
from divbase_gateway.slurm.scheduler import CliScheduler

from tests.fakes.slurm_cluster import FakeCluster

pytestmark = pytest.mark.slow  # real programs


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeCluster]:
    made = FakeCluster(tmp_path / "cluster")
    yield made
    made.close()


@pytest.fixture
def scheduler(cluster: FakeCluster) -> CliScheduler:
    commands = SlurmCommands(PurePosixPath(cluster.bin_dir))
    return CliScheduler(LocalRunner(), commands, PurePosixPath(cluster.work_dir), "fake", SystemClock())


def job(name: str, script: str = "true") -> Submission:
    return Submission(name, f"#!/bin/bash\n{script}\n", {"job.json": b"{}"}, "", cores=1, memory_mb=64, minutes=5)


def until(scheduler: CliScheduler, refs: Sequence[SlurmRef], wanted: Callable[[Observation], bool]) -> Observation:
    deadline = time.monotonic() + 15
    while not wanted(seen := scheduler.observe(refs)):
        assert time.monotonic() < deadline, f"still {seen}"
        time.sleep(0.02)
    return seen


def ended(scheduler: CliScheduler, ref: SlurmRef, state: str = "COMPLETED") -> None:
    until(scheduler, [ref], lambda seen: ref in seen.seen and seen.seen[ref].state == state)


# --- submission --------------------------------------------------------------------------------------------------


def test_answer_lost_after_acceptance_is_found_by_name(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """The job exists once, and the search finds it."""
    since = datetime.now(UTC)
    cluster.fault(lose_answer="after_accept")
    with pytest.raises(SubmissionUnknown):
        scheduler.submit(job("lost"))
    assert [ref.job_id for ref in scheduler.find("lost", since)] == ["1"]
    assert cluster.names() == ["lost"]


def test_answer_lost_before_acceptance_finds_nothing(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """The same words, and there is no job."""
    cluster.fault(lose_answer="before_accept")
    with pytest.raises(SubmissionUnknown):
        scheduler.submit(job("lost"))
    assert scheduler.find("lost", datetime.now(UTC) - timedelta(minutes=1)) == []


def test_exit_1_for_an_accepted_job_is_unknown(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """sbatch prints an id and an error: the job is looked for, not submitted again."""
    cluster.fault(accept_and_fail=True)
    with pytest.raises(SubmissionUnknown):
        scheduler.submit(job("odd"))
    assert len(scheduler.find("odd", datetime.now(UTC) - timedelta(minutes=1))) == 1


def test_refused_job_leaves_no_directory(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """The token in it goes with it."""
    cluster.fault(refuse="Invalid qos specification")
    with pytest.raises(SubmissionRefused):
        scheduler.submit(job("refused"))
    assert list(cluster.work_dir.iterdir()) == []


def test_controller_away_is_unavailable_and_leaves_nothing(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """Nothing was sent, so the job may go out as soon as slurmctld is back."""
    cluster.fault(ctld_away=True)
    with pytest.raises(SchedulerUnavailable, match="connect failure"):
        scheduler.submit(job("early"))
    assert (cluster.names(), list(cluster.work_dir.iterdir())) == ([], [])


def test_missing_working_directory_says_who_makes_it(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """No sbatch is run without a place for the job."""
    cluster.work_dir.rmdir()
    with pytest.raises(SchedulerUnavailable, match="mkdir -p -m 700"):
        scheduler.submit(job("homeless"))
    assert cluster.calls() == []


def test_banner_noise_changes_nothing(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """On both outputs, before every answer."""
    cluster.fault(banner="** Welcome | 17 | users, error: none **")
    ref = scheduler.submit(job("noisy"))
    assert ref.job_id == "1"
    ended(scheduler, ref)


@pytest.mark.parametrize("name", ["../escape", "a/b", "", "-x", "a b", "a\n"])
def test_name_that_leads_elsewhere_is_a_fault(scheduler: CliScheduler, name: str) -> None:
    """No path is made of it."""
    with pytest.raises(ValueError, match="no name for a job"):
        scheduler.submit(job(name))


@pytest.mark.parametrize("name", ["script.sh", "job.log", "../x", ""])
def test_file_that_cannot_be_beside_the_script_is_refused(scheduler: CliScheduler, name: str) -> None:
    """Neither ours nor anybody's."""
    with pytest.raises(SubmissionRefused):
        scheduler.submit(Submission("files", "#!/bin/sh\n", {name: b""}, "", cores=1, memory_mb=64, minutes=5))


# --- looking -----------------------------------------------------------------------------------------------------


def test_job_that_squeue_forgot_is_known_to_accounting(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """Shorter than a tick, and MinJobAge is over."""
    cluster.fault(min_job_age_s=0)
    ref = scheduler.submit(job("short", "exit 4"))
    seen = until(scheduler, [ref], lambda look: ref in look.seen and look.seen[ref].state == "FAILED")
    assert (seen.seen[ref].exit_code, seen.seen[ref].source) == (4, "sacct")


def test_job_that_left_while_accounting_is_away_is_not_judged(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """Its absence says nothing; when slurmdbd is back, its end is known."""
    cluster.fault(min_job_age_s=0, dbd_away=True)
    ref = scheduler.submit(job("short"))
    seen = until(scheduler, [ref], lambda look: ref not in look.seen)
    assert seen.unjudged == {ref}
    cluster.fault(dbd_away=False)
    assert scheduler.observe([ref]).seen[ref].state == "COMPLETED"


def test_job_that_ended_while_accounting_is_away_has_squeue_s_end(
    cluster: FakeCluster, scheduler: CliScheduler
) -> None:
    """slurmctld knows how it ended, without its usage."""
    cluster.fault(dbd_away=True)
    ref = scheduler.submit(job("plain", "exit 5"))
    seen = until(scheduler, [ref], lambda look: look.seen[ref].state == "FAILED")
    assert (seen.seen[ref].exit_code, seen.seen[ref].cpu_s, seen.unjudged) == (5, None, frozenset())


def test_end_is_not_judged_before_accounting_has_it(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """sacct still calls it RUNNING: COMPLETING, never an end without its steps."""
    cluster.fault(accounting_lags=True)
    ref = scheduler.submit(job("lagging"))
    until(scheduler, [ref], lambda look: look.seen[ref].state == "COMPLETING")
    cluster.fault(accounting_lags=False)
    ended(scheduler, ref)


def test_wrapped_id_does_not_show_the_older_job(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """Two jobs of one id, in squeue and in sacct: each is seen as itself."""
    old = scheduler.submit(job("old", "exit 1"))
    ended(scheduler, old, "FAILED")
    cluster.count_from(1)
    new = scheduler.submit(job("new"))
    assert new.job_id == old.job_id
    ended(scheduler, new)
    assert scheduler.observe([old]).seen[old].state == "FAILED"


def test_out_of_memory_of_a_step_is_seen_although_the_script_ended_with_0(
    cluster: FakeCluster, scheduler: CliScheduler
) -> None:
    """One sample is not lost in silence."""
    ref = scheduler.submit(job("hungry"))
    ended(scheduler, ref)
    cluster.edit("hungry", step="OUT_OF_MEMORY")
    assert scheduler.observe([ref]).seen[ref].state == "OUT_OF_MEMORY"


def test_controller_away_is_no_answer(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """No job is missing because nobody could look."""
    ref = scheduler.submit(job("known", "sleep 60"))
    cluster.fault(ctld_away=True)
    with pytest.raises(SchedulerUnavailable):
        scheduler.observe([ref])
    with pytest.raises(SchedulerUnavailable):
        scheduler.cancel(ref)
    with pytest.raises(SchedulerUnavailable):
        scheduler.ping()


def test_search_needs_both_answers(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """An empty squeue with accounting away is no empty search."""
    cluster.fault(dbd_away=True)
    with pytest.raises(SchedulerUnavailable):
        scheduler.find("anything", datetime.now(UTC))


def test_cancel_of_an_id_that_wrapped_touches_nobody(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """scancel is given the name too."""
    ref = scheduler.submit(job("mine", "sleep 60"))
    scheduler.cancel(SlurmRef("fake", ref.job_id, "another", ref.submitted_at))
    until(scheduler, [ref], lambda look: look.seen[ref].state == "RUNNING")


def test_two_commands_however_many_jobs_ended(cluster: FakeCluster, scheduler: CliScheduler) -> None:
    """One squeue and one sacct for all, one squeue while all live."""
    refs = [scheduler.submit(job(f"j{number}", "sleep 60")) for number in range(5)]
    before = len(cluster.calls())
    scheduler.observe(refs)
    assert cluster.calls()[before:] == ["squeue"]
    for ref in refs:
        scheduler.cancel(ref)
    before = len(cluster.calls())
    scheduler.observe(refs)
    assert sorted(cluster.calls()[before:]) == ["sacct", "squeue"]


# --- many, and lost ----------------------------------------------------------------------------------------------


class Recorded:
    """A runner that answers squeue and sacct with the same text every time."""

    place = "nowhere"

    def __init__(self, squeue: str, sacct: str):
        self.texts = {"squeue": squeue, "sacct": sacct}
        self.calls: list[list[str]] = []

    def run(self, argv: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> Completed:
        self.calls.append(list(argv))
        return Completed(0, self.texts[PurePosixPath(argv[0]).name], "")

    def put_directory(self, path: PurePosixPath, files: Mapping[str, bytes]) -> None: ...
    def run_beside(
        self,
        path: PurePosixPath,
        files: Mapping[str, bytes],
        argv: Sequence[str],
        environment: Mapping[str, str],
        timeout_s: float,
    ) -> Completed:
        return self.run(argv, environment, timeout_s)

    def read_tail(self, path: PurePosixPath, max_bytes: int) -> bytes:
        return b""

    def remove_directory(self, path: PurePosixPath) -> None: ...
    def close(self) -> None: ...


class Cut(Recorded):
    """A runner that loses the answer of sbatch."""

    def run(self, argv: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> Completed:
        raise RunnerUnavailable("the connection broke", started=True)


def on(runner: Recorded) -> CliScheduler:
    commands = SlurmCommands(PurePosixPath("/usr/bin"))
    return CliScheduler(runner, commands, PurePosixPath("/work"), "c", SystemClock())


def test_broken_connection_during_sbatch_is_unknown() -> None:
    """The command may have run."""
    with pytest.raises(SubmissionUnknown):
        on(Cut("", "")).submit(job("lost"))


def test_a_look_at_10000_jobs_is_two_commands() -> None:
    """Their answers are read once, half of the jobs have ended. `python -m benchmarks ticks` says how long it takes;
    here is only what nobody reaches who reads a line for each job."""
    at = datetime.fromtimestamp(1000, UTC)
    refs = [SlurmRef("c", str(number), f"divbase-p-{number}-0a1b2c3d", at) for number in range(1, 10_001)]
    squeue = "\n".join(f"{r.job_id}|RUNNING|0|0:0|1000|1001|1601|c2|100|main|None|{r.name}|" for r in refs[:5000])
    sacct = "\n".join(
        f"{r.job_id}|COMPLETED|0:0|1000|1001|1061|60|00:01||1|c1|{r.name}\n"
        f"{r.job_id}.batch|COMPLETED|0:0|1000|1001|1061|60|00:01|2K|1|c1|batch"
        for r in refs[5000:]
    )
    runner = Recorded(squeue, sacct)
    begun = time.process_time()
    seen = on(runner).observe(refs)
    took = time.process_time() - begun
    assert (len(seen.seen), len(runner.calls), seen.unjudged) == (10_000, 2, frozenset())
    assert took < 10


def test_more_ends_than_one_command_line_carries_wait_for_the_next_look() -> None:
    """The number of commands stays the same; who was not asked about is not judged."""
    at = datetime.fromtimestamp(1000, UTC)
    refs = [SlurmRef("c", str(number), f"n-{number}", at) for number in range(1, 6001)]
    runner = Recorded("", "")
    seen = on(runner).observe(refs)
    assert (len(runner.calls), len(seen.unjudged)) == (2, 1000)


def test_accounting_is_asked_with_a_start_always() -> None:
    """Without it sacct searches all of history for an id."""
    runner = Recorded("", "")
    ref = SlurmRef("c", "7", "n", datetime.now(UTC))
    on(runner).observe([ref])
    on(runner).find("n", datetime.now(UTC))
    starts = [word for call in runner.calls if call[0].endswith("sacct") for word in call if "--starttime" in word]
    assert starts == ["--starttime=now-3600seconds"] * 2
