"""From what squeue and sacct print to sightings of jobs. Pure functions over text; lines that are no records, such as
the banners of a login node, are passed over, and nothing is known of who asked."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache

from divbase_gateway.domain.jobs import Phase, phase_of
from divbase_gateway.ports import ARRAY_MARK, Sighting
from divbase_gateway.slurm.commands import SACCT_FIELDS, SEPARATOR, SQUEUE_FIELDS

_ID = re.compile(r"(\d+)(?:_(?:\d+|\[[^\]]*\]))?(?:\+\d+)?")
_TASKS = re.compile(r"\d+_(?:(?P<task>\d+)|\[(?P<tasks>[\d,:-]+)(?:%\d+)?\])")
_STEP_ID = re.compile(rf"(?P<job>{_ID.pattern})\.[\w+-]+")
_STATE = re.compile(r"[A-Z_]+\+?( by \S+)?")
_CPU_TIME = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+(?:\.\d+)?)")
_BYTES = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]?)")
_UNITS = {unit: 1024**power for power, unit in enumerate(("", "K", "M", "G", "T", "P"))}
_ENDS = frozenset({Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED})
_NOTHING = frozenset({"", "None", "N/A", "Unknown", "NONE", "None assigned", "(null)"})

ACCOUNTING_LAG = timedelta(seconds=60)
"""How long after its end a job is given for slurmdbd to write it down, while squeue still shows it."""


@dataclass(frozen=True)
class JobRecord:
    """One job, or one task of an array, as one command showed it.

    Attributes:
        job_id: the number that sbatch printed: `123` for `123`, `123_4`, `123_[5-9%2]` and `123+1`. Of a task of an
            array of ours, `123_4`.
        full_id: as SLURM printed it.
        name: of a task of an array of ours that of the array, and the task's number.
    """

    job_id: str
    full_id: str
    name: str
    submitted_at: datetime
    sighting: Sighting

    @cached_property
    def identity(self) -> tuple[str, str]:
        """Names are random, so id and name make one job; an id alone comes back when the ids wrap."""
        return self.job_id, self.name


def _each_task(record: JobRecord) -> list[JobRecord]:
    """The record; of an array of ours one for each task that it is about, which is a job by itself."""
    match = _TASKS.fullmatch(record.full_id) if record.name.endswith(ARRAY_MARK) else None
    if match is None:
        return [record]
    numbers = _numbers(match["task"] or match["tasks"])
    return [replace(record, job_id=f"{record.job_id}_{number}", name=f"{record.name}.{number}") for number in numbers]


def _numbers(text: str) -> list[int]:
    """`5-7,9` as numbers, and `3-17:7`, which some releases print of tasks at even distances."""
    numbers: list[int] = []
    for word in text.split(","):
        ends, _, step = word.partition(":")
        first, _, last = ends.partition("-")
        numbers += range(int(first), int(last or first) + 1, int(step or 1))
    return numbers


def has_ended(sighting: Sighting) -> bool:
    """Whether the scheduler's word is an end."""
    return phase_of(sighting.state) in _ENDS


# --- squeue ------------------------------------------------------------------------------------------------------


def squeue_records(text: str, wanted: Collection[str] | None = None) -> list[JobRecord]:
    """The jobs in the output of `SlurmCommands.squeue`; `wanted` names the only ids that are of interest."""
    records = (each for line in text.splitlines() for each in _squeue_records(line))
    return [each for each in records if wanted is None or each.job_id in wanted]


@lru_cache(maxsize=1 << 15)  # most lines of a look are those of the look before
def _squeue_records(line: str) -> list[JobRecord]:
    record = _squeue_record(line)
    return [] if record is None else _each_task(record)


def _squeue_record(line: str) -> JobRecord | None:
    values = line.split(SEPARATOR, len(SQUEUE_FIELDS) - 1)
    number = _ID.fullmatch(values[0])
    if number is None or len(values) != len(SQUEUE_FIELDS) or not line.endswith(SEPARATOR):
        return None
    full_id, state, restarts, exit_code, submitted, started, ended, node, priority, partition, reason, name = values
    submitted_at = _time(submitted)
    if submitted_at is None or not _STATE.fullmatch(state):
        return None
    phase = phase_of(state)
    over = phase in _ENDS
    waits = phase is Phase.WAITING
    code, signal = _exit(exit_code) if over else (None, None)
    started_at, ended_at = _times(phase, _time(started), _time(ended), has_node=bool(_word(node)))
    sighting = Sighting(
        state=state,
        reason=_word(reason),
        exit_code=code,
        signal=signal,
        node=_word(node) or None,
        started_at=started_at,
        ended_at=ended_at,
        restarts=_number(restarts),
        expected_start=_time(started) if waits else None,
        priority=int(priority) if waits and priority.isdecimal() else None,
        partition=_word(partition) or None,
        source="squeue",
    )
    return JobRecord(number[1], full_id, name.removesuffix(SEPARATOR), submitted_at, sighting)


def _with_times(sighting: Sighting, started: datetime | None, ended: datetime | None) -> Sighting:
    started_at, ended_at = _times(phase_of(sighting.state), started, ended, has_node=sighting.node is not None)
    return replace(sighting, started_at=started_at, ended_at=ended_at)


def _times(
    phase: Phase, started: datetime | None, ended: datetime | None, *, has_node: bool
) -> tuple[datetime | None, datetime | None]:
    """For a job that waits SLURM prints when it may start, for one that runs when it must end: neither has happened."""
    if phase is Phase.WAITING:
        return None, None
    if phase not in _ENDS:
        return started, None
    cancelled_before_start = phase is Phase.CANCELLED and not has_node
    return None if cancelled_before_start else started, ended


# --- sacct -------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """One run of a job: its own line and those of its steps."""

    values: dict[str, str]
    steps: list[dict[str, str]] = field(default_factory=list)


def sacct_records(text: str) -> list[JobRecord]:
    """The jobs in the output of `SlurmCommands.sacct`: of each id and name the last run, with its restarts counted."""
    return [task for same in _runs_by_identity(text) for task in _each_task(_last(same))]


def sacct_runs(text: str) -> list[JobRecord]:
    """Every run in the output of `SlurmCommands.sacct_history`: an id that was requeued ran more than once."""
    runs = [_each(same, number) for same in _runs_by_identity(text) for number in range(len(same))]
    return [task for run in runs for task in _each_task(run)]


def _runs_by_identity(text: str) -> list[list[_Run]]:
    """The runs of each id and name, in the order in which they came."""
    runs: dict[tuple[str, str], list[_Run]] = {}
    for run in _runs(text):
        runs.setdefault((run.values["JobID"], run.values["JobName"]), []).append(run)
    return [sorted(same, key=lambda run: _number(run.values["Submit"])) for same in runs.values()]


def _runs(text: str) -> list[_Run]:
    runs: list[_Run] = []
    current: dict[str, _Run] = {}
    for values in _sacct_lines(text):
        step = _STEP_ID.fullmatch(values["JobID"])
        if step is None:
            current[values["JobID"]] = run = _Run(values)
            runs.append(run)
        elif step["job"] in current:
            current[step["job"]].steps.append(values)
    return runs


def _sacct_lines(text: str) -> Iterator[dict[str, str]]:
    for line in text.splitlines():
        values = line.split(SEPARATOR, len(SACCT_FIELDS) - 1)
        named = dict(zip(SACCT_FIELDS, values, strict=False))
        is_id = _ID.fullmatch(values[0]) or _STEP_ID.fullmatch(values[0])
        if is_id and len(values) == len(SACCT_FIELDS) and _STATE.fullmatch(named["State"]) and _time(named["Submit"]):
            yield named


def _last(runs: list[_Run]) -> JobRecord:
    """The job came when its first run came, and is what its last run is."""
    return replace(_each(runs, len(runs) - 1), submitted_at=_each(runs, 0).submitted_at)


def _each(runs: list[_Run], place: int) -> JobRecord:
    values = runs[place].values
    number, submitted_at = _ID.fullmatch(values["JobID"]), _time(values["Submit"])
    assert number is not None and submitted_at is not None  # noqa: S101, PT018 - _sacct_lines let no other through
    sighting = _sacct_sighting(runs[place], place, replaced=place < len(runs) - 1)
    return JobRecord(number[1], values["JobID"], values["JobName"], submitted_at, sighting)


def _sacct_sighting(run: _Run, restarts: int, *, replaced: bool) -> Sighting:
    """`replaced`: another run of the id followed, so that this one is over although SLURM's word may be REQUEUED."""
    values, state = run.values, _state_with_steps(run)
    node = _word(values["NodeList"]) or None
    phase = Phase.FAILED if replaced else phase_of(state)
    started_at, ended_at = _times(phase, _time(values["Start"]), _time(values["End"]), has_node=node is not None)
    sighting = Sighting(
        state=state,
        node=node,
        started_at=started_at,
        ended_at=ended_at,
        restarts=restarts,
        # for a job that waits some releases print what it asks for
        alloc_cpus=_number(values["AllocCPUS"]) or None if started_at else None,
        source="sacct",
    )
    if phase not in _ENDS:
        return sighting
    code, signal = _exit_with_steps(run, sighting.state)
    return replace(
        sighting,
        exit_code=code,
        signal=signal,
        elapsed_s=float(_number(values["ElapsedRaw"])),
        cpu_s=_cpu_seconds(values["TotalCPU"]),
        max_rss_bytes=max((rss for each in (values, *run.steps) if (rss := _bytes(each["MaxRSS"]))), default=None),
    )


def _state_with_steps(run: _Run) -> str:
    """A job whose step ran out of memory did not complete, even where its script ended with 0."""
    state = run.values["State"]
    short_of_memory = any(step["State"].startswith("OUT_OF_ME") for step in run.steps)
    return "OUT_OF_MEMORY" if phase_of(state) is Phase.COMPLETED and short_of_memory else state


def _exit_with_steps(run: _Run, state: str) -> tuple[int | None, int | None]:
    """SLURM writes 0:0 beside CANCELLED and TIMEOUT; how the script ended is in its step."""
    own = _exit(run.values["ExitCode"])
    if own != (0, 0) or phase_of(state) is Phase.COMPLETED:
        return own
    return next((end for step in run.steps if any(end := _exit(step["ExitCode"]))), own)


# --- both --------------------------------------------------------------------------------------------------------


def whole_job(records: Sequence[JobRecord]) -> Sighting:
    """One sighting for all tasks of an id, one or more: what lives before what ended, what failed before what
    completed."""
    return min(records, key=_urgency).sighting if len(records) > 1 else records[0].sighting


def _urgency(record: JobRecord) -> int:
    if not has_ended(record.sighting):
        return 0 if phase_of(record.sighting.state) is not Phase.WAITING else 1
    return 3 if phase_of(record.sighting.state) is Phase.COMPLETED else 2


def merged(squeue: Sighting | None, sacct: Sighting | None, now: datetime) -> Sighting | None:
    """What two successful answers say together of a job that squeue no longer shows as alive.

    The end is accounting's, which knows steps and usage. What squeue calls ended is COMPLETING until accounting has it,
    for a minute; what only accounting knows and calls alive is not known: it left squeue, so that record is stale.
    """
    final = sacct is not None and has_ended(sacct)
    if squeue is None:
        return sacct if final else None
    if sacct is not None and final and not _is_of_an_earlier_run(sacct, squeue):
        restarts = max(sacct.restarts, squeue.restarts)
        return replace(sacct, reason=squeue.reason, restarts=restarts, partition=sacct.partition or squeue.partition)
    if squeue.ended_at is not None and abs(now - squeue.ended_at) < ACCOUNTING_LAG:
        return replace(squeue, state="COMPLETING", exit_code=None, signal=None, ended_at=None)
    return squeue


def _is_of_an_earlier_run(sacct: Sighting, squeue: Sighting) -> bool:
    if sacct.ended_at is None or squeue.started_at is None:
        return False
    return sacct.ended_at < squeue.started_at


# --- values ------------------------------------------------------------------------------------------------------


def _word(text: str) -> str:
    return "" if text in _NOTHING else text


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


@lru_cache(maxsize=1 << 15)  # a line changes, the times in it seldom do
def _time(text: str) -> datetime | None:
    """A Unix time, which `SLURM_TIME_FORMAT=%s` asks for; 0 and words mean that it has not come."""
    return datetime.fromtimestamp(int(text), UTC) if text.isdecimal() and int(text) > 0 else None


def _exit(text: str) -> tuple[int | None, int | None]:
    """`status:signal`."""
    status, separator, signal = text.partition(":")
    return (int(status), int(signal)) if separator and status.isdecimal() and signal.isdecimal() else (None, None)


def _cpu_seconds(text: str) -> float | None:
    """`[days-][hours:]minutes:seconds[.fraction]`."""
    match = _CPU_TIME.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _bytes(text: str) -> int | None:
    """`123456K`."""
    match = _BYTES.fullmatch(text)
    return int(float(match[1]) * _UNITS[match[2]]) if match else None
