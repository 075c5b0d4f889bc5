"""Repairs by bash, the node helper and a real bcftools on a real S3 server: the files that users really send come out
sorted, indexed and with the records that went in. The nodes reach S3 only, so that is tested as well."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pysam
import pysam.bcftools
import pytest

from tests.integration import test_node_manifest as manifest_mode
from tests.integration.test_node_manifest import World
from tests.variants import bgzf, plain_gzip, vcf_header, vcf_records, write_variants

pytestmark = pytest.mark.slow  # real programs

bcftools, variants, door, world = (
    manifest_mode.bcftools,
    manifest_mode.variants,
    manifest_mode.door,
    manifest_mode.world,
)

NAMES = ["A", "B"]
LENGTHS = {"chr2": 9000, "chr1": 9000}  # the order of the header, not that of the alphabet
SIMPLE = vcf_header(NAMES, LENGTHS) + "".join(vcf_records(name, 9000, NAMES, 60, 1) for name in LENGTHS)

_COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
_STRUCTURAL = f"""\
##fileformat=VCFv4.3
##ALT=<ID=DEL,Description="Deletion">
##ALT=<ID=*,Description="Any other">
##INFO=<ID=END,Number=1,Type=Integer,Description="End">
##INFO=<ID=SVTYPE,Number=1,Type=String,Description="Type">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##contig=<ID=HLA-A*01:01>
##contig=<ID=scaffold:7-9>
##contig=<ID=chr-1>
{_COLUMNS}\tFORMAT\tA\tB
scaffold:7-9\t50\tsv1\tA\t<DEL>\t.\tPASS\tSVTYPE=DEL;END=5000\tGT\t0/1\t./.
scaffold:7-9\t60\t.\tC\tT\t12\tPASS\t.\tGT\t1\t.
chr-1\t7\tblock\tA\t<*>\t.\t.\tEND=900\tGT\t0/0\t0|0
chr-1\t3\t.\tG\t*,T\t.\t.\t.\tGT\t1/2\t0
HLA-A*01:01\t5\t.\tA\tC\t.\t.\t.\tGT\t0|1\t1|.
"""
_UNDEFINED = f"""\
##fileformat=VCFv4.1
##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth">
{_COLUMNS}\tFORMAT\tA
chrB\t30\t.\tA\tC\t1.5\tlow;odd\tDP=3;AB=0.5,1;SEEN\tGT:XX\t0/1:a,b
chrA\t20\t.\tA\tC\t.\tPASS\tDP=4\tGT\t0/0
chrB\t10\t.\tA\tC\t.\t.\tSEEN\tGT:XX\t./.:.
"""
_NO_SAMPLES = f"##fileformat=VCFv4.2\n##contig=<ID=c>\n{_COLUMNS}\nc\t9\t.\tA\tC\t.\t.\t.\nc\t2\t.\tA\tC\t.\t.\t.\n"
_NO_RECORDS = f"##fileformat=VCFv4.2\n##contig=<ID=c>\n{_COLUMNS}\n"


def shuffled(text: str, seed: int = 3) -> str:
    head, records = split(text)
    random.Random(seed).shuffle(records)
    return "\n".join([*head, *records]) + "\n"


def split(text: str) -> tuple[list[str], list[str]]:
    lines = text.splitlines()
    return [line for line in lines if line.startswith("#")], [line for line in lines if not line.startswith("#")]


def as_bcf(text: bytes) -> bytes:
    with TemporaryDirectory() as folder:
        write_variants(Path(folder, "sent.bcf"), text.decode())
        return Path(folder, "sent.bcf").read_bytes()


def as_text(text: bytes) -> bytes:
    return text


def repaired(world: World, key: str, body: bytes) -> tuple[str, int, str]:
    """Upload, repair, run: the job's id, its script's status and log."""
    world.lab.upload(key, body)
    if world.lab.info(key)["state"] == "INDEXING":
        index_job = world.lab.info(key)["index_job"]
        world.reconciler.tick()
        world.settle(index_job, world.run(index_job)[0])
    info = world.lab.info(key)
    assert (info["state"], f"divbase files repair {key}" in info["reason"]) == ("UNUSABLE", True), info
    return started(world, key)


def started(world: World, key: str) -> tuple[str, int, str]:
    answer = world.lab.editor.post(f"{world.lab.path}/files/repair", {"key": key})
    assert answer.status_code == 201, answer.text
    job = str(answer.json()["id"])
    world.reconciler.tick()
    return job, *world.run(job)


def records_of(world: World, key: str) -> tuple[list[str], list[str]]:
    """The header and the records of the current version, as bcftools prints them."""
    info = world.store.head(world.bucket, key)
    path = world.path / "found.vcf.gz"
    path.write_bytes(world.store.read(world.bucket, key, info.version_id, 0, info.size))
    return split(pysam.bcftools.view("--no-version", str(path)))


SENT: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "text.vcf.gz": (SIMPLE.replace("\n", "\r\n"), as_text),
    "raw.bcf": (SIMPLE, lambda text: gzip.decompress(as_bcf(text))),
    "shuffled.vcf.gz": (shuffled(SIMPLE), bgzf),
    "shuffled.bcf": (shuffled(SIMPLE), as_bcf),
    "structural.vcf.gz": (_STRUCTURAL, lambda text: plain_gzip(text[:300]) + plain_gzip(text[300:])),
    "undefined.vcf": (_UNDEFINED, as_text),
    "no-samples.vcf.gz": (_NO_SAMPLES, bgzf),
    "no-records.vcf.gz": (_NO_RECORDS, plain_gzip),
    "v4.4.vcf.gz": (shuffled(SIMPLE.replace("VCFv4.2", "VCFv4.4")), plain_gzip),
}


@pytest.mark.parametrize("key", SENT)
def test_what_users_send_is_mended(world: World, key: str) -> None:
    """Guards: the file is READY, and its records are those that were sent, in the order of contigs and positions."""
    text, pack = SENT[key]
    job, status, log = repaired(world, key, pack(text.encode()))
    assert status == 0, log
    world.settle(job, status)
    assert world.end(job) == ("SUCCEEDED", None), world.job(job).message
    head, sent = split(text)
    info = world.lab.info(key)
    assert (info["state"], info["variants"] or 0) == ("READY", len(sent))
    found_head, found = records_of(world, key)
    assert (sorted(found), found_head[-1]) == (sorted(sent), head[-1])
    contigs = [line.split("=<ID=")[1].rstrip(">").split(",")[0] for line in found_head if line.startswith("##contig")]
    places = [(contigs.index(line.split("\t")[0]), int(line.split("\t")[1])) for line in found]
    assert places == sorted(places)
    assert world.uploads_begun() == []


def test_records_at_one_place_keep_their_order(world: World) -> None:
    """Guards: records that are equal in position and alleles come out as they went in."""
    head, _ = split(SIMPLE)
    same = [f"chr1\t500\t{number}\tA\tC\t{number}\t.\t.\tGT:DP\t0/1:1\t0/0:2" for number in range(200, 0, -1)]
    text = "\n".join([*head, *same, "chr1\t7\t.\tG\tT\t.\t.\t.\tGT:DP\t0/0:1\t1/1:3"]) + "\n"
    job, status, log = repaired(world, "same.vcf.gz", bgzf(text.encode()))
    assert status == 0, log
    world.settle(job, status)
    assert [line.split("\t")[2] for line in records_of(world, "same.vcf.gz")[1]] == [".", *map(str, range(200, 0, -1))]


def test_the_file_is_sorted_within_the_memory_that_it_has(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: what does not fit is sorted in several runs, in the job's own folder, with the same records."""
    records = "".join(f"chr1\t{place}\t{'x' * 1000}{place}\tA\tC\t.\t.\t.\n" for place in range(1, 3001))
    text = vcf_header([], {"chr1": 9000}) + records
    monkeypatch.setattr("divbase_gateway.services.scripts.sort_memory_mb", lambda memory_mb: 1)
    job, status, log = repaired(world, "long.vcf.gz", bgzf(shuffled(text).encode()))
    assert (status, "Merging 1 temporary" in log, "Writing to tmp/sort" in log) == (0, False, True), log
    world.settle(job, status)
    assert records_of(world, "long.vcf.gz")[1] == split(text)[1]


LONG = vcf_header(NAMES, {"chr1": 900_000}) + vcf_records("chr1", 900_000, NAMES, 9000, 1)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda body: body[:-9], "input_corrupt"),
        (lambda body: body[:-8] + bytes(4) + body[-4:], "input_corrupt"),
        (lambda body: body + plain_gzip(b"chr1\t899999\t.\tA\tC\t.\t.\t.\tGT\t0/1\n"), "bcftools_failed"),
    ],
    ids=["no trailer", "another checksum", "a sample too few"],
)
def test_what_is_not_whole_is_not_mended(world: World, spoil: Callable[[bytes], bytes], reason: str) -> None:
    """Guards: a gzip file whose end is missing, which only reading it to the end tells, never becomes a shorter one."""
    body = spoil(plain_gzip(LONG.encode()))
    job, status, log = repaired(world, "cut.vcf.gz", body)
    assert status != 0, log
    world.settle(job, status)
    assert world.end(job) == ("FAILED", reason), world.job(job).message
    info = world.store.head(world.bucket, "cut.vcf.gz")
    assert (info.size, world.lab.info("cut.vcf.gz")["state"]) == (len(body), "UNUSABLE")
    keys = {each.key for each in world.store.list_versions(world.bucket, ".divbase/indexes/cut")}
    assert (keys, world.uploads_begun(), world.objects(job)) == (set(), [], {"job.log"})


def test_a_file_that_changes_meanwhile_is_not_touched(world: World) -> None:
    """Guards: on a real server and without a gateway, too, who uploads while a repair runs keeps what they uploaded."""
    job, status, log = repaired(world, "busy.vcf.gz", plain_gzip(SIMPLE.encode()))
    assert status == 0, log
    newer = world.lab.upload("busy.vcf.gz", plain_gzip(shuffled(SIMPLE).encode()))
    world.settle(job, status)
    assert world.end(job) == ("FAILED", "superseded")
    assert world.lab.info("busy.vcf.gz")["version_id"] == newer["version_id"]
    assert len(world.lab.objects("busy.vcf.gz")) == 2
    assert world.uploads_begun() == []
