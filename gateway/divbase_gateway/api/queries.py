"""Routes of queries: plan one, or see its script. Nothing is submitted here; `jobs.py` does that."""

from __future__ import annotations

import shlex
from dataclasses import replace

from divbase_client import models

from divbase_gateway.api.auth import Querier
from divbase_gateway.api.deps import Gateway, TheGateway
from divbase_gateway.api.routes import new_router
from divbase_gateway.domain.allocations import Labels
from divbase_gateway.domain.errors import InvalidSelection
from divbase_gateway.domain.queries import OutputFormat, Plan, PlannedInput, Process, QueryRequest, Selection
from divbase_gateway.services import queries, storage
from divbase_gateway.services.allocations import labels_of
from divbase_gateway.services.keys import Caller

router = new_router("queries")


@router.post("/projects/{project}/queries/plan")
def plan_query(body: models.Query, caller: Querier, gateway: TheGateway) -> models.Plan:
    """Say what a query would do: files, samples, bytes, commands, resources. Nothing is submitted."""
    return plan_of(_plan(body, caller, gateway), labels_of(caller.project, gateway.policy))


@router.post("/projects/{project}/queries/script")
def script_query(body: models.Query, caller: Querier, gateway: TheGateway) -> models.Script:
    """The batch script of a query, as it would be submitted."""
    plan = _plan(body, caller, gateway)
    return models.Script(script=queries.script_of(plan, caller.project, caller.user.id, gateway.policy))


def _plan(body: models.Query, caller: Caller, gateway: Gateway) -> Plan:
    plan = queries.fit_plan(plan_for(body, caller, gateway), caller.project, gateway.policy)
    with gateway.sessions.read() as session:
        more = storage.warnings_for(session, caller.project, gateway.policy, plan.bytes_needed)
    return replace(plan, warnings=(*plan.warnings, *more))


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
        inputs=[_input(each) for each in plan.inputs],
        combine=plan.combine.value,
        samples=list(plan.samples),
        dropped_samples=list(plan.dropped_samples),
        regions=list(plan.regions),
        output=plan.output_name,
        commands=_commands(plan),
        bytes_total=plan.bytes_total,
        bytes_needed=plan.bytes_needed,
        memory_mb=plan.memory_mb,
        shards=plan.shards,
        spread=None if plan.spread is None else models.Spread.model_validate(plan.spread),
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


def _input(planned: PlannedInput) -> models.PlannedInput:
    return models.PlannedInput(
        number=planned.number,
        key=planned.key,
        version_id=planned.version_id,
        size=planned.size,
        samples=None if planned.samples is None else list(planned.samples),
        group=planned.group,
        bytes_needed=planned.source.bytes_needed,
        copy_size=None if planned.copy is None else planned.copy.size,
    )


def _commands(plan: Plan) -> list[str]:
    """Of one that is spread, those of the first shard too, where its plan is at hand: the others' are alike."""
    return [_typed(process) for each in (*plan.task_plans[:1], plan) for process in each.processes]


def _typed(process: Process) -> str:
    sources = [f"<({source})" for source in process.sources]
    return " ".join(["bcftools", shlex.join(process.argv), *sources])
