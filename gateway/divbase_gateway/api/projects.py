"""Routes about projects: their members, what they keep and for how long. It knows the wire models and no rules."""

from __future__ import annotations

from divbase_client import models
from fastapi import Response

from divbase_gateway.api.auth import Admin, Manager, Reader, User
from divbase_gateway.api.deps import ReadSession, TheGateway, WriteSession
from divbase_gateway.api.idempotency import Once, idempotently
from divbase_gateway.api.pagination import Paging
from divbase_gateway.api.routes import new_router
from divbase_gateway.db.session import after_commit
from divbase_gateway.domain.projects import Role
from divbase_gateway.domain.retention import GRACE
from divbase_gateway.services import projects, retention, storage
from divbase_gateway.services.projects import Member, ProjectSummary
from divbase_gateway.services.retention import Effect

router = new_router("projects")


@router.get("/projects")
def list_projects(caller: User, session: ReadSession, paging: Paging) -> models.Page[models.Project]:
    """One's own projects by name; a site admin's are all."""
    found = projects.list_projects(session, caller, paging.after, paging.fetch)
    return paging.page(found, wire_project, lambda summary: summary.project.name)


@router.post("/projects", status_code=201, response_model=models.Project)
def create_project(
    new: models.NewProject, caller: Admin, session: WriteSession, gateway: TheGateway, once: Once
) -> Response:
    """Make a project with its bucket, or adopt a bucket that is there."""

    def create() -> models.Project:
        prefix = gateway.settings.s3.bucket_prefix
        now = gateway.clock.now()
        return wire_project(
            projects.create_project(session, gateway.store, caller, new.name, new.description, new.bucket, prefix, now)
        )

    return idempotently(once, session, caller, new, create)


@router.get("/projects/{project}")
def get_project(caller: Reader, session: ReadSession) -> models.Project:
    """One project with its numbers."""
    return wire_project(projects.get_project(session, caller))


@router.patch("/projects/{project}")
def change_project(
    change: models.ProjectChange, caller: Manager, session: WriteSession, gateway: TheGateway
) -> models.Project:
    """Change the description, and whether there are to be BCF copies of the project's files."""
    if change.sidecars is not None:
        after_commit(session, gateway.wake)
    return wire_project(projects.change_project(session, caller, change.description, change.sidecars))


@router.get("/projects/{project}/storage")
def get_storage(caller: Reader, session: ReadSession, gateway: TheGateway) -> models.Storage:
    """What the project keeps in its bucket, by kind, and what is left of its limit."""
    found = storage.storage_of(session, caller.project, gateway.policy)
    kept = found.stored
    return models.Storage(
        project=caller.project.name, **kept._asdict(), total=kept.total, limit=found.limit, left=found.left
    )


@router.get("/projects/{project}/retention")
def get_retention(caller: Reader, session: ReadSession, gateway: TheGateway) -> models.Retention:
    """How long the project keeps results of queries, and what that is going to remove."""
    effect = retention.effect_of(session, caller.project, gateway.policy, gateway.clock.now())
    return _wire_retention(caller.project.name, effect)


@router.put("/projects/{project}/retention")
def set_retention(
    change: models.RetentionChange, caller: Manager, session: WriteSession, gateway: TheGateway
) -> models.Retention:
    """Keep results for so many days after their last use. Nothing is removed within a week of a change.

    With `dry_run` nothing is changed, and the answer is what it would be.
    """
    now, policy = gateway.clock.now(), gateway.policy
    if change.dry_run:
        effect = retention.preview(session, caller.project, change.days, policy, now)
    else:
        effect = retention.change(session, caller.project.id, change.days, policy, now)
    return _wire_retention(caller.project.name, effect)


@router.get("/projects/{project}/members")
def list_members(caller: Reader, session: ReadSession, paging: Paging) -> models.Page[models.Membership]:
    """Members by email address."""
    found = projects.list_members(session, caller.project, paging.after, paging.fetch)
    return paging.page(found, wire_member, lambda member: member.user.email)


@router.put("/projects/{project}/members/{user}")
def set_member(user: str, change: models.MemberChange, caller: Manager, session: WriteSession) -> models.Membership:
    """Make a user a member, or change their role."""
    return wire_member(projects.set_member(session, caller.project, user, Role(change.role.value)))


@router.delete("/projects/{project}/members/{user}", status_code=204)
def remove_member(user: str, caller: Manager, session: WriteSession) -> None:
    """End a membership."""
    projects.remove_member(session, caller.project, user)


def wire_project(summary: ProjectSummary) -> models.Project:
    return models.Project(
        name=summary.project.name,
        description=summary.project.description,
        bucket=summary.project.bucket,
        role=models.Role(summary.role.value),
        created_at=summary.project.created_at,
        sidecars=summary.project.sidecars,
        files=summary.files,
        bytes=summary.bytes,
    )


def _wire_retention(project: str, effect: Effect) -> models.Retention:
    return models.Retention(
        project=project,
        days=effect.own,
        site_days=effect.site,
        holds_days=effect.held.days,
        grace_until=None if effect.held.since is None else effect.held.since + GRACE,
        results=effect.expiring.results,
        bytes=effect.expiring.bytes,
        soon_results=effect.expiring.soon,
        soon_bytes=effect.expiring.soon_bytes,
        first_at=effect.first_at,
        pinned=effect.pinned,
    )


def wire_member(member: Member) -> models.Membership:
    return models.Membership(
        project=member.project.name,
        user=member.user.email,
        user_name=member.user.name,
        role=models.Role(member.role.value),
    )
