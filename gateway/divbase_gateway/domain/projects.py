"""Projects and who may do what in them. It knows names and roles, not rows, keys or requests."""

from __future__ import annotations

import re
from enum import StrEnum

from divbase_gateway.domain.errors import InvalidName

_PROJECT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")


class Role(StrEnum):
    """What a member may do, each role including the ones before it."""

    READ = "READ"  # list and download files, see metadata and jobs
    QUERY = "QUERY"  # plan and run queries, cancel own jobs
    EDIT = "EDIT"  # upload, delete and restore files and metadata
    MANAGE = "MANAGE"  # members, settings, anyone's jobs

    @property
    def rank(self) -> int:
        return list(Role).index(self)

    def includes(self, needed: Role) -> bool:
        """Whether a member with this role may do what `needed` allows."""
        return self.rank >= needed.rank


def validate_project_name(name: str) -> str:
    """Return `name` if it can name a project, its S3 bucket and its SLURM jobs.

    Two to forty characters of a-z, 0-9 and `-`, no `-` at the ends: the common part of what S3 allows in a
    bucket name and SLURM shows whole in a job name.

    Raises:
        InvalidName: with what would be right.
    """
    if len(name) < 2 or not _PROJECT_NAME.fullmatch(name):
        raise InvalidName(
            f"{name!r} cannot name a project.",
            hint="Use 2 to 40 lower-case letters, digits and '-', beginning and ending with a letter or digit.",
            details={"name": name},
        )
    return name


def bucket_name(prefix: str, project: str) -> str:
    """The bucket of a new project: the site's prefix and the project's name."""
    return f"{prefix}{project}"
