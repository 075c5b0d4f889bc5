"""Parts of files as a node stages them: to bcftools equal to the whole, and never short when something is wrong."""

from __future__ import annotations

import gzip
import json
import os
import resource
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from divbase_gateway.domain import spans
from divbase_gateway.domain.bgzf import data_position, unpack_blocks
from divbase_gateway.domain.indexes import parse_index
from divbase_gateway.domain.regions import Region, format_regions
from divbase_jobscripts import node

from tests.bcftools import bcftools_for_tests, release_of
from tests.fakes.node_gateway import TOKEN, NodeGateway
from tests.parts import BlockFile, block_file, in_manifest, some_regions, variant_text
from tests.variants import vcf_header, vcf_records

pytestmark = pytest.mark.slow  # real programs

MIDDLE = Region("chr1", 1_500_000, 2_500_000)


@pytest.fixture(scope="module")
def bcftools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bcftools_for_tests(tmp_path_factory.mktemp("bcftools"))


@pytest.fixture
def gateway() -> Iterator[NodeGateway]:
    with NodeGateway() as server:
        yield server


@pytest.fixture(autouse=True)
def no_gap_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files here are small: let them have several spans, and let the parts be large in proportion."""
    monkeypatch.setattr(spans, "GAP_BYTES", 0)
    monkeypatch.setattr(spans, "WHOLE_FROM", 1.0)


@pytest.fixture(scope="module")
def snps(tmp_path_factory: pytest.TempPathFactory) -> BlockFile:
    return block_file(tmp_path_factory.mktemp("file") / "snps.vcf.gz")


@pytest.fixture
def staged(gateway: NodeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Stages what the gateway has; the folder of the inputs."""

    def stage() -> Path:
        (tmp_path / "job.json").write_text(json.dumps(gateway.ticket()))
        (tmp_path / "scratch").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path)
        job = node.Job(str(tmp_path / "scratch"))
        job.state["manifest"] = gateway.answer("claim", {"claimant": "me"}, f"Bearer {TOKEN}")[1]
        node.stage(job)
        return tmp_path / "scratch/in"

    return stage


def add_part(gateway: NodeGateway, file: BlockFile, *regions: Region, key: str | None = None) -> dict[str, Any]:
    """The part of the file for these regions as the next input; what the manifest says of it."""
    part = in_manifest(file.part(*regions))
    gateway.add_input(file.path, key=key, part=part)
    return part


def run_bcftools(bcftools: Path, *arguments: str | Path) -> list[str]:
    """The lines that it writes; it must have nothing to say on stderr."""
    done = subprocess.run([bcftools, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), (arguments, done.stderr)
    return done.stdout.splitlines()


def places_of(regions: Sequence[Region], bcftools: Path, folder: Path) -> list[str]:
    """The option for these regions; bcftools before 1.18 takes names with a colon from a file only."""
    if release_of(bcftools) >= (1, 18):
        return ["--regions", format_regions(regions)]
    lines = [f"{each.contig}\t{each.start or 1}\t{each.end or 2**31 - 1}\n" for each in regions]
    (folder / "regions.tsv").write_text("".join(lines))
    return ["--regions-file", str(folder / "regions.tsv")]


def data_of(file: BlockFile, part: dict[str, Any]) -> bytes:
    """What the spans of a part hold, unpacked."""
    cuts = [tuple(data_position(file.blocks, offset) for offset in span[2:]) for span in part["spans"]]
    return b"".join(file.data[first:end] for first, end in cuts)


# --- equal to the whole file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("header_apart", [True, False], ids=["header apart", "header with records"])
@pytest.mark.parametrize(("name", "index"), [("a.vcf.gz", "csi"), ("a.vcf.gz", "tbi"), ("a.bcf", "csi")])
def test_a_part_answers_like_the_whole_file(
    gateway: NodeGateway,
    staged: Callable[[], Path],
    tmp_path: Path,
    bcftools: Path,
    name: str,
    index: str,
    header_apart: bool,
) -> None:
    """Regions give the same records, with and without threads; read from end to end it is whole, sorted records."""
    file = block_file(tmp_path / name, index=index, header_apart=header_apart)
    asked = [some_regions(seed) for seed in range(8)]
    parts = [add_part(gateway, file, *regions, key=f"{seed}.{name}") for seed, regions in enumerate(asked)]
    folder = staged()
    whole = run_bcftools(bcftools, "view", "--no-version", file.path)
    found = 0
    for number, (regions, part) in enumerate(zip(asked, parts, strict=True), start=1):
        small = folder / f"{number}.{name.partition('.')[2]}"
        assert gzip.decompress(small.read_bytes()) == data_of(file, part)
        view = ["view", "--no-version", *places_of(regions, bcftools, tmp_path)]
        expected = run_bcftools(bcftools, *view, file.path)
        assert run_bcftools(bcftools, *view, small) == expected
        assert run_bcftools(bcftools, *view, "--threads", "2", small) == expected
        lines = run_bcftools(bcftools, "view", "--no-version", small)
        rest = iter(whole)
        assert all(line in rest for line in lines)  # in the order of the whole file, and none twice
        assert set(expected) <= set(lines)
        found += sum(not line.startswith("#") for line in expected)
    assert max(len(part["spans"]) for part in parts) > 3
    assert found > 200


def test_large_blocks_as_bgzip_makes_them(
    gateway: NodeGateway, staged: Callable[[], Path], tmp_path: Path, bcftools: Path
) -> None:
    """A region inside one block of 64 KiB, and one from block to block."""
    file = block_file(tmp_path / "a.vcf.gz", variant_text(3), block=65536)
    asked = [Region("chr1", 1, 2000), Region("chr1", 1_000_000, 1_900_000), Region("chr2", 700_000, 800_000)]
    for number, region in enumerate(asked):
        add_part(gateway, file, region, key=f"{number}.vcf.gz")
    folder = staged()
    for number, region in enumerate(asked, start=1):
        view = ["view", "-H", "--regions", format_regions([region])]
        expected = run_bcftools(bcftools, *view, file.path)
        assert run_bcftools(bcftools, *view, folder / f"{number}.vcf.gz") == expected != []


@pytest.mark.parametrize("name", ["a.vcf.gz", "a.bcf"])
def test_positions_that_need_a_deeper_index(
    gateway: NodeGateway, staged: Callable[[], Path], tmp_path: Path, bcftools: Path, name: str
) -> None:
    """Contigs above 512 Mb have a binning scheme of more levels, which the part's index takes over."""
    contigs = {"small": 1000, "wheat": 1_500_000_000}
    text = vcf_header(["A"], contigs) + vcf_records("wheat", 1_500_000_000, ["A"], 2000, 1)
    file = block_file(tmp_path / name, text)
    region = Region("wheat", 1_100_000_000, 1_300_000_000)
    add_part(gateway, file, region)
    small = staged() / f"1.{name.partition('.')[2]}"
    view = ["view", "-H", "--regions", format_regions([region])]
    expected = run_bcftools(bcftools, *view, file.path)
    assert (run_bcftools(bcftools, *view, small), len(expected) > 100) == (expected, True)


def test_a_part_has_no_empty_block_but_its_last(
    gateway: NodeGateway, staged: Callable[[], Path], snps: BlockFile
) -> None:
    """An empty block ends a BGZF file for some readers."""
    for seed in range(20):
        add_part(gateway, snps, *some_regions(seed), key=f"{seed}.vcf.gz")
    folder = staged()
    for number in range(1, 21):
        blocks, _ = unpack_blocks((folder / f"{number}.vcf.gz").read_bytes(), 1 << 40)
        assert [block.data_size == 0 for block in blocks] == [False] * (len(blocks) - 1) + [True]


def test_regions_without_records(
    gateway: NodeGateway, staged: Callable[[], Path], tmp_path: Path, bcftools: Path
) -> None:
    """A part of the header alone is a file without records, for VCF and BCF, whatever is asked of it."""
    for name in ("a.vcf.gz", "a.bcf"):
        add_part(gateway, block_file(tmp_path / name), Region("empty"))
    folder = staged()
    for name in ("1.vcf.gz", "2.bcf"):
        assert run_bcftools(bcftools, "view", "-H", folder / name) == []
        for region in ("empty", "chr1", "chr2:1-1000"):
            assert run_bcftools(bcftools, "view", "-H", "-r", region, folder / name) == []


def test_index_of_a_part(gateway: NodeGateway, staged: Callable[[], Path], tmp_path: Path) -> None:
    """It names a VCF's contigs; a BCF's have their places. Other contigs than those of the part have nothing."""
    for name in ("a.vcf.gz", "a.bcf"):
        add_part(gateway, block_file(tmp_path / name), Region("chr2"), Region("chr:3", 1, 1000))
    folder = staged()
    of_vcf, of_bcf = (parse_index((folder / f"{name}.csi").read_bytes()) for name in ("1.vcf.gz", "2.bcf"))
    assert (of_vcf.names, of_bcf.names) == (("chr2", "chr:3"), ())
    assert [bool(contig.bins) for contig in of_vcf.contigs] == [True, True]
    assert [bool(contig.bins) for contig in of_bcf.contigs][:3] == [False, True, True]
    assert len(of_bcf.contigs) == 4


# --- what is read and told -----------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_only_the_spans_are_read(
    gateway: NodeGateway, staged: Callable[[], Path], snps: BlockFile, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each span is asked for once, no index is. What was fetched is removed in the end; log and progress count it."""
    part = add_part(gateway, snps, MIDDLE)
    gateway.faults.on_get = lambda key: wait_until(lambda: gateway.bodies("progress") != [])
    folder = staged()
    ranges = [f"bytes={start}-{start + length - 1}" for start, length, _, _ in part["spans"]]
    assert sorted(gateway.gets) == sorted(("snps.vcf.gz", each) for each in ranges)
    assert sorted(os.listdir(folder)) == ["1.vcf.gz", "1.vcf.gz.csi"]
    read = sum(span[1] for span in part["spans"])
    assert 0 < read < snps.size / 2
    assert {(told["stage"], told["total"]) for told in gateway.bodies("progress")} == {("staging", read)}
    assert f"staged: 1 files, {node.readable(read)} of {node.readable(snps.size)} in " in capfd.readouterr().out


def test_spans_in_many_ranges_and_whole_files_beside_them(
    gateway: NodeGateway,
    staged: Callable[[], Path],
    snps: BlockFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ranges that arrive in any order, some after drops, short bodies, 503s and expired URLs, make the same file."""
    part = add_part(gateway, snps, MIDDLE)
    gateway.add_input(snps.path, key="whole.vcf.gz", index=snps.index)
    monkeypatch.setattr(node, "RANGE_BYTES", 700)
    vars(gateway.faults).update(dropped_bodies=5, short_bodies=5, failing_gets=12)
    asked: list[str] = []

    def expire(key: str) -> None:
        asked.append(key)
        if len(asked) == 30:
            gateway.faults.expired = True

    gateway.faults.on_get = expire
    folder = staged()
    assert gzip.decompress((folder / "1.vcf.gz").read_bytes()) == data_of(snps, part)
    assert (folder / "2.vcf.gz").read_bytes() == snps.path.read_bytes()
    assert len(gateway.bodies("urls")) == 1


def test_many_small_parts_are_quick(gateway: NodeGateway, staged: Callable[[], Path], tmp_path: Path) -> None:
    """A part costs milliseconds of the processor, the server's share included, and no process is started for it."""
    file = block_file(tmp_path / "a.vcf.gz", variant_text(4), block=65280)
    part = in_manifest(file.part(Region("chr1", 1_000_000, 1_000_100)))
    for number in range(200):
        gateway.add_input(file.path, key=f"{number}.vcf.gz", part=part)
    started, children = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    folder = staged()
    assert len(os.listdir(folder)) == 400
    assert time.process_time() - started < 200 * 0.05
    assert resource.getrusage(resource.RUSAGE_CHILDREN) == children


# --- faults that last ----------------------------------------------------------------------------------------------


def damage(gateway: NodeGateway, at: int, body: bytes) -> None:
    """The object has other bytes there, and nobody knows."""
    stored = gateway.objects["snps.vcf.gz"]
    gateway.objects["snps.vcf.gz"] = stored[:at] + body + stored[at + len(body) :]


def failure_of(staged: Callable[[], Path]) -> tuple[str, str]:
    with pytest.raises(node.Failed) as caught:
        staged()
    return caught.value.reason, caught.value.message


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        ({"short_objects": {"snps.vcf.gz"}}, "input_corrupt", "snps.vcf.gz has not the size"),
        ({"missing": {"snps.vcf.gz"}}, "input_missing", "snps.vcf.gz is not in the store any more"),
        ({"failing_gets": 10**6}, "store_unavailable", "503 SlowDown"),
        ({"short_bodies": 10**6}, "store_unavailable", "the connection ended 1 bytes early"),
        ({"expired_for_ever": True}, "store_unavailable", "S3 refuses even fresh URLs"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_lasting_fault(
    gateway: NodeGateway, staged: Callable[[], Path], snps: BlockFile, fault: dict[str, Any], reason: str, words: str
) -> None:
    """A store that does not give these bytes of this object ends the job with the reason."""
    gateway.retry_for_s = 1
    add_part(gateway, snps, MIDDLE)
    vars(gateway.faults).update(fault)
    found = failure_of(staged)
    assert (found[0], words in found[1]) == (reason, True), found


def test_replaced_object(gateway: NodeGateway, staged: Callable[[], Path], snps: BlockFile) -> None:
    """No byte of an object with another ETag is taken: S3 itself refuses it."""
    add_part(gateway, snps, MIDDLE)
    planned = dict(gateway.inputs[0])
    gateway.inputs[0]["etag"] = "another"
    gateway.faults.on_get = lambda key: gateway.inputs[0].update(planned)
    reason, message = failure_of(staged)
    assert (reason, "412" in message) == ("input_corrupt", True), message


def edge(part: dict[str, Any], which: str) -> int:
    """Where the first or the last block of the last span begins; both are cut."""
    _, _, first, end = part["spans"][-1]
    assert first & 0xFFFF > 0 < end & 0xFFFF
    assert first >> 16 < end >> 16
    return int(first >> 16 if which == "first" else end >> 16)


@pytest.mark.parametrize("which", ["first", "last"])
@pytest.mark.parametrize(
    ("at", "body", "words"),
    [
        (100, bytes(20), "the BGZF block there does not unpack to what its checksum says"),
        (0, b"no", "no BGZF block begins there, though one must"),
        (10, b"\x08", "no BGZF block begins there, though one must"),
        (16, b"\x05\x00", "the BGZF block there is shorter than a block can be"),
    ],
    ids=["content", "magic", "extra field", "size"],
)
def test_damaged_edge(
    gateway: NodeGateway, staged: Callable[[], Path], snps: BlockFile, which: str, at: int, body: bytes, words: str
) -> None:
    """A block that has to be cut is looked at: the file and the byte are named."""
    begin = edge(add_part(gateway, snps, MIDDLE), which)
    damage(gateway, begin + at, body)
    assert failure_of(staged) == ("input_corrupt", f"snps.vcf.gz is damaged at byte {begin}: {words}.")


@pytest.mark.parametrize("tail", ["checksum", "length"])
def test_wrong_tail_of_an_edge(gateway: NodeGateway, staged: Callable[[], Path], snps: BlockFile, tail: str) -> None:
    """Contents that unpack, but are not those that were packed, are found."""
    begin = edge(add_part(gateway, snps, MIDDLE), "first")
    (block,) = [block for block in snps.blocks if block.start == begin]
    damage(gateway, block.end - (8 if tail == "checksum" else 4), b"\xee")
    assert failure_of(staged)[0] == "input_corrupt"


def test_broken_chain_of_blocks(gateway: NodeGateway, staged: Callable[[], Path], snps: BlockFile) -> None:
    """A block that is not where the one before it ends is found, in the middle of a span too."""
    begin = edge(add_part(gateway, snps, MIDDLE), "first")
    third = [block for block in snps.blocks if block.start > begin][1]
    damage(gateway, third.start + 16, struct.pack("<H", third.size - 11))
    words = f"snps.vcf.gz is damaged at byte {third.end - 10}: no BGZF block begins there, though one must."
    assert failure_of(staged) == ("input_corrupt", words)


def test_last_block_is_longer_than_its_span(gateway: NodeGateway, staged: Callable[[], Path], snps: BlockFile) -> None:
    """A span that ends before its last block does gives no shorter answer."""
    part = add_part(gateway, snps, MIDDLE)
    begin = edge(part, "last")
    part["spans"][-1][1] = begin - part["spans"][-1][0] + 300
    reason, message = failure_of(staged)
    assert reason == "input_corrupt"
    assert message.endswith(f"at byte {begin}: the BGZF block there is longer than what is left to byte {begin + 300}.")


def test_end_that_is_no_block(gateway: NodeGateway, staged: Callable[[], Path], snps: BlockFile) -> None:
    """An index that puts the end of the records between two blocks' beginnings is another file's."""
    part = add_part(gateway, snps, MIDDLE)
    span = part["spans"][-1]
    begin = edge(part, "last") - 5
    span[3] = begin << 16
    words = f"snps.vcf.gz is damaged at byte {begin}: no BGZF block begins there, though its index says so."
    assert failure_of(staged) == ("input_corrupt", words)


@pytest.mark.parametrize("place", [2, 3], ids=["first", "end"])
def test_cut_in_the_middle_of_a_record(
    gateway: NodeGateway, staged: Callable[[], Path], snps: BlockFile, place: int
) -> None:
    """An index whose records do not begin and end at lines would make half records, which are valid by chance."""
    part = add_part(gateway, snps, MIDDLE)
    part["spans"][-1][place] -= 3
    reason, message = failure_of(staged)
    assert (reason, "no record begins or ends where its index says so" in message) == ("input_corrupt", True), message


def test_index_that_points_beside_the_spans(gateway: NodeGateway, staged: Callable[[], Path], snps: BlockFile) -> None:
    """A chunk of which nothing was read is a fault of the plan, not an empty answer."""
    part = add_part(gateway, snps, MIDDLE)
    part["contigs"][0][2][0][1][1] = snps.blocks[-1].start << 16
    reason, message = failure_of(staged)
    assert (reason, "The plan reads nothing at byte" in message) == ("internal_error", True), message


@pytest.mark.parametrize("name", ["1.vcf.gz.spans", "1.vcf.gz"])
def test_full_disk(
    gateway: NodeGateway, staged: Callable[[], Path], snps: BlockFile, tmp_path: Path, name: str
) -> None:
    """No space for what is fetched, or for the file that is made of it, is an error of the system that is passed on."""
    add_part(gateway, snps, MIDDLE)
    (tmp_path / "scratch/in").mkdir(parents=True)
    (tmp_path / "scratch/in" / name).symlink_to("/dev/full")
    with pytest.raises((node.Failed, OSError)) as caught:
        staged()
    job = node.Job.__new__(node.Job)
    job.scratch = str(tmp_path / "scratch")
    assert node.explain(caught.value, job)[0] == "disk_full"


def test_room_for_the_spans_and_the_file(gateway: NodeGateway, staged: Callable[[], Path], snps: BlockFile) -> None:
    """What is fetched is on the disk twice for a moment; a node without that room says so before it fetches."""
    part = add_part(gateway, snps, MIDDLE)
    part["spans"][-1][1] = 10**18
    reason, message = failure_of(staged)
    assert (reason, "the input files need 2000000000.0 GB" in message) == ("disk_full", True), message
    assert gateway.gets == []
