"""Plans of queries that are spread over jobs, of files with BCF copies: what each job reads, with them and without."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from divbase_gateway.domain.files import CataloguedFile, IndexKind, IndexRef, Sidecar
from divbase_gateway.domain.index_maps import FileMap
from divbase_gateway.domain.planning import make_plan, plan_from_dict, plan_to_dict
from divbase_gateway.domain.plans import without_copies
from divbase_gateway.domain.queries import Plan, QueryRequest, Selection

from tests.unit.test_planning_parts import MAPS, MIB, A, B, Maps, window_map

COPY = Sidecar(
    "copy-of-a", "c1", 150 * MIB, "ce", "5" * 64, IndexRef("copy-of-a.csi", "i1", IndexKind.CSI, 900, "ie"), 1
)
COPIED = replace(A, sidecar=COPY)
COPY_MAP = FileMap(3000 << 16, {"1": window_map(range(100), 90_000), "2": window_map(range(40), 101 * MIB)})
ALL_MAPS = {**MAPS, COPY.key: COPY_MAP, "copy-of-b": COPY_MAP}
COMMANDS = ["view", "view -r 1:5-1200000,2", "view -m2"]


def plan_of(*files: CataloguedFile, command: str = "view", after_s: int | None = 20) -> Plan:
    request = QueryRequest(Selection(all_samples=True), command)
    return make_plan(request, files, None, Maps(ALL_MAPS), spread_after_s=after_s)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_task_reads_its_part_of_the_copy(command: str) -> None:
    """Guards: a task reads what the whole plan reads, the copy or the file, and of it what is in its own regions."""
    plan = plan_of(COPIED, B, command=command)
    assert plan.spread is not None
    for task in plan.task_plans:
        first, second = task.inputs
        assert first.copy is not None
        assert (first.copy.key, first.copy.version_id, second.copy) == (COPY.key, COPY.version_id, None)
        assert first.copy.part is not None
        assert first.copy.bytes_needed == first.copy.part.size < COPY.size
        read = {word for process in task.processes for word in process.argv if word.startswith("in/")}
        assert read == {"in/1.bcf", "in/2.vcf.gz"}
    assert plan.bytes_needed == sum(entry.source.bytes_needed for task in plan.task_plans for entry in task.inputs)


@pytest.mark.parametrize("command", COMMANDS)
def test_copies_and_tasks_change_no_digest(command: str) -> None:
    """Guards: one question, one digest, in all four ways of answering it."""
    ways = [
        plan_of(*files, command=command, after_s=after_s) for files in ((A, B), (COPIED, B)) for after_s in (20, None)
    ]
    assert [plan.spread is not None for plan in ways] == [True, False, True, False]
    assert len({plan.digest for plan in ways}) == 1


def test_tasks_look_at_the_first_records_of_the_copy_and_of_the_file() -> None:
    """Guards: whichever is read in the end, a record of POS 0 is noticed by a task that has it, in either's offsets."""
    plan = plan_of(COPIED, B)
    found = [task.inputs[0] for task in plan.task_plans]
    assert {offset for each in found for offset in each.begins} == {100_000 << 16, 101 * MIB << 16}
    assert {offset for each in found if each.copy for offset in each.copy.begins} == {90_000 << 16, 101 * MIB << 16}
    for each in found:
        assert each.copy is not None
        assert each.copy.part is not None
        spans = each.copy.part.spans
        assert all(any(span.first <= offset < span.end for span in spans) for offset in each.copy.begins)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_task_falls_back_to_the_file(command: str) -> None:
    """Guards: it is the task of the same regions on the file, with the time that this may take; stored and read back it
    is the same."""
    plan = plan_of(COPIED, B, command=command)
    for task in plan.task_plans:
        assert plan_from_dict(json.loads(json.dumps(plan_to_dict(task)))) == task
        back = without_copies(task)
        assert [entry.copy for entry in back.inputs] == [None, None]
        assert [(entry.part, entry.begins) for entry in back.inputs] == [(e.part, e.begins) for e in task.inputs]
        read = {word for process in back.processes for word in process.argv if word.startswith("in/")}
        assert read == {"in/1.vcf.gz", "in/2.vcf.gz"}
        assert (back.digest, back.minutes >= task.minutes) == (task.digest, True)


def test_the_job_that_joins_stays_what_it_is() -> None:
    """Guards: in/1.bcf is what a shard made and not a copy; it asks for no more where its tasks read the files."""
    plan = plan_of(COPIED, B)
    back = without_copies(plan)
    assert back.processes == plan.processes
    assert "in/1.bcf" in back.processes[0].argv
    assert (back.cores, back.memory_mb, back.minutes, back.scratch_mb) == (
        plan.cores,
        plan.memory_mb,
        plan.minutes,
        plan.scratch_mb,
    )
    assert plan.spread is not None
    assert back.spread is not None
    assert back.spread.expected_s > plan.spread.expected_s
    assert back.expected_s - back.spread.expected_s == plan.expected_s - plan.spread.expected_s
    assert without_copies(back) == back


def test_copies_spare_the_tasks_and_not_the_join() -> None:
    """Guards: fewer or quicker tasks; what is joined is as much as ever."""
    plain, copied = plan_of(A, B), plan_of(COPIED, replace(B, sidecar=replace(COPY, key="copy-of-b")))
    assert plain.spread is not None
    assert copied.spread is not None
    assert copied.spread.tasks < plain.spread.tasks
    mixed = plan_of(COPIED, B)
    assert mixed.spread is not None
    assert mixed.spread.tasks * mixed.spread.expected_s < plain.spread.tasks * plain.spread.expected_s
    assert mixed.model_s == pytest.approx(plain.model_s, abs=2)
