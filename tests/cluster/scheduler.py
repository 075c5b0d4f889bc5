"""The SLURM of the containers behind the `Scheduler` port, over SSH, looking to each test like an empty scheduler.

It adds to the jobs of the contract tests what a site's script header would say, and knows nothing of the tests.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

from divbase_gateway.ports import Clock, Observation, PastRun, Scheduler, SlurmRef, Submission
from divbase_gateway.slurm.commands import SlurmCommands
from divbase_gateway.slurm.scheduler import CliScheduler, SlurmScheduler
from divbase_gateway.slurm.ssh import SshRunner
from divbase_gateway.slurm.ssh_connection import Login

from tests.cluster.containers import Cluster, connect

HEADER = "#SBATCH --account=divbase --partition=slots --time=5 --mem=64"


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass(frozen=True)
class RecentJobs:
    """A scheduler whose jobs from before `since` are not found, and whose scripts get a header."""

    scheduler: Scheduler
    since: datetime

    def submit(self, submission: Submission) -> SlurmRef:
        first, _, rest = submission.script.partition("\n")
        return self.scheduler.submit(replace(submission, script=f"{first}\n{HEADER}\n{rest}"))

    def observe(self, refs: Sequence[SlurmRef]) -> Observation:
        return self.scheduler.observe(refs)

    def find(self, name: str, since: datetime) -> list[SlurmRef]:
        return self.scheduler.find(name, max(since, self.since))

    def history(self, since: datetime) -> list[PastRun]:
        return self.scheduler.history(since)

    def cancel(self, *refs: SlurmRef) -> None:
        self.scheduler.cancel(*refs)

    def read_log(self, ref: SlurmRef, max_bytes: int) -> bytes:
        return self.scheduler.read_log(ref, max_bytes)

    def discard(self, ref: SlurmRef) -> None:
        self.scheduler.discard(ref)

    def ping(self) -> str:
        return self.scheduler.ping()


@contextmanager
def cluster_scheduler() -> Iterator[Scheduler]:
    """The cluster that is up, through its commands over SSH."""
    with empty_slots(lambda cluster, runner, work_dir: over_ssh(runner, work_dir, SystemClock())) as scheduler:
        yield scheduler


@contextmanager
def empty_slots(make: Callable[[Cluster, SshRunner, PurePosixPath], SlurmScheduler]) -> Iterator[Scheduler]:
    """The cluster that is up, both slots of the partition `slots` free; jobs left over are cancelled at the end.

    Args:
        make: from the cluster, a runner on its login node and a folder for job directories to a scheduler.
    """
    since = _next_second()
    cluster = connect()
    work_dir = PurePosixPath(f"/shared/divbase/test-{secrets.token_hex(4)}")
    cluster.run("mkdir", "-m", "700", str(work_dir))
    runner = SshRunner(Login(cluster.host, cluster.user, cluster.known_hosts, cluster.port, cluster.key_file))
    scheduler = make(cluster, runner, work_dir)
    try:
        _wait_until(since)
        yield RecentJobs(scheduler, since)
    finally:
        scheduler.close()
        cluster.run("sh", "-c", _CLEAR, "sh", str(work_dir))


def over_ssh(runner: SshRunner, work_dir: PurePosixPath, clock: Clock) -> CliScheduler:
    return CliScheduler(runner, SlurmCommands(PurePosixPath("/usr/bin")), work_dir, "divbase", clock)


def _next_second() -> datetime:
    """SLURM's times are whole seconds, and a job of the test before may carry this one."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)


def _wait_until(moment: datetime) -> None:
    time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))


_CLEAR = """\
scancel --user=divbase --partition=slots
for try in $(seq 150); do
  left=$(squeue --noheader --partition=slots --format='%i %T %r')
  if [ -z "$left" ]; then rm -rf "$1"; exit 0; fi
  sleep 0.2
done
echo "jobs do not end: $left" >&2
exit 1
"""
"""Ends what is left in the partition, waits for that, and removes the folder: one call, as each logs in anew."""
