"""The one place that knows concrete adapters: from settings to a gateway that is ready to serve."""

from __future__ import annotations

import gc
import os
import secrets
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TypeVar

import structlog

from divbase_gateway.clock import SystemClock
from divbase_gateway.db.session import Database
from divbase_gateway.domain.allocations import Ceilings, Labels, Limits
from divbase_gateway.domain.errors import SchedulerUnavailable
from divbase_gateway.local.bcftools import ensure_bcftools
from divbase_gateway.local.scheduler import LocalScheduler
from divbase_gateway.ports import Clock, ObjectStore, Scheduler
from divbase_gateway.reconciler import Pace, Reconciler
from divbase_gateway.s3.store import S3Store
from divbase_gateway.services import idempotency, usage
from divbase_gateway.services.corrections import Corrections
from divbase_gateway.services.index_maps import MapCache
from divbase_gateway.services.policy import JobPolicy, NodeCache
from divbase_gateway.settings import InvalidSettings, JobSettings, SchedulerSettings, Settings
from divbase_gateway.slurm.commands import SlurmCommands
from divbase_gateway.slurm.pyslurm_process import PyslurmProcess, worker_command
from divbase_gateway.slurm.pyslurm_scheduler import PyslurmScheduler, worker_environment
from divbase_gateway.slurm.runners import LocalRunner, Runner
from divbase_gateway.slurm.scheduler import CliScheduler, SlurmScheduler

log = structlog.get_logger()

T = TypeVar("T")

_SPREAD_AFTER_S = 900
_ACCOUNTING_MAY_LAG = timedelta(days=7)
"""How far back attempts are looked at that ended while accounting was away."""

_NEW_OBJECTS = 50_000
"""So many more objects that hold others, and Python looks for circles among the new ones. Its own 700 is a request."""


@dataclass(frozen=True)
class Gateway:
    """Everything that a running gateway is made of. `start` and `stop` run what works in the background."""

    settings: Settings
    sessions: Database
    store: ObjectStore
    scheduler: Scheduler
    clock: Clock
    policy: JobPolicy
    reconciler: Reconciler
    wake: Callable[[], None]
    maps: MapCache = field(default_factory=MapCache)
    corrections: Corrections = field(default_factory=Corrections)

    def start(self) -> None:
        """Start the embedded scheduler, where there is one, and the reconciler."""
        if isinstance(self.scheduler, LocalScheduler):
            self.scheduler.start(on_end=self.wake)
        self.reconciler.start()

    def stop(self, *, end_jobs: bool = False) -> None:
        """Stop looking after jobs; those that run go on, and are found again at the next start.

        Args:
            end_jobs: end what the embedded scheduler runs, as a shutdown of the machine would; a new attempt of each
                follows at the next start.
        """
        self.reconciler.stop()
        if isinstance(self.scheduler, LocalScheduler):
            self.scheduler.stop(end_running=end_jobs)
        close_scheduler(self.scheduler)
        self.sessions.close()


def build(settings: Settings) -> Gateway:
    """A gateway on the adapters that the settings name. Nothing is started and nothing is asked yet."""
    clock = SystemClock()
    policy = job_policy(settings)
    return assemble(
        settings,
        Database(settings.database.url, settings.database.pool_size),
        build_store(settings),
        build_scheduler(settings, clock),
        clock,
        policy,
    )


def assemble(
    settings: Settings, sessions: Database, store: ObjectStore, scheduler: Scheduler, clock: Clock, policy: JobPolicy
) -> Gateway:
    """A gateway from parts that are there already: the real ones, or a test's."""

    def housekeeping(now: datetime) -> None:
        with sessions.write() as session:
            idempotency.purge(session, now, timedelta(days=settings.idempotency.keep_days))
        try:
            usage.fill_in(sessions, scheduler, now - _ACCOUNTING_MAY_LAG)
        except SchedulerUnavailable as error:
            log.warning("usage.not_filled_in", error=str(error))

    reconciler = Reconciler(
        sessions,
        scheduler,
        store,
        clock,
        policy,
        _pace(settings),
        holder=_holder(settings),
        housekeeping=housekeeping,
    )
    return Gateway(settings, sessions, store, scheduler, clock, policy, reconciler, reconciler.wake)


def build_store(settings: Settings) -> S3Store:
    """The object store, signing for each reader under the name that the reader uses."""
    s3 = settings.s3
    return S3Store(
        endpoint=s3.endpoint,
        public_endpoint=s3.laptop_endpoint,
        node_endpoint=s3.job_endpoint,
        region=s3.region,
        access_key=s3.access_key,
        secret_key=s3.secret_key.get_secret_value(),
    )


def build_scheduler(settings: Settings, clock: Clock) -> Scheduler:
    """The scheduler that `scheduler.kind` names.

    Raises:
        InvalidSettings: a setting that this kind needs is missing.
    """
    chosen = settings.scheduler
    if chosen.kind == "local":
        folder = chosen.folder.absolute()
        bcftools = ensure_bcftools(folder / "bin")
        return LocalScheduler(folder, chosen.slots, clock, path_prefix=Path(bcftools.path).parent)
    runner = _ssh_runner(chosen) if chosen.kind == "slurm-ssh" else LocalRunner()
    work_dir = _needed(chosen.work_dir, "work_dir")
    if not work_dir.is_absolute() or not chosen.bin_dir.is_absolute():
        raise InvalidSettings("`scheduler.work_dir` and `scheduler.bin_dir` must be absolute paths.")
    if chosen.kind == "pyslurm":
        return PyslurmScheduler(_pyslurm_worker(chosen), runner, work_dir, chosen.cluster, clock)
    commands = SlurmCommands(chosen.bin_dir, chosen.slurm_conf)
    return CliScheduler(runner, commands, work_dir, chosen.cluster, clock)


def _pyslurm_worker(chosen: SchedulerSettings) -> PyslurmProcess:
    """The process that loads pyslurm when it is first asked; whether it can is its own to say."""
    python = chosen.pyslurm_python or PurePosixPath(sys.executable)
    if not python.is_absolute():
        raise InvalidSettings("`scheduler.pyslurm_python` must be an absolute path.")
    return PyslurmProcess(worker_command(str(python)), worker_environment(chosen.slurm_conf))


def close_scheduler(scheduler: Scheduler) -> None:
    """Let go of its connections; what runs goes on."""
    if isinstance(scheduler, SlurmScheduler):
        scheduler.close()


def _ssh_runner(chosen: SchedulerSettings) -> Runner:
    try:
        from divbase_gateway.slurm.ssh import SshRunner
        from divbase_gateway.slurm.ssh_connection import Login
    except ModuleNotFoundError as error:
        raise InvalidSettings(
            f"`scheduler.kind` is slurm-ssh, and {error.name} is not installed.",
            hint="Run: pip install 'divbase-gateway[ssh]'",
        ) from error
    login = Login(
        host=_needed(chosen.ssh_host, "ssh_host"),
        user=_needed(chosen.ssh_user, "ssh_user"),
        known_hosts=_needed(chosen.ssh_known_hosts, "ssh_known_hosts").absolute(),
        port=chosen.ssh_port,
        key_file=chosen.ssh_key_file.absolute() if chosen.ssh_key_file else None,
        agent=chosen.ssh_agent,
    )
    return SshRunner(login)


def _needed(value: T | None, name: str) -> T:
    if value is None:
        raise InvalidSettings(f"`scheduler.{name}` is not set, and this `scheduler.kind` needs it.")
    return value


def _pace(settings: Settings) -> Pace:
    """A cluster is asked seldom: jobs report by themselves, and every answer costs its controller something."""
    if settings.scheduler.kind == "local":
        return Pace(busy=settings.jobs.tick_s)
    tick_s = settings.scheduler.tick_s
    looks_s, at_once = settings.scheduler.between_looks_s, settings.scheduler.submit_at_once
    return Pace(busy=tick_s, idle=tick_s, between_looks=looks_s, submissions=at_once)


def job_policy(settings: Settings) -> JobPolicy:
    """The site's choices about jobs, as the services want them."""
    jobs, scheduler, limits = settings.jobs, settings.scheduler, settings.limits
    # The embedded scheduler's word is final: what its folder does not hold was not submitted.
    quiet_s = 2 if scheduler.kind == "local" else scheduler.quiet_s
    return JobPolicy(
        node_url=settings.server.job_url,
        max_attempts=jobs.max_attempts,
        url_expiry=timedelta(seconds=jobs.url_expiry_s),
        lost_after=timedelta(seconds=jobs.lost_after_s),
        quiet_period=timedelta(seconds=quiet_s),
        node_access=jobs.node_access,
        manifest_expiry=timedelta(seconds=jobs.manifest_expiry_s),
        retry_for_s=jobs.retry_for_s,
        cache=_node_cache(jobs),
        prologue=tuple(jobs.prologue),
        labels=Labels(scheduler.account, scheduler.partition, scheduler.qos, scheduler.wckey),
        ceilings=Ceilings(limits.max_cores, limits.max_memory_mb, limits.max_minutes),
        machine_cores=os.cpu_count() if scheduler.kind == "local" else None,
        spread_after_s=_spread_after_s(settings),
        project_limits=Limits(limits.open_jobs_per_project, limits.core_hours_per_project_month),
        user_limits=Limits(limits.open_jobs_per_user, limits.core_hours_per_user_month),
        result_days=jobs.result_days,
        project_bytes=None if limits.gb_per_project is None else limits.gb_per_project * 1000**3,
    )


def _spread_after_s(settings: Settings) -> int | None:
    """On one machine more jobs get no more cores than one job's shards have, unless somebody says otherwise."""
    after_s = settings.jobs.spread_after_s
    if after_s is None:
        return None if settings.scheduler.kind == "local" else _SPREAD_AFTER_S
    return after_s or None


def _node_cache(jobs: JobSettings) -> NodeCache | None:
    if jobs.cache_dir is None:
        return None
    if not jobs.cache_dir.is_absolute():
        raise InvalidSettings(f"`jobs.cache_dir` must be an absolute path, and {str(jobs.cache_dir)!r} is none.")
    return NodeCache(str(jobs.cache_dir), jobs.cache_gb * 10**9)


def spare_the_collector() -> None:
    """Leave what is there by now out of Python's garbage collection, and let it come by less often.

    A gateway that is built holds hundreds of thousands of objects that stay for good, and a look at ten thousand jobs
    makes as many again: going through all of them took two fifths of a tick, with every request waiting meanwhile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 20, 20)


def _holder(settings: Settings) -> str:
    """Who holds the lease. The embedded stack is alone on its database, so it takes over from itself at once."""
    if settings.database.url.startswith("sqlite"):
        return f"embedded@{socket.gethostname()}"
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
