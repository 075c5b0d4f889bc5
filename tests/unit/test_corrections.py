"""What earlier jobs say of the cost model, and what a plan makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from divbase_gateway.domain.corrections import FEWEST, LONG_ENOUGH_S, Correction, Run, learn, memory_used
from divbase_gateway.domain.planning import make_plan
from divbase_gateway.domain.queries import Plan, QueryRequest, Selection

from tests.unit.test_planning import vcf

GIB = 1 << 30


def runs(ratios: Sequence[float], model_s: int = 100) -> list[Run]:
    return [Run(model_s, ratio * model_s, 1000, None) for ratio in ratios]


def test_half_of_the_jobs_say_what_is_usual_and_the_slowest_what_has_room() -> None:
    """One job among twenty that took long does not change what is expected, but the limit."""
    learned = learn(runs([0.5] * 19 + [3.0]))
    assert (learned.usual, learned.slow, learned.runs) == (0.5, 3.0, 20)
    assert learned.limit == 1.25 * 3.0
    assert learn(runs([0.5] * 20)).limit == 1.0


@pytest.mark.parametrize(("ratio", "kept"), [(0.001, 0.25), (100.0, 4.0), (1.5, 1.5)])
def test_no_correction_is_absurd(ratio: float, kept: float) -> None:
    """A cluster that stood still, or a clock that did, is not believed."""
    assert learn(runs([ratio] * FEWEST)).usual == kept


def test_few_or_short_runs_say_nothing() -> None:
    """Below that, chance and the start of programs decide."""
    assert learn(runs([3.0] * (FEWEST - 1))) == Correction()
    assert learn(runs([3.0] * 100, model_s=LONG_ENOUGH_S - 1)) == Correction()


def test_memory_is_compared_where_it_was_measured() -> None:
    """SLURM measures no job that is over before it looks."""
    measured = [Run(100, 50.0, 1000, share << 20) for share in (100, 300, 800)]
    assert memory_used([*runs([1.0]), *measured]) == (0.3, 0.8)
    assert memory_used(runs([1.0])) is None


def test_a_plan_is_corrected_and_keeps_what_the_model_said() -> None:
    """Else a correction would be learned from a corrected plan. The result is the same, and so is the digest."""
    plan, slower = _plan(Correction()), _plan(Correction(usual=2.0, slow=2.0, runs=9))
    assert plan.expected_s == plan.model_s > 600
    assert (slower.expected_s, slower.model_s, slower.digest) == (2 * plan.model_s, plan.model_s, plan.digest)
    assert slower.minutes in (2 * plan.minutes, 2 * plan.minutes - 1)


def _plan(correction: Correction) -> Plan:
    files = [vcf("a.vcf.gz", "A", "1:75 2:25", size=4 * GIB)]
    request = QueryRequest(Selection(all_samples=True), "view -r 2")
    return make_plan(request, files, None, correction=correction)
