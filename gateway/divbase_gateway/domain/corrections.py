"""How long jobs take here, against what the cost model says of them: learned from jobs that ended well.

It knows seconds and bytes, not where they are kept. What the model alone says is compared, never what was corrected
already: else each correction would be learned from the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

FEWEST, MOST = 5, 200
"""Runs: with fewer nothing is learned; of more, the latest count."""
LONG_ENOUGH_S = 10
"""By the model. What takes less is mostly the start of programs, of which the rates say nothing."""
_LEAST, _LARGEST = 0.25, 4.0
_SLOWEST = 0.95


@dataclass(frozen=True)
class Run:
    """One attempt that succeeded: what the model said, what it took, and the memory asked for and used.

    `max_rss_bytes` is None where the scheduler has not measured it.
    """

    model_s: int
    elapsed_s: float
    memory_mb: int
    max_rss_bytes: int | None


@dataclass(frozen=True)
class Correction:
    """Multiples of what the cost model says: of half of the jobs, and of all but a few.

    Attributes:
        usual: expected of a job.
        slow: what its time limit has to leave room for.
        runs: of how many jobs this was learned; 0: nothing was.
    """

    usual: float = 1.0
    slow: float = 1.0
    runs: int = 0

    @property
    def limit(self) -> float:
        """Of the model's seconds, those of the time limit: twice what is expected, or more where some take longer."""
        return max(2 * self.usual, 1.25 * self.slow)


def learn(runs: Sequence[Run]) -> Correction:
    """What these runs say, between a quarter and four times the model's; the model's own where they are too few."""
    ratios = sorted(run.elapsed_s / run.model_s for run in runs if run.model_s >= LONG_ENOUGH_S)
    if len(ratios) < FEWEST:
        return Correction()
    slow = ratios[min(len(ratios) - 1, int(_SLOWEST * len(ratios)))]
    return Correction(_bounded(median(ratios)), _bounded(slow), len(ratios))


def memory_used(runs: Sequence[Run]) -> tuple[float, float] | None:
    """The share of their memory that the runs used: median and largest; None where it was never measured."""
    shares = [run.max_rss_bytes / (run.memory_mb << 20) for run in runs if run.max_rss_bytes is not None]
    return (median(shares), max(shares)) if shares else None


def _bounded(ratio: float) -> float:
    return min(_LARGEST, max(_LEAST, ratio))
