"""Routes about people: who I am, and for site admins who there is. It knows the wire models and no rules."""

from __future__ import annotations

from divbase_client import models
from fastapi import Response

from divbase_gateway.api.auth import Admin, User
from divbase_gateway.api.deps import ReadSession, TheGateway, WriteSession
from divbase_gateway.api.idempotency import Once, idempotently
from divbase_gateway.api.keys import wire_key
from divbase_gateway.api.pagination import Paging
from divbase_gateway.api.projects import wire_member
from divbase_gateway.api.routes import new_router
from divbase_gateway.db.models import UserRow
from divbase_gateway.services import projects, users

router = new_router("users")


@router.get("/me")
def get_me(caller: User, session: ReadSession) -> models.Me:
    """Who the key belongs to, and what they may do where."""
    memberships = [wire_member(member) for member in projects.memberships_of(session, caller.user)]
    return models.Me(user=wire_user(caller.user), key=wire_key(caller.key), memberships=memberships)


@router.get("/users")
def list_users(caller: Admin, session: ReadSession, paging: Paging) -> models.Page[models.User]:
    """Everybody, by email address."""
    found = users.list_users(session, paging.after, paging.fetch)
    return paging.page(found, wire_user, lambda row: row.email)


@router.post("/users", status_code=201, response_model=models.User)
def create_user(new: models.NewUser, caller: Admin, session: WriteSession, gateway: TheGateway, once: Once) -> Response:
    """Add a user; make them an API key with POST /keys."""

    def create() -> models.User:
        return wire_user(users.create_user(session, new.email, new.name, new.is_admin, gateway.clock.now()))

    return idempotently(once, session, caller, new, create)


@router.patch("/users/{user}")
def change_user(user: str, change: models.UserChange, caller: Admin, session: WriteSession) -> models.User:
    """Rename, promote or deactivate a user (by id or email address)."""
    row = users.change_user(session, user, new_name=change.name, is_admin=change.is_admin, active=change.active)
    return wire_user(row)


def wire_user(row: UserRow) -> models.User:
    return models.User(
        id=row.public_id,
        email=row.email,
        name=row.name,
        is_admin=row.is_admin,
        active=row.active,
        created_at=row.created_at,
    )
