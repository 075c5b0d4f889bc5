"""Many jobs while everything is killed, again and again, at random: each comes to a true end, none runs twice. How many
is DIVBASE_CHAOS_JOBS, and DIVBASE_CHAOS_SEED repeats the same kills in the same order."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from divbase_client import ClientError
from divbase_client.models import JobState

from tests.cluster.conftest import MakeSite
from tests.cluster.containers import Cluster, Unhealthy
from tests.cluster.site import Site
from tests.cluster.truth import audit, check, runs_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

JOBS = int(os.environ.get("DIVBASE_CHAOS_JOBS", "24"))
SEED = int(os.environ.get("DIVBASE_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
PAUSE_S = (1.0, 4.0)
AWAY_S = (0.5, 4.0)
CALM_S = 60.0 + 3.0 * JOBS


@dataclass
class Killer:
    """Kills one thing after the other from `start` to `stop`, and leaves all of them running in the end."""

    site: Site
    chance: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    _enough: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        ways: list[Callable[[], None]] = [self.gateway, self.slurmctld, self.slurmdbd, self.slurmd, self.sshd, self.s3]
        while not self._enough.wait(self.chance.uniform(*PAUSE_S)):
            way = self.chance.choice(ways)
            try:
                way()
            except Unhealthy:
                self.kills["slow to come back"] += 1  # `recover` has more patience
            except Exception as fault:  # noqa: BLE001 - a killer that dies would leave the rest in peace, and prove nothing
                self.faults.append(f"{way.__name__}: {fault!r}")
            self.kills[way.__name__] += 1

    def recover(self) -> None:
        for service in ("slurmdbd", "slurmctld", "c1", "c2", "login"):
            self.site.cluster.wait_healthy(service, 300.0)

    def _stay_away(self) -> None:
        time.sleep(self.chance.uniform(*AWAY_S))

    def gateway(self) -> None:
        self.site.gateway.kill()
        self._stay_away()
        self.site.gateway.start()

    def slurmctld(self) -> None:
        self._daemon("slurmctld", "slurmctld")

    def slurmdbd(self) -> None:
        self._daemon("slurmdbd", "slurmdbd")

    def slurmd(self) -> None:
        self._daemon(self.chance.choice(["c1", "c2"]), "slurmd")

    def sshd(self) -> None:
        """With the sessions that are open: those of the gateway."""
        with self.site.cluster.without("login", "sshd"):
            self.site.cluster.admin("login", "bash", "-c", "pkill sshd; true")
            self._stay_away()

    def s3(self) -> None:
        with self.site.without_s3():
            self._stay_away()

    def _daemon(self, service: str, daemon: str) -> None:
        with self.site.cluster.without(service, daemon):
            self._stay_away()


def test_many_jobs_under_random_kills(make_site: MakeSite, cluster: Cluster) -> None:
    """Every job that was accepted succeeds, with the right records, by exactly one run; the audit agrees."""
    print(f"seed {SEED}, {JOBS} jobs")
    site = make_site(settings={"SCHEDULER__QUIET_S": "20", "JOBS__LOST_AFTER_S": "120", "JOBS__MAX_ATTEMPTS": "10"})
    chance = random.Random(SEED)
    killer = Killer(site, random.Random(SEED + 1))
    begun = time.monotonic()
    killer.start()
    try:
        jobs = [_accepted(site, chance) for _ in range(JOBS)]
        _wait_for_most(site, begun)
    finally:
        killer.stop()
        killer.recover()
    ended = {job.id: job for job in check(site) if job.kind == "query"}
    lasted = time.monotonic() - begun
    attempts = Counter(len(job.attempts) for job in ended.values())
    print(f"{lasted:.0f} s; kills {dict(killer.kills)}; states {Counter(str(job.state) for job in ended.values())}")
    print(f"attempts {dict(attempts)}; outcomes {Counter(a.outcome for j in ended.values() for a in j.attempts)}")
    print(f"runs {Counter((run.state, run.exit_code) for run in runs_of(site))}")
    assert killer.faults == []
    audit(site)
    assert set(jobs) <= set(ended)
    assert {ended[job].state for job in jobs} == {JobState.SUCCEEDED}


def _accepted(site: Site, chance: random.Random) -> str:
    """A job with a region of its own. Who gets no answer asks again; what was accepted meanwhile has to end as well."""
    start = chance.randrange(1, 900_000)
    while True:
        with suppress(ClientError):
            return site.submit(f"view -r chr1:{start}-{start + chance.randrange(1_000, 100_000)}")


def _wait_for_most(site: Site, begun: float) -> None:
    """Until all but a tenth have ended: the rest are to come to their end in peace."""
    while time.monotonic() - begun < CALM_S:
        with suppress(ClientError):
            if sum(not job.state.is_end for job in site.user.jobs.list(site.project)) <= JOBS // 10:
                return
        time.sleep(1)
