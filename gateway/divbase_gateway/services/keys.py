"""API keys: who a key belongs to and what they may do, making keys and revoking them. It knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from divbase_gateway.db import keys as rows
from divbase_gateway.db.models import ApiKeyRow, ProjectRow, UserRow
from divbase_gateway.domain.errors import Conflict, Forbidden, NotFound, Unauthenticated
from divbase_gateway.domain.ids import new_id
from divbase_gateway.domain.projects import Role
from divbase_gateway.domain.users import KeyText, hash_secret, make_key, parse_key, secret_matches

NEW_KEY_HINT = "Make a new one with `divbase keys create`, signed in with another key, or ask a site admin for one."

TOUCH_EVERY = timedelta(minutes=1)
"""How exact `last_used_at` is; finer would make every read a write."""

# Compared with when there is no such key, so that a wrong prefix takes as long as a wrong secret.
_NOBODY = hash_secret("nobody")


@dataclass(frozen=True)
class Membership:
    """The project that a request is about, and what the caller may do in it (site admins: MANAGE)."""

    project: ProjectRow
    role: Role


@dataclass(frozen=True)
class Caller:
    """Who asks, and with which key. The rows are detached: fit for reading, not for changing."""

    user: UserRow
    key: ApiKeyRow
    membership: Membership | None = None

    @property
    def project(self) -> ProjectRow:
        """The project in the path; only on routes that are declared with a project role."""
        return self._member.project

    @property
    def role(self) -> Role:
        """What the caller may do in `project`."""
        return self._member.role

    @property
    def _member(self) -> Membership:
        if self.membership is None:
            raise RuntimeError("this route is not declared with ProjectAccess, so its caller has no project")
        return self.membership


@dataclass(frozen=True)
class CreatedKey:
    """A new key and its text, which nobody can learn again."""

    row: ApiKeyRow
    text: KeyText


def authenticate(session: Session, token: str, now: datetime, project: str | None = None) -> Caller:
    """The caller that a key's text stands for; one query, the project's membership included.

    Args:
        project: name of the project that the request is about. One that is not there, or not the caller's, leaves
            `membership` None.

    Raises:
        Unauthenticated: not a key, no such key, revoked, expired, or its user is deactivated.
    """
    key = parse_key(token)
    if key is None:
        raise Unauthenticated(
            "The API key does not have the form of a DivBase key.",
            hint="It looks like dvb_xxxxxxxx.… and is shown once, when it is made; copy all of it.",
        )
    holder = rows.find_holder(session, key.prefix, project)
    if not secret_matches(key.secret, holder.key.secret_sha256 if holder else _NOBODY) or holder is None:
        raise Unauthenticated("There is no such API key.", hint=f"Check that it is whole. {NEW_KEY_HINT}")
    _check_usable(holder.key, holder.user, now)
    return Caller(holder.user, holder.key, _membership(holder))


def needs_touch(key: ApiKeyRow, now: datetime) -> bool:
    """Whether the key's last use should be noted (again)."""
    return key.last_used_at is None or now - key.last_used_at >= TOUCH_EVERY


def touch(session: Session, key: ApiKeyRow, now: datetime) -> None:
    """Note that the key was used now; at most once a minute, however many ask at once."""
    rows.touch(session, key.id, now, now - TOUCH_EVERY)


def create_key(
    session: Session, user: UserRow, name: str, expires_in_days: int | None, now: datetime, max_keys: int
) -> CreatedKey:
    """Make a key for `user`; None of `expires_in_days` means for ever.

    Raises:
        Conflict: the user has `max_keys` usable keys already.
    """
    if rows.count_open_keys(session, user.id, now) >= max_keys:
        raise Conflict(
            f"{user.email} has {max_keys} API keys, and that is the most allowed here.",
            hint="Revoke one that is not used any more: `divbase keys ls`, `divbase keys revoke PREFIX`.",
        )
    text = make_key()
    row = ApiKeyRow(
        public_id=new_id(),
        user_id=user.id,
        name=name,
        prefix=text.prefix,
        secret_sha256=hash_secret(text.secret),
        created_at=now,
        expires_at=None if expires_in_days is None else now + timedelta(days=expires_in_days),
        last_used_at=None,
        revoked_at=None,
    )
    session.add(row)
    session.flush()
    return CreatedKey(row, text)


def list_keys(session: Session, user: UserRow, after_id: int | None, limit: int) -> Sequence[ApiKeyRow]:
    """The user's keys, newest first, revoked ones too."""
    return rows.list_keys(session, user.id, after_id, limit)


def revoke_key(session: Session, caller: Caller, name: str, now: datetime) -> ApiKeyRow:
    """Revoke the key of this id or prefix: the caller's own, or as a site admin anyone's. Twice is no error.

    Raises:
        NotFound: there is none, or it is somebody else's.
    """
    row = rows.find_key(session, name)
    if row is None or not (row.user_id == caller.user.id or caller.user.is_admin):
        raise NotFound(f"You have no API key {name!r}.", hint="`divbase keys ls` lists them.")
    if row.revoked_at is None:
        row.revoked_at = now
    session.flush()
    return row


def check_may_act_for(caller: Caller, email: str | None) -> None:
    """Only site admins look at, or make, other people's keys.

    Raises:
        Forbidden: the caller is none and `email` is not theirs.
    """
    if email is not None and email.strip().lower() != caller.user.email and not caller.user.is_admin:
        raise Forbidden(
            "Only site admins see and make API keys of other people.",
            hint="Leave the user out for your own keys.",
            details={"needed": "site admin", "role": "user"},
        )


def _check_usable(key: ApiKeyRow, user: UserRow, now: datetime) -> None:
    if key.revoked_at is not None:
        raise Unauthenticated(f"The API key {key.prefix} was revoked on {_day(key.revoked_at)}.", hint=NEW_KEY_HINT)
    if key.expires_at is not None and key.expires_at <= now:
        raise Unauthenticated(f"The API key {key.prefix} expired on {_day(key.expires_at)}.", hint=NEW_KEY_HINT)
    if not user.active:
        raise Unauthenticated(f"The account {user.email} is deactivated.", hint="Ask a site admin to activate it.")


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d at %H:%M UTC")


def _membership(holder: rows.KeyHolder) -> Membership | None:
    if holder.project is None:
        return None
    if holder.user.is_admin:
        return Membership(holder.project, Role.MANAGE)
    return Membership(holder.project, Role(holder.role)) if holder.role else None
