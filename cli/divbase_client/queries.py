"""What a query would do, without doing it. It knows the routes and wire models of this noun and nothing else."""

from __future__ import annotations

from divbase_client.connection import Connection, path_of
from divbase_client.models import Plan, Query, Script


class Queries:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def plan(self, project: str, query: Query) -> Plan:
        """Inputs, bytes, memory, time and commands of the job that `query` would become."""
        return self._connection.post(path_of("projects", project, "queries", "plan"), Plan, query)

    def script(self, project: str, query: Query) -> str:
        """The batch script as it would be submitted."""
        return self._connection.post(path_of("projects", project, "queries", "script"), Script, query).script
