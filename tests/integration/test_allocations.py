"""What projects may use at the cluster, over the API on both databases: who sets it, what is capped, what is refused
and with which numbers, and what a month used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from divbase_gateway.db import allocations as rows
from divbase_gateway.db import usage as usage_rows
from divbase_gateway.db.models import AttemptRow, FileRow, FileVersionRow, JobRow, ProjectRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.projects import Role
from divbase_gateway.settings import FileSettings, LimitSettings, SchedulerSettings, Settings
from httpx import Response
from sqlalchemy import select

from tests.api import Api, Caller, build_api
from tests.fakes.clock import FakeClock
from tests.fakes.object_store import FakeObjectStore
from tests.fakes.scheduler import FakeScheduler
from tests.lab import FaultyStore, Lab, send_in_memory, together
from tests.statements import at_each_statement, statements_of
from tests.variants import simulate

JUNE = datetime(2025, 6, 1, tzinfo=UTC)  # the clock of the tests stands at noon of this day
ONE_FILE = {"all_samples": True, "files": ["a.vcf.gz"]}  # 1 core, 1024 MB, 10 minutes
TWO_FILES = {"all_samples": True}  # 2 cores, 1024 MB, 10 minutes
ONE_FILE_HOURS, TWO_FILES_HOURS = 1 / 6, 1 / 3
UNLIMITED = dict.fromkeys(
    ("account", "partition", "qos", "wckey", "max_cores", "max_memory_mb", "max_minutes", "max_open_jobs"), None
) | {"core_hours_a_month": None, "max_bytes": None}


@dataclass
class World:
    """Projects `owls` and `terns` with two files each; `ada` may query in both, `root` is the site's admin."""

    api: Api
    owls: ProjectRow
    terns: ProjectRow
    ada: Caller
    root: Caller

    def run(self, query: dict[str, Any] = ONE_FILE, project: str = "owls", once: str | None = None) -> Response:
        return self.ada.post(f"/projects/{project}/jobs", query, once)

    def accept(self, query: dict[str, Any] = ONE_FILE, project: str = "owls") -> str:
        answer = self.run(query, project)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def set(self, project: str = "owls", **values: Any) -> dict[str, Any]:
        answer = self.root.request("PATCH", f"/projects/{project}/allocation", json=values)
        assert answer.status_code == 200, answer.text
        return cast("dict[str, Any]", answer.json())

    def usage(self, month: str | None = None, project: str = "owls") -> dict[str, Any]:
        answer = self.ada.get(f"/projects/{project}/usage", **({} if month is None else {"month": month}))
        assert answer.status_code == 200, answer.text
        return cast("dict[str, Any]", answer.json())

    def end(self, job: str, state: str = "FAILED", **attempt: Any) -> None:
        """Settle a job after an attempt of one core that ran for the last hour, unless `attempt` says otherwise."""
        now = self.api.gateway.clock.now()
        ran = {"elapsed_s": 3600.0, "ended_at": now, "started_at": now - timedelta(hours=1), "outcome": "timeout"}
        with self.api.gateway.sessions.write() as session:
            row = session.scalars(select(JobRow).where(JobRow.public_id == job)).one()
            row.state, row.attempt = state, row.attempt + 1
            session.add(
                AttemptRow(
                    job_id=row.id,
                    number=row.attempt,
                    slurm_name=f"divbase-{job}-{row.attempt}",
                    token_sha256="0" * 64,
                    created_at=now,
                    uploads=[],
                    **{"cores": 1, "memory_mb": 1024, "minutes": 60, **ran, **attempt},
                )
            )


@pytest.fixture
def make_world(database: Database, clock: FakeClock) -> Callable[..., World]:
    """A world of these limits of the site."""

    def make(scheduler: SchedulerSettings | None = None, **limits: Any) -> World:
        settings = Settings(
            limits=LimitSettings(**limits),
            scheduler=scheduler or SchedulerSettings(),
            files=FileSettings(part_size_mib=5),
        )
        store = FakeObjectStore(clock.now)
        api = build_api(database, FaultyStore(store), FakeScheduler(clock), clock, settings)  # type: ignore[arg-type]
        owls, terns = api.add_project("owls"), api.add_project("terns")
        ada, root = api.add_caller("ada@example.org"), api.add_caller("root@example.org", admin=True)
        for project in (owls, terns):
            api.add_member(project, ada.user, Role.EDIT)
            for key in ("a.vcf.gz", "b.vcf.gz"):
                add_variants(api, project.id, key)
        return World(api, owls, terns, ada, root)

    return make


def add_variants(api: Api, project_id: int, key: str, size: int = 1000) -> None:
    """A variant file of sample S, ready for queries, as the catalogue would have it."""
    contig = "1" if key.startswith("a") else "2"
    with api.gateway.sessions.write() as session:
        file = FileRow(project_id=project_id, key=key)
        session.add(file)
        session.flush()
        version = FileVersionRow(
            file_id=file.id, version_id="v1", size=size, etag="e1", sha256=None, format="vcf.gz", state="READY",
            samples=["S"], contigs=[[contig, 1000, 5]], index_key=f".divbase/{key}.csi", index_version_id="v2",
            index_kind="csi", index_size=100, index_etag="e2", uploaded_at=JUNE,
        )  # fmt: skip
        session.add(version)
        session.flush()
        file.current_id = version.id


def refusal(answer: Response, code: str) -> dict[str, Any]:
    """The problem of a refused request."""
    problem: dict[str, Any] = answer.json()
    status = {"limit_reached": 409, "beyond_ceiling": 422}[code]
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    return problem


# --- the allocation ------------------------------------------------------------------------------------------------


def test_a_member_sees_the_project_s_values_and_the_site_s(make_world: Callable[..., World]) -> None:
    """What the project has none of is null, and `site` has what holds then."""
    scheduler = SchedulerSettings(account="divbase", partition="main")
    world = make_world(scheduler, max_minutes=600, open_jobs_per_project=20)
    world.set(account="popgen", max_minutes=60)
    assert world.ada.get("/projects/owls/allocation").json() == {
        **UNLIMITED,
        "project": "owls",
        "account": "popgen",
        "max_minutes": 60,
        "site": {**UNLIMITED, "account": "divbase", "partition": "main", "max_minutes": 600, "max_open_jobs": 20},
    }


def test_only_what_is_sent_is_changed_and_null_clears(make_world: Callable[..., World]) -> None:
    """A second change leaves the first alone; null takes one value away."""
    world = make_world()
    world.set(account="popgen", qos="fast", max_open_jobs=3, core_hours_a_month=10.5)
    changed = world.set(qos=None, max_cores=2)
    seen = {name: changed[name] for name in UNLIMITED}
    assert seen == {**UNLIMITED, "account": "popgen", "max_open_jobs": 3, "core_hours_a_month": 10.5, "max_cores": 2}


@pytest.mark.parametrize(
    "body", [{"account": "a b"}, {"account": "x\n#SBATCH"}, {"max_cores": 0}, {"max_memory_mb": -1}, {"colour": "red"}]
)
def test_a_value_that_cannot_be_one_is_refused(make_world: Callable[..., World], body: dict[str, Any]) -> None:
    """Nothing goes into an #SBATCH line that may not stand there, and unknown fields are named."""
    world = make_world()
    answer = world.root.request("PATCH", "/projects/owls/allocation", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_fields")
    assert next(iter(body)) in answer.json()["detail"]


def test_a_change_reaches_the_next_script(make_world: Callable[..., World]) -> None:
    """The project's account is charged from then on."""
    world = make_world(SchedulerSettings(account="divbase"))
    world.set(account="popgen")
    script = world.ada.post("/projects/owls/queries/script", ONE_FILE).json()["script"]
    assert "#SBATCH --account=popgen\n" in script
    plan = world.ada.post("/projects/owls/queries/plan", ONE_FILE).json()
    assert (plan["account"], plan["partition"], plan["qos"]) == ("popgen", None, None)
    assert 0 < plan["expected_s"] < 60 * plan["minutes"]


# --- ceilings ------------------------------------------------------------------------------------------------------


def test_cores_are_capped_everywhere(make_world: Callable[..., World]) -> None:
    """Plan, script and job have the cores that are allowed, and the plan says so."""
    world = make_world(max_cores=1)
    plan = world.ada.post("/projects/owls/queries/plan", TWO_FILES).json()
    assert plan["cores"] == 1
    assert "1 of the 2 cores" in " ".join(plan["warnings"])
    assert "--cpus-per-task=1\n" in world.ada.post("/projects/owls/queries/script", TWO_FILES).json()["script"]
    assert world.run(TWO_FILES).json()["cores"] == 1


def test_a_project_may_be_allowed_more_than_the_site_allows(make_world: Callable[..., World]) -> None:
    """Its own number holds, not the lower of the two; another project's does not matter."""
    world = make_world(max_cores=1)
    world.set(max_cores=2)
    assert world.run(TWO_FILES).json()["cores"] == 2
    assert world.run(TWO_FILES, "terns").json()["cores"] == 1


@pytest.mark.parametrize("whose", ["site", "project"])
@pytest.mark.parametrize(
    ("name", "ceiling", "asked", "words", "option"),
    [
        ("max_memory_mb", 512, 1024, "1024 MB of memory, where 512 are the most", "--max-memory"),
        ("max_minutes", 5, 10, "10 minutes, where 5 are the most", "--max-time"),
    ],
)
def test_memory_and_time_beyond_the_ceiling_are_refused(
    make_world: Callable[..., World], whose: str, name: str, ceiling: int, asked: int, words: str, option: str
) -> None:
    """The job would die of less: POST and script refuse with both numbers and who can change it, the plan warns."""
    world = make_world(**({name: ceiling} if whose == "site" else {}))
    if whose == "project":
        world.set(**{name: ceiling})
    for answer in (world.run(), world.ada.post("/projects/owls/queries/script", ONE_FILE)):
        problem = refusal(answer, "beyond_ceiling")
        assert words in problem["detail"]
        assert f"site admin to allow more: `divbase projects allocation set owls {option}" in problem["hint"]
        field = name.removeprefix("max_")
        assert problem["details"]["exceeded"] == {field: {"asked": asked, "ceiling": ceiling}}
    plan = world.ada.post("/projects/owls/queries/plan", ONE_FILE).json()
    assert words in " ".join(plan["warnings"])
    assert world.ada.get("/projects/owls/jobs").json()["items"] == []


def test_a_rerun_keeps_to_the_ceilings_of_its_day(make_world: Callable[..., World]) -> None:
    """What was lowered since the job was accepted holds for its next attempt."""
    world = make_world()
    job = world.accept(TWO_FILES)
    world.end(job)
    world.set(max_minutes=9)
    assert "10 minutes" in refusal(world.ada.post(f"/projects/owls/jobs/{job}/rerun"), "beyond_ceiling")["detail"]
    world.set(max_minutes=None, max_cores=1)
    assert world.ada.post(f"/projects/owls/jobs/{job}/rerun").json()["cores"] == 1


# --- limits --------------------------------------------------------------------------------------------------------


def test_open_jobs_of_a_project_are_limited(make_world: Callable[..., World]) -> None:
    """The refusal has the numbers and who can change them; when a job has ended there is room again."""
    world = make_world(open_jobs_per_project=2)
    first = world.accept()
    world.accept()
    problem = refusal(world.run(), "limit_reached")
    assert problem["detail"] == "Project owls has 2 open jobs, and 2 is the limit: 0 are left."
    assert "divbase projects allocation set owls --max-open-jobs" in problem["hint"]
    assert problem["details"] == {
        "of": "project", "name": "owls", "what": "open_jobs",
        "used": 2, "committed": 0, "this_job": 1, "limit": 2, "left": 0,
    }  # fmt: skip
    assert world.run(project="terns").status_code == 201
    world.end(first)
    assert world.run().status_code == 201


def test_a_project_s_own_limit_wins(make_world: Callable[..., World]) -> None:
    """Upwards and downwards; 0 stops a project."""
    world = make_world(open_jobs_per_project=1)
    world.set(max_open_jobs=2)
    world.set("terns", max_open_jobs=0)
    assert [world.run().status_code for _ in range(3)] == [201, 201, 409]
    assert world.run(project="terns").status_code == 409


def test_open_jobs_of_a_user_are_limited_over_all_projects(make_world: Callable[..., World]) -> None:
    """Another user is not in the way."""
    world = make_world(open_jobs_per_user=1)
    bob = world.api.add_caller("bob@example.org")
    world.api.add_member(world.owls, bob.user, Role.QUERY)
    world.accept(project="owls")
    problem = refusal(world.run(project="terns"), "limit_reached")
    assert problem["detail"].startswith("User ada@example.org has 1 open job, and 1 is the limit")
    assert "limits.open_jobs_per_user" in problem["hint"]
    assert bob.post("/projects/owls/jobs", ONE_FILE).status_code == 201


def test_core_hours_of_a_month_are_limited(make_world: Callable[..., World]) -> None:
    """Used and what open jobs may use and this job at its worst, together; all of it is said."""
    world = make_world(core_hours_per_project_month=2.5)
    world.end(world.accept(), alloc_cpus=2)  # 2 core-hours
    world.accept(TWO_FILES)
    problem = refusal(world.run(TWO_FILES), "limit_reached")
    assert problem["detail"] == (
        "Project owls has 0.17 of 2.5 core-hours of 2025-06 left, and this job may use 0.33 (2 cores for 10 minutes): "
        "2 are used, and open jobs may use 0.33."
    )
    assert "divbase projects allocation set owls --core-hours" in problem["hint"]
    assert problem["details"] == {
        "of": "project", "name": "owls", "what": "core_hours", "month": "2025-06",
        "used": 2.0, "committed": 0.33, "this_job": 0.33, "limit": 2.5, "left": 0.17,
    }  # fmt: skip
    assert world.run(ONE_FILE).status_code == 201  # 1/6 fits exactly


def test_core_hours_of_a_user_are_limited_over_all_projects(make_world: Callable[..., World]) -> None:
    """With the operator as the one who can change it."""
    world = make_world(core_hours_per_user_month=1.1)
    world.end(world.accept(project="owls"))
    problem = refusal(world.run(project="terns"), "limit_reached")
    assert problem["details"]["of"] == "user"
    assert "limits.core_hours_per_user_month" in problem["hint"]


def test_a_new_month_begins_at_zero(make_world: Callable[..., World], clock: FakeClock) -> None:
    """What was used before it counts no more."""
    world = make_world(core_hours_per_project_month=1.0)
    world.end(world.accept())
    refusal(world.run(), "limit_reached")
    clock.advance(timedelta(days=30))
    assert world.run().status_code == 201


def test_a_rerun_is_refused_like_a_new_job(make_world: Callable[..., World]) -> None:
    """It stays as it ended, and runs when there is room."""
    world = make_world()
    job = world.accept()
    world.end(job)
    world.set(max_open_jobs=0)
    refusal(world.ada.post(f"/projects/owls/jobs/{job}/rerun"), "limit_reached")
    assert world.ada.get(f"/projects/owls/jobs/{job}").json()["state"] == "FAILED"
    world.set(max_open_jobs=1)
    assert world.ada.post(f"/projects/owls/jobs/{job}/rerun").status_code == 201


def test_a_refused_request_may_be_repeated_and_an_accepted_one_is_only_told_again(
    make_world: Callable[..., World],
) -> None:
    """A refusal is not kept under its Idempotency-Key, and a repeat of what was accepted needs no room."""
    world = make_world(open_jobs_per_project=1)
    accepted = world.run(once="first")
    refusal(world.run(once="second"), "limit_reached")
    assert world.run(once="first").json()["id"] == accepted.json()["id"]
    world.end(accepted.json()["id"])
    assert world.run(once="second").status_code == 201


def test_an_upload_never_meets_a_limit(make_world: Callable[..., World], tmp_path: Path) -> None:
    """Its index job is accepted with no room and below every ceiling, and takes no room from queries."""
    world = make_world(max_memory_mb=1, max_minutes=1)
    world.set(max_open_jobs=0, core_hours_a_month=0.0)
    store = cast("FaultyStore", world.api.gateway.store)
    lab = Lab(world.api, store, world.owls, world.ada, send_in_memory(cast("FakeObjectStore", store.inner)))
    file = lab.upload_file(simulate(tmp_path / "new.vcf.gz").path)
    assert (file["state"], lab.index_jobs()) == ("INDEXING", ["index new.vcf.gz"])
    world.set(max_open_jobs=1, core_hours_a_month=None, max_memory_mb=2000, max_minutes=20)
    assert world.run().status_code == 201


def test_a_rerun_of_an_index_job_meets_no_limit(make_world: Callable[..., World], tmp_path: Path) -> None:
    """The file would stay unusable."""
    world = make_world(open_jobs_per_project=0, open_jobs_per_user=0, core_hours_per_project_month=0)
    store = cast("FaultyStore", world.api.gateway.store)
    lab = Lab(world.api, store, world.owls, world.ada, send_in_memory(cast("FakeObjectStore", store.inner)))
    lab.upload_file(simulate(tmp_path / "new.vcf.gz").path)
    job = lab.info("new.vcf.gz")["index_job"]
    world.end(job)
    assert world.ada.post(f"/projects/owls/jobs/{job}/rerun").status_code == 201


@pytest.mark.parametrize("limit", ["open_jobs_per_project", "core_hours_per_project_month"])
def test_requests_at_the_same_time_do_not_slip_through_together(make_world: Callable[..., World], limit: str) -> None:
    """Of eight at once those are accepted that one after the other would be."""
    world = make_world(**{limit: 3 if limit.startswith("open") else 3 * ONE_FILE_HOURS})
    calls = [lambda number=number: world.run(once=f"at-once-{number}") for number in range(8)]
    statuses = [answer.status_code for answer in together(*calls)]
    assert sorted(statuses) == [201] * 3 + [409] * 5


def test_a_user_does_not_slip_through_in_two_projects_at_once(make_world: Callable[..., World]) -> None:
    """A user's limit is counted over all projects, so requests to different projects wait for each other too."""
    world = make_world(open_jobs_per_user=1)
    calls = [
        lambda number=number: world.run(project=("owls", "terns")[number % 2], once=f"at-once-{number}")
        for number in range(6)
    ]
    assert sorted(answer.status_code for answer in together(*calls)) == [201] + [409] * 5


def test_without_limits_nothing_is_counted(make_world: Callable[..., World]) -> None:
    """A site that limits nothing pays nothing for it."""
    world = make_world(max_cores=4)
    with statements_of(world.api.gateway.sessions) as statements:
        world.accept()
    assert statements
    assert not any("sum(" in statement for statement in statements)


# --- usage ---------------------------------------------------------------------------------------------------------


def test_usage_of_this_month(make_world: Callable[..., World]) -> None:
    """Used, what the open jobs may use, and what is left."""
    world = make_world(core_hours_per_project_month=10, open_jobs_per_project=5)
    world.end(world.accept())
    world.accept(TWO_FILES)
    world.end(world.accept(project="terns"))
    assert world.usage() == {
        "project": "owls", "month": "2025-06", "core_hours": 1.0, "committed": TWO_FILES_HOURS, "limit": 10.0,
        "left": pytest.approx(9 - TWO_FILES_HOURS), "jobs": 1, "open_jobs": 1, "max_open_jobs": 5,
    }  # fmt: skip


def test_usage_of_another_month_has_no_open_jobs(make_world: Callable[..., World]) -> None:
    """An attempt counts in the month that it ended in, whole, and the last second of a month belongs to it."""
    world = make_world()
    for ended in (JUNE - timedelta(seconds=1), JUNE):
        world.end(world.accept(), ended_at=ended)
    world.accept()
    may = world.usage("2025-05")
    assert (may["core_hours"], may["jobs"], may["committed"], may["open_jobs"]) == (1.0, 1, 0.0, 0)
    assert (may["limit"], may["left"]) == (None, None)
    june = world.usage("2025-06")
    assert (june["core_hours"], june["jobs"], june["open_jobs"]) == (1.0, 1, 1)


@pytest.mark.parametrize("month", ["2025-13", "2025-1", "June", "2025-06-01", "0001-01"])
def test_what_is_no_month_is_refused(make_world: Callable[..., World], month: str) -> None:
    """With the name of the parameter."""
    answer = make_world().ada.get("/projects/owls/usage", month=month)
    assert answer.status_code == 422
    assert "month" in answer.json()["detail"]


def test_every_attempt_of_a_job_counts(make_world: Callable[..., World]) -> None:
    """What an earlier attempt used stays used, and the open job counts for the next."""
    world = make_world()
    job = world.accept()
    world.end(job, alloc_cpus=4)
    world.ada.post(f"/projects/owls/jobs/{job}/rerun")
    seen = world.usage()
    assert (seen["core_hours"], seen["jobs"], seen["open_jobs"]) == (4.0, 1, 1)
    assert seen["committed"] == pytest.approx(ONE_FILE_HOURS)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_only_open_jobs_and_the_month_s_attempts_are_read(database: Database) -> None:
    """However long the history is: SQLite says how it would go about it."""
    found: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if not statement.startswith("EXPLAIN"):
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            found.extend(row[3] for row in plan)

    with at_each_statement(database, explain), database.read() as session:
        rows.open_now(session, project_id=1)
        rows.open_now(session, user_id=1)
        usage_rows.core_seconds(session, JUNE, JUNE + timedelta(days=30), project_id=1)
        usage_rows.core_seconds(session, JUNE, JUNE + timedelta(days=30), user_id=1)
        rows.attempts_between(session, 1, JUNE, JUNE + timedelta(days=30))
    of_attempts = "SEARCH attempts USING COVERING INDEX ix_attempts_use (ended_at>? AND ended_at<?)"
    of_their_jobs = "SEARCH jobs USING INTEGER PRIMARY KEY (rowid=?)"
    assert found == [
        *["SCAN jobs USING COVERING INDEX ix_jobs_open_use"] * 2,
        *(of_attempts, of_their_jobs) * 3,
    ]


# --- what SLURM refuses --------------------------------------------------------------------------------------------


def test_a_refusal_of_the_scheduler_names_what_it_was_told(make_world: Callable[..., World]) -> None:
    """Only SLURM knows which accounts there are: its words, the project's account, and who does something."""
    world = make_world(SchedulerSettings(partition="main"))
    world.set(account="nobody")
    job = world.accept()
    cast("FakeScheduler", world.api.gateway.scheduler).refusal = "Invalid account"
    world.api.gateway.reconciler.tick()
    seen = world.ada.get(f"/projects/owls/jobs/{job}").json()
    assert (seen["state"], seen["reason"]) == ("FAILED", "submission_refused")
    assert "Invalid account" in seen["message"]
    told = (
        "The job was submitted with account 'nobody' (set for project owls), partition 'main' (set for the whole site)."
    )
    assert told in seen["message"]
