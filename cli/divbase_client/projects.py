"""Projects through the API. It knows the routes and wire models of this noun and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from divbase_client.connection import Connection, path_of
from divbase_client.models import (
    Allocation,
    AllocationChange,
    NewProject,
    Project,
    ProjectChange,
    Retention,
    RetentionChange,
    Storage,
    Usage,
)


class Projects:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> Iterator[Project]:
        """The caller's projects; all of them for a site admin."""
        return self._connection.pages("/projects", Project)

    def get(self, name: str) -> Project:
        return self._connection.get(path_of("projects", name), Project)

    def create(self, name: str, *, description: str = "", bucket: str | None = None) -> Project:
        """Site admins only. `bucket`: an existing bucket to adopt; None makes one."""
        body = NewProject(name=name, description=description, bucket=bucket)
        return self._connection.post("/projects", Project, body, creates=True)

    def change(self, name: str, *, description: str | None = None, sidecars: bool | None = None) -> Project:
        """What is None stays. `sidecars`: whether there are to be BCF copies of its VCF files."""
        change = ProjectChange(description=description, sidecars=sidecars)
        return self._connection.patch(path_of("projects", name), Project, change)

    def allocation(self, name: str) -> Allocation:
        """What the project may charge and use at the cluster, and what holds where it has no value of its own."""
        return self._connection.get(path_of("projects", name, "allocation"), Allocation)

    def change_allocation(self, name: str, change: AllocationChange) -> Allocation:
        """Site admins only. Fields that `change` was made with are changed, and None takes a value away."""
        return self._connection.patch(path_of("projects", name, "allocation"), Allocation, change, nulls=True)

    def usage(self, name: str, month: str | None = None) -> Usage:
        """Core-hours of a month (`YYYY-MM`, UTC), the present one if left out."""
        return self._connection.get(path_of("projects", name, "usage"), Usage, {"month": month})

    def storage(self, name: str) -> Storage:
        """What the project keeps in its bucket, and what is left of its limit."""
        return self._connection.get(path_of("projects", name, "storage"), Storage)

    def retention(self, name: str) -> Retention:
        """How long results of queries are kept, and what that is going to remove."""
        return self._connection.get(path_of("projects", name, "retention"), Retention)

    def set_retention(self, name: str, days: int | None, *, dry_run: bool = False) -> Retention:
        """For the role MANAGE. `days`: after the last use; 0 for ever, None as the site says. Nothing is removed within
        a week of a change; with `dry_run` nothing is changed, and the answer is what it would be."""
        change = RetentionChange(days=days, dry_run=dry_run)
        return self._connection.put(path_of("projects", name, "retention"), Retention, change)
