"""From a job's stored plan to the batch script. The plan is all that goes in; the templates are in jobscripts."""

from __future__ import annotations

from divbase_jobscripts.render import (
    Header,
    IndexScript,
    QueryScript,
    RepairScript,
    ScriptInput,
    ScriptProcess,
    SidecarScript,
    render_index,
    render_query,
    render_repair,
    render_sidecar,
)

from divbase_gateway.db.models import JobRow
from divbase_gateway.domain.allocations import Labels, Resources
from divbase_gateway.domain.queries import IndexPlan, Plan
from divbase_gateway.domain.repairs import KIND as REPAIR
from divbase_gateway.domain.repairs import RepairPlan, sort_memory_mb
from divbase_gateway.domain.sidecars import KIND as SIDECAR
from divbase_gateway.domain.sidecars import SidecarPlan
from divbase_gateway.services.allocations import labels_of
from divbase_gateway.services.attempts import shard_folder
from divbase_gateway.services.plans import index_plan_of, query_plan_of, repair_plan_of, sidecar_plan_of
from divbase_gateway.services.policy import JobPolicy


def script_for(job: JobRow, slurm_name: str, policy: JobPolicy) -> str:
    """The script of a job's next attempt."""
    comment = f"{job.public_id},{job.project.name},user{job.user_id}"
    resources = Resources(job.cores, job.memory_mb, job.minutes)
    labels = labels_of(job.project, policy)
    if job.kind == "index":
        return index_script(index_plan_of(job), resources, labels, slurm_name, comment, policy)
    if job.kind == REPAIR:
        return repair_script(repair_plan_of(job), resources, labels, slurm_name, comment, policy)
    if job.kind == SIDECAR:
        return sidecar_script(sidecar_plan_of(job), resources, labels, slurm_name, comment, policy)
    return query_script(query_plan_of(job), resources, labels, slurm_name, comment, policy, query=job.public_id)


def query_script(
    plan: Plan,
    resources: Resources,
    labels: Labels,
    slurm_name: str,
    comment: str,
    policy: JobPolicy,
    *,
    query: str = "JOB",
) -> str:
    """The script that carries out a query plan; of one that is spread, that of `query`'s own job, which joins."""
    inputs = [ScriptInput(each.number, each.key, is_copy=each.copy is not None) for each in plan.inputs]
    if plan.spread is not None:
        tasks = range(1, plan.spread.tasks + 1)
        inputs = [ScriptInput(number, f"{shard_folder(query)}{number}.bcf") for number in tasks]
    return render_query(
        QueryScript(
            header=_header(resources, labels, slurm_name, comment),
            inputs=tuple(inputs),
            processes=tuple(
                ScriptProcess(
                    id=each.id,
                    argv=each.argv,
                    sources=each.sources,
                    materialise=each.materialise,
                    output=each.output,
                )
                for each in plan.processes
            ),
            result=f"out/{plan.output_name}",
            prologue=policy.prologue,
        )
    )


def index_script(
    plan: IndexPlan, resources: Resources, labels: Labels, slurm_name: str, comment: str, policy: JobPolicy
) -> str:
    """The script that builds the index of one file."""
    return render_index(
        IndexScript(
            header=_header(resources, labels, slurm_name, comment),
            input=ScriptInput(number=1, key=plan.key),
            prologue=policy.prologue,
        )
    )


def repair_script(
    plan: RepairPlan, resources: Resources, labels: Labels, slurm_name: str, comment: str, policy: JobPolicy
) -> str:
    """The script that writes a file anew."""
    return render_repair(
        RepairScript(
            header=_header(resources, labels, slurm_name, comment),
            input=ScriptInput(number=1, key=plan.key),
            result=f"out/{plan.output_name}",
            sort_memory_mb=sort_memory_mb(resources.memory_mb),
            prologue=policy.prologue,
        )
    )


def sidecar_script(
    plan: SidecarPlan, resources: Resources, labels: Labels, slurm_name: str, comment: str, policy: JobPolicy
) -> str:
    """The script that writes the BCF copy of one file."""
    return render_sidecar(
        SidecarScript(
            header=_header(resources, labels, slurm_name, comment),
            input=ScriptInput(number=1, key=plan.key),
            result=f"out/{plan.output_name}",
            prologue=policy.prologue,
        )
    )


def _header(resources: Resources, labels: Labels, slurm_name: str, comment: str) -> Header:
    return Header(
        job_name=slurm_name,
        comment=comment,
        cores=resources.cores,
        memory_mb=resources.memory_mb,
        minutes=resources.minutes,
        account=labels.account,
        partition=labels.partition,
        qos=labels.qos,
        wckey=labels.wckey,
    )
