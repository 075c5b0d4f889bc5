"""What a job will cost: bytes, memory, cores, minutes, scratch space, by formulas that a person can check.

It knows sizes and counts only. The rates are those of docs and benchmarks, halved for slower nodes; a job that is
given too much waits a little longer, one that is given too little dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from divbase_gateway.domain.queries import PlannedInput, Process

MIB = 1 << 20
TRANSFER_RATE = 20 * MIB
"""Bytes a second from and to the store; 90 MB/s were measured on one connection."""
WORK_RATE = 2 * MIB
"""Bytes of compressed input a second through parsing, steps, merge and compression; 4 to 15 were measured."""
MIN_MINUTES, MAX_MINUTES = 10, 7 * 24 * 60
MIN_MEMORY_MB = 1024
PROCESS_MB = 32
"""A bcftools process: some MB of its own, buffers, and a record of many samples."""
READER_MB = 2
"""An open input; 1.3 MB were measured."""
SAMPLE_BYTES = 20_000
"""Per sample of the result: its name and its share of the buffered records."""
RECORDS_GROWTH, TEXT_GROWTH = 1.5, 20
"""Bytes of the result for each byte of compressed input that is worked through; nothing compresses text."""


@dataclass(frozen=True)
class Estimate:
    """Bytes, MiB, cores and minutes, all rounded up."""

    bytes_total: int
    bytes_needed: int
    memory_mb: int
    cores: int
    minutes: int
    scratch_mb: int


def estimate(
    inputs: Sequence[PlannedInput], processes: Sequence[Process], samples: int, share: float, *, text: bool = False
) -> Estimate:
    """Costs of a plan.

    Args:
        samples: of the result.
        share: of the inputs' records that lie on the contigs asked for, 0 to 1. No more is worked through than is read.
        text: whether the result is text.
    """
    total = sum(entry.size + entry.index.size for entry in inputs)
    needed = sum(entry.bytes_needed for entry in inputs)
    worked = min(total * share, needed)
    stored = sum(process.materialise for process in processes)
    seconds = needed / TRANSFER_RATE + worked / WORK_RATE * (1.5 if stored else 1)
    memory = 256 + PROCESS_MB * len(processes) + READER_MB * len(inputs) + samples * SAMPLE_BYTES / MIB
    copies = 2 * worked if stored else 0  # level 1 is up to twice the size of level 6
    result = worked * (TEXT_GROWTH if text else RECORDS_GROWTH)
    twice = sum(entry.bytes_needed for entry in inputs if entry.part)  # as it is fetched, and made into a file
    scratch = 256 + (needed + twice + copies + result) / MIB
    return Estimate(
        bytes_total=total,
        bytes_needed=needed,
        memory_mb=max(MIN_MEMORY_MB, ceil(memory / 256) * 256),
        cores=1 if len(processes) == 1 else 2 if len(inputs) < 8 else 4,
        minutes=min(MAX_MINUTES, max(MIN_MINUTES, ceil(2 * seconds / 60))),
        scratch_mb=ceil(scratch),
    )
