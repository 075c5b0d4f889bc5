"""The embedded scheduler beyond the port: restarts, dead supervisors, time limits, a full disk, damaged folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from divbase_gateway.domain.errors import SchedulerUnavailable, SubmissionRefused
from divbase_gateway.local.scheduler import LocalScheduler
from divbase_gateway.ports import Sighting, SlurmRef, Submission

from tests.contract.test_scheduler import SystemClock, alive, wait_until_gone

pytestmark = pytest.mark.slow  # real programs


@dataclass
class Machine:
    """A folder of jobs, and as many schedulers on it as a test makes; all are stopped with their jobs at its end."""

    folder: Path
    made: list[LocalScheduler] = field(default_factory=list)

    def scheduler(self, slots: int = 2, cores: int = 2, minute_s: float = 60.0) -> LocalScheduler:
        made = LocalScheduler(
            self.folder,
            slots,
            SystemClock(),
            cores=cores,
            minute_s=minute_s,
            grace_s=0.5,
            path_prefix=self.folder / "bin",
        )
        self.made.append(made)
        return made

    def started(self, slots: int = 2, cores: int = 2, minute_s: float = 60.0) -> LocalScheduler:
        made = self.scheduler(slots, cores, minute_s)
        made.start()
        return made

    def close(self) -> None:
        for made in self.made:
            made.stop()
        if self.made and self.folder.is_dir():
            self.made[0].stop(end_running=True)

    def status(self, ref: SlurmRef, name: str) -> Path:
        return self.folder / ref.job_id / ".job" / name

    def recorded(self, ref: SlurmRef) -> dict[str, int]:
        recorded: dict[str, int] = json.loads(self.status(ref, "started.json").read_text())
        return recorded


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "jobs")
    yield made
    made.close()


def job(name: str, script: str, cores: int = 1, minutes: int = 5) -> Submission:
    return Submission(name, script + "\n", {}, "", cores=cores, memory_mb=64, minutes=minutes)


def wait(scheduler: LocalScheduler, ref: SlurmRef, until: Callable[[Sighting], bool]) -> Sighting:
    deadline = time.monotonic() + 15
    while not until(seen := scheduler.observe([ref]).seen[ref]):
        assert time.monotonic() < deadline, f"{ref} is still {seen}"
        time.sleep(0.01)
    return seen


def end_of(scheduler: LocalScheduler, ref: SlurmRef) -> Sighting:
    return wait(scheduler, ref, lambda seen: seen.state not in ("PENDING", "RUNNING"))


def running(scheduler: LocalScheduler, ref: SlurmRef) -> Sighting:
    return wait(scheduler, ref, lambda seen: seen.state == "RUNNING")


def logged(scheduler: LocalScheduler, ref: SlurmRef, word: bytes) -> bytes:
    deadline = time.monotonic() + 15
    while word not in (log := scheduler.read_log(ref, 10_000)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return log


# --- restarts ----------------------------------------------------------------------------------------------------


def test_job_that_ran_on_is_picked_up(machine: Machine, tmp_path: Path) -> None:
    """A job that outlives its scheduler is RUNNING, then COMPLETED, for the next one on the folder."""
    first = machine.started()
    ref = first.submit(job("long", f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"))
    running(first, ref)
    first.stop()
    second = machine.started()
    assert second.observe([ref]).seen[ref].state == "RUNNING"
    (tmp_path / "go").touch()
    assert end_of(second, ref).state == "COMPLETED"


def test_job_accepted_before_the_restart_is_started(machine: Machine) -> None:
    """What one scheduler accepted and never started, the next one runs."""
    ref = machine.scheduler().submit(job("waiting", "echo x"))
    assert end_of(machine.started(), ref).state == "COMPLETED"


def test_job_that_ended_in_between_is_reported(machine: Machine, tmp_path: Path) -> None:
    """A job that ended while no scheduler was there has its exit code all the same."""
    first = machine.started()
    ref = first.submit(job("short", f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 5"))
    running(first, ref)
    first.stop()
    (tmp_path / "go").touch()
    wait_until_gone([int(machine.recorded(ref)["supervisor"])])
    assert end_of(machine.scheduler(), ref).exit_code == 5


def test_slots_count_jobs_that_ran_on(machine: Machine) -> None:
    """After a restart the jobs that still run take up their slots."""
    first = machine.started(slots=1)
    ref = first.submit(job("long", "sleep 60"))
    running(first, ref)
    first.stop()
    second = machine.started(slots=1)
    waiting = second.submit(job("next", "echo x"))
    time.sleep(0.3)
    assert second.observe([waiting]).seen[waiting].state == "PENDING"


GATEWAY = """
import sys
from pathlib import Path
from tests.contract.test_scheduler import SystemClock
from divbase_gateway.local.scheduler import LocalScheduler
from divbase_gateway.ports import Submission
import structlog
import time
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for accepted ids
scheduler = LocalScheduler(Path(sys.argv[1]), 2, SystemClock(), cores=2)
scheduler.start()
for n in range(int(sys.argv[2])):
    script = sys.argv[3].replace("NUMBER", str(n))
    print(scheduler.submit(Submission(f"job-{n}", script, {}, "", 1, 64, 5)).job_id, flush=True)
time.sleep(60)
"""


def gateway(folder: Path, jobs: int, script: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    arguments = [sys.executable, "-c", GATEWAY, str(folder), str(jobs), script]
    return subprocess.Popen(arguments, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_job_survives_sigkill_of_the_gateway(machine: Machine, tmp_path: Path) -> None:
    """SIGKILL of the process that started a job leaves the job running to its own end."""
    process = gateway(machine.folder, 1, f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 6\n")
    assert process.stdout is not None
    process.stdout.readline()
    scheduler = machine.scheduler()
    [ref] = scheduler.find("job-0", datetime(2000, 1, 1, tzinfo=UTC))
    running(scheduler, ref)
    process.kill()
    process.communicate()
    assert scheduler.observe([ref]).seen[ref].state == "RUNNING"
    (tmp_path / "go").touch()
    assert end_of(scheduler, ref).exit_code == 6


def test_two_gateways_start_no_job_twice(machine: Machine, tmp_path: Path) -> None:
    """Jobs submitted to two processes on one folder, one killed midway, each run exactly once."""
    script = f"mktemp {tmp_path}/ran-$SLURM_JOB_ID-XXXXXX >/dev/null\n"
    first, second = (gateway(machine.folder, 15, script) for _ in range(2))
    for process in (first, second):
        assert process.stdout is not None
        for _ in range(15):
            process.stdout.readline()
    first.kill()
    scheduler = machine.scheduler()
    refs = [ref for n in range(15) for ref in scheduler.find(f"job-{n}", datetime(2000, 1, 1, tzinfo=UTC))]
    ends = [end_of(scheduler, ref).state for ref in refs]
    second.kill()
    first.communicate()
    second.communicate()
    assert ends == ["COMPLETED"] * 30
    ran = sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("ran-*"))
    assert ran == list(range(1, 31))


# --- supervisors that die ----------------------------------------------------------------------------------------


def test_dead_supervisor_is_node_fail_and_nothing_runs_on(machine: Machine) -> None:
    """When a supervisor is killed the script is killed before NODE_FAIL is reported."""
    scheduler = machine.started()
    ref = scheduler.submit(job("orphan", "sleep 71 & echo $!\nsetsid sleep 72 & echo $!\necho $$ ready\nwait"))
    pids = [int(word) for word in logged(scheduler, ref, b"ready").split() if word.isdigit()]
    os.kill(int(machine.recorded(ref)["supervisor"]), signal.SIGKILL)
    end = end_of(scheduler, ref)
    assert end.state == "NODE_FAIL"
    assert "supervisor" in end.reason
    assert [pid for pid in pids if alive(pid)] == []


def test_node_fail_stays(machine: Machine) -> None:
    """A job that was lost with its supervisor is not started again, also by the next scheduler."""
    first = machine.started()
    ref = first.submit(job("orphan", "sleep 73"))
    running(first, ref)
    os.kill(int(machine.recorded(ref)["supervisor"]), signal.SIGKILL)
    end_of(first, ref)
    first.stop()
    second = machine.started()
    second.submit(job("other", "echo x"))
    time.sleep(0.2)
    assert second.observe([ref]).seen[ref].state == "NODE_FAIL"


def test_group_id_of_another_process_is_left_alone(machine: Machine) -> None:
    """A process that happens to have the id of a dead job's group is not killed with it."""
    stranger = subprocess.Popen(["sleep", "74"], start_new_session=True)
    try:
        scheduler = machine.scheduler()
        ref = scheduler.submit(job("old", "echo x"))
        long_ago = {"supervisor": 1, "group": stranger.pid, "started_at": time.time() - 3600}
        machine.status(ref, "started.json").write_text(json.dumps(long_ago))
        assert scheduler.observe([ref]).seen[ref].state == "NODE_FAIL"
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_supervisor_told_to_stop_ends_the_job(machine: Machine) -> None:
    """SIGTERM to a supervisor, as at a shutdown, ends the script and is NODE_FAIL, not the script's fault."""
    scheduler = machine.started()
    ref = scheduler.submit(job("down", "sleep 75"))
    running(scheduler, ref)
    os.kill(int(machine.recorded(ref)["supervisor"]), signal.SIGTERM)
    assert end_of(scheduler, ref).state == "NODE_FAIL"


# --- limits ------------------------------------------------------------------------------------------------------


def test_time_limit(machine: Machine) -> None:
    """A job that runs longer than its minutes ends as TIMEOUT."""
    scheduler = machine.started(minute_s=0.4)
    ref = scheduler.submit(job("slow", "trap : USR2\nwhile :; do sleep 0.05; done", minutes=1))
    end = end_of(scheduler, ref)
    assert (end.state, end.reason, end.signal) == ("TIMEOUT", "TimeLimit", 15)


def test_script_is_warned_before_the_time_limit(machine: Machine) -> None:
    """SIGUSR2 comes to the shell first, so that it can ship its log and end by itself."""
    scheduler = machine.started(minute_s=1.0)
    ref = scheduler.submit(job("slow", "trap 'echo warned; exit 9' USR2\nwhile :; do sleep 0.02; done", minutes=1))
    end = end_of(scheduler, ref)
    assert (end.state, end.exit_code) == ("FAILED", 9)
    assert scheduler.read_log(ref, 100) == b"warned\n"


def test_job_that_takes_too_much_memory(machine: Machine) -> None:
    """The largest of its processes is killed, not the script, which still says what happened."""
    scheduler = machine.started()
    greedy = "import time; x = bytes([1]) * (900 << 20); time.sleep(60)"
    script = f"sleep 60 & {sys.executable} -IS -c '{greedy}'; echo ended with $?; exit 3"
    ref = scheduler.submit(job("greedy", script))
    end = end_of(scheduler, ref)
    assert (end.state, end.exit_code) == ("OUT_OF_MEMORY", 3)
    assert b"ended with 137" in scheduler.read_log(ref, 1000)


def test_cores_bound_what_runs_at_once(machine: Machine) -> None:
    """Two jobs of two cores each do not run together on two cores, though there are slots."""
    scheduler = machine.started(slots=2, cores=2)
    first = scheduler.submit(job("wide", "sleep 60", cores=2))
    second = scheduler.submit(job("wide too", "sleep 60", cores=2))
    running(scheduler, first)
    time.sleep(0.1)
    assert scheduler.observe([second]).seen[second].state == "PENDING"


def test_job_wider_than_the_machine_gets_all_of_it(machine: Machine) -> None:
    """A job that asks for more cores than there are runs alone instead of waiting for ever."""
    scheduler = machine.started(cores=2)
    assert end_of(scheduler, scheduler.submit(job("huge", "echo x", cores=64))).state == "COMPLETED"


def test_accounting(machine: Machine) -> None:
    """CPU seconds and memory of the script's children are counted."""
    scheduler = machine.started()
    busy = "import time; x = bytearray(60_000_000)\nwhile time.process_time() < 0.3: pass"
    end = end_of(scheduler, scheduler.submit(job("busy", f"{sys.executable} -IS -c '{busy}'")))
    assert end.cpu_s is not None
    assert end.max_rss_bytes is not None
    assert 0.3 <= end.cpu_s < 5
    assert 60_000_000 <= end.max_rss_bytes < 300_000_000


# --- accepting ---------------------------------------------------------------------------------------------------


def test_job_is_found_after_a_crash_before_the_answer(machine: Machine) -> None:
    """A job whose ref was never returned is found by its name, with an equal ref."""
    ref = machine.scheduler().submit(job("divbase-p-1-t", "echo x"))
    assert machine.scheduler().find("divbase-p-1-t", ref.submitted_at) == [ref]


def test_ids_are_not_given_out_again(machine: Machine) -> None:
    """The id of a discarded job is not the next job's."""
    scheduler = machine.scheduler()
    first = scheduler.submit(job("one", "echo x"))
    scheduler.discard(first)
    second = scheduler.submit(job("two", "echo x"))
    assert (first.job_id, second.job_id) == ("1", "2")


@pytest.mark.parametrize("name", ["script.sh", "job.log", ".job", "../up", "a/b", "", ".."])
def test_file_that_cannot_be_beside_the_script_is_refused(machine: Machine, name: str) -> None:
    """A file that would replace the scheduler's own or leave the directory is refused by name; nothing is left."""
    with pytest.raises(SubmissionRefused, match="cannot be put beside"):
        machine.scheduler().submit(Submission("j", "", {name: b""}, "", 1, 64, 1))
    assert [path.name for path in machine.folder.iterdir()] == []


FULL = """
import sys
from pathlib import Path
from tests.contract.test_scheduler import SystemClock
from divbase_gateway.domain.errors import SubmissionRefused
from divbase_gateway.local.scheduler import LocalScheduler
from divbase_gateway.ports import Submission
folder = Path(sys.argv[1])
scheduler = LocalScheduler(folder, 1, SystemClock())
try:
    scheduler.submit(Submission("big", "", {"data": b"x" * 1_000_000}, "", 1, 64, 1))
except SubmissionRefused as refused:
    print("refused:", refused)
print("left:", sorted(path.name for path in folder.iterdir()))
print("next:", scheduler.submit(Submission("small", "", {}, "", 1, 64, 1)).job_id)
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs user namespaces, to mount a small disk",
)
def test_full_disk_refuses_and_leaves_nothing(tmp_path: Path) -> None:
    """Without room the job is refused in words, what was begun is removed, and a job that fits is taken."""
    script = 'mount -t tmpfs -o size=200k none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FULL],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    refused, left, following = done.stdout.splitlines()
    assert refused.startswith("refused: There is no room for job big on the disk of")
    assert (left, following) == ("left: []", "next: 1")


def test_folder_that_went_away_is_no_answer(machine: Machine) -> None:
    """Without its folder the scheduler is unavailable; it does not say that the jobs are gone."""
    scheduler = machine.scheduler()
    ref = scheduler.submit(job("j", "echo x"))
    shutil.rmtree(machine.folder)
    with pytest.raises(SchedulerUnavailable):
        scheduler.observe([ref])
    with pytest.raises(SchedulerUnavailable):
        scheduler.find("j", ref.submitted_at)
    with pytest.raises(SchedulerUnavailable):
        scheduler.submit(job("k", "echo x"))


# --- damaged folders ---------------------------------------------------------------------------------------------


def test_damaged_job_is_skipped(machine: Machine) -> None:
    """A folder without a readable specification is not seen, and stops no other job."""
    scheduler = machine.scheduler()
    damaged = scheduler.submit(job("damaged", "echo x"))
    machine.status(damaged, "spec.json").write_text('{"name": ')
    good = scheduler.submit(job("good", "echo x"))
    scheduler.start()
    assert end_of(scheduler, good).state == "COMPLETED"
    assert set(scheduler.observe([damaged, good]).seen) == {good}


def test_half_made_folder_is_no_job(machine: Machine) -> None:
    """What a crashed submission left is neither found nor started."""
    scheduler = machine.started()
    half = machine.folder / ".new-0123456789abcdef"
    (half / ".job").mkdir(parents=True)
    (half / "script.sh").write_text("echo x\n")
    assert end_of(scheduler, scheduler.submit(job("good", "echo x"))).state == "COMPLETED"
    assert not (half / "job.log").exists()


def test_running_job_is_not_discarded(machine: Machine) -> None:
    """The directory of a job that runs stays, and the error says why."""
    scheduler = machine.started()
    ref = scheduler.submit(job("long", "sleep 60"))
    running(scheduler, ref)
    with pytest.raises(SchedulerUnavailable, match="still runs"):
        scheduler.discard(ref)
    assert scheduler.observe([ref]).seen[ref].state == "RUNNING"


def test_path_prefix_comes_first(machine: Machine) -> None:
    """Programs in the prefix folder are found before others of their name."""
    scheduler = machine.started()
    program = machine.folder / "bin" / "bcftools"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho ours\n")
    program.chmod(0o755)
    ref = scheduler.submit(job("j", "bcftools"))
    end_of(scheduler, ref)
    assert scheduler.read_log(ref, 100) == b"ours\n"


def test_jobs_find_the_python_that_runs_us(machine: Machine) -> None:
    """`python3` in a job is the interpreter of the gateway, whatever a version manager puts on the PATH."""
    scheduler = machine.started()
    ref = scheduler.submit(job("j", "python3 -IS -c 'import os, sys; print(os.path.realpath(sys.executable))'"))
    end_of(scheduler, ref)
    assert scheduler.read_log(ref, 1000).decode() == f"{os.path.realpath(sys.executable)}\n"


def test_end_of_a_job_is_told_at_once(machine: Machine) -> None:
    """Whoever waits for jobs hears that one has ended and need not look again and again."""
    scheduler = machine.scheduler()
    told = threading.Event()
    scheduler.start(on_end=told.set)
    ref = scheduler.submit(job("j", "true"))
    assert told.wait(15)
    assert scheduler.observe([ref]).seen[ref].state == "COMPLETED"


def test_stop_can_end_what_runs(machine: Machine) -> None:
    """stop(end_running=True) returns when the jobs have ended; waiting ones still wait."""
    scheduler = machine.started(slots=1)
    ran, waits = scheduler.submit(job("a", "sleep 60")), scheduler.submit(job("b", "echo x"))
    running(scheduler, ran)
    scheduler.stop(end_running=True)
    seen = scheduler.observe([ran, waits]).seen
    assert (seen[ran].state, seen[waits].state) == ("NODE_FAIL", "PENDING")
