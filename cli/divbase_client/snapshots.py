"""Snapshots of a project's files through the API. It knows the routes and wire models of this noun and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from divbase_client.connection import Connection, path_of
from divbase_client.models import File, NewSnapshot, Snapshot


class Snapshots:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, project: str) -> Iterator[Snapshot]:
        """Newest first."""
        return self._connection.pages(path_of("projects", project, "snapshots"), Snapshot)

    def get(self, project: str, name: str) -> Snapshot:
        return self._connection.get(path_of("projects", project, "snapshots", name), Snapshot)

    def files(self, project: str, name: str) -> Iterator[File]:
        """The files by key, in the versions that the snapshot has; `is_latest` and `deleted` are told of now."""
        return self._connection.pages(path_of("projects", project, "snapshots", name, "files"), File)

    def create(self, project: str, name: str, *, note: str = "") -> Snapshot:
        """Name the current version of every file, as they are at this moment."""
        body = NewSnapshot(name=name, note=note)
        return self._connection.post(path_of("projects", project, "snapshots"), Snapshot, body, creates=True)

    def remove(self, project: str, name: str) -> None:
        """The files stay; this name protects their versions no longer."""
        self._connection.discard(path_of("projects", project, "snapshots", name))
