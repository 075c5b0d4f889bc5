"""What `submission` runs on the login node: the adapters for a submit host, timed where they are meant to be.

A program for that machine's Python: it reads what to do as JSON from standard input and prints seconds and job ids. It
finds the gateway's package on PYTHONPATH, and needs nothing of it but the adapters.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from divbase_gateway.ports import Scheduler, Submission
from divbase_gateway.slurm.commands import SlurmCommands
from divbase_gateway.slurm.runners import LocalRunner
from divbase_gateway.slurm.scheduler import CliScheduler


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass(frozen=True)
class Timed:
    """Seconds of each submission, seconds of all of them, and the ids."""

    each: list[float]
    whole: float
    ids: list[str]


def submit_all(scheduler: Scheduler, jobs: list[Submission], clients: int) -> Timed:
    """Submit them, so many at once, each client its next as soon as its last is in."""

    def one(job: Submission) -> tuple[float, str]:
        begun = time.perf_counter()
        ref = scheduler.submit(job)
        return time.perf_counter() - begun, ref.job_id

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        done = list(pool.map(one, jobs))
    return Timed([took for took, _ in done], time.perf_counter() - begun, [job_id for _, job_id in done])


def jobs_called(prefix: str, count: int, script: str, files: dict[str, bytes]) -> list[Submission]:
    return [Submission(f"{prefix}-{n}", script, files, prefix, cores=1, memory_mb=64, minutes=5) for n in range(count)]


def _adapters(work_dir: PurePosixPath) -> Iterator[tuple[str, Scheduler, Callable[[], None]]]:
    commands = SlurmCommands(PurePosixPath("/usr/bin"))
    cli = CliScheduler(LocalRunner(), commands, work_dir, "bench", SystemClock())
    yield "slurm-local", cli, cli.close
    if importlib.util.find_spec("pyslurm") is not None:
        from divbase_gateway.slurm.pyslurm_process import PyslurmProcess, worker_command
        from divbase_gateway.slurm.pyslurm_scheduler import PyslurmScheduler, worker_environment

        process = PyslurmProcess(worker_command("python3"), worker_environment(None))
        lib = PyslurmScheduler(process, LocalRunner(), work_dir, "bench", SystemClock())
        lib.ping()
        yield "pyslurm", lib, process.close


def main() -> None:
    told = json.load(sys.stdin)
    files = {name: text.encode() for name, text in told["files"].items()}
    heard: dict[str, Any] = {}
    for kind, scheduler, close in _adapters(PurePosixPath(told["work_dir"])):
        jobs = jobs_called(f"{told['prefix']}-{kind}", told["jobs"], told["script"], files)
        heard[kind] = vars(submit_all(scheduler, jobs, told["clients"]))
        close()
    json.dump(heard, sys.stdout)


if __name__ == "__main__":
    main()
