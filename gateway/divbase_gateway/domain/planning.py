"""Makes a Plan from a request and the catalogue: a pure function, so that a bad request fails in the answer.

It knows the order in which things are decided; each decision lives in a module of its own (`choosing`, `combining`,
`pipeline`, `estimates`). No bytes are read and nothing is asked of anybody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain

from divbase_gateway.domain.after_steps import AfterSteps, parse_after
from divbase_gateway.domain.allocations import Ceilings
from divbase_gateway.domain.choosing import ChosenFiles, ChosenSamples, check_contigs, choose_files, choose_samples
from divbase_gateway.domain.combining import Group, Member, group_members, kind_of, union_contigs
from divbase_gateway.domain.corrections import Correction
from divbase_gateway.domain.errors import InvalidName, InvalidSelection, InvalidStep
from divbase_gateway.domain.estimates import (
    UNASKED_CORES,
    UNCORRECTED,
    Estimate,
    affordable_shards,
    estimate,
    estimate_gather,
    is_cheaper,
    tasks_for,
)
from divbase_gateway.domain.files import CataloguedFile, FileFormat
from divbase_gateway.domain.index_maps import FileMap, first_offset
from divbase_gateway.domain.outputs import Output, choose_output
from divbase_gateway.domain.pipeline import SHARD, Numbered, build_gather, build_processes, build_tasks
from divbase_gateway.domain.plans import digest_plan, digest_task, plan_from_dict, plan_to_dict
from divbase_gateway.domain.queries import CombineKind, InputCopy, Plan, PlannedInput, Process, QueryRequest, Spread
from divbase_gateway.domain.regions import Region, format_regions, parse_regions
from divbase_gateway.domain.samples import SampleTable, list_some
from divbase_gateway.domain.shards import Shard, cut, follows, in_order
from divbase_gateway.domain.spans import MAX_BINS, Part, has_records, name_all, part_for
from divbase_gateway.domain.steps import Steps, parse_steps

__all__ = ["LoadMaps", "make_plan", "plan_from_dict", "plan_to_dict", "validate_result_name"]

LoadMaps = Callable[[Sequence[CataloguedFile], Sequence[str]], Mapping[str, FileMap]]
"""Gives, by key, what is known of the indexes of these files and of their BCF copies on these contigs; files may be
missing, they are read whole. Asked once a plan, and where there are no regions only if there is work for shards."""

MAX_SHARDED_CONTIGS = 1000
LEAST_BINS = 16
"""Of the index of what a task reads of a file."""
MAX_NAMED_CONTIGS = 10_000
"""That a part's index names though nothing is read of them, because the header may not; they are in the manifest."""
MAX_REGIONS_BYTES = 100_000
"""Of one value of --regions; Linux takes no word longer than 128 KiB."""
PLAIN_CONTIG = re.compile(r"[A-Za-z0-9_.#|+][A-Za-z0-9_.#|+-]*")
"""One that every bcftools takes in --regions as it is; names with a colon need {}, which came with 1.18."""
_NO_CEILINGS = Ceilings()

_RESULT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def validate_result_name(name: str) -> str:
    """Return `name` if it can name a result: 1 to 100 letters, digits, `.`, `_`, `-`, no `.` or `-` first.

    Raises:
        InvalidName: with what would be right.
    """
    if not _RESULT_NAME.fullmatch(name):
        raise InvalidName(
            f"{name!r} cannot name a result.",
            hint="Use 1 to 100 letters, digits, '.', '_' and '-', beginning with a letter, a digit or '_'.",
            details={"name": name},
        )
    return name


def _no_maps(files: Sequence[CataloguedFile], contigs: Sequence[str]) -> Mapping[str, FileMap]:
    return {}


def make_plan(
    request: QueryRequest,
    catalogue: Sequence[CataloguedFile],
    table: SampleTable | None,
    load_maps: LoadMaps = _no_maps,
    ceilings: Ceilings = _NO_CEILINGS,
    shards: int | None = None,
    correction: Correction = UNCORRECTED,
    spread_after_s: int | None = None,
) -> Plan:
    """Decide everything about a query.

    Args:
        catalogue: every current file of the project, in any order.
        table: the project's sample metadata; None where there is none. Needed for `where` only.
        load_maps: what the indexes say of places; without it every file is read whole.
        ceilings: what a job may ask for; shards keep within them.
        shards: at most that many, whether they pay or not; None: as many as pay.
        correction: how long jobs take here, against what the cost model says.
        spread_after_s: a query that would keep one job busy for more seconds is spread over several; None: none is.

    Raises:
        InvalidRequest: any of its kinds, when the request cannot be answered as it is.
    """
    validate_result_name(request.name)
    steps, after = parse_steps(request.command), parse_after(request.after)
    output = choose_output(request, after)
    chosen = choose_files(request.files, catalogue)
    named = (*(region.contig for region in steps.regions), *steps.target_contigs, *after.target_contigs)
    check_contigs(named, chosen.files)
    asked = choose_samples(request.selection, chosen.files, table, catalogue)
    _check_private(steps, asked)
    places = _find_places(chosen.files, steps, load_maps)
    members = _members(chosen.files, steps, asked, places)
    groups = group_members(members)
    work = _Work(steps, after, output, groups, _lay_out(groups, asked), places, correction)
    plan, work = _read_copies(_assemble(work, chosen, asked), work)
    count = shards or affordable_shards(plan.inputs, plan.processes, len(work.layout.samples), work.share, ceilings)
    everywhere = _find_all_places(work, load_maps) if count > 1 or _is_too_long(plan, spread_after_s) else places
    in_one = _share_out(plan, work, everywhere, count) if count > 1 else plan
    return _spread_out(in_one, plan.expected_s, work, everywhere, ceilings, spread_after_s)


def _is_too_long(plan: Plan, spread_after_s: int | None) -> bool:
    return spread_after_s is not None and plan.expected_s > spread_after_s


def _check_private(steps: Steps, asked: ChosenSamples) -> None:
    for step in steps.steps:
        if asked.names is None and (step.has("private") or step.has("exclude-private")):
            raise InvalidStep(
                f"--private in step {step.number} compares the chosen samples with the rest of their file, "
                "and with all samples chosen there is no rest.",
                hint="Choose samples with --where or --samples.",
                details={"step": step.number, "position": 0, "allowed": []},
            )


@dataclass(frozen=True)
class _Places:
    """What the first step reads, and by key where that is in the files, as far as their indexes are known."""

    regions: tuple[Region, ...]
    maps: Mapping[str, FileMap]

    def of(self, member: Member) -> FileMap | None:
        """The map of a file, if it tells of every contig on which records are looked for."""
        return self._whole(member.file.key, member)

    def of_copy(self, member: Member) -> FileMap | None:
        """The map of its BCF copy, on the same condition."""
        return None if member.file.sidecar is None else self._whole(member.file.sidecar.key, member)

    def _whole(self, key: str, member: Member) -> FileMap | None:
        found = self.maps.get(key)
        wanted = {region.contig for region in self.regions}.intersection(member.data)
        return found if found is not None and wanted <= found.contigs.keys() else None


def _find_places(files: Sequence[CataloguedFile], steps: Steps, load_maps: LoadMaps) -> _Places:
    regions = steps.regions or _leading_targets(steps)
    maps = load_maps(files, tuple(dict.fromkeys(region.contig for region in regions))) if regions else {}
    return _Places(regions, maps)


def _leading_targets(steps: Steps) -> tuple[Region, ...]:
    """Where all records begin that the first step lets through, by its `--targets`; empty where it does not say.

    With --targets-overlap a record counts by its end too, about which bcftools and an index may not agree.
    """
    value = steps.steps[0].value("targets") or "^"
    by_position = (steps.steps[0].value("targets-overlap") or "0") == "0"
    return parse_regions(value) if by_position and not value.startswith("^") else ()


def _members(
    files: Sequence[CataloguedFile], steps: Steps, asked: ChosenSamples, places: _Places
) -> tuple[Member, ...]:
    """The files, in key order, that have selected samples and, as far as is known, records in the regions."""
    contigs = {region.contig for region in steps.regions} or None
    some_have_samples = any(file.samples for file in files)
    members = []
    for file in files:
        data = tuple(c.name for c in file.contigs if c.variants != 0 and (contigs is None or c.name in contigs))
        samples = file.samples if asked.names is None else tuple(filter(asked.names.__contains__, file.samples))
        member = Member(file, samples, tuple(c.name for c in file.contigs), data)
        if data and (samples or not some_have_samples) and _may_have_records(member, steps, places):
            members.append(member)
    if not members:
        raise _nothing_there(files, steps, asked)
    return tuple(members)


def _may_have_records(member: Member, steps: Steps, places: _Places) -> bool:
    """Whether the file is read: as on contigs, targets leave no file out."""
    file_map = places.of(member)
    return not steps.regions or file_map is None or has_records(places.regions, file_map)


def _nothing_there(files: Sequence[CataloguedFile], steps: Steps, asked: ChosenSamples) -> InvalidSelection:
    who = "the files" if asked.names is None else "the files of the selected samples"
    where = f" on {list_some(list(dict.fromkeys(r.contig for r in steps.regions)))}" if steps.regions else ""
    return InvalidSelection(
        f"There are no records{where} in {who}.",
        hint="`divbase files info KEY` shows how many records a file has on each contig.",
        details={"unknown": [str(region) for region in steps.regions], "known": [file.key for file in files[:20]]},
    )


@dataclass(frozen=True)
class _Layout:
    """What is known once files are grouped: their numbers in the plan, and the samples of the result."""

    numbered: tuple[Numbered, ...]
    group_of: dict[str, int]
    samples: tuple[str, ...]


def _lay_out(groups: Sequence[Group], asked: ChosenSamples) -> _Layout:
    group_of = {m.file.key: number for number, group in enumerate(groups, start=1) for m in group.members}
    members = sorted((m for group in groups for m in group.members), key=lambda m: m.file.key)
    numbered = []
    for number, member in enumerate(members, start=1):
        order = groups[group_of[member.file.key] - 1].samples
        if asked.names is not None:
            numbered.append(Numbered(number, member, order))
        elif member.samples != order:
            numbered.append(Numbered(number, member, order, keep_counts=True))
        else:
            numbered.append(Numbered(number, member, None))
    return _Layout(tuple(numbered), group_of, tuple(chain.from_iterable(group.samples for group in groups)))


def _check_genotypes(steps: Steps, after: AfterSteps, samples: Sequence[str]) -> None:
    """Without genotypes +fill-tags fills in nothing, or F_MISSING=0, and does not say so."""
    step = after.counts_genotypes
    if step is not None and (steps.drops_genotypes or not samples):
        why = "the steps of --command drop them (-G)" if samples else "the files have no samples"
        raise step.refuse(f"{step.command.name} counts genotypes, and {why}", hint="Leave this step out.")


@dataclass(frozen=True)
class _Work:
    """All that decides what is done, whatever it is shared out to."""

    steps: Steps
    after: AfterSteps
    output: Output
    groups: tuple[Group, ...]
    layout: _Layout
    places: _Places
    correction: Correction

    @property
    def kind(self) -> CombineKind:
        return kind_of(self.groups)

    @cached_property
    def share(self) -> float:
        return _share(self.layout.numbered)

    def processes(self, shards: Sequence[Shard] = ()) -> tuple[Process, ...]:
        numbered = self.layout.numbered
        return build_processes(self.groups, numbered, self.steps, self.kind, self.after, self.output, shards)

    def estimate(self, inputs: Sequence[PlannedInput], processes: Sequence[Process], shards: int = 1) -> Estimate:
        samples, text = len(self.layout.samples), self.output.format.is_text
        return estimate(inputs, processes, samples, self.share, text=text, shards=shards, correction=self.correction)

    def estimate_task(self, inputs: Sequence[PlannedInput], processes: Sequence[Process]) -> Estimate:
        return estimate(inputs, processes, len(self.layout.samples), share=1.0, correction=self.correction)

    def estimate_gather(
        self, tasks: Sequence[Sequence[PlannedInput]], processes: Sequence[Process], ceilings: Ceilings
    ) -> Estimate:
        samples, text = len(self.layout.samples), self.output.format.is_text
        return estimate_gather(tasks, len(processes), samples, ceilings, text=text, correction=self.correction)


def _assemble(work: _Work, chosen: ChosenFiles, asked: ChosenSamples) -> Plan:
    steps, after, layout, kind = work.steps, work.after, work.layout, work.kind
    _check_genotypes(steps, after, layout.samples)
    processes = work.processes()
    inputs = tuple(_planned_input(entry, layout.group_of, work.places) for entry in layout.numbered)
    cost = work.estimate(inputs, processes)
    dropped, warnings = _dropped(asked, layout.samples, chosen.files)
    plan = Plan(
        inputs=inputs,
        processes=processes,
        combine=kind,
        samples=() if steps.drops_genotypes or after.drops_genotypes else layout.samples,
        dropped_samples=dropped,
        regions=tuple(str(region) for region in steps.regions),
        output=work.output.format,
        output_name=work.output.name,
        **asdict(cost),
        warnings=(*chosen.warnings, *asked.warnings, *warnings, *_copies(inputs, kind), *_no_samples(chosen, asked)),
    )
    return replace(plan, digest=digest_plan(plan))


def _read_copies(plan: Plan, work: _Work) -> tuple[Plan, _Work]:
    """The plan with those BCF copies that are cheaper to read; its digest stays, for so do the bytes of the result."""
    numbered = work.layout.numbered
    inputs = tuple(
        replace(each, copy=_cheaper_copy(entry.member, each, work.places))
        for entry, each in zip(numbered, plan.inputs, strict=True)
    )
    if all(each.copy is None for each in inputs):
        return plan, work
    copied = {each.number for each in inputs if each.copy is not None}
    read = tuple(replace(entry, reads_copy=entry.number in copied) for entry in numbered)
    work = replace(work, layout=replace(work.layout, numbered=read))
    processes = work.processes()
    return replace(plan, inputs=inputs, processes=processes, **asdict(work.estimate(inputs, processes))), work


def _cheaper_copy(member: Member, planned: PlannedInput, places: _Places) -> InputCopy | None:
    found = _copy_of(member, places)
    return found if found is not None and is_cheaper(found.bytes_needed, planned.bytes_needed) else None


def _copy_of(member: Member, places: _Places, most_bins: int | None = None) -> InputCopy | None:
    """What is to be read of the BCF copy of a file, where there is one."""
    found = member.file.sidecar
    if found is None:
        return None
    file_map = places.of_copy(member)
    part = None if file_map is None else part_for(places.regions, file_map, found.size, most_bins)
    return InputCopy(
        key=found.key,
        version_id=found.version_id,
        size=found.size,
        etag=found.etag,
        sha256=found.sha256,
        index=found.index,
        bytes_needed=found.size + found.index.size if part is None else part.size,
        part=part,
    )


def _share_out(plan: Plan, work: _Work, places: _Places, count: int) -> Plan:
    """The plan with its work in shards, if it can be cut; its digest stays, for so do the bytes of the result."""
    shards = _cut(work, places, count)
    if len(shards) < 2:
        return plan
    processes = work.processes(shards)
    cost = work.estimate(plan.inputs, processes, len(shards))
    inputs = plan.inputs
    if not work.places.regions:  # bcftools would read them from end to end
        inputs = tuple(_with_begins(each, lambda key, _: _begins(places.maps[key])) for each in inputs)
    return replace(plan, inputs=inputs, processes=processes, shards=len(shards), **asdict(cost))


def _spread_out(
    plan: Plan, alone_s: int, work: _Work, places: _Places, ceilings: Ceilings, after_s: int | None
) -> Plan:
    """The plan with every shard a job of its own, where one job would take too long and the work can be cut.

    Its digest stays, for so do the bytes of the result.

    Args:
        alone_s: that the work is expected to take in one piece.
    """
    if after_s is None or not _is_too_long(plan, after_s):
        return plan
    within_s = after_s if ceilings.minutes is None else min(after_s, 60 * ceilings.minutes)
    shards = _cut(work, places, tasks_for(alone_s, within_s))
    if len(shards) < 2:
        return plan
    found = [_task(work, replace(places, regions=shard.regions), len(shards)) for shard in shards]
    if not work.places.regions and not _all_begins(found, places):
        return plan
    pipelines = build_tasks(work.groups, work.layout.numbered, work.steps, work.kind, shards)
    costs = [work.estimate_task(inputs, each) for inputs, each in zip(found, pipelines, strict=True)]
    spread = _same_for_all(costs)
    gather = build_gather(len(shards), work.after, work.output, min(UNASKED_CORES, ceilings.cores or UNASKED_CORES))
    joining = work.estimate_gather(found, gather, ceilings)
    tasks = tuple(
        _task_plan(plan, number, shard, inputs, processes, cost, spread)
        for number, (shard, inputs, processes, cost) in enumerate(
            zip(shards, found, pipelines, costs, strict=True), start=1
        )
    )
    return replace(
        plan,
        **{**asdict(joining), "expected_s": spread.expected_s + joining.expected_s},
        processes=gather,
        shards=len(shards),
        spread=spread,
        task_plans=tasks,
    )


def _same_for_all(costs: Sequence[Estimate]) -> Spread:
    """What every task asks for: as much as the one that needs most."""
    return Spread(
        tasks=len(costs),
        cores=max(cost.cores for cost in costs),
        memory_mb=max(cost.memory_mb for cost in costs),
        minutes=max(cost.minutes for cost in costs),
        scratch_mb=max(cost.scratch_mb for cost in costs),
        expected_s=max(cost.expected_s for cost in costs),
    )


def _task(work: _Work, places: _Places, tasks: int) -> tuple[PlannedInput, ...]:
    """The inputs of a task: of every file, or of its copy where the plan reads that, what is in the task's regions;
    also where that is nothing but the header.

    All tasks together have about as many bins in their indexes as one job would have.
    """
    most_bins = max(LEAST_BINS, MAX_BINS // tasks)
    inputs = [_task_input(work, entry, places, most_bins) for entry in work.layout.numbered]
    if work.places.regions:
        return tuple(inputs)
    return tuple(_with_begins(each, lambda key, part: _begins_read(places, key, part)) for each in inputs)


def _task_input(work: _Work, entry: Numbered, places: _Places, most_bins: int) -> PlannedInput:
    planned = _planned_input(entry, work.layout.group_of, places, most_bins)
    return replace(planned, copy=_copy_of(entry.member, places, most_bins) if entry.reads_copy else None)


def _begins_read(places: _Places, key: str, part: Part | None) -> tuple[int, ...]:
    """The first records of contigs that a task reads, whatever bin their index has them in."""
    contigs = {region.contig for region in places.regions}.intersection(places.maps[key].contigs)
    begins = sorted(first_offset(places.maps[key].contigs[name]) for name in contigs)
    return tuple(offset for offset in begins if _is_read(part, offset))


def _is_read(part: Part | None, offset: int) -> bool:
    return part is None or any(span.first <= offset < span.end for span in part.spans)


def _all_begins(tasks: Sequence[Sequence[PlannedInput]], places: _Places) -> bool:
    """Whether some task looks at the first record of each contig in each file, and in each copy that is read; others
    than them are never of POS 0."""
    read = [(each.key, each.begins) for inputs in tasks for entry in inputs for each in (entry, entry.copy) if each]
    seen = {(key, offset) for key, begins in read for offset in begins}
    return all((key, offset) in seen for key in dict(read) for offset in _begins(places.maps[key]))


def _task_plan(
    plan: Plan,
    number: int,
    shard: Shard,
    inputs: tuple[PlannedInput, ...],
    processes: tuple[Process, ...],
    cost: Estimate,
    spread: Spread,
) -> Plan:
    asked = replace(cost, cores=spread.cores, memory_mb=spread.memory_mb, minutes=spread.minutes)
    return Plan(
        inputs=inputs,
        processes=processes,
        combine=plan.combine,
        samples=(),
        dropped_samples=(),
        regions=tuple(map(str, shard.regions)),
        output=SHARD.format,
        output_name=SHARD.name,
        **asdict(asked),
        digest=digest_task(plan.digest, number, spread.tasks),
    )


def _find_all_places(work: _Work, load_maps: LoadMaps) -> _Places:
    """Where records are that the steps read; on all contigs where no regions say it, in the order of the result."""
    members = [member for group in work.groups for member in group.members]
    contigs = union_contigs(members)
    if work.places.regions:
        return replace(work.places, regions=in_order(work.places.regions, contigs))
    data = {name for member in members for name in member.data}
    named = tuple(name for name in contigs if name in data)
    can_be_named = len(named) <= MAX_SHARDED_CONTIGS and all(map(PLAIN_CONTIG.fullmatch, named))
    maps = load_maps([member.file for member in members], named) if can_be_named else {}
    return _Places(tuple(map(Region, named)), maps)


def _cut(work: _Work, places: _Places, count: int) -> tuple[Shard, ...]:
    """The shards of the work; fewer than two where it cannot be cut, or where an index does not tell how.

    Not where variants and not records count as overlapping: they may begin on the other side of a border. Where the
    files are read from end to end, records come in the order of the file.
    """
    members = [member for group in work.groups for member in group.members]
    files = [found for member in members if (found := places.of(member)) is not None]
    by_variants = work.steps.steps[0].value("regions-overlap") == "2"
    unknown = any(entry.reads_copy and places.of_copy(entry.member) is None for entry in work.layout.numbered)
    if by_variants or unknown or len(files) < len(members) or _may_ask_for_zero(work) or _merges_blocks(work):
        return ()
    if not places.regions:
        return ()  # targets are on contigs of other files only
    if not work.steps.regions and not all(map(follows, files, (member.header for member in members))):
        return ()
    shards = cut(places.regions, files, count)
    longest = max(len(format_regions(shard.regions).encode()) for shard in shards)
    return shards if longest <= MAX_REGIONS_BYTES else ()


def _merges_blocks(work: _Work) -> bool:
    """Whether `merge` may be given records without another allele that have an END: of a gVCF, or as
    `--trim-alt-alleles` makes them of deletions that no sample has.

    bcftools takes them for blocks of a gVCF. At the first one that shares its place with others it changes its ways
    for all that follows: it leaves END out, and cuts blocks where other records are. A shard begins with the old ways.
    """
    if work.kind not in (CombineKind.MERGE, CombineKind.MIXED):
        return False
    has_blocks = any(member.file.has_blocks for group in work.groups for member in group.members)
    return has_blocks or any(step.has("trim-alt-alleles") for step in work.steps.steps)


def _may_ask_for_zero(work: _Work) -> bool:
    """Whether `--targets` names whole contigs. It finds records of POS 0 there, by `--regions` there are none."""
    return not work.steps.regions and any(region.start is None for region in work.places.regions)


def _with_begins(entry: PlannedInput, begins: Callable[[str, Part | None], tuple[int, ...]]) -> PlannedInput:
    """The input with what `begins` gives for it, and for its copy, by key and part."""
    copy = entry.copy
    read = None if copy is None else replace(copy, begins=begins(copy.key, copy.part))
    return replace(entry, begins=begins(entry.key, entry.part), copy=read)


def _begins(file: FileMap) -> tuple[int, ...]:
    """Virtual offsets of each contig's first record, the one that may have POS 0."""
    return tuple(sorted(map(first_offset, file.contigs.values())))


def _planned_input(
    entry: Numbered, group_of: dict[str, int], places: _Places, most_bins: int | None = None
) -> PlannedInput:
    file = entry.member.file
    assert file.index is not None  # noqa: S101 - choose_files lets no file through without
    file_map = places.of(entry.member)
    part = None if file_map is None else part_for(places.regions, file_map, file.size, most_bins)
    undeclared = [contig.name for contig in file.contigs if contig.length is None]
    if part is not None and file.format is FileFormat.VCF_GZ and len(undeclared) <= MAX_NAMED_CONTIGS:
        part = name_all(part, undeclared)
    return PlannedInput(
        number=entry.number,
        key=file.key,
        version_id=file.version_id,
        size=file.size,
        etag=file.etag,
        sha256=file.sha256,
        format=file.format.value,
        index=file.index,
        samples=entry.samples,
        group=group_of[file.key],
        bytes_needed=file.size + file.index.size if part is None else part.size,  # the node indexes a part itself
        part=part,
    )


def _share(numbered: Sequence[Numbered]) -> float:
    """The share of the inputs' records that lie on the contigs asked for; 1 where an index has not counted."""
    total = asked = 0
    for entry in numbered:
        data = set(entry.member.data)
        for contig in entry.member.file.contigs:
            if contig.variants is None:
                return 1.0
            total += contig.variants
            asked += contig.variants if contig.name in data else 0
    return asked / total if total else 1.0


def _dropped(
    asked: ChosenSamples, kept: Sequence[str], files: Sequence[CataloguedFile]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Selected samples that are not in the result, and a sentence about those that only the region excludes."""
    if asked.names is not None and len(kept) == len(asked.ordered):
        return (), ()
    present = frozenset(kept)
    everyone = asked.ordered if asked.names is not None else _beside(files, present)
    dropped = tuple(name for name in everyone if name not in present)
    in_files = frozenset(_beside(files, present)) if dropped else frozenset()
    by_region = [name for name in dropped if name in in_files]
    if not by_region:
        return dropped, ()
    sentence = f"{len(by_region)} sample(s) are left out, their files have no records there: {list_some(by_region)}."
    return dropped, (sentence,)


def _beside(files: Sequence[CataloguedFile], present: frozenset[str]) -> dict[str, None]:
    """Samples of files of which not every sample is present, in order."""
    return dict.fromkeys(chain.from_iterable(f.samples for f in files if not present.issuperset(f.samples)))


def _copies(inputs: Sequence[PlannedInput], kind: CombineKind) -> tuple[str, ...]:
    """A warning for each file that is a copy of another one: its records would be in the result twice."""
    if kind in (CombineKind.SINGLE, CombineKind.MERGE):
        return ()
    first: dict[tuple[object, ...], str] = {}
    warnings = []
    for entry in inputs:
        content = (entry.sha256,) if entry.sha256 else (entry.etag, entry.size)
        if content in first:
            warnings.append(
                f"{entry.key} has the same content as {first[content]}: its records will be in the result twice."
            )
        first.setdefault(content, entry.key)
    return tuple(warnings)


def _no_samples(chosen: ChosenFiles, asked: ChosenSamples) -> tuple[str, ...]:
    """A warning where files without samples stand beside files with some, and all samples were asked for."""
    bare = [file.key for file in chosen.files if not file.samples]
    if asked.names is not None or not bare or len(bare) == len(chosen.files):
        return ()
    return (f"{len(bare)} file(s) without samples are left out: {list_some(bare, 5)}.",)
