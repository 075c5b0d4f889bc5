"""The `Scheduler` port over SLURM: what its answers mean together, however it is asked, and the asking by its commands,
wherever a runner runs them. It must not know SSH, files or rows; what it asks does not grow with the number of jobs."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import PurePosixPath

import structlog

from divbase_gateway.domain.errors import SchedulerUnavailable, SubmissionRefused, SubmissionUnknown
from divbase_gateway.ports import (
    OUR_JOBS,
    ArraySubmission,
    Clock,
    Observation,
    PastRun,
    Sighting,
    SlurmRef,
    Submission,
    array_of,
)
from divbase_gateway.slurm import answers
from divbase_gateway.slurm.commands import SlurmCommands
from divbase_gateway.slurm.records import (
    JobRecord,
    has_ended,
    merged,
    sacct_records,
    sacct_runs,
    squeue_records,
    whole_job,
)
from divbase_gateway.slurm.runners import Completed, DirectoryUnavailable, Runner, RunnerUnavailable

log = structlog.get_logger()

SCRIPT = "script.sh"
SUBMIT_S = 60.0
ASK_S = 60.0
HISTORY_S = 120.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_LOG = "job.log"
_ARRAY = "array.sh"
_RESERVED = frozenset({SCRIPT, _LOG, _ARRAY, "", ".", ".."})

_MOST_ENDED = 5000
"""Ids in one sacct: a command line has an end. More jobs than that ending within one tick wait for the next."""

_CLOCKS_DIFFER_BY = timedelta(hours=1)
"""Accounting is asked from this long before; names are unique, so looking further back is safe."""


class SlurmScheduler(ABC):
    """SLURM however it is asked: a subclass says how.

    Args:
        runner: where the job directories are.
        work_dir: absolute; a directory for each job is made in it. It is there already, on a file system that the
            nodes see under the same path.
        cluster: the cluster's name, part of every job's identity.
    """

    def __init__(self, runner: Runner, work_dir: PurePosixPath, cluster: str, clock: Clock):
        self._runner = runner
        self._work_dir = work_dir
        self._cluster = cluster
        self._clock = clock

    def close(self) -> None:
        """Let go of every connection."""
        self._runner.close()

    # --- what a subclass asks ------------------------------------------------------------------------------------

    @abstractmethod
    def _sbatch(self, directory: PurePosixPath, name: str, files: Mapping[str, bytes]) -> str:
        """Make the directory with these files and submit the script among them; the job's id.

        Raises:
            SubmissionRefused, SubmissionUnknown, SchedulerUnavailable: as the port has it.
            DirectoryUnavailable: nothing was submitted.
            RunnerUnavailable: nobody answered.
        """

    @abstractmethod
    def _squeue(self, *, name: str | None = None, wanted: Collection[str] | None = None) -> list[JobRecord]:
        """The jobs that slurmctld remembers, of this name or with these ids."""

    @abstractmethod
    def _sacct(self, since_s: int, *, ids: Sequence[str] | None = None, name: str | None = None) -> list[JobRecord]:
        """The jobs of the last seconds that accounting has, with these ids or of this name."""

    @abstractmethod
    def _sacct_runs(self, since_s: int) -> list[JobRecord]:
        """Every run of the last seconds that accounting has of this account's jobs."""

    @abstractmethod
    def cancel(self, *refs: SlurmRef) -> None: ...

    @abstractmethod
    def ping(self) -> str: ...

    # --- submission ----------------------------------------------------------------------------------------------

    def submit(self, submission: Submission) -> SlurmRef:
        directory = self._directory(submission.name)
        files = self._files(submission)
        submitted_at = self._clock.now().replace(microsecond=0)
        try:
            job_id = self._sbatch(directory, submission.name, files)
        except DirectoryUnavailable:
            raise  # a directory that was there already is not ours to remove
        except RunnerUnavailable as exc:
            if exc.started:
                raise SubmissionUnknown(f"The answer to the submission of {submission.name} was lost: {exc}") from exc
            self._remove_quietly(directory)
            raise
        except (SubmissionRefused, SchedulerUnavailable):
            self._remove_quietly(directory)
            raise
        return SlurmRef(self._cluster, job_id, submission.name, submitted_at)

    def _files(self, submission: Submission) -> dict[str, bytes]:
        for name in submission.files:
            if name in _RESERVED or "/" in name or "\0" in name:
                raise SubmissionRefused(
                    f"Job {submission.name} brings a file called {name!r}, which cannot be put beside its script.",
                    hint=f"Use a plain file name other than {SCRIPT} and {_LOG}.",
                )
        return {SCRIPT: submission.script.encode(), **submission.files}

    def _remove_quietly(self, directory: PurePosixPath) -> None:
        try:
            self._runner.remove_directory(directory)
        except SchedulerUnavailable as error:
            log.warning("slurm.directory_left", directory=str(directory), error=str(error))

    # --- looking -------------------------------------------------------------------------------------------------

    def observe(self, refs: Sequence[SlurmRef]) -> Observation:
        """One look at the queue for all, and one at accounting if any of them is no longer alive there.

        Where accounting does not answer, jobs that squeue no longer knows are `unjudged`.
        """
        at = self._clock.now()
        if not refs:
            return Observation(at)
        queue = _by_identity(self._squeue(wanted={ref.job_id for ref in refs}))
        found: dict[SlurmRef, Sighting] = {}
        over: list[SlurmRef] = []
        for ref in refs:
            sighting = queue.get((ref.job_id, ref.name))
            if sighting is None or has_ended(sighting):
                over.append(ref)
            else:
                found[ref] = sighting
        accounts = self._accounts_of(over[:_MOST_ENDED])
        unjudged = set(over[_MOST_ENDED:])
        for ref in over[:_MOST_ENDED]:
            sighting = _end_of(ref, queue, accounts, at)
            if sighting is not None:
                found[ref] = sighting
            elif accounts is None:
                unjudged.add(ref)
        return Observation(at, found, frozenset(unjudged))

    def _accounts_of(self, refs: Sequence[SlurmRef]) -> dict[tuple[str, str], Sighting] | None:
        """Accounting's word on these jobs, by identity; None when it does not answer."""
        if not refs:
            return {}
        since_s = self._seconds_since(min(ref.submitted_at for ref in refs))
        try:
            return _by_identity(self._sacct(since_s, ids=[ref.job_id for ref in refs]))
        except SchedulerUnavailable as error:
            log.warning("slurm.accounting_unavailable", jobs=len(refs), error=str(error))
            return None

    def find(self, name: str, since: datetime) -> list[SlurmRef]:
        """In the queue and in accounting: both must have answered."""
        self._directory(name)
        known = array_of(name)
        records = [*self._squeue(name=known), *self._sacct(self._seconds_since(since), name=known)]
        first: dict[str, datetime] = {}
        for record in records:
            if record.name == name and record.submitted_at >= since.replace(microsecond=0):
                first[record.job_id] = min(record.submitted_at, first.get(record.job_id, record.submitted_at))
        found = [SlurmRef(self._cluster, job_id, name, at) for job_id, at in first.items()]
        return sorted(found, key=lambda ref: (ref.submitted_at, int(ref.job_id.partition("_")[0])))

    def history(self, since: datetime) -> list[PastRun]:
        """One look at everything that this account ran. A job that was never eligible to start is not in it."""
        return [
            PastRun(SlurmRef(self._cluster, run.job_id, run.name, run.submitted_at), run.sighting)
            for run in self._sacct_runs(self._seconds_since(since))
            if run.name.startswith(OUR_JOBS)
        ]

    def _seconds_since(self, moment: datetime) -> int:
        return max(0, int((self._clock.now() - moment + _CLOCKS_DIFFER_BY).total_seconds()))

    # --- the job's directory ---------------------------------------------------------------------------------------

    def read_log(self, ref: SlurmRef, max_bytes: int) -> bytes:
        return self._runner.read_tail(self._directory(ref.name) / _LOG, max_bytes) if max_bytes > 0 else b""

    def discard(self, ref: SlurmRef) -> None:
        self._runner.remove_directory(self._directory(ref.name))

    def _directory(self, name: str) -> PurePosixPath:
        """The job's directory. A name that could lead out of the working directory is a fault of ours."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a job; it may hold only letters, digits and . _ -")
        return self._work_dir / name


class CliScheduler(SlurmScheduler):
    """SLURM through its commands: `runner` runs them, `commands` says where they are."""

    def __init__(self, runner: Runner, commands: SlurmCommands, work_dir: PurePosixPath, cluster: str, clock: Clock):
        super().__init__(runner, work_dir, cluster, clock)
        self._commands = commands

    def _sbatch(self, directory: PurePosixPath, name: str, files: Mapping[str, bytes]) -> str:
        argv, environment = self._commands.sbatch(directory, name, SCRIPT), self._commands.environment
        return answers.job_id_of(name, self._runner.run_beside(directory, files, argv, environment, SUBMIT_S))

    def submit_array(self, array: ArraySubmission) -> list[SlurmRef]:
        """The tasks' directories are made first, so that one sbatch is all that is asked of SLURM."""
        numbers = sorted(array.tasks)
        directories = {number: self._directory(array.tasks[number].name) for number in numbers}
        files = {number: self._files(array.tasks[number]) for number in numbers}
        last = numbers[-1]
        files[last] = {**files[last], _ARRAY: _array_script(array, files[last][SCRIPT].decode())}
        script = directories[last] / _ARRAY
        command = self._commands.sbatch_array(self._work_dir, array.name, array.comment, numbers, script)
        made = self._make_directories({directories[number]: files[number] for number in numbers[:-1]})
        submitted_at = self._clock.now().replace(microsecond=0)
        environment = self._commands.environment
        try:
            answer = self._runner.run_beside(directories[last], files[last], command, environment, SUBMIT_S)
            job_id = answers.job_id_of(array.name, answer)
        except (SubmissionRefused, SchedulerUnavailable) as exc:
            if isinstance(exc, RunnerUnavailable) and exc.started:
                raise SubmissionUnknown(f"The answer to the submission of {array.name} was lost: {exc}") from exc
            was_there = isinstance(exc, DirectoryUnavailable)  # then it is not ours to remove
            self._remove_all_quietly(made if was_there else [*made, directories[last]])
            raise
        names = {number: array.tasks[number].name for number in numbers}
        return [SlurmRef(self._cluster, f"{job_id}_{number}", names[number], submitted_at) for number in numbers]

    def _make_directories(self, contents: Mapping[PurePosixPath, Mapping[str, bytes]]) -> list[PurePosixPath]:
        """Raises SchedulerUnavailable where one cannot be made; then none of them is left, if possible."""
        made: list[PurePosixPath] = []
        for directory, files in contents.items():
            try:
                self._runner.put_directory(directory, files)
            except SchedulerUnavailable:
                self._remove_all_quietly(made)
                raise
            made.append(directory)
        return made

    def _remove_all_quietly(self, directories: Iterable[PurePosixPath]) -> None:
        for directory in directories:
            self._remove_quietly(directory)

    def _squeue(self, *, name: str | None = None, wanted: Collection[str] | None = None) -> list[JobRecord]:
        text = answers.require_answer("squeue", self._run(self._commands.squeue(name), ASK_S))
        return squeue_records(text, wanted)

    def _sacct(self, since_s: int, *, ids: Sequence[str] | None = None, name: str | None = None) -> list[JobRecord]:
        command = self._commands.sacct_by_name(name, since_s) if name else self._commands.sacct(ids or (), since_s)
        return sacct_records(answers.require_answer("sacct", self._run(command, ASK_S)))

    def _sacct_runs(self, since_s: int) -> list[JobRecord]:
        answer = self._run(self._commands.sacct_history(since_s), HISTORY_S)
        return sacct_runs(answers.require_answer("sacct", answer))

    def cancel(self, *refs: SlurmRef) -> None:
        (name,) = {array_of(ref.name) for ref in refs}
        answers.require_cancelled(self._run(self._commands.scancel([ref.job_id for ref in refs], name), ASK_S))

    def ping(self) -> str:
        controller = answers.require_controller(self._run(self._commands.scontrol_ping(), ASK_S))
        version = answers.require_answer("sinfo", self._run(self._commands.version(), ASK_S))
        lines = [line for line in version.splitlines() if line.startswith("slurm")]  # Debian says slurm-wlm
        return f"{lines[-1] if lines else 'SLURM'} scheduler, commands on {self._runner.place}: {controller}"

    def _run(self, argv: list[str], timeout_s: float) -> Completed:
        return self._runner.run(argv, self._commands.environment, timeout_s)


def _array_script(array: ArraySubmission, script: str) -> bytes:
    """What SLURM is given for all tasks: the header of one of them, as they ask for the same, and the way to each."""
    lines = script.splitlines()
    header = [line for line in lines if line.startswith("#SBATCH ")]
    words = [
        "#!/bin/bash",
        *header,
        "",
        "# Jobs of DivBase that ask for the same, as one array. Each has a directory with its own script and files.",
        f'cd "{array.name}.$SLURM_ARRAY_TASK_ID" && exec /bin/bash {SCRIPT}',
    ]
    return "".join(f"{line}\n" for line in words).encode()


def _end_of(
    ref: SlurmRef,
    queue: Mapping[tuple[str, str], Sighting],
    accounts: Mapping[tuple[str, str], Sighting] | None,
    now: datetime,
) -> Sighting | None:
    """A job that is not alive: squeue's word while accounting is away, both together while it answers."""
    identity = ref.job_id, ref.name
    last = queue.get(identity)
    return last if accounts is None else merged(last, accounts.get(identity), now)


def _by_identity(records: Iterable[JobRecord]) -> dict[tuple[str, str], Sighting]:
    """By `JobRecord.identity`. Few jobs have more than one record: only those are gathered."""
    first: dict[tuple[str, str], JobRecord] = {}
    tasks: dict[tuple[str, str], list[JobRecord]] = {}
    for record in records:
        known = first.setdefault(record.identity, record)
        if known is not record:
            tasks.setdefault(record.identity, [known]).append(record)
    found = {identity: record.sighting for identity, record in first.items()}
    return found | {identity: whole_job(group) for identity, group in tasks.items()}
