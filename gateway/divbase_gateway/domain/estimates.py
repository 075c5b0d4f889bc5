"""What a job will cost: bytes, memory, cores, minutes, scratch space, by formulas that a person can check.

It knows sizes and counts only. The rates are those of docs and benchmarks, halved for slower nodes; a job that is
given too much waits a little longer, one that is given too little dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from divbase_gateway.domain.allocations import Ceilings
from divbase_gateway.domain.corrections import Correction
from divbase_gateway.domain.queries import Plan, PlannedInput, Process

MIB = 1 << 20
TRANSFER_RATE = 20 * MIB
"""Bytes a second from and to the store; 90 MB/s were measured on one connection."""
WORK_RATE = 2 * MIB
"""Bytes of compressed input a second through parsing, steps, merge and compression; 4 to 15 were measured."""
MIN_MINUTES, MAX_MINUTES = 10, 7 * 24 * 60
MIN_MEMORY_MB = 1024
PROCESS_MB = 8
"""A bcftools process with its buffers; 3.5 MB were measured where a thousand files are merged."""
READER_MB = 2
"""An open input; 1.3 MB were measured."""
SAMPLE_BYTES = 20_000
"""Per sample of the result: its name and its share of the buffered records."""
COPY_WORK = 0.8
"""Of the work on records of a VCF.gz, that on the same records of its BCF copy, results included; 0.65 (a tenth of the
samples) to 0.9 (all of them) were measured."""
RECORDS_GROWTH, TEXT_GROWTH = 1.5, 20
"""Bytes of the result for each byte of compressed input that is worked through; nothing compresses text."""
SHARD_SECONDS = 30
"""Of estimated work: a shard with less is not worth its processes."""
MOST_SHARDS, MOST_PROCESSES = 16, 256
"""Of a job. More shards wait for the one process that joins them; more processes, for memory and a core."""
UNASKED_CORES = 4
"""For shards, where nobody has said how many cores a job may have: nearly every node has as many."""
UNCORRECTED = Correction()
"""Where no job has told another one yet."""
STARTUP_S = 2
"""Seconds of a job in which nothing is read or worked on yet, or any more: claim, programs, upload, report."""
JOIN_SHARE = 1 / 3
"""Of the work of a query in shards, what joining them takes beside that which they share out."""
MOST_TASKS = 64
"""Jobs that a query is spread over: one process joins what they wrote."""


@dataclass(frozen=True)
class Estimate:
    """Bytes, MiB, cores, minutes and seconds, all rounded up.

    Attributes:
        minutes: the job's time limit.
        expected_s: that the job is expected to run for, of `model_s` that the rates here alone would give.
    """

    bytes_total: int
    bytes_needed: int
    memory_mb: int
    cores: int
    minutes: int
    scratch_mb: int
    model_s: int
    expected_s: int


def estimate(
    inputs: Sequence[PlannedInput],
    processes: Sequence[Process],
    samples: int,
    share: float,
    *,
    text: bool = False,
    shards: int = 1,
    correction: Correction = UNCORRECTED,
) -> Estimate:
    """Costs of a plan.

    Args:
        samples: of the result.
        share: of the inputs' records that lie on the contigs asked for, 0 to 1. No more is worked through than is read.
        text: whether the result is text.
        shards: that the processes work on side by side.
        correction: how long jobs take here, against what the rates of this module say.
    """
    total = sum(entry.size + entry.index.size for entry in inputs)
    needed = sum(entry.source.bytes_needed for entry in inputs)
    worked = _worked(inputs, share)
    stages = _stored_stages(processes)
    joined = shards > 1  # which stores once more, and that is in JOIN_SHARE
    at_work = _work(worked * _effort(inputs), stages - joined) * (1 / shards + (JOIN_SHARE if joined else 0))
    seconds = STARTUP_S + needed / TRANSFER_RATE + at_work
    copies = 2 * worked * stages  # level 1 is up to twice the size of level 6
    result = worked * (TEXT_GROWTH if text else RECORDS_GROWTH)
    read = [entry.source for entry in inputs]
    twice = sum(source.bytes_needed for source in read if source.part)  # as it is fetched, and made into a file
    scratch = 256 + (needed + twice + copies + result) / MIB
    cores = 1 if len(processes) == 1 else 2 if len(inputs) < 8 else 4
    return Estimate(
        bytes_total=total,
        bytes_needed=needed,
        memory_mb=_memory(len(processes), len(inputs) * shards, samples * shards),
        cores=max(cores, shards) if joined else cores,
        minutes=min(MAX_MINUTES, max(MIN_MINUTES, ceil(correction.limit * seconds / 60))),
        scratch_mb=ceil(scratch),
        model_s=ceil(seconds),
        expected_s=ceil(correction.usual * seconds),
    )


def affordable_shards(
    inputs: Sequence[PlannedInput],
    processes: Sequence[Process],
    samples: int,
    share: float,
    ceilings: Ceilings,
) -> int:
    """In how many shards these processes pay, within what a job may ask for; 1: they stay as they are.

    Each has half a minute of work, a core, and processes of its own, for which there has to be memory.
    """
    worked = _worked(inputs, share) * _effort(inputs)
    most = min(MOST_SHARDS, int(_work(worked, _stored_stages(processes)) / SHARD_SECONDS))
    most = min(most, UNASKED_CORES if ceilings.cores is None else ceilings.cores)
    for count in range(most, 1, -1):
        all_processes = count * len(processes) + 1
        memory = _memory(all_processes, count * len(inputs), count * samples)
        if all_processes <= MOST_PROCESSES and (ceilings.memory_mb is None or memory <= ceilings.memory_mb):
            return count
    return 1


def tasks_for(alone_s: int, after_s: int) -> int:
    """Over how many jobs a query is spread that would take `alone_s` in one piece, where `after_s` seconds are too much
    for one job. Each has half of that, so that a node that is slower than others keeps within it too."""
    return min(MOST_TASKS, max(2, ceil(2 * alone_s / after_s)))


def estimate_gather(
    tasks: Sequence[Sequence[PlannedInput]],
    processes: int,
    samples: int,
    ceilings: Ceilings,
    *,
    text: bool = False,
    correction: Correction = UNCORRECTED,
) -> Estimate:
    """Costs of joining what jobs with these inputs write. It reads that and not the inputs, whose bytes are the tasks';
    whether they read copies is nothing to it.

    Args:
        processes: that join and do what follows.
    """
    worked = sum(_worked(inputs, share=1.0) for inputs in tasks)
    stored = 2 * worked  # level 1 is up to twice the size of level 6
    seconds = STARTUP_S + stored / TRANSFER_RATE + JOIN_SHARE * _work(worked, 0)
    result = worked * (TEXT_GROWTH if text else RECORDS_GROWTH)
    return Estimate(
        bytes_total=sum(entry.size + entry.index.size for entry in tasks[0]),
        bytes_needed=sum(entry.source.bytes_needed for inputs in tasks for entry in inputs),
        memory_mb=_memory(processes, len(tasks), samples),
        cores=min(UNASKED_CORES, ceilings.cores or UNASKED_CORES),
        minutes=min(MAX_MINUTES, max(MIN_MINUTES, ceil(correction.limit * seconds / 60))),
        scratch_mb=ceil(256 + (stored + result) / MIB),
        model_s=ceil(seconds),
        expected_s=ceil(correction.usual * seconds),
    )


def is_cheaper(copy_bytes: int, file_bytes: int) -> bool:
    """Whether it costs less to read so many bytes of a BCF copy than so many of the file, for the same records."""
    return copy_bytes / TRANSFER_RATE + COPY_WORK * file_bytes / WORK_RATE < file_bytes * (
        1 / TRANSFER_RATE + 1 / WORK_RATE
    )


def slower(plan: Plan) -> Plan:
    """A plan of copies, asking for what it takes at most to read the files themselves.

    Of a query that is spread it is its tasks that read them: the job that joins what they make needs no more.
    """
    more = sum(max(0, entry.bytes_needed - entry.source.bytes_needed) for entry in plan.inputs)
    if plan.spread is not None:
        tasks = plan.spread
        expected_s = ceil(tasks.expected_s / COPY_WORK)
        return replace(
            plan,
            bytes_needed=plan.bytes_needed + more,
            expected_s=plan.expected_s - tasks.expected_s + expected_s,
            spread=replace(tasks, minutes=min(MAX_MINUTES, ceil(tasks.minutes / COPY_WORK)), expected_s=expected_s),
        )
    return replace(
        plan,
        bytes_needed=sum(entry.bytes_needed for entry in plan.inputs),
        minutes=min(MAX_MINUTES, ceil(plan.minutes / COPY_WORK)),
        scratch_mb=plan.scratch_mb + ceil(2 * more / MIB),
        model_s=ceil(plan.model_s / COPY_WORK),
        expected_s=ceil(plan.expected_s / COPY_WORK),
    )


def _worked(inputs: Sequence[PlannedInput], share: float) -> float:
    """Bytes of the files whose records are worked through, whatever is read of them or of their copies."""
    stored = sum(entry.size + entry.index.size for entry in inputs)
    return min(stored * share, sum(entry.bytes_needed for entry in inputs))


def _effort(inputs: Sequence[PlannedInput]) -> float:
    """What is to be done for a byte of that, against what there is to do where no copy is read."""
    spared = sum(entry.bytes_needed for entry in inputs if entry.copy is not None) * (1 - COPY_WORK)
    return 1 - spared / max(1, sum(entry.bytes_needed for entry in inputs))


def _work(worked: float, stages: int) -> float:
    """Seconds of one core, but for what is done beside each other in pipes."""
    return worked / WORK_RATE * (1.5 if stages else 1)


def _memory(processes: int, readers: int, samples: int) -> int:
    """MiB, in steps of 256; `samples` are held once in each shard."""
    memory = 256 + PROCESS_MB * processes + READER_MB * readers + samples * SAMPLE_BYTES / MIB
    return max(MIN_MEMORY_MB, ceil(memory / 256) * 256)


def _stored_stages(processes: Sequence[Process]) -> int:
    """How many times records are written to the disk, one after the other, before they come to the result."""
    stages: dict[str, int] = {}
    for process in processes:
        stages[process.id] = process.materialise + max((stages[source] for source in process.sources), default=0)
    return max(stages.values(), default=0)
