"""Projects at the cluster: whom a job is charged to, and what a project may use."""

from __future__ import annotations

from divbase_gateway.db.models import ProjectRow
from divbase_gateway.domain.allocations import Labels
from divbase_gateway.services.policy import JobPolicy


def labels_of(project: ProjectRow, policy: JobPolicy) -> Labels:
    """What SLURM is told of a job of this project: its own words, and the site's where it has none."""
    own = Labels(project.slurm_account, project.slurm_partition, project.slurm_qos, project.slurm_wckey)
    return own.over(policy.labels)
