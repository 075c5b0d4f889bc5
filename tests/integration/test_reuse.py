"""A question that was answered before: the earlier job is the answer where its files are all there, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from divbase_gateway.db.models import JobRow
from divbase_gateway.domain.projects import Role
from httpx import Response
from sqlalchemy import select

from tests.variants import VariantFile, simulate
from tests.world import COMPLETED, FAILED, World

pytestmark = pytest.mark.slow  # many requests each


EVERYTHING = {"all_samples": True, "command": "view"}


def ask(world: World, once: str | None = None, project: str | None = None, **query: Any) -> Response:
    path = f"/projects/{project or world.lab.project.name}/jobs"
    return world.lab.editor.post(path, {**EVERYTHING, **query}, once)


def answered(world: World) -> str:
    """A job of the question that has succeeded."""
    job = world.submit()
    settle(world, job)
    return job


def settle(world: World, job: str) -> None:
    """Let a job that the scheduler has succeed."""
    world.node(job).work()
    world.sees(job, COMPLETED)
    world.tick()
    assert world.state(job) == "SUCCEEDED"


def jobs_there_are(world: World) -> list[str]:
    with world.gateway.sessions.read() as session:
        return list(session.scalars(select(JobRow.public_id).where(JobRow.kind == "query").order_by(JobRow.id)))


def test_an_equal_question_is_answered_by_the_job_that_answered_it(world: World) -> None:
    """Guards: the same job, said to be reused, with its results; nothing is accepted, nothing goes to the scheduler."""
    job = answered(world)
    accepted = world.scheduler.accepted
    answer = ask(world)
    assert (answer.status_code, answer.json()["id"], answer.json()["reused"]) == (200, job, True)
    assert [each["role"] for each in answer.json()["results"]] == ["result", "index"]
    world.tick()
    assert (jobs_there_are(world), world.scheduler.accepted) == ([job], accepted)


def test_what_was_asked_now_is_told_of_itself(world: World, tmp_path: Path) -> None:
    """Guards: another way of choosing the same inputs is answered too; that one of its samples has no records there is
    said of this question, although the job of then was not asked for that sample."""
    elsewhere = simulate(tmp_path / "b.vcf.gz", samples=["T"], sites={"chr1": 5}, index="csi")
    assert elsewhere.index is not None
    for path in (elsewhere.index, elsewhere.path):
        world.lab.upload_file(path)
    asked: dict[str, Any] = {"all_samples": False, "command": "view -r chr2"}
    job = ask(world, **asked, samples=["S001"], files=["a*"]).json()["id"]
    world.tick()
    settle(world, job)
    answer = ask(world, **asked, samples=["S001", "T"]).json()
    assert (answer["id"], answer["reused"]) == (job, True)
    assert (answer["plan"]["dropped_samples"], len(answer["plan"]["warnings"])) == (["T"], 1)
    assert answer["query"]["samples"] == ["S001"]


def test_a_repeat_gets_the_same_answer(world: World) -> None:
    """Guards: the same Idempotency-Key is answered alike, whatever became of the result in between."""
    job = answered(world)
    first = ask(world, once="twice")
    remove(world, job, "result")
    second = ask(world, once="twice")
    assert second.headers["Idempotent-Replay"] == "true"
    assert (second.status_code, second.json()) == (200, first.json())


def remove(world: World, job: str, role: str) -> None:
    (result,) = [each for each in world.job(job).results if each["role"] == role]
    world.store.delete_version(world.lab.project.bucket, result["key"], result["version_id"])


@pytest.mark.parametrize("role", ["result", "index"])
def test_a_result_that_is_gone_answers_nothing(world: World, role: str) -> None:
    """Guards: every file of the result is looked at, in its version."""
    job = answered(world)
    remove(world, job, role)
    answer = ask(world)
    assert (answer.status_code, answer.json()["reused"]) == (201, False)
    assert answer.json()["id"] != job


def test_a_result_of_another_size_answers_nothing(world: World) -> None:
    """Guards: that something is there under the name is not enough."""
    job = answered(world)
    with world.gateway.sessions.write() as session:
        row = session.scalars(select(JobRow).where(JobRow.public_id == job)).one()
        row.results = [{**each, "size": each["size"] + 1} for each in row.results]
    assert ask(world).status_code == 201


def test_a_store_that_is_away_does_not_keep_a_job_from_being_accepted(world: World) -> None:
    """Guards: what cannot be verified is not answered, and submission depends on no store."""
    answered(world)
    world.lab.store.away = {"head"}
    assert ask(world).status_code == 201


def test_fresh_runs_it_again(world: World) -> None:
    """Guards: who doubts gets a new job, and that one answers from then on."""
    first = answered(world)
    again = ask(world, fresh=True)
    assert (again.status_code, again.json()["reused"]) == (201, False)
    second = again.json()["id"]
    assert second != first
    assert "fresh" not in again.json()["query"]
    world.tick()
    settle(world, second)
    assert ask(world).json()["id"] == second


def test_a_changed_file_asks_anew(world: World, variants: VariantFile) -> None:
    """Guards: a new version of an input is another question, and the old version's result is no answer to it."""
    answered(world)
    world.lab.upload("other.txt", b"no input of it")
    assert ask(world).status_code == 200
    world.lab.delete("a.vcf.gz")
    world.lab.upload_file(variants.path)
    assert ask(world).status_code == 201


def test_only_success_answers(world: World) -> None:
    """Guards: neither a failed job nor one that still runs is the answer to anything: who joined a running one would
    lose it when somebody else cancels."""
    failed = world.submit()
    world.node(failed).claim()
    world.sees(failed, FAILED)
    world.tick()
    assert world.state(failed) == "FAILED"
    running = ask(world)
    assert running.status_code == 201
    assert ask(world).status_code == 201


def test_another_project_is_another_world(world: World, variants: VariantFile) -> None:
    """Guards: equal files in another project do not show what is in this one."""
    answered(world)
    api = world.lab.api
    other = api.add_project("alder")
    api.add_member(other, world.lab.editor.user, Role.EDIT)
    world.lab.project = other
    assert variants.index is not None
    for path in (variants.index, variants.path):
        world.lab.upload_file(path)
    assert ask(world, project="alder").status_code == 201


def test_a_result_costs_nothing_of_what_is_left(world: World) -> None:
    """Guards: no limit is counted for what does not run, and nothing is said of what it would take."""
    job = answered(world)
    root = world.lab.api.add_caller("root@example.org", admin=True)
    path = f"/projects/{world.lab.project.name}/allocation"
    assert root.request("PATCH", path, json={"max_open_jobs": 0}).status_code == 200
    assert ask(world, fresh=True).json()["code"] == "limit_reached"
    assert root.request("PATCH", path, json={"max_memory_mb": 1}).status_code == 200
    planned = world.lab.editor.post(f"{world.lab.path}/queries/plan", EVERYTHING).json()
    assert planned["warnings"][0].startswith("It would be refused.")
    answer = ask(world).json()
    assert (answer["id"], answer["plan"]["warnings"]) == (job, [])
