"""The site's choices that the use cases follow, as plain values: services know no settings file."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from divbase_gateway.domain.allocations import Ceilings, Labels, Limits


@dataclass(frozen=True)
class NodeCache:
    """Where jobs share the bytes that they fetch: an absolute folder on their nodes, which never has more `bytes`."""

    folder: str
    bytes: int


@dataclass(frozen=True)
class JobPolicy:
    """How jobs are run at this site.

    Attributes:
        node_url: the gateway's address as compute nodes see it, without a path.
        max_attempts: runs of one job that faults of the machinery may use up.
        url_expiry: how long a presigned URL works.
        lost_after: how long a job may be missing from successful looks at the scheduler before it is LOST.
        quiet_period: how long successful, empty answers must last before a submission that was not answered is
            repeated.
        node_access: `gateway`, or `manifest` where nodes reach S3 only (docs/node-protocol.md).
        manifest_expiry: how long the URLs of a manifest work: from submission to the last output of the job.
        retry_for_s: how long a node keeps asking a gateway or store that does not answer, in seconds.
        part_size: of multipart results, bytes.
        cache: the folder on the nodes in which jobs share what they fetch, and its largest size in bytes.
        prologue: shell lines of the site, such as `module load bcftools`.
        labels: SLURM's account and so on, for projects that have none of their own.
        ceilings: of one job, for projects that have none of their own.
        machine_cores: of the only machine there is, where jobs run on it; no work is cut into more shards.
        spread_after_s: a query that would keep one job busy for longer is spread over several; None: none is.
        project_limits: of each project that has none of its own.
        user_limits: of each user, over all projects.
        result_days: that results are kept after their last use, for projects that say nothing; None for ever.
        project_bytes: that everything of a project may take, for those that have no number of their own; None: any.
    """

    node_url: str
    max_attempts: int = 3
    url_expiry: timedelta = timedelta(hours=1)
    lost_after: timedelta = timedelta(minutes=10)
    quiet_period: timedelta = timedelta(minutes=5)
    node_access: Literal["gateway", "manifest"] = "gateway"
    manifest_expiry: timedelta = timedelta(days=7)
    retry_for_s: int = 600
    part_size: int = 64 * 1024 * 1024
    cache: NodeCache | None = None
    prologue: tuple[str, ...] = ()
    labels: Labels = field(default_factory=Labels)
    ceilings: Ceilings = field(default_factory=Ceilings)
    machine_cores: int | None = None
    spread_after_s: int | None = None
    project_limits: Limits = field(default_factory=Limits)
    user_limits: Limits = field(default_factory=Limits)
    result_days: int | None = None
    project_bytes: int | None = None
