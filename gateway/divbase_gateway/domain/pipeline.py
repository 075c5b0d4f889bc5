"""Turns chosen, grouped files and steps into the bcftools processes of a job, and says which may stream.

It knows bcftools: what it can read from a pipe and in which order it writes. It knows nothing of requests or costs.

What bcftools does, and what follows from it (seen in its source and in 1.24):

- `view` filters by -i, -e, -v, -m, -k and -f before it cuts samples with -S, and by counts (-c, -q, -u …) after.
  Where a cut has to come first and the first step has a filter that would see the uncut samples, the cut is a process
  of its own before it.
- `concat` opens every input twice (headers first), so it cannot read pipes: its sources are written to indexed BCFs.
- `merge --no-index` reads pipes, but only if all headers have the same contigs in the same order and records follow
  it. Otherwise its sources are written to indexed BCFs too, and it seeks.
- Both make the combined header by first appearance over their inputs, and write contigs in that order.
- Plain `concat` appends the contigs that a later header adds behind what `view` added to the first (AC, AN).
- `merge` remembers: after its first gVCF block beside several records it writes all others differently, to the end. So
  what `view -a` makes blocks of is merged in one piece (see `planning`).
- Everything that may come after them reads and writes a stream; `stats` can write to nowhere else.
- `concat` of files that follow each other, also within a contig, gives the records one after the other, and what
  compresses with `--threads` writes the same bytes as without. So shards are all at work at once, each into a BCF, and
  one process joins them.
- `-t ^` leaves out by POS, beside `-r`, which takes what overlaps.
- What reads a VCF writes a missing FILTER to a BCF in another way than what reads a BCF or a stream (both mean the
  same; 1.24). So a BCF is never written by what reads the file: its bytes would tell shards and copies from none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from divbase_gateway.domain.after_steps import AfterSteps
from divbase_gateway.domain.combining import Group, Member, plain_concat_order, union_contigs
from divbase_gateway.domain.files import FileFormat
from divbase_gateway.domain.outputs import Output
from divbase_gateway.domain.queries import CombineKind, OutputFormat, Process
from divbase_gateway.domain.regions import Region, format_regions, parse_regions, sort_by_contig
from divbase_gateway.domain.shards import Shard
from divbase_gateway.domain.step_grammar import ReadStep, StepOption
from divbase_gateway.domain.steps import Step, Steps
from divbase_gateway.domain.view_options import VIEW_OPTIONS

WIDTH = 64
"""Most inputs of one merge or overlapping concat: more open files make bcftools slower, and hit limits of nodes."""

STREAM = "-Ou"
STORED = "-Ob1"  # an index needs BGZF, so no -Ou; level 1 costs least
SHARD = Output(OutputFormat.BCF, 1, "shard.bcf")
"""What the job of a shard writes: the same as `STORED`, for the job that joins them to read once."""
_MOVES_TO_CUT = ("regions", "regions-overlap", "targets", "targets-overlap")
_ALSO_FOR_CUT = ("no-update",)


@dataclass(frozen=True)
class Numbered:
    """A member with its number in the plan and the samples that it is cut down to (None: not cut).

    `keep_counts`: the samples are only reordered, so INFO/AC and AN stay as they are. `reads_copy`: as BCF.
    """

    number: int
    member: Member
    samples: tuple[str, ...] | None
    keep_counts: bool = False
    reads_copy: bool = False

    @property
    def path(self) -> str:
        read = FileFormat.BCF if self.reads_copy else self.member.file.format
        return f"in/{self.number}.{read.value}"


def build_processes(
    groups: Sequence[Group],
    numbered: Sequence[Numbered],
    steps: Steps,
    kind: CombineKind,
    after: AfterSteps,
    output: Output,
    shards: Sequence[Shard] = (),
) -> tuple[Process, ...]:
    """The processes, every source before its reader; the last one writes `output`.

    The same bytes come of any `shards` that have all that the steps read between them, in the order of the result.
    """
    sharded = len(shards) > 1
    processes = _by_shard(groups, numbered, steps, kind, shards) if sharded else _combine(groups, numbered, steps, kind)
    processes.extend(_after(after, processes[-1]))
    merged = processes[-1].argv[0] == "merge"  # then a process of its own compresses beside it
    direct = output.format is OutputFormat.BCF and not processes[-1].sources
    if not after.steps and (merged or direct):
        processes.append(Process("out", ("view", "--no-version", STREAM), sources=(processes[-1].id,)))
    return (*processes[:-1], _write(processes[-1], output, threads=len(shards) if sharded else 0))


def build_tasks(
    groups: Sequence[Group], numbered: Sequence[Numbered], steps: Steps, kind: CombineKind, shards: Sequence[Shard]
) -> list[tuple[Process, ...]]:
    """For each shard the processes of a job of its own, which write `SHARD`: the records that they would write for
    `build_processes`, on the same parts of the same files."""
    found = []
    for shard in shards:
        own = _combine(groups, numbered, read_shard(steps, shard), kind)
        found.append((*own[:-1], _write(own[-1], SHARD, threads=0)))
    return found


def build_gather(count: int, after: AfterSteps, output: Output, threads: int) -> tuple[Process, ...]:
    """The processes of the job that joins what `count` jobs wrote, which it finds as its inputs, and does the rest.

    From there on they are those of `build_processes`; `threads` change no byte.
    """
    joined = Process("j", ("concat", "--no-version", STREAM, *(shard_path(n) for n in range(1, count + 1))))
    processes = [joined, *_after(after, joined)]
    return (*processes[:-1], _write(processes[-1], output, threads=threads))


def shard_path(number: int) -> str:
    """Where the node stages the result of a shard's job for the one that joins them."""
    return f"in/{number}.{SHARD.format.value}"


def _after(after: AfterSteps, before: Process) -> list[Process]:
    """The steps on the one stream that `before` gives."""
    processes = [before]
    for number, step in enumerate(after.steps, start=1):
        processes.append(Process(f"a{number}", _after_argv(step), sources=(processes[-1].id,)))
    return processes[1:]


def _by_shard(
    groups: Sequence[Group], numbered: Sequence[Numbered], steps: Steps, kind: CombineKind, shards: Sequence[Shard]
) -> list[Process]:
    """Every shard by processes of its own, into a file, because `concat` reads one after the other; then all joined."""
    processes: list[Process] = []
    ends: list[str] = []
    for number, shard in enumerate(shards, start=1):
        own = [_named(f"s{number}", each) for each in _combine(groups, numbered, read_shard(steps, shard), kind)]
        processes.extend([*own[:-1], _store(own[-1])])
        ends.append(own[-1].id)
    return [*processes, Process("j", ("concat", "--no-version", STREAM), sources=tuple(ends))]


def _named(name: str, process: Process) -> Process:
    return replace(process, id=f"{name}.{process.id}", sources=tuple(f"{name}.{source}" for source in process.sources))


def _combine(groups: Sequence[Group], numbered: Sequence[Numbered], steps: Steps, kind: CombineKind) -> list[Process]:
    """The processes whose last one has everything in one stream."""
    by_key = {entry.member.file.key: entry for entry in numbered}
    if kind is CombineKind.SINGLE:
        return _chain(numbered[0], steps)
    processes: list[Process] = []
    streams = kind is not CombineKind.CONCAT and _can_stream(groups)
    heads: list[str] = []
    for number, group in enumerate(groups, start=1):
        concat = len(group.members) > 1
        order = plain_concat_order(group.members) if concat else None
        ends: list[str] = []
        for member in order or group.members:
            own = _chain(by_key[member.file.key], steps)
            processes.extend([*own[:-1], _store(own[-1]) if concat or not streams else own[-1]])
            ends.append(own[-1].id)
        if concat:
            mode = () if order else ("--allow-overlaps",)
            joined = _tree(f"c{number}", ends, ("concat", "--no-version", *mode), stored=True, flat=order is not None)
            last = joined[-1] if streams or kind is CombineKind.CONCAT else _store(joined[-1])
            processes.extend([*joined[:-1], last])
            ends = [last.id]
        heads.extend(ends)
    if kind is not CombineKind.CONCAT:
        mode = ("--no-index",) if streams else ()
        processes.extend(_tree("m", heads, ("merge", *mode, "--no-version"), stored=not streams))
    return processes


def _after_argv(step: ReadStep) -> tuple[str, ...]:
    """The step's words; a plugin's own come after `--`, and what prints text takes no format."""
    given = tuple(word for option in step.options for word in option.argv)
    if step.command.name in ("query", "stats"):
        return (step.command.name, *given)
    dashes = () if step.command.general is None else ("--",)
    return (step.command.name, "--no-version", STREAM, *dashes, *given)


def _can_stream(groups: Sequence[Group]) -> bool:
    headers = set()
    for group in groups:
        order = (plain_concat_order(group.members) if len(group.members) > 1 else None) or group.members
        headers.add(union_contigs(order))
    return len(headers) == 1


def _tree(name: str, sources: Sequence[str], argv: tuple[str, ...], stored: bool, flat: bool = False) -> list[Process]:
    """One process over all sources, or a tree of them with at most WIDTH sources each; the order is kept.

    `stored`: the processes read indexed files, so those between have to be stored. `flat`: no limit (plain concat has
    one input open at a time).
    """
    processes: list[Process] = []
    level = 0
    names = list(sources)
    while len(names) > WIDTH and not flat:
        level += 1
        parts = _even_parts(names)
        for index, part in enumerate(parts, start=1):
            process = Process(f"{name}.{level}.{index}", (*argv, STREAM), sources=tuple(part))
            processes.append(_store(process) if stored else process)
        names = [f"{name}.{level}.{index}" for index in range(1, len(parts) + 1)]
    processes.append(Process(name, (*argv, STREAM), sources=tuple(names)))
    return processes


def _even_parts(names: Sequence[str]) -> list[list[str]]:
    """As few parts of at most WIDTH as possible, their sizes within one of each other: none of a single source."""
    count = -(-len(names) // WIDTH)
    edges = [round(index * len(names) / count) for index in range(count + 1)]
    return [list(names[start:end]) for start, end in pairwise(edges)]


def _store(process: Process) -> Process:
    return replace(process, argv=tuple(STORED if word == STREAM else word for word in process.argv), materialise=True)


def _write(process: Process, output: Output, threads: int) -> Process:
    """The same process, writing the result; a reader of the file argument keeps it last.

    `threads`: how many compress beside it.
    """
    if output.format.is_text:
        return replace(process, output=output.path)
    index = process.argv.index(STREAM)
    how = (*output.argv, "--threads", str(threads)) if threads else output.argv
    return replace(process, argv=(*process.argv[:index], *how, *process.argv[index + 1 :]), output=output.path)


# --- one shard -------------------------------------------------------------------------------------------------------


def read_shard(steps: Steps, shard: Shard) -> Steps:
    """The steps on this shard's part of what they read.

    Where the query takes records by POS, or has no regions of its own, so does the shard. Where it takes what overlaps
    its regions, the shard leaves out what is taken before it; in a process of its own if the step has targets already.
    """
    first = steps.steps[0]
    rest = tuple(given for given in first.options if given.option.long not in ("regions", "regions-overlap"))
    regions = [_given("regions", format_regions(shard.regions))]
    if not first.has("regions") or first.value("regions-overlap") == "0":
        return _beginning(steps, replace(first, options=(*regions, _given("regions-overlap", "0"), *rest)))
    if not shard.taken:
        return _beginning(steps, replace(first, options=(*regions, *rest)))
    before = Region(shard.regions[0].contig, 1, shard.taken)
    inside = [*regions, _given("targets", f"^{before}"), _given("targets-overlap", "0")]
    if not first.has("targets"):
        return _beginning(steps, replace(first, options=(*inside, *rest)))
    also = [given for given in rest if given.option.long in _ALSO_FOR_CUT]
    return Steps((Step(0, (*inside, *also), cuts_samples=False), replace(first, options=rest), *steps.steps[1:]))


def _beginning(steps: Steps, first: Step) -> Steps:
    return Steps((first, *steps.steps[1:]))


def _given(long: str, value: str) -> StepOption:
    return StepOption(next(option for option in VIEW_OPTIONS if option.long == long), value, 0)


# --- one file --------------------------------------------------------------------------------------------------------


def _chain(entry: Numbered, steps: Steps) -> list[Process]:
    """The processes of one file: its steps in order, the cut where it belongs, the file read by the first."""
    argvs = _argvs(entry, steps)
    argvs[0] = (*argvs[0], entry.path)
    name = f"f{entry.number}"
    ids = [name] if len(argvs) == 1 else [f"{name}.{index}" for index in range(1, len(argvs) + 1)]
    sources = [(), *((previous,) for previous in ids[:-1])]
    return [Process(id_, argv, source) for id_, argv, source in zip(ids, argvs, sources, strict=True)]


def _argvs(entry: Numbered, steps: Steps) -> list[tuple[str, ...]]:
    cut = _cut_argv(entry)
    marked = None if entry.keep_counts else steps.cut_at
    at = marked or 0
    rest = [_step_argv(step, entry) for step in steps.steps]
    first = steps.steps[0]
    if cut and marked is None and (entry.keep_counts or first.sees_uncut_samples):
        also = _ALSO_FOR_CUT if not entry.keep_counts else ()
        moved = _step_argv(first, entry, only=(*_MOVES_TO_CUT, *also))
        return [(*moved, *cut), _step_argv(first, entry, without=_MOVES_TO_CUT), *rest[1:]]
    return [(*argv, *cut) if index == at else argv for index, argv in enumerate(rest)]


def _cut_argv(entry: Numbered) -> tuple[str, ...]:
    if entry.samples is None:
        return ()
    keep = ("--no-update",) if entry.keep_counts else ()
    return (*keep, "--samples-file", f"samples/{entry.number}.txt")


def _step_argv(step: Step, entry: Numbered, only: Sequence[str] = (), without: Sequence[str] = ()) -> tuple[str, ...]:
    """`view` with the step's options; regions in the order of this file's header, those of other files left out."""
    words = ["view", "--no-version", STREAM]
    for given in step.options:
        if given.option.long in without or (only and given.option.long not in only):
            continue
        words.extend(_regions_argv(given.value, entry) if given.option.long == "regions" else given.argv)
    return tuple(words)


def _regions_argv(value: str | None, entry: Numbered) -> tuple[str, str]:
    asked = parse_regions(value or "")
    regions = sort_by_contig(asked, entry.member.header)  # of a shard, all may be elsewhere: then there is nothing
    return ("--regions", format_regions(regions or asked))
