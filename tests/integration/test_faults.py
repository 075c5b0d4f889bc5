"""Every fault of the benchmark's table: DivBase gives the right answer or fails loudly, and never a short one."""

from __future__ import annotations

import pytest

from benchmarks.faults import FAULTS, Bench, Fault
from benchmarks.faulty_store import FaultyStore

pytestmark = pytest.mark.slow  # real programs

RIGHT = {
    "none",
    "two connections dropped in mid-body",
    "every connection dropped in mid-body",
    "503, five times",
    "two short bodies with a length that agrees",
    "every body short, with a length that agrees",
    "URL expired before the job",
    "URL expires in mid-job",
    "index of another file",
    "index older than the file",
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.title)
def test_a_fault_never_makes_an_answer_wrong(bench: Bench, fault: Fault) -> None:
    """What passes changes nothing; what lasts ends the job with its reason."""
    objects = fault.spoil(bench.well, bench.other) if fault.spoil else bench.well
    expected = bench.expected(objects)
    assert len(expected) > 1000
    with FaultyStore() as store:
        ending = bench.by_divbase(store, fault, objects, expected)
    assert (ending.right, ending.loud) == (fault.title in RIGHT, fault.title not in RIGHT), ending
    assert ending.right or "failed: " in ending.words or ending.words.startswith("refused: "), ending
    assert "internal_error" not in ending.words
