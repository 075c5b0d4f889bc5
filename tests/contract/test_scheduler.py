"""What every scheduler behind `ports.Scheduler` does, over the fake and all adapters.

A new adapter plugs in with one line in ADAPTERS: a context manager that yields a Bench over an empty scheduler with
two slots. Tests that need `running` are for adapters that really run scripts.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import pytest
from divbase_gateway.local.scheduler import LocalScheduler
from divbase_gateway.ports import (
    ARRAY_MARK,
    ArrayScheduler,
    ArraySubmission,
    PastRun,
    Scheduler,
    Sighting,
    SlurmRef,
    Submission,
)
from divbase_gateway.slurm.commands import SlurmCommands
from divbase_gateway.slurm.runners import LocalRunner
from divbase_gateway.slurm.scheduler import CliScheduler
from divbase_gateway.slurm.ssh import SshRunner

from tests.cluster import pyslurm
from tests.cluster.containers import connect
from tests.cluster.scheduler import cluster_scheduler
from tests.fakes.pyslurm_worker import scheduler_over
from tests.fakes.scheduler import FakeArrayScheduler
from tests.fakes.slurm_cluster import FakeCluster
from tests.fakes.ssh_server import FakeSshd

WAITING = ("PENDING", "RUNNING", "COMPLETING")


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass
class Bench:
    """A scheduler under test. `runs_scripts` is False where scripts are not really run."""

    scheduler: Scheduler
    runs_scripts: bool
    patience_s: float = 15.0
    submitted: list[SlurmRef] = field(default_factory=list)

    def submit(self, name: str, script: str, files: Mapping[str, bytes] | None = None) -> SlurmRef:
        ref = self.scheduler.submit(
            Submission(name, f"#!/bin/bash\n{script}\n", files or {}, f"test {name}", cores=1, memory_mb=64, minutes=5)
        )
        self.submitted.append(ref)
        return ref

    def submit_array(self, scripts: Mapping[int, str]) -> dict[int, SlurmRef]:
        """Scripts of the tasks by their numbers, each with a file `own` beside it that has its number."""
        assert isinstance(self.scheduler, ArrayScheduler)
        name = f"divbase-p-job-{secrets.token_hex(4)}{ARRAY_MARK}"
        tasks = {
            number: Submission(
                f"{name}.{number}",
                f"#!/bin/bash\n#SBATCH --mem=64M\n#SBATCH --time=5\n{script}\n",
                {"own": str(number).encode()},
                f"test {number}",
                cores=1,
                memory_mb=64,
                minutes=5,
            )
            for number, script in scripts.items()
        }
        refs = self.scheduler.submit_array(ArraySubmission(name, tasks, "test,of,an-array"))
        self.submitted += refs
        return dict(zip(sorted(scripts), refs, strict=True))

    def look(self, ref: SlurmRef) -> Sighting:
        return self.scheduler.observe([ref]).seen[ref]

    def wait(self, ref: SlurmRef, until: Callable[[Sighting], bool]) -> Sighting:
        deadline = time.monotonic() + self.patience_s
        while (seen := self.scheduler.observe([ref]).seen.get(ref)) is None or not until(seen):
            assert time.monotonic() < deadline, f"{ref} is still {seen}"
            time.sleep(0.01)
        return seen

    def end_of(self, ref: SlurmRef) -> Sighting:
        return self.wait(ref, lambda seen: seen.state not in WAITING)

    def running(self, ref: SlurmRef) -> Sighting:
        return self.wait(ref, lambda seen: seen.state == "RUNNING")

    def log_with(self, ref: SlurmRef, word: bytes) -> bytes:
        deadline = time.monotonic() + self.patience_s
        while word not in (log := self.scheduler.read_log(ref, 10_000)):
            assert time.monotonic() < deadline, f"{word!r} does not come: {log!r}"
            time.sleep(0.01)
        return log


@contextmanager
def fake_bench(folder: Path) -> Iterator[Bench]:
    yield Bench(FakeArrayScheduler(SystemClock(), slots=2), runs_scripts=False)


@contextmanager
def local_bench(folder: Path) -> Iterator[Bench]:
    scheduler = LocalScheduler(folder / "jobs", slots=2, clock=SystemClock(), cores=2, grace_s=1.0)
    scheduler.start()
    bench = Bench(scheduler, runs_scripts=True)
    try:
        yield bench
    finally:
        for ref in bench.submitted:
            scheduler.cancel(ref)
        scheduler.stop(end_running=True)


@contextmanager
def slurm_local_bench(folder: Path) -> Iterator[Bench]:
    cluster = FakeCluster(folder / "cluster", slots=2)
    commands = SlurmCommands(PurePosixPath(cluster.bin_dir))
    scheduler = CliScheduler(LocalRunner(), commands, PurePosixPath(cluster.work_dir), "fake", SystemClock())
    try:
        yield Bench(scheduler, runs_scripts=True)
    finally:
        cluster.close()


@contextmanager
def slurm_ssh_bench(folder: Path) -> Iterator[Bench]:
    cluster, sshd = FakeCluster(folder / "cluster", slots=2), FakeSshd(folder / "sshd")
    sshd.start()
    commands = SlurmCommands(PurePosixPath(cluster.bin_dir))
    runner = SshRunner(sshd.login())
    try:
        yield Bench(
            CliScheduler(runner, commands, PurePosixPath(cluster.work_dir), "fake", SystemClock()), runs_scripts=True
        )
    finally:
        runner.close()
        sshd.stop()
        cluster.close()


@contextmanager
def slurm_cluster_bench(folder: Path) -> Iterator[Bench]:
    with cluster_scheduler() as scheduler:
        yield Bench(scheduler, runs_scripts=True, patience_s=60.0)


@contextmanager
def pyslurm_bench(folder: Path) -> Iterator[Bench]:
    cluster = FakeCluster(folder / "cluster", slots=2)
    scheduler = scheduler_over(cluster, SystemClock())
    try:
        yield Bench(scheduler, runs_scripts=True)
    finally:
        scheduler.close()
        cluster.close()


@contextmanager
def pyslurm_cluster_bench(folder: Path) -> Iterator[Bench]:
    if (reason := pyslurm.why_not(connect())) is not None:
        pytest.skip(reason)
    with pyslurm.pyslurm_scheduler() as scheduler:
        yield Bench(scheduler, runs_scripts=True, patience_s=60.0)


ADAPTERS: dict[str, Callable[[Path], AbstractContextManager[Bench]]] = {
    "fake": fake_bench,
    "local": local_bench,
    "slurm-local": slurm_local_bench,
    "slurm-ssh": slurm_ssh_bench,
    "pyslurm": pyslurm_bench,
}
RUNNING_ADAPTERS = [pytest.param(name, marks=pytest.mark.slow) for name in ADAPTERS if name != "fake"]
CLUSTER = []  # the real SLURM in containers, collected only where it is asked for
if os.environ.get("DIVBASE_CLUSTER") == "1":
    for name, real in {"slurm-cluster": slurm_cluster_bench, "pyslurm-cluster": pyslurm_cluster_bench}.items():
        ADAPTERS[name] = real
        CLUSTER.append(pytest.param(name, marks=[pytest.mark.cluster, pytest.mark.slow]))


@contextmanager
def bench_of(request: pytest.FixtureRequest, folder: Path) -> Iterator[Bench]:
    if request.node.get_closest_marker("cluster"):
        request.getfixturevalue("cluster")
    with ADAPTERS[request.param](folder) as made:
        yield made


@pytest.fixture(params=["fake", *RUNNING_ADAPTERS, *CLUSTER])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with bench_of(request, tmp_path) as made:
        yield made


@pytest.fixture(params=[*RUNNING_ADAPTERS, *CLUSTER])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with bench_of(request, tmp_path) as made:
        yield made


@pytest.fixture(params=RUNNING_ADAPTERS)
def containing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Schedulers here that end whatever a job started; SLURM does so with cgroups, which the containers have not."""
    with bench_of(request, tmp_path) as made:
        yield made


def same_jobs(found: list[SlurmRef], expected: list[SlurmRef]) -> bool:
    """The same jobs by cluster, id and name; SLURM's clock and ours may be a moment apart on when they came."""
    moment = timedelta(seconds=2)
    return [(ref.cluster, ref.job_id, ref.name) for ref in found] == [
        (ref.cluster, ref.job_id, ref.name) for ref in expected
    ] and all(abs(a.submitted_at - b.submitted_at) <= moment for a, b in zip(found, expected, strict=True))


def word(sighting: Sighting) -> str:
    """The state without by whom."""
    return sighting.state.partition(" by ")[0]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"one of {pids} still runs"
        time.sleep(0.01)


# --- the end of a job --------------------------------------------------------------------------------------------


def test_script_that_succeeds_is_completed(bench: Bench) -> None:
    """A script that exits 0 ends as COMPLETED 0:0."""
    end = bench.end_of(bench.submit("good", "echo done"))
    assert (end.state, end.exit_code, end.signal) == ("COMPLETED", 0, 0)


def test_script_that_fails_keeps_its_exit_code(bench: Bench) -> None:
    """A script that exits 7 ends as FAILED 7:0."""
    end = bench.end_of(bench.submit("bad", "exit 7"))
    assert (end.state, end.exit_code, end.signal) == ("FAILED", 7, 0)


def test_script_that_is_killed_is_failed_with_the_signal(bench: Bench) -> None:
    """A script that SIGKILL ended is FAILED 0:9, as sacct writes it."""
    end = bench.end_of(bench.submit("shot", "kill -9 $$"))
    assert (end.state, end.exit_code, end.signal) == ("FAILED", 0, 9)


def test_end_has_a_time(bench: Bench) -> None:
    """The end of a job carries when it started and ended, in that order and after its submission."""
    ref = bench.submit("timed", "echo x")
    end = bench.end_of(ref)
    assert end.started_at is not None
    assert end.ended_at is not None
    assert ref.submitted_at <= end.started_at <= end.ended_at


def test_running_job_is_running(bench: Bench) -> None:
    """A job that has not ended is RUNNING, with no exit code."""
    seen = bench.running(bench.submit("long", "sleep 60"))
    assert (seen.state, seen.exit_code) == ("RUNNING", None)


# --- looking -----------------------------------------------------------------------------------------------------


def test_unknown_job_is_not_seen(bench: Bench) -> None:
    """A job that the scheduler does not know is left out of the answer, which is no error."""
    known = bench.submit("known", "echo x")
    unknown = replace(known, job_id="987654", name="unknown")
    assert set(bench.scheduler.observe([known, unknown]).seen) == {known}


def test_same_id_with_another_name_is_another_job(bench: Bench) -> None:
    """The id alone is not the job: ids wrap."""
    known = bench.submit("known", "echo x")
    namesake = replace(known, name="of-another-time")
    assert bench.scheduler.observe([namesake]).seen == {}


def test_looking_at_nothing_sees_nothing(bench: Bench) -> None:
    """No refs, no sightings, even if there are jobs."""
    bench.submit("known", "echo x")
    assert bench.scheduler.observe([]).seen == {}


def test_find_takes_the_exact_name(bench: Bench) -> None:
    """A name that only begins alike is another job."""
    ref = bench.submit("divbase-p-1-abc", "echo x")
    bench.submit("divbase-p-1-abcd", "echo x")
    assert same_jobs(bench.scheduler.find("divbase-p-1-abc", ref.submitted_at - timedelta(minutes=1)), [ref])


def test_find_leaves_out_what_is_older(bench: Bench) -> None:
    """Jobs submitted before `since` are not found, those at `since` are."""
    ref = bench.submit("divbase-p-1-abc", "echo x")
    assert same_jobs(bench.scheduler.find("divbase-p-1-abc", ref.submitted_at), [ref])
    assert bench.scheduler.find("divbase-p-1-abc", ref.submitted_at + timedelta(seconds=2)) == []


def test_find_finds_ended_jobs(bench: Bench) -> None:
    """A job is found after its end too."""
    ref = bench.submit("divbase-p-1-abc", "exit 3")
    bench.end_of(ref)
    assert same_jobs(bench.scheduler.find("divbase-p-1-abc", ref.submitted_at), [ref])


# --- history -----------------------------------------------------------------------------------------------------


def history_of(bench: Bench, *refs: SlurmRef) -> dict[SlurmRef, list[PastRun]]:
    """The runs of these jobs, whatever else ran at this scheduler; times of submission are not compared."""
    runs = bench.scheduler.history(min(ref.submitted_at for ref in refs) - timedelta(minutes=1))
    return {ref: [run for run in runs if (run.ref.job_id, run.ref.name) == (ref.job_id, ref.name)] for ref in refs}


def settled_history(bench: Bench, *refs: SlurmRef) -> dict[SlurmRef, Sighting]:
    """Each job's one run, once accounting has written down all their ends."""
    deadline = time.monotonic() + bench.patience_s
    while True:
        runs = history_of(bench, *refs)
        if all(len(each) == 1 and each[0].sighting.state not in WAITING for each in runs.values()):
            return {ref: each[0].sighting for ref, each in runs.items()}
        assert time.monotonic() < deadline, f"accounting does not settle: {runs}"
        time.sleep(0.05)


def test_history_has_every_ended_job_once(bench: Bench) -> None:
    """How each ended, and how many processors it had."""
    name = f"divbase-p-{secrets.token_hex(4)}"
    good, bad = bench.submit(f"{name}-a", "echo x"), bench.submit(f"{name}-b", "exit 3")
    for ref in (good, bad):
        bench.end_of(ref)
    runs = settled_history(bench, good, bad)
    assert [(runs[ref].state, runs[ref].exit_code, runs[ref].alloc_cpus) for ref in (good, bad)] == [
        ("COMPLETED", 0, 1),
        ("FAILED", 3, 1),
    ]


def test_history_has_jobs_that_are_alive(bench: Bench) -> None:
    """A job that runs is in it as it is."""
    ref = bench.submit(f"divbase-p-{secrets.token_hex(4)}-a", "sleep 60")
    bench.running(ref)
    deadline = time.monotonic() + bench.patience_s
    while [run.sighting.state for run in history_of(bench, ref)[ref]] != ["RUNNING"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_history_is_of_our_jobs_only(bench: Bench) -> None:
    """The account may run other things, which are nobody's business here."""
    ref = bench.submit(f"other-{secrets.token_hex(4)}", "echo x")
    bench.end_of(ref)
    assert history_of(bench, ref) == {ref: []}


def test_history_outlives_the_directory(bench: Bench) -> None:
    """What ran stays known after its directory was removed."""
    ref = bench.submit(f"divbase-p-{secrets.token_hex(4)}-a", "exit 3")
    bench.end_of(ref)
    bench.scheduler.discard(ref)
    assert settled_history(bench, ref)[ref].exit_code == 3


def test_ping_names_the_scheduler(bench: Bench) -> None:
    """The answer is one line that says which scheduler it is."""
    assert "scheduler" in bench.scheduler.ping()
    assert "\n" not in bench.scheduler.ping()


# --- order -------------------------------------------------------------------------------------------------------


def test_jobs_beyond_the_slots_wait(bench: Bench) -> None:
    """With two slots the third job is PENDING, with SLURM's reason."""
    first, second, third = (bench.submit(f"j{n}", "sleep 60") for n in (1, 2, 3))
    bench.running(first)
    bench.running(second)
    waiting = bench.wait(third, lambda seen: seen.reason == "Resources")  # SLURM says Priority until it has looked
    assert waiting.state == "PENDING"


def test_waiting_jobs_start_in_order(bench: Bench) -> None:
    """The slot that becomes free goes to the job that was submitted first."""
    first, _, third, fourth = (bench.submit(f"j{n}", "sleep 60") for n in (1, 2, 3, 4))
    bench.running(first)
    bench.scheduler.cancel(first)
    bench.running(third)
    assert bench.look(fourth).state == "PENDING"


# --- cancelling --------------------------------------------------------------------------------------------------


def test_waiting_job_is_cancelled_at_once(bench: Bench) -> None:
    """A job that waits is CANCELLED within a moment and never starts."""
    first, second, third = (bench.submit(f"j{n}", "sleep 60") for n in (1, 2, 3))
    bench.running(first)
    bench.running(second)
    bench.scheduler.cancel(third)
    seen = bench.end_of(third)
    assert word(seen) == "CANCELLED"
    assert seen.started_at is None


def test_running_job_is_cancelled(bench: Bench) -> None:
    """A running job ends as CANCELLED, by SIGTERM, which accounting may write down a moment after the end."""
    ref = bench.submit("long", "echo begun; sleep 60")
    bench.running(ref)
    if bench.runs_scripts:  # SLURM calls a job RUNNING before its script is
        bench.log_with(ref, b"begun")
    bench.scheduler.cancel(ref)
    assert word(bench.end_of(ref)) == "CANCELLED"
    assert bench.wait(ref, lambda seen: bool(seen.signal)).signal == 15


def test_cancelling_an_ended_job_changes_nothing(bench: Bench) -> None:
    """Cancel after the end is no error, and the end stays what it was."""
    ref = bench.submit("good", "echo x")
    before = bench.end_of(ref)
    bench.scheduler.cancel(ref)
    assert bench.look(ref) == before


def test_cancelling_an_unknown_job_is_no_error(bench: Bench) -> None:
    """There is nothing to end, so nothing happens to others either."""
    ref = bench.submit("long", "sleep 60")
    bench.running(ref)
    bench.scheduler.cancel(replace(ref, name="another"))
    assert bench.look(ref).state == "RUNNING"


def test_cancel_ends_grandchildren(containing: Bench) -> None:
    """Children in the background, in groups and in sessions of their own, end with the job."""
    ref = containing.submit(
        "family",
        "set -m\nbash -c 'sleep 61 & echo $!; wait' &\nsetsid bash -c 'echo $$; exec sleep 62' &\nsleep 0.3\n"
        "echo ready $$\nwait",
    )
    words = containing.log_with(ref, b"ready").split()
    pids = [int(word) for word in words if word.isdigit()]
    assert len(pids) == 3
    containing.scheduler.cancel(ref)
    assert word(containing.end_of(ref)) == "CANCELLED"
    wait_until_gone(pids)


def test_script_that_ignores_sigterm_is_killed(running: Bench) -> None:
    """After the grace a cancelled job gets SIGKILL."""
    ref = running.submit("stubborn", "trap '' TERM\necho ready\nwhile :; do sleep 0.1; done")
    running.log_with(ref, b"ready")
    running.scheduler.cancel(ref)
    end = running.end_of(ref)
    assert (word(end), end.signal) == ("CANCELLED", 9)


def test_nothing_outlives_a_job(containing: Bench) -> None:
    """What a script leaves in the background is gone when the job is reported as ended."""
    ref = containing.submit("leaver", "sleep 63 &\necho $!\nsetsid sleep 64 &\necho $!")
    assert containing.end_of(ref).state == "COMPLETED"
    wait_until_gone([int(word) for word in containing.scheduler.read_log(ref, 100).split()])


# --- the job's directory -----------------------------------------------------------------------------------------


def test_log_is_what_the_script_printed(bench: Bench) -> None:
    """Output goes to the log, all of it if it fits."""
    ref = bench.submit("talker", "echo one\necho two")
    bench.end_of(ref)
    assert bench.scheduler.read_log(ref, 1000) == b"one\ntwo\n"


def test_log_is_cut_at_the_front(bench: Bench) -> None:
    """A long log gives its last bytes."""
    ref = bench.submit("talker", "echo one\necho two")
    bench.end_of(ref)
    assert bench.scheduler.read_log(ref, 5) == b"\ntwo\n"


def test_waiting_job_has_no_log(bench: Bench) -> None:
    """A job that has not started has an empty log, not an error."""
    for n in (1, 2):
        bench.running(bench.submit(f"j{n}", "sleep 60"))
    assert bench.scheduler.read_log(bench.submit("third", "echo x"), 100) == b""


def test_discarding_twice_is_no_error(bench: Bench) -> None:
    """After the first time the log is gone; the second time changes nothing."""
    ref = bench.submit("good", "echo x")
    bench.end_of(ref)
    bench.scheduler.discard(ref)
    bench.scheduler.discard(ref)
    assert bench.scheduler.read_log(ref, 100) == b""


def test_errors_go_to_the_log_too(running: Bench) -> None:
    """Standard error and output share the log, in the order of writing."""
    ref = running.submit("talker", "echo out\necho err >&2\necho out again")
    running.end_of(ref)
    assert running.scheduler.read_log(ref, 1000) == b"out\nerr\nout again\n"


def test_files_are_beside_the_script_and_private(running: Bench) -> None:
    """The script starts in its directory, where its files are, mode 0600 whatever the umask."""
    ref = running.submit(
        "files", "cat data.txt\nstat -c %a data.txt .\n[ -f script.sh ] || exit 4", {"data.txt": b"hello\n"}
    )
    assert running.end_of(ref).exit_code == 0
    assert running.scheduler.read_log(ref, 1000) == b"hello\n600\n700\n"


def test_environment_is_clean(running: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret in the environment of the gateway is not in the job's."""
    monkeypatch.setenv("DIVBASE_S3_SECRET_KEY", "hunter2")
    ref = running.submit("env", 'env\necho "id=$SLURM_JOB_ID name=$SLURM_JOB_NAME restart=${SLURM_RESTART_COUNT:-0}"')
    running.end_of(ref)
    log = running.scheduler.read_log(ref, 100_000)
    assert b"hunter2" not in log
    assert f"id={ref.job_id} name=env restart=0".encode() in log


def test_standard_input_is_empty(running: Bench) -> None:
    """A script that reads its standard input gets its end at once."""
    ref = running.submit("reader", "cat\necho end")
    assert running.end_of(ref).state == "COMPLETED"
    assert running.scheduler.read_log(ref, 100) == b"end\n"


def test_hostile_script_text_arrives_unchanged(running: Bench) -> None:
    """The script is handed over byte for byte, quotes, dollars and letters beyond ASCII included."""
    ref = running.submit("quoting", "printf '%s\\n' '$(id) `id` \"å\" \\'")
    running.end_of(ref)
    assert running.scheduler.read_log(ref, 1000) == '$(id) `id` "å" \\\n'.encode()


# --- arrays --------------------------------------------------------------------------------------------------------


@pytest.fixture
def arrays(bench: Bench) -> Bench:
    if not isinstance(bench.scheduler, ArrayScheduler):
        pytest.skip("this scheduler takes no arrays: each job is submitted alone")
    return bench


def test_tasks_of_an_array_are_jobs_of_their_own(arrays: Bench) -> None:
    """One id for all, with the task's number; each has an end and a log of its own, by whatever it is looked at."""
    refs = arrays.submit_array({2: "echo of-two", 5: "exit 4", 9: "echo of-nine"})
    (number,) = {ref.job_id.partition("_")[0] for ref in refs.values()}
    assert [ref.job_id for ref in refs.values()] == [f"{number}_2", f"{number}_5", f"{number}_9"]
    ends = {task: arrays.end_of(ref) for task, ref in refs.items()}
    assert {task: (end.state, end.exit_code) for task, end in ends.items()} == {
        2: ("COMPLETED", 0),
        5: ("FAILED", 4),
        9: ("COMPLETED", 0),
    }
    assert arrays.log_with(refs[2], b"of-two") == b"of-two\n"
    assert arrays.log_with(refs[9], b"of-nine") == b"of-nine\n"
    history = settled_history(arrays, *refs.values())
    assert {task: word(history[ref]) for task, ref in refs.items()} == {2: "COMPLETED", 5: "FAILED", 9: "COMPLETED"}


def test_tasks_are_found_by_their_names(arrays: Bench) -> None:
    """Those that wait, run or have ended, each alone; the array itself is no job."""
    refs = arrays.submit_array({1: "exit 3", 2: "sleep 60", 3: "sleep 60", 4: "sleep 60"})
    arrays.end_of(refs[1])
    for ref in refs.values():
        assert same_jobs(arrays.scheduler.find(ref.name, ref.submitted_at), [ref])
    assert set(arrays.scheduler.observe(list(refs.values())).seen) == set(refs.values())
    assert arrays.scheduler.find(f"{refs[1].name}1", refs[1].submitted_at) == []
    alive = history_of(arrays, refs[2], refs[4])
    assert [len(alive[refs[task]]) for task in (2, 4)] == [1, 1]


def test_one_task_is_cancelled_and_the_others_go_on(arrays: Bench) -> None:
    """One that runs, and one that waits."""
    refs = arrays.submit_array({1: "sleep 60", 2: "sleep 60", 3: "sleep 60", 4: "echo done"})
    arrays.running(refs[1])
    arrays.scheduler.cancel(refs[3])
    arrays.scheduler.cancel(refs[1])
    assert word(arrays.end_of(refs[1])) == word(arrays.end_of(refs[3])) == "CANCELLED"
    assert arrays.end_of(refs[4]).state == "COMPLETED"
    assert arrays.look(refs[2]).state == "RUNNING"


def test_tasks_that_wait_are_cancelled_together(arrays: Bench) -> None:
    """All that waited have an end afterwards, by whatever it is looked at; so has one that ran."""
    blocking = [arrays.submit(f"j{number}", "sleep 60") for number in (1, 2)]
    for ref in blocking:
        arrays.running(ref)
    refs = arrays.submit_array({1: "sleep 60", 2: "sleep 60", 3: "sleep 60"})
    arrays.scheduler.cancel(*refs.values())
    assert {word(arrays.end_of(ref)) for ref in refs.values()} == {"CANCELLED"}
    assert all(arrays.look(ref).started_at is None for ref in refs.values())
    arrays.scheduler.cancel(*refs.values())  # once more is no error
    assert {word(history) for history in settled_history(arrays, *refs.values()).values()} == {"CANCELLED"}


def test_directories_of_tasks_go_one_by_one(arrays: Bench) -> None:
    """A task that was settled leaves nothing, while others of its array still need theirs."""
    refs = arrays.submit_array({1: "echo one", 2: "echo two"})
    for task, text in ((1, b"one"), (2, b"two")):
        arrays.end_of(refs[task])
        arrays.log_with(refs[task], text)
    arrays.scheduler.discard(refs[1])
    assert arrays.scheduler.read_log(refs[1], 100) == b""
    assert arrays.scheduler.read_log(refs[2], 100) == b"two\n"
    arrays.scheduler.discard(refs[1])


def test_each_task_has_its_own_files(arrays: Bench) -> None:
    """Beside its script, where it starts; and it knows its array and its number."""
    if not arrays.runs_scripts:
        pytest.skip("scripts are not run")
    script = 'cat own; echo " $SLURM_ARRAY_TASK_ID ${PWD##*.}"; test -e script.sh'
    refs = arrays.submit_array({3: script, 12: script})
    for task, ref in refs.items():
        assert arrays.end_of(ref).exit_code == 0
        assert arrays.log_with(ref, str(task).encode()) == f"{task} {task} {task}\n".encode()
