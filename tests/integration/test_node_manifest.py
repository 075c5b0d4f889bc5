"""Jobs whose nodes reach S3 only: accepted by the gateway, run by bash with the node helper and a real bcftools against
a real S3 server, and settled by what they left there. Nothing listens where the gateway would be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from divbase_gateway.bootstrap import SystemClock
from divbase_gateway.db.models import AttemptRow, JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.doctor import examine
from divbase_gateway.local.scheduler import LocalScheduler
from divbase_gateway.local.seaweedfs import S3Endpoint
from divbase_gateway.ports import ObjectStore, Sighting, Submission
from divbase_gateway.reconciler import Pace, Reconciler
from divbase_gateway.s3.store import S3Store
from divbase_gateway.services import manifests
from divbase_gateway.services.policy import NodeCache
from divbase_gateway.settings import DatabaseSettings, JobSettings, S3Settings, SchedulerSettings, Settings
from sqlalchemy import select
from sqlalchemy.orm import selectinload

from tests.bcftools import bcftools_for_tests
from tests.fakes.clock import FakeClock
from tests.fakes.s3_door import S3Door
from tests.fakes.scheduler import FakeJob, FakeScheduler, LostAnswer
from tests.lab import Lab, build_lab, send_over_http
from tests.variants import VariantFile, simulate

pytestmark = pytest.mark.slow  # real programs

RUNNING = Sighting("RUNNING", node="n1")
MIB = 1 << 20


@pytest.fixture(scope="module")
def bcftools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bcftools_for_tests(tmp_path_factory.mktemp("bcftools"))


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> VariantFile:
    return simulate(tmp_path_factory.mktemp("variants") / "a.vcf.gz", index="csi")


@pytest.fixture
def door(seaweed: S3Endpoint) -> Iterator[S3Door]:
    with S3Door(seaweed.endpoint_url) as door:
        yield door


@dataclass(frozen=True)
class Run:
    """A script on its node; `wait` gives its exit status and its log."""

    process: subprocess.Popen[bytes]
    folder: Path

    def wait(self) -> tuple[int, str]:
        try:
            status = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise
        log = (self.folder / "job/job.log").read_text(encoding="utf-8", errors="replace")
        assert "X-Amz-Signature" not in log
        assert os.listdir(self.folder / "tmp") == []
        return status, log


@dataclass
class World:
    """A project on a real S3 server, a scheduler in memory, and a node that is a folder of this machine."""

    lab: Lab
    scheduler: FakeScheduler
    reconciler: Reconciler
    door: S3Door
    bcftools: Path
    path: Path

    @property
    def store(self) -> S3Store:
        return cast("S3Store", self.lab.store.inner)

    @property
    def bucket(self) -> str:
        return self.lab.project.bucket

    def restart(self, **changed: Any) -> None:
        """A reconciler with another policy: manifests, and what the test wants beside them."""
        gateway = self.lab.api.gateway
        policy = replace(gateway.policy, node_access="manifest", node_url="http://127.0.0.1:1", retry_for_s=20)
        policy = replace(policy, **changed)
        self.reconciler = Reconciler(
            gateway.sessions, self.scheduler, gateway.store, gateway.clock, policy, Pace(), "the only one"
        )

    def accept(self, **question: Any) -> str:
        body = {"all_samples": True, "command": "view", **question}
        answer = self.lab.editor.post(f"{self.lab.path}/jobs", body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def submit(self, **question: Any) -> str:
        job = self.accept(**question)
        self.reconciler.tick()
        assert self.job(job).state == "QUEUED"
        return job

    def job(self, job: str) -> JobRow:
        with self.lab.api.gateway.sessions.read() as session:
            query = select(JobRow).where(JobRow.public_id == job).options(selectinload(JobRow.attempts))
            return session.scalars(query).one()

    def end(self, job: str) -> tuple[str, str | None]:
        row = self.job(job)
        return row.state, row.reason

    def attempts(self, job: str) -> list[AttemptRow]:
        return self.job(job).attempts

    def at_scheduler(self, job: str) -> FakeJob:
        return self.scheduler.job(self.attempts(job)[-1].slurm_name)

    def submission(self, job: str) -> Submission:
        return self.at_scheduler(job).submission

    def manifest(self, job: str) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(self.submission(job).files["manifest.json"]))

    def show(self, slurm_job_id: str, sighting: Sighting) -> None:
        next(job for job in self.scheduler.jobs if job.ref.job_id == slurm_job_id).sighting = sighting

    def uploads_begun(self) -> list[str]:
        """Keys of the multipart uploads that are neither joined nor ended."""
        answer = self.store._client.list_multipart_uploads(Bucket=self.bucket)
        return [each["Key"] for each in answer.get("Uploads", [])]

    def start(
        self,
        job: str,
        name: str = "node",
        slurm_job_id: str | None = None,
        *,
        bcftools_script: str | None = None,
        submission: Submission | None = None,
    ) -> Run:
        """Start the job's script as a scheduler would, in a directory of its own."""
        folder = self.path / f"{name}-{job}-{len(self.attempts(job))}"
        submission = submission or self.submission(job)
        for each in ("job", "bin", "tmp"):
            (folder / each).mkdir(parents=True)
        for file, content in {"script.sh": submission.script.encode(), **submission.files}.items():
            (folder / "job" / file).write_bytes(content)
        if bcftools_script is None:
            (folder / "bin/bcftools").symlink_to(self.bcftools)
        else:
            (folder / "bin/bcftools").write_text(bcftools_script.replace("BCFTOOLS", str(self.bcftools)))
            (folder / "bin/bcftools").chmod(0o755)
        (folder / "bin/python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (folder / "bin/python3").chmod(0o755)
        environment = {"PATH": f"{folder}/bin:/usr/bin:/bin", "TMPDIR": f"{folder}/tmp", "LC_ALL": "C"}
        if slurm_job_id is not None:
            environment["SLURM_JOB_ID"] = slurm_job_id
        with (folder / "job/job.log").open("ab") as log:
            process = subprocess.Popen(
                ["bash", "script.sh"],
                cwd=folder / "job",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return Run(process, folder)

    def run(self, job: str) -> tuple[int, str]:
        return self.start(job).wait()

    def settle(self, job: str, status: int) -> None:
        """The scheduler says that the run has ended so; a tick follows."""
        state = "COMPLETED" if status == 0 else "FAILED"
        self.at_scheduler(job).sighting = Sighting(state, exit_code=status, signal=0)
        self.reconciler.tick()

    def objects(self, job: str) -> set[str]:
        """The names under the job's folder in the bucket."""
        prefix = f"results/{job}/"
        return {each.key.removeprefix(prefix) for each in self.store.list_objects(self.bucket, prefix)}


@pytest.fixture
def world(
    sqlite_template: Path,
    seaweed: S3Endpoint,
    door: S3Door,
    bcftools: Path,
    variants: VariantFile,
    bucket_name: str,
    tmp_path: Path,
) -> Iterator[World]:
    shutil.copyfile(sqlite_template, tmp_path / "divbase.sqlite3")
    database = Database(f"sqlite:///{tmp_path / 'divbase.sqlite3'}")
    store = S3Store(
        seaweed.endpoint_url,
        node_endpoint=door.url,
        access_key=seaweed.access_key,
        secret_key=seaweed.secret_key,
    )
    lab = build_lab(database, cast("ObjectStore", store), send_over_http, bucket_name)
    store.ensure_bucket(lab.project.bucket)
    assert variants.index is not None
    for path in (variants.index, variants.path):
        lab.upload_file(path)
    world = World(
        lab,
        FakeScheduler(lab.api.gateway.clock, by_itself=False),
        cast("Reconciler", None),
        door,
        bcftools,
        tmp_path,
    )
    world.restart()
    yield world
    database.close()


def clock_of(world: World) -> FakeClock:
    return cast("FakeClock", world.lab.api.gateway.clock)


# --- the good way --------------------------------------------------------------------------------------------------


def test_a_job_without_a_gateway(world: World) -> None:
    """Guards: claim, inputs, outputs and report go through S3 alone, the result is settled, and no trace is left."""
    job = world.submit()
    assert set(world.submission(job).files) == {"divbase_node.py", "manifest.json"}
    status, log = world.run(job)
    assert (status, "finished: succeeded" in log) == (0, True), log
    assert {".claim-1", ".report-1"} <= world.objects(job)
    world.settle(job, status)
    row = world.job(job)
    assert (row.state, row.reason, [each["role"] for each in row.results]) == (
        "SUCCEEDED",
        None,
        ["result", "index", "provenance", "log"],
    )
    assert [(each.access, each.outcome, bool(each.claimant)) for each in row.attempts] == [
        ("manifest", "succeeded", True)
    ]
    assert world.objects(job) == {"result.vcf.gz", "result.vcf.gz.csi", "provenance.json", "job.log"}
    assert "claimed: query job" in (row.attempts[0].log_tail or "")


def test_a_table_owes_no_index(world: World) -> None:
    """Guards: nothing is signed for an index that will not be, and the job succeeds without one."""
    job = world.submit(after=r"query -f '%CHROM\t%POS\n'")
    assert set(world.manifest(job)["outputs"]) == {"result", "provenance", "log"}
    status, log = world.run(job)
    assert status == 0, log
    world.settle(job, status)
    assert world.end(job) == ("SUCCEEDED", None)
    assert [each["role"] for each in world.job(job).results] == ["result", "provenance", "log"]
    assert world.objects(job) == {"result.tsv", "provenance.json", "job.log"}


def test_neither_script_nor_queue_knows_a_url(world: World) -> None:
    """Guards: whoever reads the script or the queue learns nothing that opens the store."""
    job = world.submit()
    submission = world.submission(job)
    for text in (submission.script, submission.comment, submission.name):
        assert "X-Amz" not in text
        assert world.door.url not in text


def test_a_large_result_goes_in_parts_that_the_gateway_joins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: the URLs of an upload that was begun at submission are enough; its parts are joined and verified."""
    file = simulate(world.path / "large.vcf.gz", samples=300, sites=2500, index="csi")
    assert file.index is not None
    for path in (file.index, file.path):
        world.lab.upload_file(path)
    monkeypatch.setattr(manifests, "parts_for", lambda bytes_total, part_size: (part_size, 4))
    world.restart(part_size=5 * MIB)
    job = world.submit(files=["large.vcf.gz"])
    # The real bcftools, uncompressed: 5 MiB, the least that S3 has for a part, are much of a compressed file.
    status, log = world.start(
        job,
        bcftools_script='#!/bin/sh\nfor a; do [ "$a" = -Oz3 ] && a=-Oz0; '
        'set -- "$@" "$a"; shift; done\nexec BCFTOOLS "$@"\n',
    ).wait()
    assert status == 0, log
    parts = len(world.door.puts("/result.vcf.gz")) - len(world.door.puts("/result.vcf.gz.csi"))
    assert parts > 1
    world.settle(job, status)
    assert world.end(job) == ("SUCCEEDED", None)
    result = world.job(job).results[0]
    assert result["etag"].endswith(f"-{parts}")
    assert world.uploads_begun() == []


def test_an_unused_upload_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: what was begun for a large result costs nothing for good where the result was small."""
    monkeypatch.setattr(manifests, "parts_for", lambda bytes_total, part_size: (part_size, 2))
    job = world.submit()
    assert world.uploads_begun() == [f"results/{job}/result.vcf.gz"]
    status, _ = world.run(job)
    world.settle(job, status)
    assert (world.end(job), world.uploads_begun()) == (("SUCCEEDED", None), [])


@pytest.mark.parametrize("refusal", ["away", "refused"])
def test_an_upload_of_a_job_that_was_not_sent_is_ended(
    world: World, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    """Guards: hours without a scheduler leave no uploads behind, nor does a refusal."""
    monkeypatch.setattr(manifests, "parts_for", lambda bytes_total, part_size: (part_size, 2))
    world.scheduler.away = refusal == "away"
    world.scheduler.refusal = "Invalid account" if refusal == "refused" else None
    job = world.accept()
    world.reconciler.tick()
    assert world.job(job).state == ("ACCEPTED" if refusal == "away" else "FAILED")
    assert "start_multipart" in world.lab.store.calls
    assert world.uploads_begun() == []


def test_the_store_is_away_at_submission(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: nothing is started, nothing is counted, and the job goes out when the store is back."""
    monkeypatch.setattr(manifests, "parts_for", lambda bytes_total, part_size: (part_size, 2))
    world.lab.store.away.add("start_multipart")
    job = world.accept()
    world.reconciler.tick()
    assert (world.job(job).state, world.attempts(job), world.scheduler.accepted) == ("ACCEPTED", [], 0)
    world.lab.store.away.clear()
    world.reconciler.tick()
    assert (world.job(job).state, len(world.attempts(job))) == ("QUEUED", 1)


# --- exactly one claim ---------------------------------------------------------------------------------------------


def test_of_two_runs_at_once_one_does_the_work(world: World) -> None:
    """Guards: the store decides who has the attempt; the other exits 3 and leaves nothing."""
    job = world.submit()
    runs = [world.start(job, name) for name in ("one", "two")]
    ended = [run.wait() for run in runs]
    assert sorted(status for status, _ in ended) == [0, 3], ended
    assert sorted(world.door.puts("/.claim-1")) == [200, 412]
    assert len(world.door.puts("/.report-1")) == 1
    world.settle(job, 0)
    assert world.end(job) == ("SUCCEEDED", None)


def test_a_lost_answer_to_the_claim_is_no_refusal(world: World) -> None:
    """Guards: who finds its own claim in the store has the attempt."""
    world.door.is_hit = lambda method, path: method == "PUT" and ".claim" in path
    world.door.lose_answers = 1
    job = world.submit()
    status, log = world.run(job)
    assert (status, world.door.puts("/.claim-1")) == (0, [200, 412]), log


def test_the_copy_that_claimed_is_followed(world: World) -> None:
    """Guards: sbatch may submit twice; the copy that the gateway was told of ends without work, and fails nothing."""
    world.scheduler.submit_twice = True
    job = world.submit()
    assert [each.slurm_job_id for each in world.attempts(job)] == ["1"]
    assert world.start(job, "worker", "2").wait()[0] == 0
    assert world.start(job, "late", "1").wait()[0] == 3
    world.show("1", Sighting("FAILED", exit_code=3, signal=0))
    world.show("2", RUNNING)
    world.reconciler.tick()
    assert [(each.slurm_job_id, each.outcome) for each in world.attempts(job)] == [("2", None)]
    world.show("2", Sighting("COMPLETED", exit_code=0, signal=0))
    world.reconciler.tick()
    assert world.end(job) == ("SUCCEEDED", None)


def test_a_run_that_was_put_back_into_the_queue_gets_a_new_attempt(world: World) -> None:
    """Guards: the run after a requeue finds the claim taken, by a run of its own id that will never report."""
    job = world.submit()
    reached = threading.Event()

    def hold(method: str, path: str) -> None:
        if method == "GET" and path.endswith("/a.vcf.gz") and not reached.is_set():
            reached.set()
            time.sleep(2)

    world.door.before = hold
    first = world.start(job, "first", "1")
    assert reached.wait(30)
    os.killpg(first.process.pid, signal.SIGKILL)
    first.process.wait()
    assert world.start(job, "again", "1").wait()[0] == 3
    world.show("1", Sighting("FAILED", exit_code=3, signal=0, restarts=1))
    world.reconciler.tick()
    assert (world.job(job).state, [each.outcome for each in world.attempts(job)]) == ("ACCEPTED", ["requeued"])


def test_an_attempt_that_was_given_up_can_no_longer_be_claimed(world: World) -> None:
    """Guards: a submission whose answer was lost and that turns up after the quiet period does nothing."""
    world.scheduler.lose_answer = LostAnswer.AFTER_ACCEPT
    job = world.accept()
    world.scheduler.hidden = True
    world.reconciler.tick()
    first = world.submission(job)
    for _ in range(3):
        clock_of(world).advance(timedelta(seconds=200))
        world.reconciler.tick()
    assert [each.outcome for each in world.attempts(job)][:1] == ["not_submitted"]
    assert world.start(job, submission=first).wait()[0] == 3


def test_an_attempt_that_runs_is_not_given_up(world: World) -> None:
    """Guards: where the scheduler does not say that it has the job, the claim does."""
    world.scheduler.lose_answer = LostAnswer.AFTER_ACCEPT
    job = world.accept()
    world.scheduler.hidden = True
    world.reconciler.tick()
    status, _ = world.run(job)
    for _ in range(3):
        clock_of(world).advance(timedelta(seconds=200))
        world.reconciler.tick()
    assert [each.outcome for each in world.attempts(job)] == [None]
    world.scheduler.hidden = False
    world.reconciler.tick()
    world.settle(job, status)
    assert world.end(job) == ("SUCCEEDED", None)


# --- what goes wrong -----------------------------------------------------------------------------------------------


def test_urls_that_expired_in_the_queue(world: World) -> None:
    """Guards: the node can tell nobody but by its exit status; the next attempt is signed anew, and counted."""
    world.restart(manifest_expiry=timedelta(seconds=1))
    job = world.submit()
    time.sleep(2.1)
    status, log = world.run(job)
    assert (status, "urls_expired" in log) == (76, True), log
    world.restart()
    world.settle(job, status)
    assert (world.job(job).state, [each.outcome for each in world.attempts(job)]) == ("ACCEPTED", ["urls_expired"])
    world.reconciler.tick()
    status, log = world.run(job)
    assert status == 0, log
    world.settle(job, status)
    assert world.end(job) == ("SUCCEEDED", None)


def test_urls_that_expire_for_good_end_the_job(world: World) -> None:
    """Guards: the attempts are bounded, and the reason is the user's to read."""
    world.restart(manifest_expiry=timedelta(seconds=1), max_attempts=1)
    job = world.submit()
    time.sleep(2.1)
    world.settle(job, world.run(job)[0])
    row = world.job(job)
    assert (row.state, row.reason) == ("FAILED", "urls_expired")
    assert "access to the object store" in str(row.message)


def test_urls_that_expire_while_the_job_runs(world: World) -> None:
    """Guards: 403 in the middle is told apart from other refusals."""

    def linger(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("/result.vcf.gz"):
            time.sleep(max(0.0, deadline - time.time()))

    world.restart(manifest_expiry=timedelta(seconds=20))
    job = world.submit()
    deadline = world.manifest(job)["expires_at"] + 1.5
    world.door.before = linger
    status, log = world.run(job)
    assert (status, "push failed: urls_expired" in log) == (76, True), log


def test_the_store_goes_away_at_the_push_and_comes_back(world: World) -> None:
    """Guards: the result waits on the node, and nothing is lost."""

    def leave(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("/result.vcf.gz"):
            world.door.before = lambda method, path: None
            world.door.away = True
            threading.Timer(1.5, lambda: setattr(world.door, "away", False)).start()

    world.door.before = leave
    job = world.submit()
    status, log = world.run(job)
    assert status == 0, log
    world.settle(job, status)
    assert world.end(job) == ("SUCCEEDED", None)


def test_the_store_stays_away(world: World) -> None:
    """Guards: the exit status says what no report can, and another attempt follows."""

    def leave(method: str, path: str) -> None:
        world.door.away = world.door.away or (method == "PUT" and path.endswith("/result.vcf.gz"))

    world.restart(retry_for_s=1)
    world.door.before = leave
    job = world.submit()
    status, log = world.run(job)
    assert status == 74, log
    world.settle(job, status)
    assert (world.job(job).state, world.attempts(job)[0].outcome) == ("ACCEPTED", "store_unavailable")


def test_a_busy_store_is_asked_again(world: World) -> None:
    """Guards: 503 on every kind of request is a pause."""
    world.door.fail = 3
    job = world.submit()
    assert world.run(job)[0] == 0
    seen: set[str] = set()
    world.door.is_hit = lambda method, path: method == "PUT" and path not in seen and not seen.add(path)  # type: ignore[func-returns-value]
    world.door.fail = 100
    other = world.submit()
    assert world.run(other)[0] == 0
    assert len(seen) == 6


def test_a_failure_is_reported_with_its_log(world: World) -> None:
    """Guards: reason, words and log of a failed job reach the user by the report in the bucket."""
    job = world.submit()
    entry = world.manifest(job)["inputs"][0]
    for version in list(world.store.list_versions(world.bucket, entry["key"])):
        if version.key == entry["key"]:
            world.store.delete_version(world.bucket, version.key, version.version_id)
    status, _ = world.run(job)
    assert status == 1
    world.settle(job, status)
    row = world.job(job)
    assert (row.state, row.reason, [each["role"] for each in row.results]) == ("FAILED", "input_missing", ["log"])
    assert "a.vcf.gz is not in the store any more" in str(row.message)


@pytest.mark.parametrize(
    ("number", "status", "reason"),
    [(signal.SIGUSR2, 140, "timed_out"), (signal.SIGTERM, 143, "cancelled")],
)
def test_a_signal_still_ships_log_and_report(world: World, number: int, status: int, reason: str) -> None:
    """Guards: TIMEOUT and scancel leave the log and the reason in the bucket."""
    reached = threading.Event()

    def hold(method: str, path: str) -> None:
        if method == "GET" and path.endswith("/a.vcf.gz"):
            reached.set()
            time.sleep(3)

    world.door.before = hold
    job = world.submit()
    run = world.start(job)
    assert reached.wait(30)
    os.kill(run.process.pid, number)
    assert run.wait()[0] == status
    assert world.objects(job) >= {".claim-1", ".report-1", "job.log"}
    world.settle(job, status)
    assert world.end(job) == ("FAILED", reason)


def test_a_report_that_cannot_be_read_yet_decides_nothing(world: World) -> None:
    """Guards: the scheduler's end and a store that is away are no failure; the job is judged when the store is back."""
    job = world.submit()
    status, _ = world.run(job)
    world.lab.store.away.add("read")
    world.settle(job, status)
    assert world.job(job).state == "FINALIZING"
    world.reconciler.tick()
    assert world.job(job).state == "FINALIZING"
    world.lab.store.away.clear()
    world.reconciler.tick()
    assert world.end(job) == ("SUCCEEDED", None)


def test_the_store_is_not_asked_for_each_of_many_reports_while_it_is_away(world: World) -> None:
    """Guards: a tick does not wait minutes for every job; the failed ones are asked for last when it is back."""
    jobs = [world.submit() for _ in range(5)]
    for job in jobs:
        world.at_scheduler(job).sighting = Sighting("FAILED", exit_code=1, signal=0)
    world.lab.store.away.add("read")
    before = world.lab.store.calls.count("read")
    world.reconciler.tick()
    assert world.lab.store.calls.count("read") - before == 3
    world.lab.store.away.clear()
    world.reconciler.tick()
    assert [world.end(job) for job in jobs] == [("FAILED", "script_failed")] * 5


def test_no_report_is_no_success(world: World) -> None:
    """Guards: what the scheduler calls completed and nobody reported has failed, as with a gateway."""
    job = world.submit()
    world.settle(job, 0)
    assert world.end(job) == ("FAILED", "result_missing")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"size": 7}, "result_mismatch"),
        ({"md5s": ["XUFAKrxLKna5cZ2REBfFkg=="]}, "result_mismatch"),
        ({"version_id": "0123456789abcdef"}, "result_mismatch"),
        ({"multipart": True}, "upload_failed"),
        ({"role": "everything"}, "internal_error"),
    ],
)
def test_a_report_is_not_believed(world: World, changed: dict[str, Any], reason: str) -> None:
    """Guards: what the bucket has is compared with what was reported, and nonsense is an error with words."""
    world.restart(max_attempts=1)
    job = world.submit()
    status, _ = world.run(job)
    key = manifests.control_key(job, 1, "report")
    report = json.loads(world.store.read(world.bucket, key, None, 0, MIB))
    report["outputs"][0] |= changed
    world.store.write(world.bucket, key, json.dumps(report).encode())
    world.settle(job, status)
    assert world.end(job) == ("FAILED", reason)


def test_doctor_finds_out_what_the_store_does(world: World, seaweed: S3Endpoint) -> None:
    """Guards: with `manifest` the doctor tries a conditional PUT where the files are, and leaves nothing behind."""
    before = [each.key for each in world.store.list_versions(world.bucket)]
    s3 = S3Settings(endpoint=seaweed.endpoint_url, access_key=seaweed.access_key, secret_key=seaweed.secret_key)
    database = DatabaseSettings(url=f"sqlite:///{world.path / 'divbase.sqlite3'}")
    local = SchedulerSettings(folder=world.path / "jobs")
    found = {
        access: {each.name: each for each in examine(Settings(s3=s3, database=database, scheduler=local, jobs=jobs))}
        for access, jobs in (("gateway", JobSettings()), ("manifest", JobSettings(node_access="manifest")))
    }
    assert "conditional PUT" not in found["gateway"]
    assert found["manifest"]["conditional PUT"].ok
    assert world.bucket in found["manifest"]["conditional PUT"].words
    assert [each.key for each in world.store.list_versions(world.bucket)] == before


# --- the cache that jobs share -------------------------------------------------------------------------------------


def test_a_job_that_has_all_from_the_cache(world: World) -> None:
    """Guards: the cache reaches jobs by the manifest, and the second asks a real S3 for no byte of its inputs."""
    cache = NodeCache(str(world.path / "cache"), 10**9)
    world.restart(cache=cache)
    results = []
    for name in ("first", "second"):
        job = world.submit(fresh=True)
        assert world.manifest(job)["cache"] == {"folder": cache.folder, "bytes": cache.bytes}
        world.door.passed.clear()
        status, log = world.start(job, name).wait()
        world.settle(job, status)
        assert world.end(job) == ("SUCCEEDED", None), log
        results.append(world.store.read(world.bucket, f"results/{job}/result.vcf.gz", None, 0, 1 << 20))
    read = [each.path for each in world.door.passed if each.method == "GET" and "a.vcf.gz" in each.path]
    assert (read, results[1]) == ([], results[0])
    assert "of it from the cache (2 spans)" in log


def test_no_cache_in_a_manifest_unless_the_site_has_one(world: World) -> None:
    """Guards: off by default."""
    assert world.manifest(world.submit())["cache"] is None


# --- the whole, with the embedded scheduler ------------------------------------------------------------------------


def test_a_whole_job_with_the_embedded_scheduler(world: World, bcftools: Path) -> None:
    """Guards: accepted, submitted, run and settled by real scheduler and thread, with no port of the gateway open."""
    gateway = world.lab.api.gateway
    scheduler = LocalScheduler(world.path / "jobs", 1, SystemClock(), path_prefix=bcftools.parent)
    policy = replace(gateway.policy, node_access="manifest", node_url="http://127.0.0.1:1")
    reconciler = Reconciler(
        gateway.sessions, scheduler, gateway.store, SystemClock(), policy, Pace(busy=0.2, idle=0.2), "whole"
    )
    job = world.accept()
    scheduler.start(on_end=reconciler.wake)
    reconciler.start()
    try:
        deadline = time.monotonic() + 60
        while not world.job(job).ended_at and time.monotonic() < deadline:
            time.sleep(0.2)
        while world.objects(job) & {".claim-1", ".report-1"} and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        reconciler.stop()
        scheduler.stop(end_running=True)
    assert world.end(job) == ("SUCCEEDED", None)
    assert world.objects(job) == {"result.vcf.gz", "result.vcf.gz.csi", "provenance.json", "job.log"}
    assert [each["key"] for each in world.lab.files()] == ["a.vcf.gz", "a.vcf.gz.csi"]
