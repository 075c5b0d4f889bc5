"""Routes of queries: plan one, or see its script. Nothing is submitted here; `jobs.py` does that."""

from __future__ import annotations

import shlex

from divbase_client import models
from fastapi import APIRouter

from divbase_gateway.api.auth import Querier
from divbase_gateway.api.deps import Gateway, TheGateway
from divbase_gateway.domain.errors import InvalidSelection
from divbase_gateway.domain.queries import OutputFormat, Plan, Process, QueryRequest, Selection
from divbase_gateway.services import queries
from divbase_gateway.services.keys import Caller

router = APIRouter(tags=["queries"])


@router.post("/projects/{project}/queries/plan")
def plan_query(body: models.Query, caller: Querier, gateway: TheGateway) -> models.Plan:
    """Say what a query would do: files, samples, bytes, commands, resources. Nothing is submitted."""
    return plan_of(_plan(body, caller, gateway))


@router.post("/projects/{project}/queries/script")
def script_query(body: models.Query, caller: Querier, gateway: TheGateway) -> models.Script:
    """The batch script of a query, as it would be submitted."""
    plan = _plan(body, caller, gateway)
    return models.Script(script=queries.script_of(plan, caller.project, caller.user.id, gateway.policy))


def _plan(body: models.Query, caller: Caller, gateway: Gateway) -> Plan:
    request = request_of(body)
    plan = queries.plan_query(gateway.sessions, gateway.store, caller.project, request, gateway.maps, gateway.policy)
    return queries.fit_plan(plan, caller.project, gateway.policy)


def request_of(body: models.Query) -> QueryRequest:
    """The domain's form of a question.

    Raises:
        InvalidSelection: not exactly one way of choosing samples.
    """
    chosen = [body.where is not None, body.samples is not None, body.all_samples]
    if sum(chosen) != 1:
        raise InvalidSelection(
            f"{'No' if not any(chosen) else 'More than one'} way of choosing samples is given.",
            hint="Give exactly one of `where`, `samples` and `all_samples` (--where, --samples, --all-samples).",
        )
    return QueryRequest(
        selection=Selection(where=body.where, samples=tuple(body.samples or ()), all_samples=body.all_samples),
        command=body.command,
        after=body.after,
        files=tuple(body.files),
        output=OutputFormat(body.output) if body.output else None,
        level=body.level,
        name=body.name,
        at=body.at,
    )


def plan_of(plan: Plan) -> models.Plan:
    """The wire form of a plan, with the commands as one would type them."""
    return models.Plan(
        inputs=[models.PlannedInput.model_validate(each) for each in plan.inputs],
        combine=plan.combine.value,
        samples=list(plan.samples),
        dropped_samples=list(plan.dropped_samples),
        regions=list(plan.regions),
        output=plan.output_name,
        commands=[_typed(process) for process in plan.processes],
        bytes_total=plan.bytes_total,
        bytes_needed=plan.bytes_needed,
        memory_mb=plan.memory_mb,
        shards=plan.shards,
        cores=plan.cores,
        minutes=plan.minutes,
        scratch_mb=plan.scratch_mb,
        warnings=list(plan.warnings),
        digest=plan.digest,
    )


def _typed(process: Process) -> str:
    sources = [f"<({source})" for source in process.sources]
    return " ".join(["bcftools", shlex.join(process.argv), *sources])
