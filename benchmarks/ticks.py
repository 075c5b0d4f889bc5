"""What a tick of the reconciler costs the gateway, with ten, a thousand and ten thousand jobs at the scheduler:
processor time, commands on the cluster, statements to the database. SLURM's commands are executables that print as much
as real ones would; no job runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from divbase_gateway.bootstrap import spare_the_collector
from divbase_gateway.db import migrate
from divbase_gateway.db.session import Database
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.ports import SlurmRef
from divbase_gateway.reconciler import Pace, Reconciler
from divbase_gateway.services.policy import JobPolicy
from divbase_gateway.slurm.commands import SlurmCommands
from divbase_gateway.slurm.runners import LocalRunner
from divbase_gateway.slurm.scheduler import CliScheduler
from sqlalchemy import event

from benchmarks.figures import Section, Table, spread
from benchmarks.stack import say
from tests.crowd import CLUSTER, write_crowd
from tests.fakes.object_store import FakeObjectStore
from tests.fakes.recorded_slurm import RecordedSlurm, squeue_line
from tests.postgres import start_postgres

_WORDS = (
    "A tick is one round of the reconciler: one look at the scheduler for all jobs, and what follows from it. `squeue` "
    "is an executable that prints a line for each job, in the form of the answers in `tests/recorded`.",
    "CPU is that of the gateway's process alone. *Unchanged*: nothing is new, as in most ticks. *Places moved*: every "
    "job's priority changed and the queue turned round. *Reasons changed*: every job waits for another reason. With "
    "two gateways on one database both tick, and the commands are those of both.",
)


@dataclass(frozen=True)
class Tick:
    """CPU and wall-clock in seconds."""

    cpu: float
    wall: float
    commands: int
    statements: int


@dataclass
class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass
class Crowd:
    """A database with jobs in one state, the SLURM that tells of them, and gateways."""

    database: Database
    slurm: RecordedSlurm
    refs: Sequence[SlurmRef]
    state: JobState
    statements: int = 0

    def __post_init__(self) -> None:
        event.listen(self.database.engine, "before_cursor_execute", self._count)

    def _count(self, *_: Any) -> None:
        self.statements += 1

    def gateway(self, holder: str) -> Reconciler:
        commands = SlurmCommands(PurePosixPath(self.slurm.bin_dir))
        clock = SystemClock()
        scheduler = CliScheduler(LocalRunner(), commands, PurePosixPath(self.slurm.work_dir), CLUSTER, clock)
        store = FakeObjectStore(clock.now)
        return Reconciler(self.database, scheduler, store, clock, JobPolicy("http://gateway"), Pace(), holder)

    def says(self, number: int, *, priorities: bool = False, reasons: bool = False) -> None:
        """What squeue prints in this round."""
        word = "PENDING" if self.state is JobState.QUEUED else "RUNNING"
        changes = (
            {
                **({"PriorityLong": place if number % 2 else -place % 1_000_000} if priorities else {}),
                **({"Reason": ("Resources", "Priority")[number % 2]} if reasons else {}),
            }
            for place in range(len(self.refs))
        )
        lines = (squeue_line(ref.job_id, ref.name, word, **own) for ref, own in zip(self.refs, changes, strict=True))
        self.slurm.answer("squeue", lines)

    def tick(self, *gateways: Reconciler) -> Tick:
        self.slurm.calls()
        self.statements = 0
        begun, cpu = time.monotonic(), time.process_time()
        for each in gateways:
            each.tick()
        cpu, wall = time.process_time() - cpu, time.monotonic() - begun
        return Tick(cpu, wall, len(self.slurm.calls()), self.statements)


def measure(folder: Path, quick: bool) -> Section:
    """Both databases, each with every size and case."""
    counts = (10, 100, 1000) if quick else (10, 1000, 10_000)
    rounds = 3 if quick else 5
    tables, raw = [], {}
    spare_the_collector()  # as every gateway does once it is built
    for kind, databases in (("SQLite", _sqlite(folder)), ("PostgreSQL", _postgresql(folder))):
        say(kind)
        rows = []
        for count in counts:
            for title, ticks in _measure(folder / kind / str(count), databases, count, rounds).items():
                rows.append(_row(title, count, ticks))
                raw[f"{kind}, {title}, {count}"] = [vars(each) for each in ticks]
        columns = ("", "jobs", "CPU, s", "seconds", "commands on the cluster", "SQL statements")
        tables.append(Table(kind, columns, tuple(rows)))
    return Section("ticks", "A tick of the reconciler", _WORDS, tuple(tables), raw)


def _measure(folder: Path, databases: Callable[[], Any], count: int, rounds: int) -> dict[str, list[Tick]]:
    found: dict[str, list[Tick]] = {}
    with databases() as url:
        crowd = _crowd(url, folder / "waiting", count, JobState.QUEUED)
        gateway, other = crowd.gateway("one"), crowd.gateway("another")
        crowd.says(0)
        crowd.tick(gateway)
        for number in range(rounds):
            for title, changes, gateways in (
                ("waiting, unchanged", {}, (gateway,)),
                ("waiting, unchanged, two gateways", {}, (gateway, other)),
                ("waiting, places moved", {"priorities": True}, (gateway,)),
                ("waiting, reasons changed", {"reasons": True}, (gateway,)),
            ):
                crowd.says(number, **changes)
                if not changes:
                    crowd.tick(gateway)  # what the case before has left
                found.setdefault(title, []).append(crowd.tick(*gateways))
        crowd.database.close()
    with databases() as url:
        crowd = _crowd(url, folder / "running", count, JobState.RUNNING)
        gateway = crowd.gateway("one")
        crowd.says(0)
        crowd.tick(gateway)
        found["running, unchanged"] = [crowd.tick(gateway) for _ in range(rounds)]
        crowd.database.close()
    say(f"{count} jobs: " + ", ".join(f"{title} {spread([t.cpu for t in ticks])} s" for title, ticks in found.items()))
    return found


def _crowd(url: str, folder: Path, count: int, state: JobState) -> Crowd:
    database = Database(url)
    refs = write_crowd(database, count, state, datetime.now(UTC))
    return Crowd(database, RecordedSlurm(folder), refs, state)


def _row(title: str, count: int, ticks: Sequence[Tick]) -> tuple[str, ...]:
    commands = sorted({each.commands for each in ticks})
    return (
        title,
        f"{count:,}",
        str(spread([each.cpu for each in ticks])),
        str(spread([each.wall for each in ticks])),
        " or ".join(map(str, commands)),
        str(max(each.statements for each in ticks)),
    )


# --- databases ---------------------------------------------------------------------------------------------------


def _sqlite(folder: Path) -> Callable[[], Any]:
    numbers = iter(range(1_000))

    @contextmanager
    def database() -> Iterator[str]:
        url = f"sqlite:///{folder / f'{next(numbers)}.sqlite3'}"
        migrate.upgrade(url)
        yield url

    return database


def _postgresql(folder: Path) -> Callable[[], Any]:
    folder.chmod(0o755)  # started as root, the server runs as another user
    server = start_postgres(folder)

    @contextmanager
    def database() -> Iterator[str]:
        with server.database(migrated=True) as url:
            yield url

    return database
