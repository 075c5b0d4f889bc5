"""One question asked four ways, by bash, the node helper and a real bcftools on a real S3 server: by one job or spread
over several, of files or of their BCF copies. The bytes are the same."""

from __future__ import annotations

import gzip
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from divbase_gateway.db.models import JobRow
from divbase_gateway.domain.projects import Role
from sqlalchemy import select

from tests.api import build_api
from tests.integration import test_node_manifest as manifest_mode
from tests.integration.test_node_manifest import World, clock_of
from tests.integration.test_spread import site
from tests.variants import bgzf, index_variants, simulate

pytestmark = pytest.mark.slow  # real programs

bcftools, variants, door, world = (
    manifest_mode.bcftools,
    manifest_mode.variants,
    manifest_mode.door,
    manifest_mode.world,
)

SAMPLES = {"one.vcf.gz": ["A", "B"], "two.vcf.gz": ["C"]}
QUESTIONS: dict[str, dict[str, Any]] = {
    "bcf": {"files": ["one.vcf.gz"], "command": "view", "output": "bcf"},
    "steps": {"files": [*SAMPLES], "command": "view -m2 -M2", "after": "norm -m -any; view -c 1"},
    "text": {"files": [*SAMPLES], "command": "view", "after": r"query -f '%CHROM %POS %FILTER[ %GT]\n'"},
}


@pytest.fixture
def files(world: World, tmp_path: Path) -> None:
    """In many small blocks, and with records without FILTER, which bcftools packs in two ways."""
    world.lab.api.add_member(world.lab.project, world.lab.editor.user, Role.MANAGE)
    for seed, (key, samples) in enumerate(SAMPLES.items(), start=1):
        made = simulate(tmp_path / key, samples=samples, sites=300, seed=seed)
        text = gzip.decompress(made.path.read_bytes()).replace(b"\tPASS\t", b"\t.\t", 100)
        assert text.count(b"\t.\t") >= 100
        made.path.write_bytes(bgzf(text, block=600))
        world.lab.upload_file(index_variants(made.path, "csi"))
        world.lab.upload_file(made.path)
        assert world.lab.info(key)["state"] == "READY"


def make_copies(world: World) -> None:
    answer = world.lab.editor.request("PATCH", world.lab.path, json={"sidecars": True})
    assert answer.status_code == 200, answer.text
    clock_of(world).advance(timedelta(seconds=10))
    world.reconciler.tick()
    world.reconciler.tick()
    for key in SAMPLES:
        carry_out(world, str(world.lab.info(key)["sidecar"]["job"]))
        assert world.lab.info(key)["sidecar"]["state"] == "READY"


def carry_out(world: World, job: str) -> None:
    status, log = world.run(job)
    assert status == 0, log
    world.settle(job, status)
    assert world.end(job) == ("SUCCEEDED", None), world.job(job).message


def ask(world: World, question: dict[str, Any], *, spread: bool) -> str:
    """Of a replica of the gateway that spreads whatever takes longer than two seconds, or of one that spreads nothing:
    the accepted job."""
    editor, gateway = world.lab.editor, world.lab.api.gateway
    if spread:
        store = world.lab.store
        api = build_api(gateway.sessions, store, world.scheduler, gateway.clock, site())  # type: ignore[arg-type]
        editor = replace(editor, api=api)
    body = {"all_samples": True, "fresh": True, **question}
    answer = editor.post(f"{world.lab.path}/jobs", body, once=f"{spread}-{clock_of(world).now().isoformat()}")
    assert answer.status_code == 201, answer.text
    assert (answer.json()["plan"]["spread"] is not None) is spread
    clock_of(world).advance(timedelta(seconds=1))
    return str(answer.json()["id"])


def shards_of(world: World, job: str) -> list[JobRow]:
    with world.lab.api.gateway.sessions.read() as session:
        shards = select(JobRow).where(JobRow.public_id.startswith(f"{job}-")).order_by(JobRow.task)
        return list(session.scalars(shards))


def answered(world: World, question: dict[str, Any], *, spread: bool, copies: bool) -> tuple[str, str]:
    """SHA-256 of the result, and the digest of the plan."""
    job = ask(world, question, spread=spread)
    world.reconciler.tick()
    shards = shards_of(world, job)
    for each in shards or [world.job(job)]:
        assert {entry["copy"] is not None for entry in each.plan["inputs"]} == {copies}
    for shard in shards:
        carry_out(world, shard.public_id)
    if shards:
        assert len(shards) >= 2
        world.reconciler.tick()
    carry_out(world, job)
    row = world.job(job)
    return next(each["sha256"] for each in row.results if each["role"] == "result"), row.plan_digest


def test_the_same_bytes_spread_or_not_of_copies_or_not(world: World, files: None) -> None:
    """Guards: how the work is done, and what is read for it, is no part of the question: results and digests agree."""
    ways = {}
    for name, question in QUESTIONS.items():
        ways[name] = {answered(world, question, spread=spread, copies=False) for spread in (False, True)}
    make_copies(world)
    for name, question in QUESTIONS.items():
        ways[name] |= {answered(world, question, spread=spread, copies=True) for spread in (False, True)}
    assert {name: len(answers) for name, answers in ways.items()} == dict.fromkeys(QUESTIONS, 1), ways


def test_a_shard_whose_copy_is_gone_reads_the_file_and_the_bytes_are_the_same(world: World, files: None) -> None:
    """Guards: one shard read the copy, another had to read the file: the records that they make are the same."""
    question = QUESTIONS["bcf"]
    before = answered(world, question, spread=False, copies=False)
    make_copies(world)
    job = ask(world, question, spread=True)
    world.reconciler.tick()
    first, *rest = (each.public_id for each in shards_of(world, job))
    carry_out(world, first)
    for each in list(world.store.list_versions(world.bucket, ".divbase/bcf/one.vcf.gz/")):
        world.store.delete_version(world.bucket, each.key, each.version_id)
    for shard in rest:
        status, log = world.run(shard)
        assert status != 0, log
        world.settle(shard, status)
        world.reconciler.tick()
        assert (world.job(shard).state, len(world.attempts(shard))) == ("QUEUED", 2), world.job(shard).message
        carry_out(world, shard)
    world.reconciler.tick()
    carry_out(world, job)
    row = world.job(job)
    result = next(each for each in row.results if each["role"] == "result")
    assert (result["sha256"], row.plan_digest) == before
