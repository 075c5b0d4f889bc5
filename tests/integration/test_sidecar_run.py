"""BCF copies by bash, the node helper and a real bcftools on a real S3 server: a copy is used only where it is proven
to be the same, and queries that read one have the bytes of those that read the file."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from divbase_gateway.domain.projects import Role

from tests.bcftools import release_of
from tests.integration import test_node_manifest as manifest_mode
from tests.integration.test_node_manifest import World, clock_of
from tests.variants import bgzf, index_variants, vcf_header, vcf_records

pytestmark = pytest.mark.slow  # real programs

bcftools, variants, door, world = (
    manifest_mode.bcftools,
    manifest_mode.variants,
    manifest_mode.door,
    manifest_mode.world,
)

_COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
_LINES = """\
##ALT=<ID=DEL,Description="Deletion">
##ALT=<ID=INS,Description="Insertion">
##ALT=<ID=NON_REF,Description="Any other">
##FILTER=<ID=q10,Description="Quality below 10">
##FILTER=<ID=s50,Description="Less than half">
##INFO=<ID=AF,Number=A,Type=Float,Description="Frequency">
##INFO=<ID=DB,Number=0,Type=Flag,Description="In a database">
##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth">
##INFO=<ID=END,Number=1,Type=Integer,Description="End">
##INFO=<ID=NOTE,Number=.,Type=String,Description="Notes, \\"quoted\\"">
##INFO=<ID=SVLEN,Number=.,Type=Integer,Description="Length">
##INFO=<ID=SVTYPE,Number=1,Type=String,Description="Type">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##FORMAT=<ID=GL,Number=G,Type=Float,Description="Likelihoods">
##FORMAT=<ID=FT,Number=1,Type=String,Description="Filter">
##contig=<ID=chr2,length=900000>
##contig=<ID=empty,length=10>
##contig=<ID=HLA-A*01:01>
##contig=<ID=chr-1,length=5000000,assembly="b 37">
##contig=<ID=last,length=10>
##source=somebody's own, with "quotes" and <brackets>
"""
_RECORDS = """\
chr2\t1\trs1;rs2\tA\tC\t30\tPASS\tDP=3;AF=1e-05\tGT:GL:FT\t0|1:-0.1,-1e-05,-30.25:PASS\t1/1:.:q10
chr2\t1\t.\tA\tG,T\t0.30000001\tq10;s50\tAF=0.30000001,1;DB;DP=0\tGT:GL\t1|2:-1,-2,-3,-4,-5,-6\t./.:.
chr2\t9\t.\tACG\tA\t12345678\t.\tDB;NOTE=a,b%3Bc,é;DP=2147483647\tGT\t0\t1
chr2\t10\t.\tN\t.\t.\t.\t.\tGT:FT\t.:.\t.|0
chr2\t50\tsv1\tA\t<DEL>\t.\tPASS\tSVTYPE=DEL;END=800000;SVLEN=-799950\tGT\t0/1\t./.
chr2\t60\tsv2\tA\t<INS>\t1e+10\tPASS\tSVTYPE=INS;SVLEN=500\tGT\t0/.\t1/0/1
HLA-A*01:01\t7\t.\tA\t*,C\t-1.5\t.\tAF=nan,inf\tGT\t1/2\t0
HLA-A*01:01\t8\tblock\tA\t<NON_REF>\t.\t.\tEND=900\tGT\t0/0\t0|0
chr-1\t4999999\t.\tA\tC\t0.1\tPASS\tDP=-3;SVTYPE=.\tGT\t1|1\t0|1
"""
WILD = f"##fileformat=VCFv4.3\n{_LINES}{_COLUMNS}\tFORMAT\tB\tA\n{_RECORDS}"
BARE = f"##fileformat=VCFv4.1\n##contig=<ID=c>\n{_COLUMNS}\nc\t2\t.\tA\tC\t1\t.\t.\nc\t9\t.\tAC\tA\t.\tPASS\t.\n"
SIMPLE = vcf_header(["A", "B"], {"chr1": 90_000, "chr2": 9000}) + "".join(
    vcf_records(name, 9000, ["A", "B"], 60, 1) for name in ("chr1", "chr2")
)

EQUAL = {
    "wild.vcf.gz": WILD,
    "v4.4.vcf.gz": SIMPLE.replace("VCFv4.2", "VCFv4.4"),
    "no samples.vcf.gz": BARE,
    "no records.vcf.gz": vcf_header(["A"], {"chr1": 90}),
    "simple.vcf.gz": SIMPLE,
}

UNEQUAL = {
    "contig": (SIMPLE.replace("##contig=<ID=chr2,length=9000>\n", ""), "bcftools view"),
    "filter": (SIMPLE.replace("\tPASS\t", "\todd\t", 1), "bcftools view"),
    "info": (SIMPLE.replace("\tDP=", "\tAB=7;DP=", 1), "bcftools view"),
    "format": (SIMPLE.replace("GT:DP\t", "GT:XX\t", 1), "bcftools view"),
    "position 0": (SIMPLE.replace("chr1\t", "chr1\t0\t.\tA\tC\t.\t.\t.\tGT\t0/1\t0/0\nchr1\t", 1), "position 0"),
    "end": (WILD.replace("ID=END,Number=1,Type=Integer", "ID=END,Number=1,Type=String"), "end elsewhere"),
    "svlen": (WILD.replace("END=800000;", ""), "is said by SVLEN or LEN"),
}


@pytest.fixture
def owner(world: World) -> Any:
    """Somebody who manages the project, which wants copies."""
    world.lab.api.add_member(world.lab.project, world.lab.editor.user, Role.MANAGE)
    answer = world.lab.editor.request("PATCH", world.lab.path, json={"sidecars": True})
    assert (answer.status_code, answer.json()["sidecars"]) == (200, True), answer.text
    return world.lab.editor


def upload(world: World, key: str, text: str, folder: Path) -> None:
    path = folder / "sent.vcf.gz"
    path.write_bytes(bgzf(text.encode(), block=700))
    index = index_variants(path, "csi")
    world.lab.upload_file(index, f"{key}.csi")
    world.lab.upload_file(path, key)
    assert world.lab.info(key)["state"] == "READY"


def copied(world: World, key: str) -> tuple[str, dict[str, Any], str]:
    """Run the job that writes the copy of a file: its id, what `files info` says then, and the job's log."""
    clock_of(world).advance(timedelta(seconds=10))
    world.reconciler.tick()
    job = str(world.lab.info(key)["sidecar"]["job"])
    world.reconciler.tick()
    status, log = world.run(job)
    world.settle(job, status)
    sidecar: dict[str, Any] = world.lab.info(key)["sidecar"]
    return job, sidecar, log


def answered(world: World, **question: Any) -> tuple[bytes, dict[str, Any], str]:
    """Ask, run and settle: the result's bytes, its provenance, and the plan's digest."""
    job = world.accept(fresh=True, **question)
    world.reconciler.tick()
    status, log = world.run(job)
    assert status == 0, log
    world.settle(job, status)
    row = world.job(job)
    assert (row.state, row.reason) == ("SUCCEEDED", None), row.message
    found = {}
    for each in row.results:
        found[each["role"]] = world.store.read(world.bucket, each["key"], each["version_id"], 0, each["size"])
    return found["result"], json.loads(found["provenance"]), row.plan_digest


@pytest.mark.parametrize("key", EQUAL)
def test_a_copy_is_written_and_read(world: World, owner: Any, tmp_path: Path, key: str) -> None:
    """Guards: of any VCF that BCF can hold there is a copy, and whatever is asked has the same bytes as before."""
    upload(world, key, EQUAL[key], tmp_path)
    questions: list[dict[str, Any]] = [{"command": "view"}, {"command": "view", "output": "bcf"}]
    if "no records" in key:
        questions = []
    if key == "wild.vcf.gz":
        braces = ",{HLA-A*01:01}:500-600" if release_of(world.bcftools) >= (1, 18) else ""
        questions += [{"command": f"view -r chr2:400000-500000{braces},chr-1"}]
        questions += [{"command": "view -r chr2:1-10 -i 'AF<0.5'", "output": "bcf"}]
        questions += [{"command": "view -t chr2:50,empty"}, {"command": "view -r empty,chr2:9,last"}]
        questions += [{"samples": ["A"], "all_samples": False, "command": "view -c 1"}]
    before = [answered(world, files=[key], **each) for each in questions]
    job, sidecar, log = copied(world, key)
    assert (sidecar["state"], sidecar["reason"]) == ("READY", None), (sidecar, log)
    assert sidecar["size"] > 0
    after = [answered(world, files=[key], **each) for each in questions]
    assert [digest for _, _, digest in after] == [digest for _, _, digest in before]
    for (was, said, _), (now, says, _), question in zip(before, after, questions, strict=True):
        assert now == was, question
        assert said["inputs"][0]["copy_key"] is None
        assert says["inputs"][0]["copy_key"] == f".divbase/bcf/{key}/{job}.bcf"
        assert (says["inputs"][0]["key"], says["commands"][0]["argv"][-1]) == (key, "in/1.bcf")


@pytest.mark.parametrize("what", UNEQUAL)
def test_what_is_not_equal_has_no_copy(world: World, owner: Any, tmp_path: Path, what: str) -> None:
    """Guards: a file that BCF cannot hold, or that other releases would find other records in, stays without, and says
    why; queries go on reading it."""
    text, words = UNEQUAL[what]
    upload(world, "odd.vcf.gz", text, tmp_path)
    before = answered(world, files=["odd.vcf.gz"])[0]
    job, sidecar, log = copied(world, "odd.vcf.gz")
    assert (sidecar["state"], sidecar["size"]) == ("NONE", None), log
    assert words in sidecar["reason"], sidecar
    assert world.end(job)[0] == "FAILED"
    assert [each.key for each in world.store.list_versions(world.bucket, ".divbase/bcf/odd")] == []
    result, provenance, _ = answered(world, files=["odd.vcf.gz"])
    assert (result, provenance["inputs"][0]["copy_key"]) == (before, None)
    assert world.lab.info("odd.vcf.gz")["state"] == "READY"


def test_a_damaged_copy_costs_time_and_no_answer(world: World, owner: Any, tmp_path: Path) -> None:
    """Guards: a query whose copy is gone reads the file in its next attempt, and the copy is written anew."""
    upload(world, "simple.vcf.gz", SIMPLE, tmp_path)
    before = answered(world, files=["simple.vcf.gz"])[0]
    first, sidecar, _ = copied(world, "simple.vcf.gz")
    assert sidecar["state"] == "READY"
    key = f".divbase/bcf/simple.vcf.gz/{first}.bcf"
    [version] = [each for each in world.store.list_versions(world.bucket, key) if each.key == key]
    world.store.delete_version(world.bucket, key, version.version_id)
    job = world.submit(files=["simple.vcf.gz"], fresh=True)
    status, log = world.run(job)
    assert (status != 0, "the BCF copy of simple.vcf.gz is not in the store any more" in log) == (True, True), log
    world.settle(job, status)
    assert world.job(job).state in ("ACCEPTED", "QUEUED")
    assert "which reads no BCF copies" in (world.job(job).message or "")
    world.reconciler.tick()
    status, log = world.run(job)
    assert status == 0, log
    world.settle(job, status)
    row = world.job(job)
    assert (row.state, [each.outcome for each in row.attempts]) == ("SUCCEEDED", ["input_missing", "succeeded"])
    result = next(each for each in row.results if each["role"] == "result")
    assert world.store.read(world.bucket, result["key"], result["version_id"], 0, result["size"]) == before
    clock_of(world).advance(timedelta(minutes=11))
    world.reconciler.tick()
    second, sidecar, _ = copied(world, "simple.vcf.gz")
    assert (sidecar["state"], second != first) == ("READY", True)
