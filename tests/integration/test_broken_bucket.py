"""One project's bucket that refuses the gateway, or is gone, beside another's that works: the other notices nothing.

The broken one belongs to the project that was there first, so that everything which goes by age comes to it first.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from divbase_gateway.db.models import UploadRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import DatabaseUnavailable, NotFound, StoreUnavailable
from divbase_gateway.domain.projects import Role
from divbase_gateway.domain.sidecars import GRACE
from divbase_gateway.services import aftermath, sidecars, uploads
from divbase_gateway.services.rounds import Round
from divbase_gateway.services.uploads import UPLOAD_LIFETIME
from sqlalchemy import select

from tests.integration import test_sidecars_api as copying
from tests.integration import test_spread as spreading
from tests.integration.test_retention import DAY, Project
from tests.lab import PART_SIZE, refusal
from tests.variants import VariantFile
from tests.world import FAILED, World

pytestmark = pytest.mark.slow  # many requests each

copy = copying.copy

REFUSED = ["AccessDenied", "NoSuchBucket"]
SECOND = timedelta(seconds=1)


def beside(world: World, name: str) -> World:
    """Another project of the same gateway, with the same file."""
    lab = replace(world.lab, project=world.lab.api.add_project(name))
    lab.api.add_member(lab.project, lab.editor.user, Role.EDIT)
    other = replace(world, lab=lab)
    assert world.variants.index is not None
    for path in (world.variants.index, world.variants.path):
        lab.upload_file(path)
    return other


def break_bucket(world: World, code: str) -> None:
    world.lab.store.refusals[world.lab.project.bucket] = code


@pytest.fixture
def other(world: World) -> World:
    return beside(world, "alder")


def managed(world: World, who: str) -> Project:
    manager = world.lab.api.add_caller(who)
    world.lab.api.add_member(world.lab.project, manager.user, Role.MANAGE)
    return Project(world, manager)


# --- results -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True], ids=["not begun", "begun before"])
@pytest.mark.parametrize("code", REFUSED)
def test_the_other_s_results_are_removed(world: World, other: World, code: str, begun: bool) -> None:
    """Guards: also where many removals of the broken one were begun before, which come first in each round; those go
    on when it is mended, and what went with a bucket is removed."""
    broken, well = managed(world, "mona@example.org"), managed(other, "mika@example.org")
    jobs = {}
    for project in (broken, well):
        project.keep(10)
        jobs[project.lab.project.name] = [project.answered(name=f"r{number}") for number in range(4)]
    broken.pass_days(9)
    if begun:
        world.lab.store.away = {"delete_version"}
        world.tick(after=DAY)
        world.lab.store.away = set()
    break_bucket(world, code)
    world.tick(after=DAY)
    for job in jobs["alder"]:
        assert (well.objects(job), world.job(job).results_cleared_at) == (
            ["job.log", "provenance.json"],
            world.clock.now(),
        )
    cleared = [world.job(job).results_cleared_at is not None for job in jobs["birch"]]
    assert cleared == [code == "NoSuchBucket"] * 4
    world.lab.store.refusals.clear()
    world.tick(after=timedelta(minutes=5))
    assert all(world.job(job).results_cleared_at is not None for job in jobs["birch"])


def test_no_removal_is_begun_that_cannot_be_finished(world: World, other: World) -> None:
    """Guards: of a bucket that refuses, one result shows it; the others can be had and pinned until it is mended."""
    broken = managed(world, "mona@example.org")
    broken.keep(10)
    jobs = [broken.answered(name=f"r{number}") for number in range(3)]
    broken.pass_days(9)
    break_bucket(world, "AccessDenied")
    for _ in range(3):
        world.tick(after=DAY)
    assert [broken.is_removed(job) for job in jobs] == [True, False, False]


# --- uploads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", REFUSED)
def test_the_other_s_uploads_are_given_up(world: World, other: World, code: str) -> None:
    """Guards: also while results of the broken one are to be removed; parts that went with a bucket are forgotten."""
    broken = managed(world, "mona@example.org")
    broken.keep(10)
    broken.answered()
    broken.pass_days(9)
    large = b"x" * (PART_SIZE + 1)
    for each in (world, other):
        assert each.lab.begin("big.txt", large).status_code == 201
    break_bucket(world, code)
    world.tick(after=UPLOAD_LIFETIME + SECOND)
    with world.gateway.sessions.read() as session:
        left = [row.project_id for row in session.scalars(select(UploadRow).where(UploadRow.completed_at.is_(None)))]
    assert left == ([world.lab.project.id] if code == "AccessDenied" else [])


# --- copies and directories ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", REFUSED)
def test_the_other_s_copies_are_written_and_removed(world: World, other: World, copy: copying.Copy, code: str) -> None:
    """Guards: and its job's directory goes, though the log of the broken one's has no place to go to."""
    both = [managed(world, "mona@example.org"), managed(other, "mika@example.org")]
    for each in both:
        copying.switch(each.world, each.manager, on=True)
    world.tick()
    world.tick()
    lost, job = (str(copying.jobs(each)[0]["id"]) for each in (world, other))
    node = world.node(lost)
    assert node.claim().status_code == 200
    assert node.report("disk_full", "The node has no room.").status_code == 200
    world.sees(lost, FAILED)
    world.at_scheduler(lost).log = b"no room"
    break_bucket(world, code)
    copying.write(other, job, copy)
    assert copying.reads_copies(copying.planned(other)) == [True]
    discarded = [ref.name for ref in world.scheduler.discarded]
    assert world.attempts(job)[-1].slurm_name in discarded
    assert (world.attempts(lost)[-1].slurm_name in discarded) is (code == "NoSuchBucket")
    for each in both:
        copying.switch(each.world, each.manager, on=False)
    world.tick(copying.SWEEP)
    world.tick(GRACE)
    assert copying.hidden(other) == []


def test_no_number_of_broken_things_takes_the_place_of_the_other_s(
    world: World, other: World, copy: copying.Copy
) -> None:
    """Guards: a round that takes one of each comes to the other's, though the broken one's are older."""
    large = b"x" * (PART_SIZE + 1)
    for each in (world, other):
        assert each.lab.begin("big.txt", large).status_code == 201
        copying.switch(each, managed(each, f"mo@{each.lab.project.name}.org").manager, on=True)
    world.tick()
    world.tick()
    jobs = [str(copying.jobs(each)[0]["id"]) for each in (world, other)]
    for job in jobs:
        node = world.node(job)
        node.claim()
        node.report("bcftools_failed", "No such tag.")
        world.sees(job, FAILED)
        world.at_scheduler(job).log = b"no such tag"
    world.lab.store.away = {"write", "list_versions"}
    world.tick()
    world.lab.store.away = set()
    break_bucket(world, "AccessDenied")
    database, store, now = world.gateway.sessions, world.gateway.store, world.clock.now()
    with pytest.raises(StoreUnavailable, match="AccessDenied"):
        sidecars.look_after(database, store, 1, now, sweep=False)
    with pytest.raises(StoreUnavailable, match="AccessDenied"):
        aftermath.discard_directories(database, world.scheduler, store, 1, now)
    with pytest.raises(StoreUnavailable, match="AccessDenied"):
        uploads.give_up(database, store, now + UPLOAD_LIFETIME + SECOND, 1)
    found = [copying.sidecar(each) for each in (world, other)]
    assert [each["state"] for each in found if each is not None] == ["WRITING", "NONE"]
    assert [world.attempts(job)[-1].discarded_at for job in jobs] == [None, now]
    with database.read() as session:
        assert session.scalars(select(UploadRow.project_id).where(UploadRow.completed_at.is_(None))).all() == [
            world.lab.project.id
        ]


# --- shards --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", REFUSED)
def test_what_the_other_s_shards_made_is_removed(spread: World, code: str) -> None:
    """Guards: a query that is over leaves nothing, whatever another project's leaves."""
    world, other = spread, beside(spread, "alder")
    jobs = [each.accept() for each in (world, other)]
    world.tick()
    for shard in [*spreading.shards_of(world, jobs[0]), *spreading.shards_of(world, jobs[1])]:
        spreading.work(world, shard)
    world.tick()
    world.tick()
    for each, job in zip((world, other), jobs, strict=True):
        spreading.join(each, job)
    world.lab.store.away = {"delete_version"}
    world.tick()
    assert [world.state(job) for job in jobs] == ["SUCCEEDED", "SUCCEEDED"]
    assert spreading.hidden(other)
    world.lab.store.away = set()
    break_bucket(world, code)
    world.tick()
    assert spreading.hidden(other) == []
    assert (world.job(jobs[0]).shards_until is None) is (code == "NoSuchBucket")


@pytest.fixture
def spread(database: Database, variants: VariantFile) -> World:
    """A gateway whose queries are spread over three shards each."""
    return spreading.world_of(database, variants, spreading.site())


# --- a round -------------------------------------------------------------------------------------------------------


def test_a_store_that_does_not_answer_ends_the_round() -> None:
    """Guards: after three timeouts nobody waits for a fourth; answers that refuse a bucket are no timeouts."""
    turn = Round()
    for number in range(6):
        with turn.at(f"b{number}"):
            raise refusal("AccessDenied", "reading")
    for number in range(2):
        with turn.at(f"c{number}"):
            raise StoreUnavailable("No answer.")
    with pytest.raises(StoreUnavailable, match="'b0' and 8 others waits"), turn.at("c2"):
        raise StoreUnavailable("No answer.")


def test_a_round_in_which_nothing_refused_says_nothing() -> None:
    """Guards: the end of a good round is no fault; a database that is away is none of a bucket."""
    turn = Round()
    with turn.at("b0"):
        pass
    turn.end()
    with pytest.raises(DatabaseUnavailable), turn.at("b0"):
        raise DatabaseUnavailable("Locked.")
    assert not turn.skips("b0")
    with turn.at("b0"):
        raise NotFound("No bucket.")
    assert turn.skips("b0")
    with pytest.raises(StoreUnavailable, match="bucket 'b0' waits: No bucket"):
        turn.end()
