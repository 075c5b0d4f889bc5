"""Plans as values that can be stored and compared: to and from JSON-compatible dicts, and their digest.

It knows the shape of a plan, not how one is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from divbase_gateway.domain.estimates import slower
from divbase_gateway.domain.files import IndexKind, IndexRef
from divbase_gateway.domain.queries import CombineKind, InputCopy, OutputFormat, Plan, PlannedInput, Process, Spread
from divbase_gateway.domain.spans import IndexedContig, Part, Span

RECIPE = 1
"""How a plan becomes a result, in one number. Raise it with a change of the job script, of node.py or of the pipes that
gives other records, another header or other bytes for the same plan: earlier results then answer no question again."""

_NEWER = ("part", "begins", "copy")
"""Of an input; what plans of the first releases do not have."""

_LATER = ("shards", "model_s", "expected_s", "spread")
"""Of a plan; each has a default."""

_ELSEWHERE = "task_plans"
"""Of a plan; stored with the jobs that they are of."""


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """A JSON-compatible copy; `plan_from_dict` gives an equal plan back, but for the plans of its tasks."""
    return {name: _plain(getattr(plan, name)) for name in _NAMES[Plan] if name != _ELSEWHERE}


def plan_from_dict(data: Mapping[str, Any]) -> Plan:
    """The plan that `plan_to_dict` was given.

    Raises:
        KeyError, TypeError, ValueError: this is no stored plan.
    """
    optional = (*_LATER, _ELSEWHERE)
    values = {name: _frozen(data[name]) for name in _NAMES[Plan] if name in data or name not in optional}
    values["inputs"] = tuple(_input_from_dict(entry) for entry in data["inputs"])
    values["processes"] = tuple(
        Process(**{name: _frozen(entry[name]) for name in _NAMES[Process]}) for entry in data["processes"]
    )
    values["combine"] = CombineKind(data["combine"])
    values["output"] = OutputFormat(data["output"])
    values["spread"] = Spread(**data["spread"]) if data.get("spread") else None
    return Plan(**values)


def digest_plan(plan: Plan, recipe: int = RECIPE) -> str:
    """sha256 hex over what decides the result: inputs with their versions, processes, output, the recipe.

    Not costs or warnings, nor which part of an input is read, nor whether its BCF copy is. A result answers every
    question of the same digest, so whatever makes a job's result another than that of another job has to be in here.

    Args:
        plan: not in shards, and no copy is read. A plan in shards, or of copies, has the digest of the one without, for
            it gives the same bytes.
    """
    if plan.shards != 1 or any(entry.copy for entry in plan.inputs):
        raise ValueError("the processes of shards, and of copies, do not decide a result")
    content = {
        "recipe": recipe,
        "inputs": [_digest_input(entry) for entry in plan.inputs],
        "processes": [_plain(process) for process in plan.processes],
        "output": [plan.output.value, plan.output_name],
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def digest_task(digest: str, number: int, tasks: int) -> str:
    """sha256 hex that names the share of one task in a plan of this digest."""
    return hashlib.sha256(f"{digest} {number}/{tasks}".encode("ascii")).hexdigest()


def _digest_input(entry: PlannedInput) -> list[object]:
    samples = None
    if entry.samples is not None:  # names hold no newline: they are tab-separated words of a header line
        samples = hashlib.sha256("\n".join(entry.samples).encode("utf-8")).hexdigest()
    index = entry.index
    return [entry.number, entry.key, entry.version_id, entry.etag, entry.size, entry.format, samples, entry.group,
            index.key, index.version_id, index.etag]  # fmt: skip


def part_to_dict(part: Part) -> dict[str, Any]:
    """The part as docs/node-protocol.md has it, which is how it is stored too."""
    return {
        "spans": [[span.start, span.length, span.first, span.end] for span in part.spans],
        "min_shift": part.min_shift,
        "depth": part.depth,
        "contigs": [
            [contig.name, contig.number, [[number, list(chunks)] for number, chunks in contig.bins]]
            for contig in part.contigs
        ],
    }


def part_from_dict(data: Mapping[str, Any]) -> Part:
    """The part that `part_to_dict` was given.

    Raises:
        KeyError, TypeError, ValueError: this is no stored part.
    """
    contigs = tuple(
        IndexedContig(name, number, tuple((number, tuple(chunks)) for number, chunks in bins))
        for name, number, bins in data["contigs"]
    )
    return Part(tuple(Span(*span) for span in data["spans"]), contigs, data["min_shift"], data["depth"])


_NAMES: Mapping[type, tuple[str, ...]] = {
    kind: tuple(entry.name for entry in fields(kind))
    for kind in (Plan, PlannedInput, InputCopy, Process, IndexRef, Spread)
}


_AS_THEY_ARE = frozenset({str, int, float, bool, type(None)})


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _AS_THEY_ARE:  # most of a plan of a hundred files are these
        return value
    if kind is tuple:
        return [item if type(item) in _AS_THEY_ARE else _plain(item) for item in value]
    if kind is Part:
        return part_to_dict(value)
    if kind in _NAMES:
        return {name: _plain(getattr(value, name)) for name in _NAMES[kind]}
    return value.value if isinstance(value, CombineKind | OutputFormat | IndexKind) else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _input_from_dict(data: Mapping[str, Any]) -> PlannedInput:
    values = {name: _frozen(data[name]) for name in _NAMES[PlannedInput] if name not in _NEWER}
    copy = data.get("copy")
    return PlannedInput(**values | _read_from_dict(data), copy=None if copy is None else _copy_from_dict(copy))


def _copy_from_dict(data: Mapping[str, Any]) -> InputCopy:
    return InputCopy(**{name: data[name] for name in _NAMES[InputCopy]} | _read_from_dict(data))


def _read_from_dict(data: Mapping[str, Any]) -> dict[str, Any]:
    """What an input and its copy have alike and JSON has not."""
    part, index = data.get("part"), dict(data["index"])
    index["kind"] = IndexKind(index["kind"])
    return {
        "index": IndexRef(**index),
        "part": None if part is None else part_from_dict(part),
        "begins": tuple(data.get("begins", ())),
    }


def without_copies(plan: Plan) -> Plan:
    """The same plan reading the files themselves, for when a copy is gone; it asks for the time that this may take.

    Of a query that is spread, the processes stay: those of its own job read what the tasks made.
    """
    copied = [entry for entry in plan.inputs if entry.copy is not None]
    renamed = copied if plan.spread is None else []
    names = {f"in/{entry.number}.{entry.read_format}": f"in/{entry.number}.{entry.format}" for entry in renamed}
    processes = (
        replace(process, argv=tuple(names.get(word, word) for word in process.argv)) for process in plan.processes
    )
    inputs = tuple(replace(entry, copy=None) for entry in plan.inputs)
    return replace(slower(plan) if copied else plan, inputs=inputs, processes=tuple(processes))
