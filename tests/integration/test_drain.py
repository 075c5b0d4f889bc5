"""The operator holds submission back: what goes on, what does not, and who is told why."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from divbase_gateway.domain.drain import Drain
from divbase_gateway.domain.errors import InvalidRequest
from divbase_gateway.services import drain

from tests.world import COMPLETED, World


def begin(world: World, reason: str = "new disks until noon") -> Drain:
    with world.gateway.sessions.write() as session:
        return drain.begin(session, reason, world.clock.now())


def end(world: World) -> Drain | None:
    with world.gateway.sessions.write() as session:
        return drain.end(session)


def shown(world: World, job: str) -> dict[str, Any]:
    answer: dict[str, Any] = world.lab.editor.get(f"{world.lab.path}/jobs/{job}").json()
    return answer


def test_nothing_is_submitted_while_it_lasts(world: World) -> None:
    """Guards: jobs are accepted and wait, and go out when it ends."""
    begin(world)
    job = world.accept()
    world.tick()
    assert (world.state(job), world.scheduler.accepted, world.attempts(job)) == ("ACCEPTED", 0, [])
    assert end(world) is not None
    world.tick()
    assert (world.state(job), world.scheduler.accepted) == ("QUEUED", 1)


def test_a_drain_in_the_middle_of_a_tick_stops_what_was_not_begun(world: World) -> None:
    """Guards: after the command has answered no submission begins, although a tick had found jobs to submit."""
    first, second = world.accept(), world.accept()
    world.scheduler.before_answer = lambda: begin(world)
    world.tick()
    assert (world.state(first), world.state(second), world.scheduler.accepted) == ("QUEUED", "ACCEPTED", 1)


def test_jobs_that_the_scheduler_has_are_followed_and_settled(world: World) -> None:
    """Guards: only submission is held back."""
    job = world.submit()
    begin(world)
    world.node(job).work()
    world.sees(job, COMPLETED)
    world.tick()
    assert world.end(job) == ("SUCCEEDED", None)


def test_users_are_told_why_their_job_waits(world: World) -> None:
    """Guards: in the answer to the query, in every look and in every listing, for accepted jobs and no others."""
    queued = world.submit()
    begin(world)
    words = (
        f"DivBase's operator holds submission back since {world.clock.now():%Y-%m-%d %H:%M} UTC: new disks until noon"
    )
    answer = world.lab.editor.post(f"{world.lab.path}/jobs", {"all_samples": True, "command": "view"})
    assert (answer.status_code, answer.json()["waiting"]) == (201, words)
    job = answer.json()["id"]
    assert shown(world, job)["waiting"] == words
    listed = world.lab.editor.get(f"{world.lab.path}/jobs").json()["items"]
    assert {each["id"]: each["waiting"] == words for each in listed if each["kind"] == "query"} == {
        job: True,
        queued: False,
    }
    end(world)
    assert "holds" not in shown(world, job)["waiting"]


def test_draining_again_changes_the_reason_and_not_the_time(world: World) -> None:
    """Guards: the command may be repeated."""
    since = begin(world).since
    world.clock.advance(timedelta(hours=1))
    assert begin(world, "it takes\n longer") == Drain("it takes longer", since)
    assert end(world) == Drain("it takes longer", since)
    assert end(world) is None


@pytest.mark.parametrize("reason", ["", "  \n", "x" * 501])
def test_a_reason_that_users_cannot_read_is_refused(world: World, reason: str) -> None:
    """Guards: who is made to wait is told why, in a line."""
    with pytest.raises(InvalidRequest):
        begin(world, reason)
    assert end(world) is None


def test_ready_mentions_it_and_is_ok(world: World) -> None:
    """Guards: whoever watches sees it, and nobody is woken at night for it."""
    ready = world.lab.api.client.get("/api/v1/ready").json()
    assert "submission" not in ready["checks"]
    begin(world)
    world.clock.advance(timedelta(seconds=5))
    answer = world.lab.api.client.get("/api/v1/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert answer.json()["checks"]["submission"].endswith("UTC: new disks until noon")
