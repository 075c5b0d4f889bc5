"""SLURM through pyslurm, on a submit host. What is asked goes to the worker process; what comes back is read by the
same rules as the output of SLURM's commands. It must not import pyslurm."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from divbase_gateway.domain.errors import SchedulerUnavailable, SubmissionRefused, SubmissionUnknown
from divbase_gateway.ports import Clock, SlurmRef, Submission, array_of
from divbase_gateway.slurm import answers
from divbase_gateway.slurm.commands import SACCT_FIELDS, SEPARATOR, SQUEUE_FIELDS
from divbase_gateway.slurm.pyslurm_process import AnsweredWithError, PyslurmProcess
from divbase_gateway.slurm.records import JobRecord, sacct_records, sacct_runs, squeue_records
from divbase_gateway.slurm.runners import Runner
from divbase_gateway.slurm.scheduler import ASK_S, SCRIPT, SlurmScheduler

_OPERATOR = "The site's operator must look at it."


def worker_environment(slurm_conf: PurePosixPath | None) -> dict[str, str]:
    """All the variables of the worker. Those called `SLURM_…` reach the jobs, as they do with sbatch."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **({"SLURM_CONF": str(slurm_conf)} if slurm_conf else {})}


class PyslurmScheduler(SlurmScheduler):
    """SLURM through a worker process that holds pyslurm.

    Args:
        worker: the process, for the account that submits.
        runner: where the job directories are, as the worker sees them; its commands are not used.
        limit_s: seconds that one request may take; a look at history twice that.
    """

    def __init__(
        self,
        worker: PyslurmProcess,
        runner: Runner,
        work_dir: PurePosixPath,
        cluster: str,
        clock: Clock,
        *,
        limit_s: float = ASK_S,
    ):
        super().__init__(runner, work_dir, cluster, clock)
        self._worker = worker
        self._limit_s = limit_s

    def close(self) -> None:
        self._worker.close()
        super().close()

    def submit(self, submission: Submission) -> SlurmRef:
        """A worker that must be started first is started first: nothing is left behind where there can be none."""
        self._worker.start(self._limit_s)
        return super().submit(submission)

    def _sbatch(self, directory: PurePosixPath, name: str, files: Mapping[str, bytes]) -> str:
        self._runner.put_directory(directory, files)
        params = {"directory": str(directory), "name": name, "script": SCRIPT}
        try:
            return str(self._worker.ask("submit", params, self._limit_s))
        except AnsweredWithError as error:
            if error.kind == "invalid":
                words = f"The job cannot be handed to pyslurm: {error}."
                raise SubmissionRefused(words, hint=_OPERATOR, details={"name": name}) from error
            if error.kind == "slurm":
                answers.raise_if_not_accepted(name, str(error), str(error))
            raise SubmissionUnknown(f"pyslurm gave no clear answer for {name}: {error}") from error

    def _squeue(self, *, name: str | None = None, wanted: Collection[str] | None = None) -> list[JobRecord]:
        lines = [line + SEPARATOR for line in _lines(self._ask("squeue", {"name": name}), SQUEUE_FIELDS)]
        return _from_pyslurm(squeue_records("\n".join(lines), wanted))

    def _sacct(self, since_s: int, *, ids: Sequence[str] | None = None, name: str | None = None) -> list[JobRecord]:
        chosen = {"since_s": since_s, "ids": list(ids) if ids is not None else None, "name": name}
        return _from_pyslurm(sacct_records("\n".join(_lines(self._ask("sacct", chosen), SACCT_FIELDS))))

    def _sacct_runs(self, since_s: int) -> list[JobRecord]:
        rows = self._ask("sacct", {"since_s": since_s}, self._limit_s * 2)
        return _from_pyslurm(sacct_runs("\n".join(_lines(rows, SACCT_FIELDS))))

    def cancel(self, *refs: SlurmRef) -> None:
        for ref in refs:
            self._ask("scancel", {"job_id": ref.job_id, "name": array_of(ref.name)})

    def ping(self) -> str:
        said = self._ask("ping", {})
        return f"slurm {said['slurm']} scheduler, pyslurm {said['pyslurm']}: slurmctld of {said['cluster']} answers"

    def _ask(self, method: str, params: Mapping[str, Any], limit_s: float | None = None) -> Any:
        try:
            return self._worker.ask(method, params, limit_s or self._limit_s)
        except AnsweredWithError as error:
            raise SchedulerUnavailable(f"pyslurm got no answer to {method}: {error}.") from error


def _lines(rows: Iterable[Mapping[str, str]], fields: Sequence[str]) -> list[str]:
    """The worker's rows as the commands print them. The last field is a job's name, which may hold the separator."""
    *first, last = fields
    return [
        SEPARATOR.join([*(row[name].replace(SEPARATOR, " ") for name in first), row[last]]).replace("\n", " ")
        for row in rows
    ]


def _from_pyslurm(records: Iterable[JobRecord]) -> list[JobRecord]:
    return [replace(record, sighting=replace(record.sighting, source="pyslurm")) for record in records]
