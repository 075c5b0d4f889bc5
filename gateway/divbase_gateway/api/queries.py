"""Routes of queries: plan one, or see its script. Nothing is submitted here; `jobs.py` does that."""

from __future__ import annotations

import shlex

from divbase_client import models
from fastapi import APIRouter, Response

from divbase_gateway.api.answers import answer
from divbase_gateway.api.auth import Querier
from divbase_gateway.api.deps import Gateway, TheGateway
from divbase_gateway.domain.allocations import Labels
from divbase_gateway.domain.errors import InvalidSelection
from divbase_gateway.domain.queries import OutputFormat, Plan, Process, QueryRequest, Selection
from divbase_gateway.services import queries
from divbase_gateway.services.allocations import labels_of
from divbase_gateway.services.keys import Caller

router = APIRouter(tags=["queries"])


@router.post("/projects/{project}/queries/plan", response_model=models.Plan)
def plan_query(body: models.Query, caller: Querier, gateway: TheGateway) -> Response:
    """Say what a query would do: files, samples, bytes, commands, resources. Nothing is submitted."""
    return answer(plan_of(_plan(body, caller, gateway), labels_of(caller.project, gateway.policy)))


@router.post("/projects/{project}/queries/script")
def script_query(body: models.Query, caller: Querier, gateway: TheGateway) -> models.Script:
    """The batch script of a query, as it would be submitted."""
    plan = _plan(body, caller, gateway)
    return models.Script(script=queries.script_of(plan, caller.project, caller.user.id, gateway.policy))


def _plan(body: models.Query, caller: Caller, gateway: Gateway) -> Plan:
    return queries.fit_plan(plan_for(body, caller, gateway), caller.project, gateway.policy)


def plan_for(body: models.Query, caller: Caller, gateway: Gateway) -> Plan:
    """The plan of a question as the gateway's state is now; not yet cut down to what the project may have."""
    correction = gateway.corrections.current(gateway.sessions, gateway.clock.now())
    request, project = request_of(body), caller.project
    return queries.plan_query(
        gateway.sessions, gateway.store, project, request, gateway.maps, gateway.policy, correction
    )


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


def plan_of(plan: Plan, labels: Labels | None = None) -> models.Plan:
    """The wire form of a plan, with the commands as one would type them.

    Args:
        labels: what SLURM would be told of the job, if it is not submitted yet.
    """
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
        expected_s=plan.expected_s or None,
        account=labels.account if labels else None,
        partition=labels.partition if labels else None,
        qos=labels.qos if labels else None,
        scratch_mb=plan.scratch_mb,
        warnings=list(plan.warnings),
        digest=plan.digest,
    )


def _typed(process: Process) -> str:
    sources = [f"<({source})" for source in process.sources]
    return " ".join(["bcftools", shlex.join(process.argv), *sources])
