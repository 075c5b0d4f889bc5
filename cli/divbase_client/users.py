"""Users of the site through the API, for site admins. It knows the routes and wire models of this noun only."""

from __future__ import annotations

from collections.abc import Iterator

from divbase_client.connection import Connection, path_of
from divbase_client.models import NewUser, User, UserChange


class Users:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> Iterator[User]:
        return self._connection.pages("/users", User)

    def create(self, email: str, *, name: str = "", is_admin: bool = False) -> User:
        return self._connection.post("/users", User, NewUser(email=email, name=name, is_admin=is_admin), creates=True)

    def change(
        self, user: str, *, name: str | None = None, is_admin: bool | None = None, active: bool | None = None
    ) -> User:
        """`user` is an id or an email address. What is None stays as it is."""
        change = UserChange(name=name, is_admin=is_admin, active=active)
        return self._connection.patch(path_of("users", user), User, change)
