"""Results whose time is over: announced, kept while they are used or pinned, removed once and for all, made again.

A store that goes away or a gateway that dies in the middle leaves nothing that is promised and gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from divbase_gateway.bootstrap import job_policy
from divbase_gateway.db.models import JobRow, ProjectRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.projects import Role
from divbase_gateway.reconciler import Pace, Reconciler
from divbase_gateway.services import retention
from divbase_gateway.settings import JobSettings, Settings
from httpx import Response
from sqlalchemy import select

from tests.api import Caller
from tests.lab import Lab, lab_on_s3
from tests.statements import statements_of
from tests.variants import VariantFile
from tests.world import COMPLETED, RESULT, Killed, World, index_of, work_on_index, world_of

pytestmark = pytest.mark.slow  # many requests each


DAY, HOUR = timedelta(days=1), timedelta(hours=1)
QUERY = {"all_samples": True, "command": "view"}


@dataclass
class Project:
    """The world with somebody who manages its project."""

    world: World
    manager: Caller

    @property
    def lab(self) -> Lab:
        return self.world.lab

    @property
    def path(self) -> str:
        return f"{self.lab.path}/retention"

    def keep(self, days: int | None, *, dry_run: bool = False) -> dict[str, Any]:
        answer = self.manager.request("PUT", self.path, json={"days": days, "dry_run": dry_run})
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def answered(self, **query: Any) -> str:
        """A job that has succeeded, with everything that a job leaves."""
        answer = self.lab.editor.post(f"{self.lab.path}/jobs", {**QUERY, **query})
        assert answer.status_code == 201, answer.text
        self.world.tick()
        return self.settle(answer.json()["id"])

    def settle(self, job: str) -> str:
        node = self.world.node(job)
        assert node.claim().status_code == 200
        node.push("result.vcf.gz", "result", RESULT)
        node.push("result.vcf.gz.csi", "index", b"its index")
        node.push("provenance.json", "provenance", b"{}")
        node.push("job.log", "log", b"done")
        assert node.report().status_code == 200
        self.world.sees(job, COMPLETED)
        self.world.tick()
        assert self.world.state(job) == "SUCCEEDED"
        return job

    def get(self, path: str, **params: Any) -> Response:
        return self.lab.editor.get(f"{self.lab.path}/{path}", **params)

    def download(self, job: str, way: str) -> Response:
        if way == "result":
            return self.get(f"jobs/{job}/result")
        return self.get("files/download", key=f"results/{job}/result.vcf.gz")

    def job(self, job: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.get(f"jobs/{job}").json()
        return shown

    def objects(self, job: str) -> list[str]:
        """Names of what the bucket has of a job, every version."""
        there = self.lab.store.inner.list_versions(self.lab.project.bucket, f"results/{job}/")
        return sorted(each.key.rpartition("/")[2] for each in there)

    def pass_days(self, count: int) -> None:
        """Time goes by, with the gateway at work all the while."""
        for _ in range(count):
            self.world.tick(after=DAY)

    def jump_days(self, count: int) -> None:
        """The same in one step, while the project keeps results for ever: no warning is due that could be missed."""
        self.world.tick(after=count * DAY)

    def is_removed(self, job: str) -> bool:
        return bool(self.world.job(job).results_removed_at)


@pytest.fixture
def project(world: World) -> Project:
    api = world.lab.api
    manager = api.add_caller("mona@example.org")
    api.add_member(world.lab.project, manager.user, Role.MANAGE)
    return Project(world, manager)


@pytest.fixture
def aged(project: Project) -> str:
    """A result that nobody has used for longer than the ten days that the project keeps any; it is due now."""
    project.keep(10)
    job = project.answered()
    project.pass_days(9)
    project.world.clock.advance(DAY)
    return job


# --- the end of a result -------------------------------------------------------------------------------------------


def test_nothing_is_removed_unless_somebody_says_so(project: Project) -> None:
    """Guards: for ever is the default, of project and site."""
    job = project.answered()
    project.jump_days(60)
    shown = project.job(job)
    assert (shown["expires_at"], shown["warn_from"], shown["pinned"]) == (None, None, False)
    assert project.get(f"jobs/{job}/result").status_code == 200


def test_a_result_is_removed_when_its_time_is_over(project: Project) -> None:
    """Guards: to the hour that was told, result and index in all their versions, and what is said then."""
    project.keep(10)
    job = project.answered()
    ended = project.world.clock.now()
    shown = project.job(job)
    assert shown["expires_at"] == (ended + 10 * DAY).isoformat().replace("+00:00", "Z")
    assert shown["warn_from"] == (ended + 5 * DAY).isoformat().replace("+00:00", "Z")
    project.pass_days(9)
    project.world.tick(after=DAY - HOUR)
    assert project.objects(job) == ["job.log", "provenance.json", "result.vcf.gz", "result.vcf.gz.csi"]
    project.world.tick(after=2 * HOUR)
    assert project.objects(job) == ["job.log", "provenance.json"]
    refused = project.get(f"jobs/{job}/result")
    assert (refused.status_code, refused.json()["code"]) == (410, "result_removed")
    assert refused.json()["detail"] == (
        f"The result of job {job} was removed on 2025-06-11 13:00 UTC by the retention of 10 days of project birch."
    )
    assert f"divbase jobs rerun {job}" in refused.json()["hint"]
    assert refused.json()["details"]["days"] == 10
    shown = project.job(job)
    assert shown["results_removed_at"] == "2025-06-11T13:00:00Z"
    assert (shown["state"], shown["expires_at"]) == ("SUCCEEDED", None)
    assert [each["role"] for each in shown["results"]] == ["result", "index", "provenance", "log"]


def test_what_was_done_stays_on_record(project: Project, aged: str) -> None:
    """Guards: log and provenance can be had by every way after the removal, the result by none."""
    project.world.tick()
    assert project.get(f"jobs/{aged}/log").json() == {"text": "done", "complete": True}
    for name in ("provenance.json", "job.log"):
        assert project.get("files/download", key=f"results/{aged}/{name}").status_code == 200
    for name in ("result.vcf.gz", "result.vcf.gz.csi"):
        assert project.get("files/download", key=f"results/{aged}/{name}").status_code == 410


def test_what_other_jobs_made_is_no_result(project: Project, tmp_path: Path) -> None:
    """Guards: indexes that DivBase built belong to their files and stay, whatever their age."""
    world = project.world
    job, index = index_of(world, tmp_path)
    world.tick()
    work_on_index(world, job, index)
    assert project.lab.info("b.vcf.gz")["state"] == "READY"
    project.keep(1)
    project.pass_days(9)
    assert not project.is_removed(job)
    index_key = project.lab.info("b.vcf.gz")["index_key"]
    assert len(project.lab.objects(index_key)) == 1
    assert project.job(job)["expires_at"] is None


# --- a warning before anything -----------------------------------------------------------------------------------


def test_a_change_says_first_what_it_would_remove(project: Project) -> None:
    """Guards: count, bytes and date, of a dry run and of the change alike; a dry run changes nothing."""
    old = project.answered()
    project.jump_days(20)
    project.answered(name="young")
    now = project.world.clock.now()
    planned = project.keep(25, dry_run=True)
    assert planned == project.keep(25)
    size = len(RESULT) + len(b"its index")
    assert (planned["results"], planned["bytes"]) == (2, 2 * size)
    assert (planned["soon_results"], planned["soon_bytes"]) == (1, size)
    assert planned["first_at"] == (now + 7 * DAY).isoformat().replace("+00:00", "Z")
    assert project.keep(0, dry_run=True)["first_at"] is None
    assert project.get("retention").json()["holds_days"] == 25
    project.pass_days(6)
    assert not project.is_removed(old)
    project.pass_days(1)
    assert project.is_removed(old)


def test_what_a_change_makes_due_at_once_has_a_week(project: Project) -> None:
    """Guards: a result far over its new time is warned of at once, and removed no sooner than a week later."""
    job = project.answered()
    project.jump_days(60)
    project.keep(1)
    now = project.world.clock.now()
    shown = project.job(job)
    assert shown["expires_at"] == (now + 7 * DAY).isoformat().replace("+00:00", "Z")
    assert shown["warn_from"] == now.isoformat().replace("+00:00", "Z")
    project.pass_days(6)
    project.world.tick(after=DAY - HOUR)
    assert not project.is_removed(job)
    project.world.tick(after=HOUR)
    assert project.is_removed(job)


def test_a_change_back_keeps_everything(project: Project) -> None:
    """Guards: who takes it back within the week has lost nothing, and the next change has a week of its own."""
    job = project.answered()
    project.jump_days(30)
    project.keep(1)
    project.pass_days(6)
    project.keep(0)
    project.jump_days(3)
    project.keep(1)
    project.pass_days(6)
    assert not project.is_removed(job)


def test_the_site_s_own_number_has_its_week_too(project: Project) -> None:
    """Guards: a setting that an operator changes removes nothing at once, and a project may keep for ever all the
    same."""
    job = project.answered()
    project.jump_days(30)
    world = project.world
    policy = job_policy(Settings(jobs=JobSettings(result_days=10)))
    world.reconciler = Reconciler(
        world.gateway.sessions, world.scheduler, world.gateway.store, world.clock, policy, Pace(), "the first"
    )
    world.tick()
    assert project.job(job)["expires_at"] == (world.clock.now() + 7 * DAY).isoformat().replace("+00:00", "Z")
    project.pass_days(6)
    assert not project.is_removed(job)
    project.keep(0)
    project.pass_days(6)
    assert not project.is_removed(job)


def test_a_gateway_that_was_away_warns_before_it_removes(project: Project) -> None:
    """Guards: what came to its end while nobody could see a warning has a week from the start on."""
    project.keep(10)
    job = project.answered()
    project.world.clock.advance(60 * DAY)
    project.world.tick()
    assert not project.is_removed(job)
    project.pass_days(6)
    assert not project.is_removed(job)
    project.pass_days(1)
    assert project.is_removed(job)


@pytest.mark.parametrize("days", [-1, 3651, "soon"])
def test_days_have_bounds(project: Project, days: object) -> None:
    """Guards: what is no number of days is refused by its name."""
    answer = project.manager.request("PUT", project.path, json={"days": days})
    assert answer.status_code == 422
    assert "body.days" in answer.json()["detail"]


# --- use -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["result", "file"])
def test_a_download_begins_the_time_anew(project: Project, way: str) -> None:
    """Guards: by either way, and written down once a day however often it is downloaded."""
    project.keep(10)
    job = project.answered()
    project.pass_days(9)
    assert project.download(job, way).status_code == 200
    noted = project.world.job(job).results_used_at
    assert noted == project.world.clock.now()
    project.world.clock.advance(23 * HOUR)
    with statements_of(project.world.gateway.sessions) as said:
        assert project.download(job, way).status_code == 200
    assert not [each for each in said if each.startswith("UPDATE jobs")]
    project.pass_days(9)
    assert not project.is_removed(job)
    project.pass_days(1)
    assert project.is_removed(job)


def test_a_look_at_the_log_is_no_use(project: Project) -> None:
    """Guards: what stays anyway keeps nothing else."""
    project.keep(10)
    job = project.answered()
    before = project.world.job(job).results_used_at
    project.pass_days(5)
    assert project.get(f"jobs/{job}/log").status_code == 200
    assert project.get("files/download", key=f"results/{job}/job.log").status_code == 200
    assert project.world.job(job).results_used_at == before


def test_an_equal_question_is_a_use(project: Project, aged: str) -> None:
    """Guards: an answer is never one that is removed in the next moment: its time begins anew, though it was over."""
    answer = project.lab.editor.post(f"{project.lab.path}/jobs", QUERY)
    assert (answer.status_code, answer.json()["id"]) == (200, aged)
    project.pass_days(9)
    assert not project.is_removed(aged)


def test_a_result_that_goes_while_an_equal_question_is_asked_is_no_answer(project: Project, aged: str) -> None:
    """Guards: between the look into the store and the answer the job is looked at again, held."""
    world, looks = project.world, []

    def remove() -> None:
        looks.append(1)
        if len(looks) == 1:
            assert retention.remove_expired(world.gateway.sessions, world.store, world.clock.now(), 10) == 1

    world.lab.store.before["head"] = remove
    answer = project.lab.editor.post(f"{project.lab.path}/jobs", QUERY)
    assert looks
    assert (answer.status_code, answer.json()["reused"]) == (201, False)
    assert answer.json()["id"] != aged


def test_a_removal_that_is_only_decided_answers_nothing(project: Project, aged: str) -> None:
    """Guards: a job that was found before the decision is refused where it is held."""
    world = project.world
    with world.gateway.sessions.read() as session:
        found = session.scalars(select(JobRow).where(JobRow.public_id == aged)).one()
    world.lab.store.away = {"delete_version"}
    world.tick()
    assert project.objects(aged) == ["job.log", "provenance.json", "result.vcf.gz", "result.vcf.gz.csi"]
    with world.gateway.sessions.write() as session:
        assert not retention.claim_answer(session, found, world.clock.now())
    assert project.lab.editor.post(f"{project.lab.path}/jobs", QUERY).status_code == 201


def test_a_use_in_the_last_moment_keeps_it(project: Project, aged: str) -> None:
    """Guards: what was found due is looked at again, held, before anything is decided."""
    world = project.world
    now = world.clock.now()
    with world.gateway.sessions.read() as session:
        row = session.scalars(select(JobRow).where(JobRow.public_id == aged)).one()
    with world.gateway.sessions.write() as session:
        assert retention.claim_answer(session, row, now)
    with world.gateway.sessions.write() as session:
        assert retention._begin(session, row.id, now) is None
    world.tick()
    assert not project.is_removed(aged)


# --- pinned --------------------------------------------------------------------------------------------------------


def pin(project: Project, job: str, who: Caller | None = None, method: str = "PUT") -> Response:
    return (who or project.lab.editor).request(method, f"{project.lab.path}/jobs/{job}/pin")


def test_a_pinned_result_stays(project: Project) -> None:
    """Guards: whatever its age, shown as such, and counted apart."""
    project.keep(1)
    job = project.answered()
    assert pin(project, job).json()["pinned"] is True
    assert pin(project, job).status_code == 200
    project.pass_days(9)
    assert project.get(f"jobs/{job}/result").status_code == 200
    shown = project.job(job)
    assert (shown["pinned"], shown["expires_at"]) == (True, None)
    told = project.get("retention").json()
    assert (told["pinned"], told["results"], told["first_at"]) == (1, 0, None)
    assert project.get("jobs").json()["items"][0]["pinned"] is True


def test_unpinned_it_has_its_whole_time_again(project: Project) -> None:
    """Guards: a result that was pinned for long is not removed in the hour after."""
    project.keep(10)
    job = project.answered()
    pin(project, job)
    project.pass_days(12)
    assert pin(project, job, method="DELETE").json()["pinned"] is False
    project.pass_days(9)
    assert not project.is_removed(job)
    project.pass_days(1)
    assert project.is_removed(job)


def test_a_job_may_be_pinned_before_it_ends(project: Project) -> None:
    """Guards: who knows beforehand need not come back in time."""
    project.keep(1)
    job = project.world.submit()
    assert pin(project, job).status_code == 200
    project.settle(job)
    project.pass_days(9)
    assert not project.is_removed(job)


def test_too_late_is_said(project: Project, aged: str) -> None:
    """Guards: a pin on what is removed promises nothing."""
    project.world.tick()
    assert pin(project, aged).status_code == 410


def test_only_its_owner_and_managers_pin(project: Project) -> None:
    """Guards: what somebody else asked for is not theirs to keep or to let go."""
    other = project.lab.api.add_caller("otto@example.org")
    project.lab.api.add_member(project.lab.project, other.user, Role.EDIT)
    job = project.answered()
    for method in ("PUT", "DELETE"):
        assert pin(project, job, other, method).status_code == 403
        assert pin(project, job, project.manager, method).status_code == 200


def test_what_has_no_result_is_not_pinned(project: Project) -> None:
    """Guards: an error says that there is nothing to keep, and why."""
    job = project.world.accept()
    assert project.world.cancel(job).status_code == 200
    refused = pin(project, job)
    assert refused.status_code == 409
    assert "ended as CANCELLED" in refused.json()["detail"]


# --- faults --------------------------------------------------------------------------------------------------------


def test_a_store_that_goes_away_in_the_middle_leaves_nothing_promised(project: Project, aged: str) -> None:
    """Guards: refused from the decision on, counted until it is gone, not run again into its own removal, and finished
    when the store is back."""
    world = project.world
    world.lab.store.away = {"delete_version"}
    world.tick()
    assert project.get(f"jobs/{aged}/result").status_code == 410
    assert project.get("storage").json()["results"] == len(RESULT) + len(b"its index")
    refused = world.rerun(aged)
    assert refused.status_code == 409
    assert "is being removed" in refused.json()["detail"]
    world.lab.store.away = set()
    world.tick(after=timedelta(minutes=4))
    assert len(project.objects(aged)) == 4
    world.tick(after=timedelta(minutes=1))
    assert project.objects(aged) == ["job.log", "provenance.json"]
    assert project.get("storage").json()["results"] == 0
    assert world.job(aged).results_removed_at == world.job(aged).ended_at + 10 * DAY  # type: ignore[operator]


@pytest.mark.parametrize("calls", [1, 2])
def test_a_gateway_that_dies_in_the_middle_goes_on_at_the_start(project: Project, aged: str, calls: int) -> None:
    """Guards: before the first and between two deletions."""
    world, left = project.world, [calls]

    def die() -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed

    world.lab.store.before["delete_version"] = die
    with pytest.raises(Killed):
        world.tick()
    world.lab.store.before.clear()
    assert len(project.objects(aged)) == 5 - calls
    assert project.get(f"jobs/{aged}/result").status_code == 410
    world.restart("the first")
    world.tick()
    assert project.objects(aged) == ["job.log", "provenance.json"]
    assert world.job(aged).results_cleared_at is not None


def overtake(project: Project, aged: str) -> None:
    """While the store keeps the leader waiting, another has removed the result, and the user has made it again."""
    world, leader = project.world, project.world.reconciler

    def others() -> None:
        world.lab.store.before.clear()
        world.restart("the second")
        world.tick(after=timedelta(minutes=1))
        assert world.job(aged).results_cleared_at is not None
        assert world.rerun(aged).status_code == 201
        world.tick()
        project.settle(aged)

    world.lab.store.before["list_versions"] = others
    leader.tick()


@pytest.mark.parametrize("begun", [False, True])
def test_a_leader_that_was_overtaken_removes_nothing_new(project: Project, aged: str, begun: bool) -> None:
    """Guards: what was made after the removal stays, whoever still believes to be at it."""
    world = project.world
    if begun:
        world.lab.store.away = {"delete_version"}
        world.tick()
        world.lab.store.away = set()
        world.clock.advance(timedelta(minutes=5))
    overtake(project, aged)
    assert project.objects(aged)[-2:] == ["result.vcf.gz", "result.vcf.gz.csi"]
    assert project.get(f"jobs/{aged}/result").status_code == 200
    row = world.job(aged)
    assert (row.results_removed_at, row.results_cleared_at) == (None, None)


def test_a_removal_that_was_carried_out_is_not_repeated(project: Project, aged: str) -> None:
    """Guards: a bucket is asked nothing any more about what is done."""
    project.world.tick()
    project.lab.store.calls.clear()
    project.world.tick(after=2 * HOUR)
    assert "delete_version" not in project.lab.store.calls
    assert "list_versions" not in project.lab.store.calls


def test_a_round_takes_so_many_and_the_next_goes_on(project: Project) -> None:
    """Guards: bounded, the longest unused first, and nothing is left behind."""
    project.keep(10)
    jobs = [project.answered(name=f"r{number}") for number in range(3)]
    project.pass_days(9)
    world = project.world
    world.clock.advance(DAY)
    removed = []
    while retention.remove_expired(world.gateway.sessions, world.gateway.store, world.clock.now(), 1):
        removed.append([job for job in jobs if project.is_removed(job)])
    assert removed == [jobs[:1], jobs[:2], jobs]


def test_other_projects_are_not_affected(project: Project, aged: str) -> None:
    """Guards: each has its own number."""
    with project.world.gateway.sessions.write() as session:
        session.add(ProjectRow(name="alder", bucket="b-alder", created_at=project.world.clock.now()))
    project.world.tick()
    assert project.is_removed(aged)
    with project.world.gateway.sessions.read() as session:
        alder = session.scalars(select(ProjectRow).where(ProjectRow.name == "alder")).one()
    assert alder.retention_days is None


# --- made again ----------------------------------------------------------------------------------------------------


def test_a_removed_result_is_made_again(project: Project, aged: str) -> None:
    """Guards: the same job, a new attempt on the same versions, and its time from then on."""
    world = project.world
    world.tick()
    answer = world.rerun(aged)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["state"], answer.json()["results_removed_at"]) == ("ACCEPTED", None)
    world.tick()
    project.settle(aged)
    assert project.get(f"jobs/{aged}/result").status_code == 200
    shown = project.job(aged)
    assert (shown["attempt"], shown["results_removed_at"]) == (2, None)
    project.pass_days(9)
    assert not project.is_removed(aged)
    project.pass_days(1)
    assert project.is_removed(aged)


def test_a_result_that_is_there_is_not_made_again(project: Project) -> None:
    """Guards: only what was removed."""
    job = project.answered()
    refused = project.world.rerun(job)
    assert refused.status_code == 409
    assert "its result is there" in refused.json()["detail"]


@pytest.mark.parametrize("key", ["a.vcf.gz", "a.vcf.gz.csi"])
def test_an_input_that_is_gone_is_named(project: Project, aged: str, key: str) -> None:
    """Guards: before anything is accepted, with its version; also where it is an index."""
    project.world.tick()
    (version,) = project.lab.objects(key)
    project.world.store.delete_version(project.lab.project.bucket, key, version)
    refused = project.world.rerun(aged)
    assert refused.status_code == 409
    assert refused.json()["details"]["missing"] == [f"{key} (version {version})"]
    assert f"{key} (version {version}) is not in the bucket any more" in refused.json()["detail"]
    assert project.world.state(aged) == "SUCCEEDED"


def test_a_repeated_rerun_gets_the_same_answer(project: Project, aged: str) -> None:
    """Guards: also after the inputs are gone, which nobody looks at again."""
    world = project.world
    world.tick()
    path = f"{project.lab.path}/jobs/{aged}/rerun"
    first = project.lab.editor.post(path, {}, once="again")
    (version,) = project.lab.objects("a.vcf.gz")
    world.store.delete_version(project.lab.project.bucket, "a.vcf.gz", version)
    assert project.lab.editor.post(path, {}, once="again").json() == first.json()


# --- on a real store -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_nothing_of_it_is_left_in_a_real_bucket(
    database: Database, variants: VariantFile, request: pytest.FixtureRequest, bucket_name: str,
    make_project: Callable[[Lab], Project],
) -> None:  # fmt: skip
    """Guards: every version and marker under the names of result and index is gone from S3, and nothing else is."""
    lab = lab_on_s3(database, request.getfixturevalue("seaweed"), bucket_name)
    project = make_project(lab)
    bucket = lab.project.bucket
    project.keep(10)
    job = project.answered()
    lab.store.inner.write(bucket, f"results/{job}/result.vcf.gz", b"of a copy that came late")
    lab.store.inner.delete(bucket, f"results/{job}/result.vcf.gz")
    project.pass_days(10)
    assert project.objects(job) == ["job.log", "provenance.json"]
    assert len(lab.objects("a.vcf.gz")) == 1


@pytest.fixture
def make_project(variants: VariantFile) -> Callable[[Lab], Project]:
    def make(lab: Lab) -> Project:
        world = world_of(lab, variants)
        manager = lab.api.add_caller("mona@example.org")
        lab.api.add_member(lab.project, manager.user, Role.MANAGE)
        return Project(world, manager)

    return make
