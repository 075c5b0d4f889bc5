"""Who may do what in a project, through the API. It knows the routes and wire models of this noun and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from divbase_client.connection import Connection, path_of
from divbase_client.models import MemberChange, Membership, Role


class Members:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, project: str) -> Iterator[Membership]:
        return self._connection.pages(path_of("projects", project, "members"), Membership)

    def set(self, project: str, email: str, role: Role) -> Membership:
        """Add the user, or give them another role."""
        return self._connection.put(path_of("projects", project, "members", email), Membership, MemberChange(role=role))

    def remove(self, project: str, email: str) -> None:
        self._connection.discard(path_of("projects", project, "members", email))
