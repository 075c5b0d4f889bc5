"""Which files a job can mend, what it asks for, and what the node adds to a header that bcftools sort cannot take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from divbase_gateway.domain.bgzf import Compression
from divbase_gateway.domain.errors import Conflict
from divbase_gateway.domain.files import CataloguedFile, FileFormat, FileState
from divbase_gateway.domain.jobs import Reason
from divbase_gateway.domain.repairs import (
    Condition,
    IndexEnd,
    Mend,
    choose_mend,
    plan_repair,
    repair_command,
    sort_memory_mb,
)
from divbase_jobscripts import node

from tests.variants import bgzf

FILE = CataloguedFile(
    key="a.vcf.gz",
    version_id="v1",
    size=10_000_000,
    etag="e1",
    sha256=None,
    format=FileFormat.VCF_GZ,
    state=FileState.UNUSABLE,
    reason="So it is.",
    samples=("A",),
    contigs=(),
    index=None,
)


@pytest.mark.parametrize("compression", Compression)
def test_what_is_whole_is_written_anew(compression: Compression) -> None:
    """Guards: however it is packed, if nothing but that is wrong with it."""
    assert choose_mend(FILE, None, Condition(compression)) is Mend.REWRITE


@pytest.mark.parametrize("reason", Reason)
def test_every_end_of_an_index_job_has_an_answer(reason: Reason) -> None:
    """Guards: the order of records is mended by writing, a fault of the machinery by another try, the rest is not."""
    refused = {Reason.INPUT_CORRUPT, Reason.INPUT_MISSING, Reason.BCFTOOLS_FAILED}
    if reason in refused:
        with pytest.raises(Conflict, match="So it is") as caught:
            choose_mend(FILE, IndexEnd("k3v9", reason), None)
        assert "divbase files upload" in (caught.value.hint or "")
    else:
        expected = Mend.REWRITE if reason is Reason.UNSORTED else Mend.INDEX
        assert choose_mend(FILE, IndexEnd("k3v9", reason), None) is expected


def test_a_built_index_that_is_of_no_use_leads_to_another_file() -> None:
    """Guards: building it again would give the same."""
    assert choose_mend(FILE, IndexEnd("k3v9", None), None) is Mend.REWRITE


@pytest.mark.parametrize("state", [FileState.READY, FileState.INDEXING, FileState.STORED])
def test_a_sound_file_is_refused(state: FileState) -> None:
    """Guards: nothing is written where nothing is wrong."""
    with pytest.raises(Conflict, match="cannot be repaired"):
        choose_mend(replace(FILE, state=state), None, Condition(Compression.BGZF))


def test_every_fault_of_a_file_is_in_the_refusal() -> None:
    """Guards: nobody uploads twice to learn two faults."""
    with pytest.raises(Conflict, match=r"no job can mend this: One\. Two\."):
        choose_mend(FILE, None, Condition(Compression.GZIP, ("One.", "Two.")))


def test_a_plan_grows_with_its_file() -> None:
    """Guards: time and scratch follow the size, text takes less than what is packed already, and no time has no end."""
    small, large = plan_repair(FILE), plan_repair(replace(FILE, size=100_000_000_000))
    text = plan_repair(replace(FILE, size=100_000_000_000, format=FileFormat.VCF))
    assert small.minutes == 11
    assert small.minutes < text.minutes < large.minutes <= 7 * 24 * 60
    assert small.scratch_mb < text.scratch_mb < large.scratch_mb
    assert (small.output_name, plan_repair(replace(FILE, format=FileFormat.BCF)).output_name) == (
        "repaired.vcf.gz",
        "repaired.bcf",
    )


def test_a_digest_is_of_the_version_that_is_read() -> None:
    """Guards: another version is another repair; what the job asks for is of no account."""
    plan = plan_repair(FILE)
    assert plan.digest == replace(plan, minutes=99, memory_mb=9).digest
    assert plan.digest != plan_repair(replace(FILE, version_id="v2")).digest
    assert plan.digest != plan_repair(replace(FILE, key="b.vcf.gz")).digest


def test_sorting_leaves_room_for_bcftools_itself() -> None:
    """Guards: a job that is given more memory sorts more of it at once."""
    assert [sort_memory_mb(memory_mb) for memory_mb in (64, 2048, 16_384)] == [64, 1024, 8192]


def test_the_command_is_one_that_a_shell_takes() -> None:
    """Guards: people paste it."""
    assert repair_command("x/a b$(id).vcf.gz") == "divbase files repair 'x/a b$(id).vcf.gz'"


# --- the node's half -----------------------------------------------------------------------------------------------

_TEXT = """\
##fileformat=VCFv4.2
##FILTER=<ID=q10,Description="a, ID=none">
##INFO=<Number=1,ID=DP,Type=Integer,Description="d">
##contig=<ID=c1,length=9>
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tA
c1\t1\t.\tA\tC\t.\tPASS;q10\tDP=1\tGT\t0/1
c:2\t1\t.\tA\tC\t.\tlow;q10\tDP=1;AB=2;SEEN\tGT:XX\t0/1:3
c:2\t2\t.\tA\tC\t.\t.\tAB\tGT:XX\t0/1:3
"""


def test_names_that_the_header_lacks_are_defined(tmp_path: Path) -> None:
    """Guards: each once, as htslib takes them; one with a value is no flag."""
    path = tmp_path / "a.vcf.gz"
    path.write_bytes(bgzf(_TEXT.encode(), block=100))
    missing = node.undefined_names(str(path))
    assert [line.partition(",Desc")[0].rstrip(">") for _, line in missing] == [
        "##FORMAT=<ID=GT,Number=1,Type=String",
        "##contig=<ID=c:2",
        "##FILTER=<ID=low",
        "##FORMAT=<ID=XX,Number=1,Type=String",
        "##INFO=<ID=AB,Number=1,Type=String",
        "##INFO=<ID=SEEN,Number=0,Type=Flag",
    ]
    header = node.completed_header(str(path), missing).decode().splitlines()
    assert header[:4] + header[-1:] == _TEXT.splitlines()[:5]
    assert header[4:-1] == [line for _, line in missing]


def test_a_whole_header_lacks_nothing(tmp_path: Path) -> None:
    """Guards: reheader runs only where it must."""
    path = tmp_path / "a.vcf.gz"
    text = _TEXT.splitlines(keepends=True)
    path.write_bytes(
        bgzf("".join([*text[:4], '##FORMAT=<ID=GT,Number=1,Type=String,Description="">\n', *text[4:6]]).encode())
    )
    assert node.undefined_names(str(path)) == []


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (bgzf(b"x")[:40], True),
        (b"\x1f\x8b\x08\x00" + bytes(30), False),
        (b"\x1f\x8b\x08\x04\0\0\0\0\0\0\x06\x00XX\x02\x00" + bytes(30), False),
        (b"##fileformat=VCFv4.2\n", False),
        (b"", False),
    ],
)
def test_bgzf_is_told_from_other_gzip(tmp_path: Path, head: bytes, expected: bool) -> None:
    """Guards: a file with an extra field of another kind is plain gzip to bcftools, and to us."""
    (tmp_path / "x").write_bytes(head)
    assert node.is_bgzf(str(tmp_path / "x")) is expected
