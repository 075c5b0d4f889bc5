"""A project with one usable file, the scheduler in memory, and a reconciler that ticks when it is told to.

The job's own calls are made here, over the real API, with the token that the scheduler was given.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from divbase_gateway.bootstrap import Gateway
from divbase_gateway.db.models import AttemptRow, JobRow
from divbase_gateway.ports import Sighting, SlurmRef, Submission
from divbase_gateway.reconciler import Pace, Reconciler
from httpx import Response
from sqlalchemy import select
from sqlalchemy.orm import selectinload

from tests.fakes.clock import FakeClock
from tests.fakes.object_store import FakeObjectStore
from tests.fakes.scheduler import FakeJob, FakeScheduler, LostAnswer
from tests.lab import Lab, base64_md5
from tests.variants import VariantFile, simulate

PENDING = Sighting("PENDING", reason="Resources")
RUNNING = Sighting("RUNNING", node="n1")
COMPLETED = Sighting("COMPLETED", exit_code=0, signal=0)
FAILED = Sighting("FAILED", exit_code=1, signal=0)
NODE_FAIL = Sighting("NODE_FAIL")

QUIET = timedelta(seconds=2)  # as long as empty answers about the embedded scheduler have to last
LOST_AFTER = timedelta(seconds=900)  # the default of jobs.lost_after_s
SECOND = timedelta(seconds=1)
RESULT = b"the result of the query"


class Killed(BaseException):
    """What ends the gateway in the middle of a step, as SIGKILL would."""


@dataclass
class MortalScheduler(FakeScheduler):
    """A scheduler during whose call the gateway dies: `kills` says when, once."""

    kills: LostAnswer | None = None

    def submit(self, submission: Submission) -> SlurmRef:
        kills, self.kills = self.kills, None
        if kills is LostAnswer.BEFORE_ACCEPT:
            raise Killed
        ref = super().submit(submission)
        if kills is LostAnswer.AFTER_ACCEPT:
            raise Killed
        return ref


@dataclass
class Node:
    """What a job does on its node, with the ticket that came with its script."""

    world: World
    submission: Submission
    claimant: str = "claimant-1"
    slurm_job_id: str | None = None
    outputs: list[dict[str, Any]] = field(default_factory=list)

    def call(self, name: str, body: dict[str, Any]) -> Response:
        ticket = json.loads(self.submission.files["job.json"])
        answer: Response = self.world.lab.api.client.post(
            f"/api/v1/attempts/{ticket['attempt']}/{name}",
            json=body,
            headers={"Authorization": f"Bearer {ticket['token']}"},
        )
        return answer

    def claim(self, claimant: str | None = None) -> Response:
        said = {"claimant": claimant or self.claimant, "host": "n1", "slurm_job_id": self.slurm_job_id}
        return self.call("claim", said)

    def announce(self, name: str, role: str, *parts: bytes) -> dict[str, Any]:
        whole = b"".join(parts)
        body = {
            "name": name,
            "role": role,
            "size": len(whole),
            "sha256": hashlib.sha256(whole).hexdigest(),
            "md5s": [base64_md5(part) for part in parts],
        }
        answer = self.call("outputs", body)
        assert answer.status_code == 200, answer.text
        return cast("dict[str, Any]", answer.json())

    def send(self, announced: dict[str, Any], *parts: bytes) -> list[int]:
        numbered = {each["number"]: each["request"] for each in announced["requests"]}
        return [self.world.lab.send(numbered[number], part) for number, part in enumerate(parts, start=1)]

    def complete(self, name: str, announced: dict[str, Any], *parts: bytes) -> Response:
        etags = [hashlib.md5(part, usedforsecurity=False).hexdigest() for part in parts]
        stated = [{"number": number, "etag": etag} for number, etag in enumerate(etags, start=1)]
        return self.call("outputs/complete", {"name": name, "upload": announced["upload"], "parts": stated})

    def push(self, name: str, role: str, *parts: bytes) -> None:
        content = b"".join(parts)
        announced = self.announce(name, role, *parts)
        assert self.send(announced, *parts) == [200] * len(parts)
        stored = self.complete(name, announced, *parts)
        assert stored.status_code == 200, stored.text
        self.outputs.append(
            {
                "name": name,
                "role": role,
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                **stored.json(),
            }
        )

    def report(self, reason: str | None = None, message: str | None = None) -> Response:
        status = "failed" if reason else "succeeded"
        return self.call("finish", {"status": status, "reason": reason, "message": message, "outputs": self.outputs})

    def work(self) -> None:
        """Everything that a job does that succeeds."""
        assert self.claim().status_code == 200
        self.push("result.vcf.gz", "result", RESULT)
        self.push("result.vcf.gz.csi", "index", b"its index")
        assert self.report().status_code == 200


@dataclass
class World:
    """A project with one usable file, the scheduler in memory, and a reconciler that ticks when told to."""

    lab: Lab
    scheduler: MortalScheduler
    reconciler: Reconciler
    variants: VariantFile

    @property
    def gateway(self) -> Gateway:
        return self.lab.api.gateway

    @property
    def clock(self) -> FakeClock:
        return cast("FakeClock", self.gateway.clock)

    @property
    def store(self) -> FakeObjectStore:
        return cast("FakeObjectStore", self.lab.store.inner)

    def restart(self, holder: str = "another", pace: Pace | None = None) -> Reconciler:
        """A reconciler as a new process of the gateway has it."""
        gateway = self.gateway
        self.reconciler = Reconciler(
            gateway.sessions,
            self.scheduler,
            gateway.store,
            gateway.clock,
            gateway.policy,
            pace or Pace(),
            holder,
        )
        return self.reconciler

    def accept(self, **asked: Any) -> str:
        """A query that the gateway has accepted: the job's id."""
        answer = self.lab.editor.post(f"{self.lab.path}/jobs", {"all_samples": True, "command": "view", **asked})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def submit(self) -> str:
        """A job that the scheduler has."""
        job = self.accept()
        self.tick()
        assert self.state(job) == "QUEUED"
        return job

    def tick(self, after: timedelta = timedelta(0)) -> None:
        self.clock.advance(after)
        self.reconciler.tick()

    def job(self, job: str) -> JobRow:
        with self.gateway.sessions.read() as session:
            return session.scalars(
                select(JobRow).where(JobRow.public_id == job).options(selectinload(JobRow.attempts))
            ).one()

    def state(self, job: str) -> str:
        return self.job(job).state

    def end(self, job: str) -> tuple[str, str | None]:
        row = self.job(job)
        return row.state, row.reason

    def attempts(self, job: str) -> list[AttemptRow]:
        return self.job(job).attempts

    def ids(self, job: str) -> list[str | None]:
        """The ids at the scheduler that the attempts are followed under."""
        return [attempt.slurm_job_id for attempt in self.attempts(job)]

    def at_scheduler(self, job: str) -> FakeJob:
        """The newest attempt as the scheduler has it."""
        return self.scheduler.job(self.attempts(job)[-1].slurm_name)

    def sees(self, job: str, sighting: Sighting) -> None:
        """What the next looks at the job see; a cancel changes it."""
        self.at_scheduler(job).sighting = sighting

    def node(self, job: str) -> Node:
        return Node(self, self.at_scheduler(job).submission)

    def cancel(self, job: str) -> Response:
        return self.lab.editor.post(f"{self.lab.path}/jobs/{job}/cancel")

    def rerun(self, job: str, **wish: object) -> Response:
        return self.lab.editor.post(f"{self.lab.path}/jobs/{job}/rerun", wish)

    def log(self, job: str) -> dict[str, Any]:
        return cast("dict[str, Any]", self.lab.editor.get(f"{self.lab.path}/jobs/{job}/log").json())


def world_of(lab: Lab, variants: VariantFile) -> World:
    assert variants.index is not None
    for path in (variants.index, variants.path):
        lab.upload_file(path)
    assert lab.info("a.vcf.gz")["state"] == "READY"
    scheduler = MortalScheduler(lab.api.gateway.clock, by_itself=False)
    world = World(lab, scheduler, cast("Reconciler", None), variants)
    world.restart("the first")
    return world


def index_of(world: World, tmp_path: Path) -> tuple[str, bytes]:
    """A file without an index, uploaded: the job that is to build it, and the index that it should build."""
    file = simulate(tmp_path / "b.vcf.gz", samples=["B1"], index="csi")
    assert file.index is not None
    world.lab.upload_file(file.path)
    assert world.lab.info("b.vcf.gz")["state"] == "INDEXING"
    return str(world.lab.info("b.vcf.gz")["index_job"]), file.index.read_bytes()


def work_on_index(world: World, job: str, index: bytes) -> None:
    node = world.node(job)
    node.claim()
    node.push("index.csi", "index", index)
    node.report()
    world.sees(job, COMPLETED)
    world.tick()
