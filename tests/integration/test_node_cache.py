"""The cache that jobs share on the scratch of a cluster: the same bytes as from S3, or none; and never a failed job."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from divbase_gateway.domain import spans
from divbase_gateway.domain.regions import Region
from divbase_jobscripts import node

from tests.bcftools import bcftools_for_tests
from tests.fakes.node_gateway import TOKEN, NodeGateway
from tests.golden.scripts import MERGE, SINGLE
from tests.integration.test_node_run import (
    CONTIGS,
    NORTH,
    JobFolder,
    Run,
    add_single,
    add_single_part,
    add_two_groups,
    failure,
    run,
)
from tests.parts import BlockFile, block_file, in_manifest
from tests.variants import simulate

pytestmark = pytest.mark.slow  # real programs

__all__ = ["run"]  # a fixture

KIB = 1 << 10
MIDDLE = Region("chr1", 1_500_000, 2_500_000)
DAY_S = 86400


@pytest.fixture(scope="module")
def bcftools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bcftools_for_tests(tmp_path_factory.mktemp("bcftools"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the cache is; the first job makes it."""
    return tmp_path / "cache"


@pytest.fixture
def gateway(folder: Path) -> Iterator[NodeGateway]:
    with NodeGateway() as server:
        server.cache = {"folder": str(folder), "bytes": 100 << 20}
        yield server


@pytest.fixture(scope="module")
def snps(tmp_path_factory: pytest.TempPathFactory) -> BlockFile:
    return block_file(tmp_path_factory.mktemp("file") / "snps.vcf.gz")


@dataclass(frozen=True)
class Staged:
    """What a job has on its disk, by name, and its state."""

    files: dict[str, bytes]
    state: dict[str, Any]


Stage = Callable[[], Staged]


@pytest.fixture
def stage(gateway: NodeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """One job after another stages what the gateway has."""
    monkeypatch.setattr(spans, "GAP_BYTES", 0)
    monkeypatch.setattr(spans, "WHOLE_FROM", 1.0)
    monkeypatch.chdir(tmp_path)

    def one_job() -> Staged:
        scratch = tmp_path / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        (tmp_path / "job.json").write_text(json.dumps(gateway.ticket()))
        gateway.gets.clear()
        job = node.Job(str(scratch))
        job.state["manifest"] = gateway.answer("claim", {"claimant": "me"}, f"Bearer {TOKEN}")[1]
        node.stage(job)
        return Staged({each.name: each.read_bytes() for each in (scratch / "in").iterdir()}, job.state)

    return one_job


def add_part_and_whole(gateway: NodeGateway, file: BlockFile) -> None:
    gateway.add_input(file.path, part=in_manifest(file.part(MIDDLE)))
    gateway.add_input(file.path, key="whole.vcf.gz", index=file.index)


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if len(path.name) == 64]


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(("new-", "room-"))]


def md5_of(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def account(folder: Path) -> int:
    return int(json.loads((folder / "account").read_text())["bytes"])


# --- the same bytes, without S3 ------------------------------------------------------------------------------------


def test_second_job_asks_s3_for_nothing(
    gateway: NodeGateway, stage: Stage, snps: BlockFile, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Guards: a hit gives the bytes that a fetch gave, of parts, whole files and indexes; nothing else is left."""
    add_part_and_whole(gateway, snps)
    first = stage()
    fetched = len(gateway.gets)
    assert "0 bytes of it from the cache (0 spans)" in capfd.readouterr().out
    second = stage()
    assert (second.files, gateway.gets) == (first.files, [])
    total = first.state["staged"]["bytes_fetched"]
    assert first.state["staged"]["bytes_from_cache"] == 0
    assert second.state["staged"] == {"bytes_fetched": 0, "bytes_from_cache": total}
    assert f"{node.readable(total)} of it from the cache ({fetched} spans)" in capfd.readouterr().out
    assert (len(entries(folder)), leftovers(folder)) == (fetched, [])
    assert account(folder) == sum(node.charge(each.stat().st_size) for each in entries(folder))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in folder.iterdir()} == {0o600}


def test_another_region_has_the_header_already(gateway: NodeGateway, stage: Stage, snps: BlockFile) -> None:
    """Guards: entries are spans, so that questions share what they have in common."""
    gateway.add_input(snps.path, part=in_manifest(snps.part(MIDDLE)))
    stage()
    gateway.inputs.clear()
    gateway.add_input(snps.path, part=in_manifest(snps.part(Region("chr2", 1, 100_000))))
    part = gateway.inputs[0]["part"]
    stage()
    assert gateway.gets == [("snps.vcf.gz", f"bytes={at}-{at + length - 1}") for at, length, _, _ in part["spans"][1:]]


def test_progress_counts_what_the_cache_gave(gateway: NodeGateway, stage: Stage, snps: BlockFile) -> None:
    """Guards: the stage is done when all bytes are there, wherever they came from."""
    gateway.add_input(snps.path)
    stage()
    gateway.inputs.clear()
    gateway.add_input(snps.path)
    gateway.add_input(snps.path, key="another.vcf.gz")
    gateway.calls.clear()
    gateway.faults.on_get = lambda key: time.sleep(2.5)  # one more look at the progress
    stage()
    assert {key for key, _ in gateway.gets} == {"another.vcf.gz"}
    assert [told["done"] for told in gateway.bodies("progress")][-1] >= snps.size


def test_jobs_from_the_first_command_to_the_last(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """Guards: result, report and provenance of a job that had everything from the cache; the report says so."""
    add_two_groups(gateway, tmp_path)
    assert run(MERGE, "first").status == 0
    result = gateway.outputs["result.vcf.gz"]
    gateway.gets.clear()
    gateway.claimant = None
    ended = run(MERGE, "second")
    assert (ended.status, ended.left_behind, gateway.gets) == (0, [], [])
    assert gateway.outputs["result.vcf.gz"] == result
    total = sum(each["size"] + each["index"]["size"] for each in gateway.inputs)
    first, second = (report["counts"] for report in gateway.bodies("finish"))
    assert (first["bytes_fetched"], first["bytes_from_cache"]) == (total, 0)
    assert (second["bytes_fetched"], second["bytes_from_cache"]) == (0, total)
    assert json.loads(gateway.outputs["provenance.json"].body)["counts"] == second


@pytest.mark.parametrize("kind", ["index", "repair"])
def test_only_queries_use_it(gateway: NodeGateway, stage: Stage, snps: BlockFile, folder: Path, kind: str) -> None:
    """Guards: jobs that read each file once, and whole, do not push out what queries need."""
    gateway.kind = kind
    gateway.add_input(snps.path)
    assert "staged" not in stage().state
    assert not folder.exists()


ENCRYPTED = {
    "SSE-KMS": {"x-amz-server-side-encryption": "aws:kms"},
    "SSE-C": {"x-amz-server-side-encryption-customer-algorithm": "AES256"},
}


@pytest.mark.parametrize("headers", ENCRYPTED.values(), ids=ENCRYPTED.keys())
def test_store_that_encrypts_with_its_own_keys(
    gateway: NodeGateway, stage: Stage, snps: BlockFile, headers: dict[str, str]
) -> None:
    """Guards: its ETags look like an MD5 and are none, which only its answers say; a job that needs none of them takes
    nothing for damaged."""
    gateway.add_input(snps.path, index=snps.index, checksum="md5")
    for stored in (gateway.inputs[0], gateway.inputs[0]["index"]):
        stored["etag"] = md5_of(b"what was encrypted")
    gateway.faults.get_headers = headers
    first = stage()
    assert first.state["staged"]["bytes_from_cache"] == 0
    gateway.gets.clear()
    assert (stage().files, gateway.gets) == (first.files, [])


def test_off_by_default(gateway: NodeGateway, stage: Stage, snps: BlockFile, folder: Path) -> None:
    """Guards: without a cache in the manifest, from an older gateway too, nothing is kept and nothing said."""
    gateway.cache = None
    gateway.add_input(snps.path)
    assert "staged" not in stage().state
    assert not folder.exists()


# --- entries that are not what they should be ----------------------------------------------------------------------


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda body: body[:at] + bytes([body[at] ^ 1]) + body[at + 1 or len(body) :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "first byte": flip(0),
    "a byte in the middle": flip(3000),
    "the checksum": flip(-1),
    "cut short": lambda body: body[:-100],
    "longer": lambda body: body + b"x",
    "zeros, as after a crash": lambda body: bytes(len(body)),
    "empty": lambda body: b"",
}


@pytest.mark.parametrize("spoil", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_entry(
    gateway: NodeGateway,
    stage: Stage,
    snps: BlockFile,
    folder: Path,
    spoil: Callable[[bytes], bytes],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Guards: an entry with a wrong bit is a miss: it is fetched anew, and there is a good entry afterwards."""
    gateway.add_input(snps.path, checksum="none")  # nothing but the entry's own checksum would notice
    first = stage()
    (entry,) = entries(folder)
    good = entry.read_bytes()
    entry.write_bytes(spoil(good))
    second = stage()
    assert (second.files, len(gateway.gets)) == (first.files, 1)
    assert second.state["staged"]["bytes_from_cache"] == 0
    assert f"an entry of the cache is damaged, and removed: {entry.name}" in capfd.readouterr().out
    assert entry.read_bytes() == good


def test_entry_under_the_name_of_another(gateway: NodeGateway, stage: Stage, snps: BlockFile, folder: Path) -> None:
    """Guards: the checksum covers what the bytes are of; a whole entry of another object is not taken."""
    gateway.add_input(snps.path, key="a.vcf.gz", checksum="none")
    first = stage()
    (a,) = entries(folder)
    other = snps.path.read_bytes()[:-40] + bytes(12) + node.BGZF_END
    gateway.objects["b.vcf.gz"] = other
    gateway.inputs[0].update(key="b.vcf.gz", object="b.vcf.gz", etag=md5_of(other) + "-2")
    stage()
    (b,) = [each for each in entries(folder) if each != a]
    b.write_bytes(a.read_bytes())
    second = stage()
    assert (second.files["1.vcf.gz"], len(gateway.gets)) == (other, 1)
    assert first.files["1.vcf.gz"] != other


def test_another_version_of_a_file(gateway: NodeGateway, stage: Stage, snps: BlockFile) -> None:
    """Guards: a new version under the same key, of the same size, is never answered from the old one's entries."""
    gateway.add_input(snps.path)
    stage()
    body = bytearray(snps.path.read_bytes())
    body[4:8] = b"\1\2\3\4"  # the time in the gzip header
    gateway.objects["snps.vcf.gz"] = bytes(body)
    gateway.inputs[0].update(etag=md5_of(bytes(body)), sha256=hashlib.sha256(body).hexdigest())
    found = stage()
    assert (found.files["1.vcf.gz"], len(gateway.gets)) == (bytes(body), 1)


def copy_of(url: str = "http://s3/bucket/key?versionId=v1", **changed: Any) -> Any:
    return SimpleNamespace(**{"etag": "e", "size": 100, "request": {"url": url}, **changed})


SPAN = node.Span(0, 10, 0)


@pytest.mark.parametrize(
    ("copy", "span"),
    [
        (copy_of("http://s3/bucket/key?versionId=v2"), SPAN),
        (copy_of("http://s3/bucket/key"), SPAN),
        (copy_of("http://s3/bucket/other?versionId=v1"), SPAN),
        (copy_of("http://s3/another/key?versionId=v1"), SPAN),
        (copy_of("http://another/bucket/key?versionId=v1"), SPAN),
        (copy_of(etag="f"), SPAN),
        (copy_of(size=101), SPAN),
        (copy_of(), node.Span(1, 10, 0)),
        (copy_of(), node.Span(0, 11, 0)),
    ],
    ids=["version", "no version", "key", "bucket", "server", "etag", "size", "start", "length"],
)
def test_what_an_entry_is_of(copy: Any, span: node.Span) -> None:
    """Guards: store, bucket, key, version, ETag, size and span all tell entries apart; a signature does not."""
    name = node.entry_name(copy_of(), SPAN)
    assert node.entry_name(copy, span) != name
    assert node.entry_name(copy_of("http://s3/bucket/key?X-Amz-Signature=x&versionId=v1"), node.Span(0, 10, 7)) == name


def test_bytes_that_nobody_can_name() -> None:
    """Guards: what has no ETag could be of any version, and is not kept."""
    assert node.entry_name(copy_of(etag=None), SPAN) is None


def test_bytes_that_were_damaged_on_their_way(
    run: Run, gateway: NodeGateway, tmp_path: Path, folder: Path, bcftools: Path
) -> None:
    """Guards: a block that arrived damaged, which only bcftools notices, does not fail the jobs after this one."""
    file = add_single_part(gateway, tmp_path)
    start, length, _, _ = gateway.inputs[0]["part"]["spans"][-1]
    block = [block for block in file.blocks if start < block.start < start + length // 2][-1]
    good = gateway.objects["snps.vcf.gz"]
    gateway.objects["snps.vcf.gz"] = good[: block.start + 200] + bytes(40) + good[block.start + 240 :]
    assert failure(run(SINGLE, "first"), gateway)[0] == "input_corrupt"
    assert entries(folder) == []
    gateway.objects["snps.vcf.gz"] = good
    gateway.claimant = None
    assert run(SINGLE, "second").status == 0
    assert len(entries(folder)) == len(gateway.inputs[0]["part"]["spans"])


def test_bytes_with_a_wrong_checksum(gateway: NodeGateway, stage: Stage, snps: BlockFile, folder: Path) -> None:
    """Guards: a whole file is kept only when its own checksum was right."""
    gateway.add_input(snps.path)
    gateway.faults.wrong_bytes = {"snps.vcf.gz"}
    with pytest.raises(node.Failed):
        stage()
    assert (entries(folder), leftovers(folder)) == ([], [])


# --- a folder that cannot be used ----------------------------------------------------------------------------------


def foreign(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)


def open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def open_to_the_group(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def with_a_strange_account(folder: Path) -> None:
    (folder / "account").mkdir(parents=True)
    folder.chmod(0o700)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(foreign, "it belongs to another user, or others may write to it", marks=needs_root),
        (open_to_all, "it belongs to another user, or others may write to it"),
        (open_to_the_group, "it belongs to another user, or others may write to it"),
        (lambda folder: folder.write_text("a file"), "Not a directory"),
        (lambda folder: folder.symlink_to("nowhere"), "No such file or directory"),
        (with_a_strange_account, "Is a directory"),
    ],
    ids=["another user's", "open to all", "open to the group", "a file", "a dead link", "strange account"],
)
def test_folder_that_cannot_be_trusted(
    gateway: NodeGateway,
    stage: Stage,
    snps: BlockFile,
    folder: Path,
    spoil: Callable[[Path], None],
    words: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Guards: the job goes on without the cache, and says once why."""
    add_part_and_whole(gateway, snps)
    spoil(folder)
    staged = stage()
    assert staged.files["2.vcf.gz"] == snps.path.read_bytes()
    assert staged.state["staged"]["bytes_from_cache"] == 0
    said = [line for line in capfd.readouterr().out.splitlines() if "the cache in" in line]
    assert said == [f"the cache in {folder} is not used: {words}"]


def test_parent_that_is_not_there(
    gateway: NodeGateway, stage: Stage, snps: BlockFile, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Guards: only the last folder is made: a scratch that is not mounted is not filled behind the mount's back."""
    gateway.cache = {"folder": str(folder / "deeper"), "bytes": 100 << 20}
    gateway.add_input(snps.path)
    stage()
    assert not folder.exists()
    assert "is not used: No such file or directory" in capfd.readouterr().out


def can_mount() -> bool:
    mount = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(mount, capture_output=True).returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root and a mount namespace")


def run_with_mount(tmp_path: Path, gateway: NodeGateway, bcftools: Path, name: str, mount: str) -> str:
    """Runs SINGLE in a mount namespace of its own, where that command was given first; its log."""
    job = JobFolder(tmp_path / name)
    job.prepare(SINGLE, gateway, bcftools)
    job.write("bin/bash", f'#!/bin/sh\nexec unshare -m sh -c \'{mount} && exec /bin/bash "$@"\' sh "$@"\n', 0o755)
    gateway.claimant = None
    gateway.gets.clear()
    ended = job.wait(job.start())
    assert (ended.status, ended.left_behind) == (0, []), ended.log
    return ended.log


@needs_mount
def test_full_cache_disk(gateway: NodeGateway, tmp_path: Path, bcftools: Path, folder: Path) -> None:
    """Guards: no space for an entry ends the use of the cache and not the job."""
    add_single(gateway, tmp_path, sites=5000)
    folder.mkdir(mode=0o700)
    mount = f"mount -t tmpfs -o size=64k,mode=0700 none {folder}"
    log = run_with_mount(tmp_path, gateway, bcftools, "run", mount)
    assert log.count(f"the cache in {folder} is not used: No space left on device") == 1


@needs_mount
def test_read_only_cache(gateway: NodeGateway, tmp_path: Path, bcftools: Path, folder: Path) -> None:
    """Guards: what is there is used; that it cannot be noted as used, or added to, fails nothing."""
    add_single(gateway, tmp_path)
    run_with_mount(tmp_path, gateway, bcftools, "first", "true")
    for entry in entries(folder):
        os.utime(entry, (1, 1))
    mount = f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"
    log = run_with_mount(tmp_path, gateway, bcftools, "second", mount)
    assert log.count(f"the cache in {folder} is not used: Read-only file system") == 1
    assert len(gateway.gets) < 2


# --- the limit -----------------------------------------------------------------------------------------------------


def cache_of(folder: Path, limit: int) -> Any:
    return node.Cache({"folder": str(folder), "bytes": limit})


def keep(cache: Any, source: Path, name: str, size: int) -> None:
    """Adds `size` bytes of the source as an object of that name."""
    copy = copy_of(f"http://s3/bucket/{name}", path=str(source), spans=lambda: [node.Span(0, size, 0)])
    cache.keep(copy)


def take(cache: Any, target: Path, name: str, size: int) -> bytes | None:
    """What it has under that name."""
    target.write_bytes(b"")
    copy = copy_of(f"http://s3/bucket/{name}", path=str(target))
    found = cache.take(copy, node.Span(0, size, 0), SimpleNamespace(add=lambda count: None))
    return target.read_bytes() if found else None


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(bytes(range(256)) * 4 * KIB)
    return path


def charged(folder: Path) -> int:
    return sum(node.charge(each.stat().st_size) for each in entries(folder))


def test_what_was_used_longest_ago_goes(folder: Path, source: Path, tmp_path: Path) -> None:
    """Guards: the limit holds after each job, by removing what nobody took for longest; a hit counts as use."""
    limit, size = 1000 * KIB, 90 * KIB
    for number in range(8):
        cache = cache_of(folder, limit)
        keep(cache, source, str(number), size)
        cache.close()
    for number, entry in enumerate(sorted(entries(folder), key=lambda each: each.stat().st_mtime_ns)):
        os.utime(entry, (1000 + number, 1000 + number))
    cache = cache_of(folder, limit)
    assert take(cache, tmp_path / "x", "0", size) == source.read_bytes()[:size]
    for number in range(8, 12):
        keep(cache, source, str(number), size)
    cache.close()
    assert charged(folder) <= limit
    cache = cache_of(folder, limit)
    there = [number for number in range(12) if take(cache, tmp_path / "x", str(number), size) is not None]
    assert 0 in there
    assert there == [0, *range(there[1], 12)]
    assert 2 <= there[1] <= 5
    cache.close()
    assert leftovers(folder) == []


def test_one_job_gets_half(folder: Path, source: Path) -> None:
    """Guards: a job that fetches more than all that fits does not push out what the others use."""
    cache = cache_of(folder, 1000 * KIB)
    for number in range(30):
        keep(cache, source, str(number), 64 * KIB - node.CACHE_DIGEST_BYTES)
    cache.close()
    assert charged(folder) == 7 * 64 * KIB
    assert account(folder) == charged(folder)


def test_small_entries_count_for_a_block(folder: Path, source: Path) -> None:
    """Guards: the number of files is bounded too, or counting them would take longer than fetching."""
    for number in range(60):
        cache = cache_of(folder, 20 * 64 * KIB)
        keep(cache, source, str(number), 10)
        cache.close()
    assert 10 <= len(entries(folder)) <= 20


def test_entry_that_is_removed_while_it_is_read(folder: Path, source: Path, tmp_path: Path) -> None:
    """Guards: who has an entry open reads it to its end, whoever removes it meanwhile."""
    cache = cache_of(folder, 1000 * KIB)
    keep(cache, source, "old", 90 * KIB)
    cache.close()
    (old,) = entries(folder)
    with old.open("rb") as reader:
        for number in range(12):
            cache = cache_of(folder, 1000 * KIB)
            keep(cache, source, str(number), 90 * KIB)
            cache.close()
        assert not old.exists()
        assert reader.read()[: 90 * KIB] == source.read_bytes()[: 90 * KIB]
    assert charged(folder) <= 1000 * KIB


def test_a_lower_limit_is_kept_at_once(folder: Path, source: Path) -> None:
    """Guards: an administrator who gives less room gets it back with the next job that adds something."""
    cache = cache_of(folder, 4000 * KIB)
    for number in range(10):
        keep(cache, source, str(number), 100 * KIB)
    cache.close()
    cache = cache_of(folder, 500 * KIB)
    keep(cache, source, "new", 100 * KIB)
    cache.close()
    assert 100 * KIB < charged(folder) <= 500 * KIB


@pytest.mark.parametrize("content", ["", "{", '{"bytes": 1}', '{"bytes": 5, "counted": 1000}'])
def test_account_that_says_nothing(folder: Path, source: Path, content: str) -> None:
    """Guards: a torn account, or one of yesterday, is made anew from what is there."""
    cache = cache_of(folder, 1000 * KIB)
    keep(cache, source, "a", 100 * KIB)
    cache.close()
    (folder / "account").write_text(content)
    cache = cache_of(folder, 1000 * KIB)
    keep(cache, source, "b", 100 * KIB)
    cache.close()
    assert account(folder) == charged(folder) > 200 * KIB


def test_leftovers_of_killed_jobs(folder: Path, source: Path) -> None:
    """Guards: what a killed job left is removed after a day, not before: its job may still be at work."""
    cache = cache_of(folder, 1000 * KIB)
    cache.close()
    for name, age in (("new-old", 2), ("room-old", 2), ("new-young", 0.5), ("room-young", 0.5), ("of others", 9)):
        (folder / name).write_text("300000")
        os.utime(folder / name, (time.time() - age * DAY_S,) * 2)
    cache = cache_of(folder, 1000 * KIB)
    keep(cache, source, "a", 100 * KIB)
    cache.close()
    assert sorted(leftovers(folder)) == ["new-young", "room-young"]
    assert (folder / "of others").exists()
    assert account(folder) == charged(folder) + 300_000


def test_account_that_another_job_keeps(
    folder: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: while another job counts, this one adds nothing, waits only once, and still takes what is there."""
    monkeypatch.setattr(node, "CACHE_LOCK_FOR_S", 0.2)
    cache = cache_of(folder, 1000 * KIB)
    keep(cache, source, "a", 100 * KIB)
    cache.close()
    with (folder / "account").open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        cache = cache_of(folder, 1000 * KIB)
        started = time.monotonic()
        for number in range(20):
            keep(cache, source, str(number), 100 * KIB)
        assert time.monotonic() - started < 2
        assert take(cache, tmp_path / "x", "a", 100 * KIB) is not None
        cache.close()
    assert (len(entries(folder)), leftovers(folder)) == (1, [])


# --- several jobs at once ------------------------------------------------------------------------------------------

CROWD = """
import random, sys
from pathlib import Path
from tests.integration.test_node_cache import cache_of, keep, take
folder, source, seed, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rng, whole, hits = random.Random(seed), source.read_bytes(), 0
scratch = source.with_name(f"scratch-{seed}")
for _ in range(10):
    cache = cache_of(folder, limit)
    for number in rng.choices(range(25), k=10):
        size = 1024 * (40 + 4 * number)
        found = take(cache, scratch, str(number), size)
        assert found is None or found == whole[:size], number
        hits += found is not None
        keep(cache, source, str(number), size)
    cache.close()
print(hits)
"""


def test_many_jobs_at_once_keep_to_the_limit(folder: Path, source: Path) -> None:
    """Guards: processes that add, take and remove at once get right bytes, and are at no time above the limit."""
    limit = 1500 * KIB
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", CROWD, str(folder), str(source), str(seed), str(limit)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(4)
    ]
    highest = 0
    while any(job.poll() is None for job in jobs):
        highest = max(highest, size_of_all(folder))
        time.sleep(0.005)
    hits = 0
    for job in jobs:
        told, words = job.communicate()
        assert job.returncode == 0, words
        hits += int(told.splitlines()[-1])
    assert 600 * KIB < highest <= limit
    assert hits > 30
    assert leftovers(folder) == []
    assert charged(folder) <= limit


def size_of_all(folder: Path) -> int:
    """What entries and those that are being written hold; some may go while we look."""
    found = 0
    for name in os.listdir(folder) if folder.exists() else ():
        try:
            found += os.stat(folder / name).st_size if len(name) == 64 or name.startswith("new-") else 0
        except FileNotFoundError:
            continue
    return found


def test_two_jobs_that_want_the_same(gateway: NodeGateway, tmp_path: Path, bcftools: Path, folder: Path) -> None:
    """Guards: real jobs at once, each with a helper of its own, give equal results, and the entries serve a third."""
    with NodeGateway() as another:
        another.cache = gateway.cache
        started = []
        for server, name in ((gateway, "one"), (another, "two")):
            file = simulate(tmp_path / f"{name}.vcf.gz", samples=NORTH, contigs=CONTIGS, index="csi", sites=4000)
            server.add_input(file.path, key="snps.vcf.gz", index=file.index, samples=["N1", "N3"])
            job = JobFolder(tmp_path / name)
            job.prepare(SINGLE, server, bcftools)
            started.append((job, job.start()))
        assert [job.wait(process).status for job, process in started] == [0, 0]
        assert gateway.outputs["result.vcf.gz"] == another.outputs["result.vcf.gz"]
    gateway.gets.clear()
    gateway.claimant = None
    job = JobFolder(tmp_path / "three")
    job.prepare(SINGLE, gateway, bcftools)
    assert job.wait(job.start()).status == 0
    assert (gateway.gets, leftovers(folder)) == ([], [])


KILLED = """
import sys
from pathlib import Path
from tests.integration.test_node_cache import cache_of, keep
cache = cache_of(Path(sys.argv[1]), 1 << 30)
keep(cache, Path(sys.argv[2]), "a", int(sys.argv[3]))
"""


def test_writer_that_is_killed(folder: Path, tmp_path: Path) -> None:
    """Guards: half an entry has no entry's name, so nobody takes it."""
    source, size = tmp_path / "large", 256 << 20
    with source.open("wb") as file:
        file.truncate(size)
    job = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(source), str(size)])
    deadline = time.monotonic() + 30
    while size_of_all(folder) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert [name.partition("-")[0] for name in sorted(leftovers(folder))] == ["new", "room"]
    cache = cache_of(folder, 1 << 30)
    assert take(cache, tmp_path / "x", "a", size) is None
    cache.close()
