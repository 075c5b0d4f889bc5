"""Projects at the cluster: whom a job is charged to, and what one job of a project may ask for."""

from __future__ import annotations

from divbase_gateway.db.models import ProjectRow
from divbase_gateway.domain.allocations import Ceilings, Labels, Resources
from divbase_gateway.domain.errors import BeyondCeiling
from divbase_gateway.services.policy import JobPolicy

_OPTIONS = {"memory_mb": "--max-memory", "minutes": "--max-time"}


def labels_of(project: ProjectRow, policy: JobPolicy) -> Labels:
    """What SLURM is told of a job of this project: its own words, and the site's where it has none."""
    own = Labels(project.slurm_account, project.slurm_partition, project.slurm_qos, project.slurm_wckey)
    return own.over(policy.labels)


def ceilings_of(project: ProjectRow, policy: JobPolicy) -> Ceilings:
    """What one job of this project may ask for: its own numbers, and the site's where it has none."""
    return Ceilings(project.max_cores, project.max_memory_mb, project.max_minutes).over(policy.ceilings)


def check_resources(project: ProjectRow, policy: JobPolicy, resources: Resources) -> Resources:
    """What a job of this project is given of what it asks for: the same, with fewer cores where it may not have all.

    Raises:
        BeyondCeiling: it asks for more memory or time than such a job may have.
    """
    ceilings = ceilings_of(project, policy)
    excesses = list(ceilings.excesses(resources))
    if not excesses:
        return ceilings.cap(resources)
    raise BeyondCeiling(
        f"The job asks for more than a job of project {project.name} may have: {'; '.join(map(str, excesses))}.",
        hint=f"Ask for less (fewer files, samples or regions), or ask a site admin to allow more: `divbase projects "
        f"allocation set {project.name} {' '.join(f'{_OPTIONS[each.name]} …' for each in excesses)}`.",
        details={
            "project": project.name,
            "exceeded": {each.name: {"asked": each.asked, "ceiling": each.ceiling} for each in excesses},
        },
    )
