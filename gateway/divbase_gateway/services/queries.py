"""From a question to a plan: the catalogue and the sample table go in, the domain's planner does the rest."""

from __future__ import annotations

from divbase_gateway.db.models import ProjectRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.allocations import Resources
from divbase_gateway.domain.planning import make_plan
from divbase_gateway.domain.queries import Plan, QueryRequest
from divbase_gateway.ports import ObjectStore
from divbase_gateway.services.allocations import labels_of
from divbase_gateway.services.files import catalogue_of
from divbase_gateway.services.metadata import load_table
from divbase_gateway.services.policy import JobPolicy
from divbase_gateway.services.scripts import query_script


def plan_query(database: Database, store: ObjectStore, project: ProjectRow, request: QueryRequest) -> Plan:
    """Plan a query on the project's files as they are now, every one pinned to its version.

    Raises:
        InvalidRequest: the question cannot be answered; the error says what is wrong with it.
        StoreUnavailable: the sample table has to be read and the store does not answer.
    """
    with database.read() as session:
        catalogue = catalogue_of(session, project.id)
        table = load_table(store, session, project) if request.selection.where is not None else None
    return make_plan(request, catalogue, table)


def script_of(plan: Plan, project: ProjectRow, user_id: int, policy: JobPolicy) -> str:
    """The batch script that would be submitted for this plan; only job id and random token are placeholders."""
    name = f"divbase-{project.name}-JOB-TOKEN"
    resources = Resources(plan.cores, plan.memory_mb, plan.minutes)
    labels = labels_of(project, policy)
    return query_script(plan, resources, labels, name, f"JOB,{project.name},user{user_id}", policy)
