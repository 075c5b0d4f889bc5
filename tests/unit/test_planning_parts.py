"""Plans over files whose indexes are known: which part of each is read, which files are left out, what that costs."""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from divbase_gateway.domain import planning
from divbase_gateway.domain.allocations import Ceilings
from divbase_gateway.domain.errors import InvalidSelection
from divbase_gateway.domain.files import CataloguedFile, Contig, FileFormat, FileState, IndexKind, IndexRef
from divbase_gateway.domain.index_maps import ContigMap, FileMap
from divbase_gateway.domain.planning import make_plan, plan_from_dict, plan_to_dict
from divbase_gateway.domain.queries import Plan, QueryRequest, Selection
from divbase_gateway.domain.regions import parse_regions
from divbase_gateway.domain.shards import in_order
from divbase_gateway.domain.spans import Part

LEAF, WINDOW = 4681, 1 << 14
MIB = 1 << 20
SIZE = 200 * MIB


def window_map(windows: Sequence[int], begin: int) -> ContigMap:
    """A contig with 1 MiB of records in each of these windows of 16 kb, from byte `begin` of its file."""
    starts = [begin + place * MIB for place in range(len(windows))]
    chunks = array("Q", (offset << 16 for start in starts for offset in (start, start + MIB)))
    loffsets = array("Q", (start << 16 for start in starts))
    ends = array("I", range(1, len(windows) + 1))
    return ContigMap(0, 14, 5, array("I", (LEAF + window for window in windows)), loffsets, ends, chunks, array("Q"))


@dataclass
class Maps:
    """The maps of some files, and what was asked of them."""

    files: Mapping[str, FileMap]
    asked: list[tuple[list[str], list[str]]] = field(default_factory=list)

    def __call__(self, files: Sequence[CataloguedFile], contigs: Sequence[str]) -> Mapping[str, FileMap]:
        self.asked.append(([file.key for file in files], list(contigs)))
        return self.files


def vcf(key: str, samples: str, contigs: str = "1:9 2:9") -> CataloguedFile:
    """A readable file; `contigs` as name:variants."""
    parsed = tuple(Contig(name, 10**8, int(n)) for name, n in (word.rsplit(":", 1) for word in contigs.split()))
    return CataloguedFile(
        key=key, version_id=f"v-{key}", size=SIZE, etag=f"e-{key}", sha256=None, format=FileFormat.VCF_GZ,
        state=FileState.READY, reason=None, samples=tuple(samples.split()), contigs=parsed,
        index=IndexRef(f"{key}.csi", "v", IndexKind.CSI, 1000, "e"), data_begin=5000 << 16,
    )  # fmt: skip


A, B = vcf("a.vcf.gz", "A"), vcf("b.vcf.gz", "B")
MAPS = {
    "a.vcf.gz": FileMap(5000 << 16, {"1": window_map(range(100), 100_000), "2": window_map(range(90), 101 * MIB)}),
    "b.vcf.gz": FileMap(5000 << 16, {"1": window_map(range(50, 150), 100_000), "2": window_map([7], 101 * MIB)}),
}


def plan_of(*files: CataloguedFile, command: str, maps: Mapping[str, FileMap] = MAPS, who: str = "") -> Plan:
    selection = Selection(samples=tuple(who.split()), all_samples=not who)
    return make_plan(QueryRequest(selection, command), files, None, Maps(maps))


def parts(plan: Plan) -> list[Part]:
    assert all(entry.part is not None for entry in plan.inputs)
    return [entry.part for entry in plan.inputs if entry.part is not None]


def test_a_region_is_read_and_the_header() -> None:
    """Ten windows and the header of each file, and no index, which the node makes."""
    plan = plan_of(A, B, command=f"view -r 1:{60 * WINDOW + 1}-{70 * WINDOW}")
    one, other = parts(plan)
    assert [span.length for span in one.spans[1:]] == [10 * MIB]
    assert one.spans[1].start == 100_000 + 60 * MIB
    assert other.spans[1].start == 100_000 + 10 * MIB
    assert [entry.bytes_needed for entry in plan.inputs] == [one.size, other.size]
    assert plan.bytes_needed == one.size + other.size < 21 * MIB
    assert plan.bytes_total == 2 * SIZE + 2000


def test_indexes_are_asked_for_once_and_only_for_places() -> None:
    """What they say costs a query of the database; without places they are asked where shards may pay."""
    maps = Maps(MAPS)
    everyone = Selection(all_samples=True)
    small = [replace(file, size=20 * MIB) for file in (A, B)]
    make_plan(QueryRequest(everyone, "view; view -t 1"), small, None, maps)
    assert maps.asked == []
    make_plan(QueryRequest(everyone, "view -r 2:1-5,1,2:9"), [A, B], None, maps)
    assert maps.asked == [(["a.vcf.gz", "b.vcf.gz"], ["2", "1"])]


def test_a_file_without_records_in_the_region_is_left_out() -> None:
    """And its samples are named; only where all files are is that an error."""
    command = f"view -r 1:1-{10 * WINDOW},2:{30 * WINDOW}-"
    plan = plan_of(A, B, command=command)
    assert [entry.key for entry in plan.inputs] == ["a.vcf.gz"]
    assert plan.warnings == ("1 sample(s) are left out, their files have no records there: B.",)
    assert plan_of(A, B, command=command, who="A B").dropped_samples == ("B",)
    with pytest.raises(InvalidSelection, match=r"There are no records on 1, 2 in the files of the selected samples\."):
        plan_of(A, B, command=command, who="B")


def test_files_whose_index_is_not_known_are_read_whole() -> None:
    """Those of earlier releases, and those of which the map of a contig with records is missing."""
    region = f"view -r 1:1-{10 * WINDOW}"
    assert [entry.key for entry in plan_of(A, B, command=region, maps={}).inputs] == ["a.vcf.gz", "b.vcf.gz"]
    half = {**MAPS, "b.vcf.gz": FileMap(5000 << 16, {"2": window_map([7], 101 * MIB)})}
    plan = plan_of(A, B, command=region, maps=half)
    assert [entry.part is None for entry in plan.inputs] == [False, True]
    assert plan.inputs[1].bytes_needed == SIZE + 1000
    bare = vcf("b.vcf.gz", "B", "1:0 2:9")  # its index knows nothing of 1: the map of 2 is enough
    plan = plan_of(A, bare, command="view -r 1:1-5,2:114689-114690", maps=half)
    assert [entry.part is None for entry in plan.inputs] == [False, False]


@pytest.mark.parametrize(
    ("form", "most", "named"),
    [(FileFormat.VCF_GZ, 3, ["1", "0", "2", "3"]), (FileFormat.VCF_GZ, 2, ["1"]), (FileFormat.BCF, 3, ["1"])],
    ids=["named", "too many", "a BCF"],
)
def test_contigs_that_the_header_may_not_have(
    monkeypatch: pytest.MonkeyPatch, form: FileFormat, most: int, named: list[str]
) -> None:
    """The index of a part names them though nothing is read of them; one that is declared is in the header anyway."""
    monkeypatch.setattr(planning, "MAX_NAMED_CONTIGS", most)
    contigs = (*A.contigs[:1], Contig("0", None, 5), Contig("2", None, 9), Contig("3", None, 0))
    file = replace(A, contigs=contigs, format=form)
    (part,) = parts(plan_of(file, command=f"view -r 1:1-{10 * WINDOW}"))
    assert [contig.name for contig in part.contigs] == named
    assert [bool(contig.bins) for contig in part.contigs] == [name == "1" for name in named]


def test_most_of_a_file_is_all_of_it() -> None:
    """Above 70 % the file is read as it is, with its index."""
    plan = plan_of(A, command=f"view -r 1,2:1-{60 * WINDOW}")
    assert (plan.inputs[0].part, plan.bytes_needed) == (None, plan.bytes_total)


@pytest.mark.parametrize(
    ("command", "parted"),
    [
        (f"view -t 1:1-{10 * WINDOW}", True),
        (f"view -t 1:1-{10 * WINDOW} --targets-overlap 0", True),
        (f"view -t 1:1-{10 * WINDOW} --targets-overlap 1", False),
        (f"view -t ^1:1-{10 * WINDOW}", False),
        (f"view; view -t 1:1-{10 * WINDOW}", False),
    ],
)
def test_targets_of_the_first_step(command: str, parted: bool) -> None:
    """They leave no file out: it gives its samples, and of it the header is read."""
    plan = plan_of(A, B, command=command)
    assert len(plan.inputs) == 2
    assert [entry.part is not None for entry in plan.inputs] == [parted, parted]
    if parted:
        one, other = parts(plan)
        assert (len(one.contigs), other.contigs) == (1, ())


def test_what_is_read_changes_no_digest_and_survives_json() -> None:
    """An earlier result answers, whatever was read for it."""
    command = f"view -r 1:{60 * WINDOW + 1}-{70 * WINDOW}"
    plan = plan_of(A, B, command=command)
    whole = plan_of(A, B, command=command, maps={})
    assert plan.digest == whole.digest
    assert plan.bytes_needed < whole.bytes_needed / 10
    assert plan_from_dict(json.loads(json.dumps(plan_to_dict(plan)))) == plan
    stored = plan_to_dict(whole)
    for entry in stored["inputs"]:
        del entry["part"]  # as earlier releases stored it
    assert plan_from_dict(stored) == whole


def test_few_bytes_are_little_work() -> None:
    """Time and scratch space follow what is read."""
    command = f"view -r 1:{60 * WINDOW + 1}-{61 * WINDOW}"
    files = [replace(file, size=100 * SIZE) for file in (A, B)]
    plan, whole = plan_of(*files, command=command), plan_of(*files, command=command, maps={})
    assert whole.minutes > 300
    assert (plan.minutes, plan.scratch_mb) == (
        10,
        256 + 8,
    )  # two windows of 1 MiB, read, made into a file, 1.5 for the result


def test_a_hundred_files_are_planned_in_milliseconds() -> None:
    """The answer to POST …/jobs has 50 ms for everything; this is the planner's own part of it."""
    files = [replace(vcf(f"{number:03}.vcf.gz", f"S{number}"), size=40 * SIZE) for number in range(100)]
    one = FileMap(5000 << 16, {"1": window_map(range(6000), 100_000)})
    maps = {file.key: one for file in files}
    best = 1.0
    for _ in range(5):
        began = time.process_time()
        plan = plan_of(
            *files, command=f"view -r 1:{600 * WINDOW}-{700 * WINDOW},1:{900 * WINDOW}-{5000 * WINDOW}", maps=maps
        )
        best = min(best, time.process_time() - began)
    assert len(parts(plan)) == 100
    assert best < 2  # 0.03 s, and minutes for what goes through every window of every file


# --- shards ----------------------------------------------------------------------------------------------------------


def sharded(command: str, shards: int | None = None, **ceilings: int) -> Plan:
    request = QueryRequest(Selection(all_samples=True), command)
    return make_plan(request, [A, B], None, Maps(MAPS), Ceilings(**ceilings), shards)


def test_work_that_pays_is_in_shards() -> None:
    """400 MiB take some 200 s of one core: four shards on four cores, where nobody allows more; less work is in one."""
    plan = sharded("view")
    assert (plan.shards, plan.cores) == (4, 4)
    small = make_plan(QueryRequest(Selection(all_samples=True), "view"), [replace(A, size=50 * MIB)], None, Maps(MAPS))
    assert (small.shards, small.cores) == (1, 1)
    assert sharded(f"view -r 1:1-{20 * WINDOW}").shards == 1


def test_a_merge_of_blocks_is_not_in_shards() -> None:
    """bcftools remembers the first block that it meets, for all that follows; a shard would not know of it."""
    blocks = replace(A, has_blocks=True)
    request = QueryRequest(Selection(all_samples=True), "view")
    merged = make_plan(request, [blocks, B], None, Maps(MAPS), shards=4, spread_after_s=1)
    assert (merged.shards, merged.task_plans) == (1, ())
    assert make_plan(request, [blocks], None, Maps(MAPS), shards=4).shards == 4
    assert make_plan(request, [A, B], None, Maps(MAPS), shards=4).shards == 4


def test_shards_keep_within_what_a_job_may_ask_for() -> None:
    """Fewer cores, or less memory, are fewer shards; never a plan that would be refused."""
    assert [sharded("view", cores=cores).shards for cores in (1, 2, 3, 64)] == [1, 2, 3, 6]
    one = sharded("view", shards=1)
    assert sharded("view", memory_mb=one.memory_mb).memory_mb <= one.memory_mb
    assert sharded("view", memory_mb=one.memory_mb - 1).shards == 1
    assert sharded("view").minutes <= one.minutes


def test_shards_do_not_change_what_a_question_is() -> None:
    """The same digest; what is done is each file's steps on each shard, stored, joined in order and compressed."""
    whole, plan = sharded("view -r 2,1", shards=1), sharded("view -r 2,1", shards=2)
    assert plan.digest == whole.digest
    assert whole.shards == 1
    assert plan.shards == 2
    argvs = {process.id: process for process in plan.processes}
    assert list(argvs) == ["s1.f1", "s1.f2", "s1.m", "s2.f1", "s2.f2", "s2.m", "j"]
    assert argvs["s1.m"].materialise
    assert "-Ob1" in argvs["s1.m"].argv
    assert argvs["j"].sources == ("s1.m", "s2.m")
    joined = ("concat", "--no-version", "-Oz3", "-o", "out/result.vcf.gz", "--threads", "2")
    assert argvs["j"].argv == joined
    assert plan.scratch_mb > whole.scratch_mb
    assert plan_from_dict(json.loads(json.dumps(plan_to_dict(plan)))) == plan


def test_each_shard_takes_a_record_once() -> None:
    """By overlap, what is taken before is left out by POS; beside targets in a process before; by POS, as it is."""

    def words(command: str, shard: int) -> list[str]:
        found = [process for process in sharded(command, 2).processes if process.id.startswith(f"s{shard}.f1")]
        return [" ".join(process.argv[3:]) for process in found]

    end, border = 100 * WINDOW, 63 * WINDOW
    before, after = f"--regions 1:5-{border}", f"--regions 1:{border + 1}-{end}"
    without = f"--targets ^1:1-{border} --targets-overlap 0"
    assert words(f"view -r 1:5-{end} -k", 1) == [f"{before} --known in/1.vcf.gz"]
    assert words(f"view -r 1:5-{end} -k", 2) == [f"{after} {without} --known in/1.vcf.gz"]
    assert words(f"view -r 1:5-{end} -t 1:7-", 1) == [f"{before} --targets 1:7- in/1.vcf.gz"]
    assert words(f"view -r 1:5-{end} -t 1:7-", 2) == [f"{after} {without} in/1.vcf.gz", "--targets 1:7-"]
    by_position = "--regions-overlap 0"
    assert words(f"view -r 1:5-{end} {by_position}", 2) == [f"{after} {by_position} in/1.vcf.gz"]
    assert words(f"view -t 1:5-{end}", 2) == [f"{after} {by_position} --targets 1:5-{end} in/1.vcf.gz"]


def test_what_cannot_be_cut_by_regions_is_not() -> None:
    """Variants may lie beyond a border; an index cannot lead to POS 0, nor to names that no old bcftools takes."""
    assert sharded("view -r 1 --regions-overlap 2", 4).shards == 1
    assert sharded("view -t 1", 4).shards == 1
    assert sharded("view -t 1:5-", 4).shards > 1
    odd = [replace(A, contigs=(*A.contigs, Contig("HLA:3", 5, 1)))]
    assert make_plan(QueryRequest(Selection(all_samples=True)), odd, None, Maps(MAPS), shards=4).shards == 1


@pytest.mark.parametrize("shards", [None, 4])
def test_targets_on_a_contig_of_other_files_only_are_not_cut(shards: int | None) -> None:
    """Guards: there is nothing between which a border could lie; the answer has the header only."""
    other = vcf("z.vcf.gz", "Z", "3:9")
    request = QueryRequest(Selection(samples=("A",)), "view -t 3:1-100000")
    plan = make_plan(request, [A, other], None, Maps(MAPS), shards=shards, spread_after_s=1)
    assert ([entry.key for entry in plan.inputs], plan.shards) == (["a.vcf.gz"], 1)


def test_the_node_looks_at_the_first_records_of_what_is_read_by_regions_only_in_shards() -> None:
    """One of POS 0 would be lost there; where regions were asked for it is in no answer."""
    assert [entry.begins for entry in sharded("view", 2).inputs] == [
        (100_000 << 16, 101 * MIB << 16), (100_000 << 16, 101 * MIB << 16)
    ]  # fmt: skip
    assert all(entry.begins == () for entry in sharded("view -r 1,2", 2).inputs)
    assert all(entry.begins == () for entry in sharded("view", 1).inputs)


# --- shards that are jobs of their own -------------------------------------------------------------------------------


def spread(command: str, after_s: int, after: str = "", **ceilings: int) -> Plan:
    request = QueryRequest(Selection(all_samples=True), command, after)
    return make_plan(request, [A, B], None, Maps(MAPS), Ceilings(**ceilings), spread_after_s=after_s)


def test_a_query_is_one_job_while_it_fits() -> None:
    """400 MiB take a minute and more on four cores: jobs of their own are for what takes longer than that."""
    fits = sharded("view")
    assert spread("view", fits.expected_s) == fits
    assert spread("view", fits.expected_s - 1).spread is not None
    assert spread("view -r 1 --regions-overlap 2", 10).spread is None


def test_tasks_are_as_many_as_the_time_wants() -> None:
    """Each takes half of what is too long, or less where a job may not have so much time; never more than 64."""
    alone_s = sharded("view", 1).expected_s
    for after_s, tasks in ((60, -(-2 * alone_s // 60)), (30, -(-2 * alone_s // 30)), (1, 64)):
        plan = spread("view", after_s)
        assert plan.spread is not None
        assert plan.spread.tasks == plan.shards == len(plan.task_plans) == min(64, tasks)
    assert spread("view", 4000).spread is None
    assert spread("view", 10, minutes=10).spread == spread("view", 10).spread


def test_tasks_ask_for_the_same_and_the_joining_job_for_what_it_needs() -> None:
    """So that a scheduler may take them as one; memory is that of one shard, and what is expected is both together."""
    plan = spread("view", 20)
    assert plan.spread is not None
    assert {(task.cores, task.memory_mb, task.minutes) for task in plan.task_plans} == {
        (plan.spread.cores, plan.spread.memory_mb, plan.spread.minutes)
    }
    assert plan.spread.cores == 2
    assert plan.cores == 4
    assert spread("view", 20, cores=2).cores == 2
    assert plan.expected_s == plan.model_s + plan.spread.expected_s


def test_spreading_changes_neither_the_question_nor_the_last_steps() -> None:
    """One digest; the shards go through each file's steps, the job that joins them through the rest."""
    whole, plan = sharded("view -m2", 1), spread("view -m2", 60)
    assert plan.digest == whole.digest
    first = plan.task_plans[0]
    assert [process.id for process in first.processes] == ["f1", "f2", "m"]
    assert first.processes[-1].output == "out/shard.bcf"
    assert first.processes[-1].argv[-3:] == ("-Ob1", "-o", "out/shard.bcf")
    numbers = range(1, len(plan.task_plans) + 1)
    words = ("concat", "--no-version", "-Oz3", "-o", "out/result.vcf.gz", "--threads", "4")
    assert [process.argv for process in plan.processes] == [(*words, *(f"in/{number}.bcf" for number in numbers))]
    counted = spread("view", 60, after="view -m2; stats")
    assert [process.argv[0] for process in counted.processes] == ["concat", "view", "stats"]
    assert [each.key for each in plan.inputs] == ["a.vcf.gz", "b.vcf.gz"]
    assert len({task.digest for task in plan.task_plans} | {plan.digest}) == len(plan.task_plans) + 1


def test_a_task_reads_what_it_works_on() -> None:
    """Its own regions of each file; all tasks together little more than one job would, and plans are no larger."""
    plan = spread("view", 40)
    assert all(entry.part is not None for task in plan.task_plans for entry in task.inputs)
    assert plan.bytes_needed == sum(task.bytes_needed for task in plan.task_plans)
    records = sum(len(range(100)) + 90 for _ in "a") + 101
    assert records * MIB < plan.bytes_needed < (records + 1) * MIB
    bins = [len(c.bins) for task in plan.task_plans for entry in task.inputs if entry.part for c in entry.part.contigs]
    assert max(bins) <= 256 // len(plan.task_plans)


def test_tasks_look_at_the_first_records_of_what_they_read() -> None:
    """One of POS 0 is noticed by a task that has it, wherever its index puts it; that of each contig by one or more."""
    plan = spread("view", 40)
    for number in (0, 1):
        begins = {offset for task in plan.task_plans for offset in task.inputs[number].begins}
        assert begins == {100_000 << 16, 101 * MIB << 16}
    for task in plan.task_plans:
        for entry in task.inputs:
            assert entry.part is not None
            assert all(any(s.first <= offset < s.end for s in entry.part.spans) for offset in entry.begins)
    assert all(entry.begins == () for task in spread("view -r 1,2", 40).task_plans for entry in task.inputs)


def test_a_spread_plan_survives_json_without_its_tasks() -> None:
    """They are stored with their own jobs; each of them is a plan that survives it whole."""
    plan = spread("view -r 1", 20)
    stored = json.loads(json.dumps(plan_to_dict(plan)))
    assert "task_plans" not in stored
    assert plan_from_dict(stored) == replace(plan, task_plans=())
    for task in plan.task_plans:
        assert plan_from_dict(json.loads(json.dumps(plan_to_dict(task)))) == task
    del stored["spread"]  # as earlier releases stored it
    assert plan_from_dict(stored).spread is None


@pytest.mark.parametrize("command", ["view", "view -r 2:1-1000000,1:5-900000,1:800000-1200000", "view -t 1:5-1500000"])
@pytest.mark.parametrize("after_s", [5, 20, 60])
def test_the_regions_of_tasks_are_those_of_the_question_once(command: str, after_s: int) -> None:
    """No position is in two tasks, and none is left out: by their names, and in the order of the result."""
    whole = make_plan(QueryRequest(Selection(all_samples=True), command), [A, B], None, Maps(MAPS), shards=1)
    plan = spread(command, after_s)
    assert plan.spread is not None
    assert plan.digest == whole.digest
    pieces = [region for task in plan.task_plans for region in parse_regions(",".join(task.regions))]
    covered = [(each.contig, each.start or 1, each.end or 10**9) for each in pieces]
    assert covered == sorted(covered)
    assert all(a[0] != b[0] or a[2] < b[1] for a, b in pairwise(covered))
    asked = command.split()[2] if " " in command else "1,2"
    wanted = in_order(parse_regions(asked), ["1", "2"])
    for contig in ("1", "2"):
        length = sum(end - start + 1 for name, start, end in covered if name == contig)
        assert length == sum((r.end or 10**9) - (r.start or 1) + 1 for r in wanted if r.contig == contig)
