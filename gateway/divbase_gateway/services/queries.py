"""From a question to a plan: the catalogue and the sample table go in, the domain's planner does the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy.orm import Session

from divbase_gateway.db.models import ProjectRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.allocations import Resources
from divbase_gateway.domain.corrections import Correction
from divbase_gateway.domain.errors import BeyondCeiling
from divbase_gateway.domain.estimates import UNCORRECTED
from divbase_gateway.domain.files import CataloguedFile
from divbase_gateway.domain.index_maps import FileMap
from divbase_gateway.domain.planning import make_plan
from divbase_gateway.domain.queries import Plan, QueryRequest, Spread
from divbase_gateway.domain.samples import SampleTable
from divbase_gateway.ports import ObjectStore
from divbase_gateway.services import snapshots
from divbase_gateway.services.allocations import ceilings_of, check_resources, labels_of
from divbase_gateway.services.copies import with_sidecars
from divbase_gateway.services.files import catalogue_of
from divbase_gateway.services.index_maps import MapCache
from divbase_gateway.services.metadata import load_table
from divbase_gateway.services.plans import resources_of
from divbase_gateway.services.policy import JobPolicy
from divbase_gateway.services.scripts import query_script


def plan_query(
    database: Database,
    store: ObjectStore,
    project: ProjectRow,
    request: QueryRequest,
    maps: MapCache,
    policy: JobPolicy,
    correction: Correction = UNCORRECTED,
) -> Plan:
    """Plan a query on the project's files as they are now or were at a snapshot, every one pinned to its version.

    Its work is in no more shards than a job of the project may have cores and memory for. `correction`: of the time
    that it is expected to take.

    Raises:
        InvalidRequest: the question cannot be answered; the error says what is wrong with it.
        NotFound: there is no such snapshot.
        StoreUnavailable: the sample table has to be read and the store does not answer.
    """
    with database.read() as session:
        catalogue, table = _state(session, store, project, request)

    def load_maps(files: Sequence[CataloguedFile], contigs: Sequence[str]) -> Mapping[str, FileMap]:
        with database.read() as session:
            return maps.load(session, project.id, files, contigs)

    ceilings = ceilings_of(project, policy)
    cores = [count for count in (ceilings.cores, policy.machine_cores) if count is not None]
    ceilings = replace(ceilings, cores=min(cores, default=None))
    return make_plan(
        request, catalogue, table, load_maps, ceilings, correction=correction, spread_after_s=policy.spread_after_s
    )


def _state(
    session: Session, store: ObjectStore, project: ProjectRow, request: QueryRequest
) -> tuple[list[CataloguedFile], SampleTable | None]:
    """The files that the question is about and, where it filters samples, the table; both of the same moment."""
    filters = request.selection.where is not None
    if request.at is None:
        table = load_table(store, session, project) if filters else None
        return with_sidecars(session, project, catalogue_of(session, project.id)), table
    snapshot = snapshots.get_snapshot(session, project, request.at)
    table = snapshots.load_table_at(store, session, project, snapshot) if filters else None
    return with_sidecars(session, project, snapshots.catalogue_at(session, snapshot)), table


def fit_plan(plan: Plan, project: ProjectRow, policy: JobPolicy) -> Plan:
    """The plan with the cores that a job of the project may have; its digest stays what it is.

    Where it needs more memory or time than that, a warning says that it would be refused.
    """
    asked = resources_of(plan)
    try:
        given = check_resources(project, policy, asked)
        if plan.spread is not None:
            plan = replace(plan, spread=_fit_spread(plan.spread, project, policy))
    except BeyondCeiling as error:
        return replace(plan, warnings=(*plan.warnings, f"It would be refused. {error}"))
    if given.cores == asked.cores:
        return plan
    warning = (
        f"The job gets {given.cores} of the {asked.cores} cores that it could use, because a job of project "
        f"{project.name} may have no more; it may take longer."
    )
    return replace(plan, cores=given.cores, warnings=(*plan.warnings, warning))


def _fit_spread(spread: Spread, project: ProjectRow, policy: JobPolicy) -> Spread:
    given = check_resources(project, policy, Resources(spread.cores, spread.memory_mb, spread.minutes))
    return replace(spread, cores=given.cores)


def script_of(plan: Plan, project: ProjectRow, user_id: int, policy: JobPolicy) -> str:
    """The batch script that would be submitted for this plan; only job id and random token are placeholders.

    Where it is spread, all scripts, one after the other: those of the shards, and that of the job that joins them.

    Raises:
        BeyondCeiling: none would be.
    """
    jobs = [*((f"JOB-{number}", task) for number, task in enumerate(plan.task_plans, start=1)), ("JOB", plan)]
    labels = labels_of(project, policy)
    scripts = []
    for job, each in jobs:
        resources = check_resources(project, policy, resources_of(each))
        name, comment = f"divbase-{project.name}-{job}-TOKEN", f"{job},{project.name},user{user_id}"
        scripts.append(query_script(each, resources, labels, name, comment, policy))
    return "\n".join(scripts)
