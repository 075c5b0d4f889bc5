"""The one place that knows concrete adapters: from settings to a gateway that is ready to serve."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from divbase_gateway.db.session import Database
from divbase_gateway.local.bcftools import ensure_bcftools
from divbase_gateway.local.scheduler import LocalScheduler
from divbase_gateway.ports import Clock, ObjectStore, Scheduler
from divbase_gateway.reconciler import Pace, Reconciler
from divbase_gateway.s3.store import S3Store
from divbase_gateway.services import idempotency
from divbase_gateway.services.policy import JobPolicy
from divbase_gateway.settings import Settings


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


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

    reconciler = Reconciler(
        sessions,
        scheduler,
        store,
        clock,
        policy,
        Pace(busy=settings.jobs.tick_s),
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
    """The scheduler that `scheduler.kind` names."""
    folder = settings.scheduler.folder.absolute()
    bcftools = ensure_bcftools(folder / "bin")
    return LocalScheduler(folder, settings.scheduler.slots, clock, path_prefix=Path(bcftools.path).parent)


def job_policy(settings: Settings) -> JobPolicy:
    """The site's choices about jobs, as the services want them."""
    jobs = settings.jobs
    return JobPolicy(
        node_url=settings.server.job_url,
        max_attempts=jobs.max_attempts,
        url_expiry=timedelta(seconds=jobs.url_expiry_s),
        lost_after=timedelta(seconds=jobs.lost_after_s),
        # The embedded scheduler's word is final: what its folder does not hold was not submitted.
        quiet_period=timedelta(seconds=2),
        retry_for_s=jobs.retry_for_s,
        prologue=tuple(jobs.prologue),
    )


def _holder(settings: Settings) -> str:
    """Who holds the lease. The embedded stack is alone on its database, so it takes over from itself at once."""
    if settings.database.url.startswith("sqlite"):
        return f"embedded@{socket.gethostname()}"
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
