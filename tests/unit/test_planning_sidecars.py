"""Plans over files that have BCF copies: when a copy is read, what stays that of the file, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
from divbase_gateway.domain.estimates import COPY_WORK, TRANSFER_RATE, WORK_RATE, is_cheaper
from divbase_gateway.domain.files import CataloguedFile, Contig, IndexKind, IndexRef, Sidecar
from divbase_gateway.domain.index_maps import FileMap
from divbase_gateway.domain.planning import make_plan, plan_from_dict, plan_to_dict
from divbase_gateway.domain.plans import digest_plan, without_copies
from divbase_gateway.domain.queries import OutputFormat, Plan, QueryRequest, Selection
from divbase_gateway.domain.sidecars import UnequalCopy, check_equal, plan_sidecar, sidecar_key
from divbase_gateway.services.copies import copies_of

from tests.unit.test_planning_parts import MAPS, MIB, SIZE, WINDOW, A, B, Maps, window_map

COPY = Sidecar(
    "copy-of-a", "c1", 150 * MIB, "ce", "5" * 64, IndexRef("copy-of-a.csi", "i1", IndexKind.CSI, 900, "ie"), 1
)
COPIED = replace(A, sidecar=COPY)
COPY_MAP = FileMap(3000 << 16, {"1": window_map(range(100), 90_000), "2": window_map(range(40), 101 * MIB)})
ALL_MAPS = {**MAPS, COPY.key: COPY_MAP}
REGION = f"view -r 1:{60 * WINDOW + 1}-{70 * WINDOW}"


def plan_of(
    *files: CataloguedFile, command: str = "view", maps: Mapping[str, FileMap] = ALL_MAPS, shards: int = 1
) -> Plan:
    return make_plan(QueryRequest(Selection(all_samples=True), command), files, None, Maps(maps), shards=shards)


@pytest.mark.parametrize("command", ["view", REGION, "view -r 1; view -i 'QUAL>30'"])
def test_a_copy_is_read_and_the_plan_is_about_the_file(command: str) -> None:
    """Guards: an equal question has an equal digest, and people read of the file; the node reads in/1.bcf."""
    plain, plan = plan_of(A, B, command=command), plan_of(COPIED, B, command=command)
    assert plan.digest == plain.digest == digest_plan(plain)
    first, second = plan.inputs
    assert (first.key, first.version_id, first.part, first.bytes_needed) == (
        plain.inputs[0].key,
        plain.inputs[0].version_id,
        plain.inputs[0].part,
        plain.inputs[0].bytes_needed,
    )
    assert first.copy is not None
    assert (first.copy.key, first.copy.version_id, first.read_format) == (COPY.key, COPY.version_id, "bcf")
    assert (second.copy, second.read_format) == (None, "vcf.gz")
    read = {word for process in plan.processes for word in process.argv if word.startswith("in/")}
    assert read == {"in/1.bcf", "in/2.vcf.gz"}


def test_the_whole_of_a_copy_is_not_read_for_a_part_of_the_file() -> None:
    """Guards: where only the file's index is known, few bytes of text cost less than all of the copy."""
    assert plan_of(COPIED, command=REGION, maps=MAPS).inputs[0].copy is None


def test_a_part_of_a_copy_is_read_by_its_own_index() -> None:
    """Guards: spans and offsets are those of the copy; the file's own stay beside, for when the copy is gone."""
    entry = plan_of(COPIED, command=REGION).inputs[0]
    assert entry.copy is not None
    assert entry.copy.part is not None
    assert entry.part is not None
    assert entry.copy.part.spans[1].start == 90_000 + 60 * MIB
    assert entry.part.spans[1].start == 100_000 + 60 * MIB
    assert entry.copy.bytes_needed == entry.copy.part.size


def test_without_maps_a_copy_is_read_whole_with_its_index() -> None:
    """Guards: as a file is."""
    entry = plan_of(COPIED, command=REGION, maps={}).inputs[0]
    assert entry.copy is not None
    assert (entry.copy.part, entry.copy.bytes_needed) == (None, COPY.size + COPY.index.size)


@pytest.mark.parametrize("more", [1.0, 2.0, 5.0, 10.0, 20.0, 50.0])
def test_the_cheaper_of_the_two_is_read(more: float) -> None:
    """Guards: a copy that is so much larger that fetching it takes longer than parsing text is left alone."""
    copy = replace(COPY, size=int(SIZE * more))
    seconds = {
        "file": SIZE / TRANSFER_RATE + SIZE / WORK_RATE,
        "copy": SIZE * more / TRANSFER_RATE + COPY_WORK * SIZE / WORK_RATE,
    }
    reads_copy = plan_of(replace(A, sidecar=copy)).inputs[0].copy is not None
    assert reads_copy == (seconds["copy"] < seconds["file"])
    assert is_cheaper(SIZE, SIZE)
    assert not is_cheaper(50 * SIZE, SIZE)


def test_a_copy_costs_less_and_never_more_memory() -> None:
    """Guards: time, bytes to read and scratch are those of what is read; what is stored is the files."""
    plain, plan = plan_of(A, B), plan_of(COPIED, replace(B, sidecar=replace(COPY, key="copy-of-b")))
    assert plan.bytes_total == plain.bytes_total
    assert plan.bytes_needed == 2 * (COPY.size + COPY.index.size) < plain.bytes_needed
    assert plan.model_s < 0.9 * plain.model_s
    assert (plan.memory_mb, plan.cores) == (plain.memory_mb, plain.cores)


def test_shards_read_copies_and_look_at_their_first_records() -> None:
    """Guards: without regions the node checks the begins of what it reads, in that file's own offsets."""
    plan = plan_of(COPIED, B, shards=3)
    assert plan.shards == 3
    assert plan.inputs[0].copy is not None
    assert plan.inputs[0].copy.begins == (90_000 << 16, 101 * MIB << 16)
    assert plan.inputs[0].begins == (100_000 << 16, 101 * MIB << 16)
    assert "in/1.vcf.gz" not in {word for process in plan.processes for word in process.argv}
    assert plan.digest == plan_of(A, B).digest


def test_a_copy_whose_map_is_missing_is_not_cut() -> None:
    """Guards: where nobody knows a copy's first records, nobody can see that none has POS 0."""
    assert plan_of(COPIED, B, shards=3, maps=MAPS).shards == 1


@pytest.mark.parametrize("command", ["view", REGION])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_plan_of_copies_is_stored_and_falls_back(command: str, shards: int) -> None:
    """Guards: nothing is lost on the way through JSON, and without copies it is the plan of the files again, with
    time for that.
    """
    plan, plain = plan_of(COPIED, B, command=command, shards=shards), plan_of(A, B, command=command, shards=shards)
    stored = json.loads(json.dumps(plan_to_dict(plan)))
    assert plan_from_dict(stored) == plan
    assert copies_of(stored) == {"a.vcf.gz": (COPY.key, COPY.version_id)}
    back = without_copies(plan)
    assert (back.inputs, back.processes, back.digest) == (plain.inputs, plain.processes, plain.digest)
    assert back.minutes >= plain.minutes
    assert back.scratch_mb >= plain.scratch_mb
    assert without_copies(plain) == plain


def test_a_plan_of_an_earlier_release_has_no_copies() -> None:
    """Guards: jobs that were accepted before an upgrade go on after it."""
    stored = plan_to_dict(plan_of(A))
    for entry in stored["inputs"]:
        del entry["copy"]
    assert plan_from_dict(stored) == plan_of(A)
    assert copies_of(stored) == {}


def test_a_digest_is_never_that_of_copies() -> None:
    """Guards: what decides a result is the file."""
    with pytest.raises(ValueError, match="of copies"):
        digest_plan(plan_of(COPIED))


def test_a_bcf_is_not_written_by_what_reads_the_file() -> None:
    """Guards: bcftools packs a missing FILTER of a VCF and of a BCF in two ways, and the result has one."""
    request = QueryRequest(Selection(all_samples=True), output=OutputFormat.BCF)
    plan = make_plan(request, [A], None, Maps(MAPS), shards=1)
    assert [(process.id, process.sources) for process in plan.processes] == [("f1", ()), ("out", ("f1",))]


# --- the job ---------------------------------------------------------------------------------------------------------


def test_a_job_is_one_for_each_version() -> None:
    """Guards: the digest names the version and nothing else of it; the copy lies out of the users' sight."""
    assert plan_sidecar(A).digest == plan_sidecar(replace(A, etag="another")).digest
    assert plan_sidecar(A).digest != plan_sidecar(replace(A, version_id="another")).digest
    assert sidecar_key("vcf/a.vcf.gz", "k3v9") == ".divbase/bcf/vcf/a.vcf.gz/k3v9.bcf"


@pytest.mark.parametrize(
    ("samples", "contigs", "words"),
    [
        (("A", "B"), A.contigs, "2 sample"),
        (("B",), A.contigs, "other names"),
        (("A",), A.contigs[::-1], "another order"),
        (("A",), (*A.contigs, Contig("3", 9, 0)), "other contigs"),
        (("A",), (A.contigs[0], Contig("2", 9, 8)), "8 records on '2', the file 9"),
    ],
)
def test_a_copy_of_something_else_is_refused(samples: tuple[str, ...], contigs: tuple[Contig, ...], words: str) -> None:
    """Guards: samples, contigs and the number of records on each are those of the file, or the copy is not used."""
    check_equal(A, A.samples, A.contigs)
    with pytest.raises(UnequalCopy, match=words):
        check_equal(A, samples, contigs)


def test_what_the_file_s_index_did_not_count_is_not_compared() -> None:
    """Guards: indexes of htsjdk count nothing, and their files can have copies."""
    uncounted = replace(A, contigs=tuple(replace(contig, variants=None) for contig in A.contigs))
    check_equal(uncounted, A.samples, A.contigs)
