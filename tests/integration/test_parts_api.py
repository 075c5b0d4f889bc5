"""Parts of files from upload to the node: an index's maps are stored with the version, a plan says how few bytes a
region takes, and the node is told which, in both modes. On both databases; bcftools reads what is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import pysam.bcftools
import pytest
from divbase_gateway.api.app import create_app
from divbase_gateway.db.models import FileRow, FileVersionRow, IndexMapRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain import estimates
from divbase_gateway.domain.allocations import Ceilings
from divbase_gateway.domain.files import CataloguedFile
from divbase_gateway.domain.index_maps import unpack
from divbase_gateway.domain.queries import QueryRequest, Selection
from divbase_gateway.reconciler import Pace, Reconciler
from divbase_gateway.services.files import catalogue_of
from divbase_gateway.services.index_maps import MapCache
from divbase_gateway.services.policy import NodeCache
from divbase_gateway.services.queries import plan_query
from httpx import Response
from sqlalchemy import delete, select, update

from tests.api import ApiClient
from tests.fakes.scheduler import FakeScheduler
from tests.lab import Lab, lab_in_memory
from tests.small_file import assemble
from tests.statements import at_each_statement
from tests.variants import bgzf, index_variants, vcf_header, vcf_records

pytestmark = pytest.mark.slow  # many requests each

CONTIGS = {"chr1": 20_000_000, "chr2": 1_000_000}
Mode = Literal["gateway", "manifest"]
REGION = "chr1:5000000-5300000"


@dataclass(frozen=True)
class Files:
    """Two files of other samples: `a` has records on both contigs, `b` in the first 2 Mb of chr1 only."""

    a: Path
    b: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    paths = {}
    for name, samples, contigs in (("a", ["A", "B"], CONTIGS), ("b", ["C"], {"chr1": 2_000_000})):
        records = "".join(vcf_records(contig, length, samples, 3000, 1) for contig, length in contigs.items())
        paths[name] = folder / f"{name}.vcf.gz"
        paths[name].write_bytes(bgzf((vcf_header(samples, CONTIGS) + records).encode(), block=2000, level=0))
        index_variants(paths[name], "csi")
        index_variants(paths[name], "tbi")
    return Files(**paths)


def test_the_catalogue_keeps_whether_a_file_has_blocks(database: Database, tmp_path: Path) -> None:
    """Guards: planning is told of it; of a version that an earlier release looked at, it is not known, so it may be."""
    lab = lab_in_memory(database)
    for name, alt in (("block", "<NON_REF>"), ("snp", "C")):
        text = vcf_header([name], {"chr1": 1000}).replace(
            "#CHROM", '##INFO=<ID=END,Number=1,Type=Integer,Description="e">\n#CHROM'
        )
        record = f"chr1\t5\t.\tA\t{alt}\t.\t.\tEND=9\tGT\t0/0\n"
        path = tmp_path / f"{name}.vcf.gz"
        path.write_bytes(bgzf((text + record).encode(), block=2000, level=0))
        index_variants(path, "csi")
        lab.upload_file(Path(f"{path}.csi"))
        lab.upload_file(path)

    def known() -> dict[str, bool]:
        with database.read() as session:
            return {file.key: file.has_blocks for file in catalogue_of(session, lab.project.id)}

    assert known() == {"block.vcf.gz": True, "snp.vcf.gz": False}
    with database.write() as session:
        session.execute(update(FileVersionRow).values(has_blocks=None))
    assert known() == {"block.vcf.gz": True, "snp.vcf.gz": True}


@pytest.fixture
def lab(database: Database, files: Files) -> Lab:
    """A project with both files and their indexes."""
    lab = lab_in_memory(database)
    for path in (files.a, files.b):
        lab.upload_file(Path(f"{path}.csi"))
        lab.upload_file(path)
    return lab


def plan(lab: Lab, command: str, **question: Any) -> Response:
    return lab.editor.post(f"{lab.path}/queries/plan", {"all_samples": True, "command": command, **question})


def stored_maps(lab: Lab, key: str) -> dict[str, bytes]:
    with lab.api.gateway.sessions.read() as session:
        query = (
            select(IndexMapRow.contig, IndexMapRow.packed)
            .join(FileVersionRow, FileVersionRow.id == IndexMapRow.version_row_id)
            .join(FileRow, FileRow.current_id == FileVersionRow.id)
            .where(FileRow.key == key)
        )
        return dict(session.execute(query).all())


def submit(lab: Lab, mode: Mode, **question: Any) -> dict[str, Any]:
    """Submit a query, and give the manifest that its node gets."""
    gateway = lab.api.gateway
    scheduler = FakeScheduler(gateway.clock, by_itself=False)
    policy = replace(gateway.policy, node_access=mode, node_url="http://127.0.0.1:1")
    reconciler = Reconciler(gateway.sessions, scheduler, gateway.store, gateway.clock, policy, Pace(), "one")
    answer = lab.editor.post(f"{lab.path}/jobs", {"all_samples": True, **question})
    assert answer.status_code == 201, answer.text
    reconciler.tick()
    (job,) = scheduler.jobs
    if mode == "manifest":
        return cast("dict[str, Any]", json.loads(job.submission.files["manifest.json"]))
    said = call(lab, job.submission.files["job.json"], "claim", {"claimant": "claimant-1", "host": "n1"})
    fresh = call(lab, job.submission.files["job.json"], "urls", {})
    assert [each["index_request"] is None for each in fresh["inputs"]] == [
        each["index"] is None for each in said["inputs"]
    ]
    return said


def call(lab: Lab, ticket: bytes, name: str, body: dict[str, Any]) -> dict[str, Any]:
    said = json.loads(ticket)
    headers = {"Authorization": f"Bearer {said['token']}"}
    answer = lab.api.client.post(f"/api/v1/attempts/{said['attempt']}/{name}", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return cast("dict[str, Any]", answer.json())


def reader(content: bytes) -> Callable[[int, int], bytes]:
    return lambda start, length: content[start : start + length]


def test_a_plan_of_a_region_reads_few_bytes(lab: Lab, files: Files) -> None:
    """Guards: the plan that a user sees, by the index that the user sent; digests do not depend on it."""
    answer = plan(lab, f"view -r {REGION}")
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    (one,) = shown["inputs"]
    assert (one["key"], shown["samples"]) == ("a.vcf.gz", ["A", "B"])
    assert one["bytes_needed"] == shown["bytes_needed"]
    assert 0 < shown["bytes_needed"] < one["size"] / 10
    assert shown["warnings"] == ["1 sample(s) are left out, their files have no records there: C."]
    assert set(stored_maps(lab, "a.vcf.gz")) == {"chr1", "chr2"}
    with lab.api.gateway.sessions.write() as session:
        session.execute(update(FileVersionRow).values(data_begin=None))
    assert plan(lab, f"view -r {REGION}", files=["a.vcf.gz"]).json()["digest"] == shown["digest"]


@pytest.mark.parametrize(
    ("machine", "most", "shards"), [(None, None, 4), (2, None, 2), (8, 3, 3), (2, 3, 2), (1, None, 1)]
)
def test_no_more_shards_than_there_are_cores(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, machine: int | None, most: int | None, shards: int
) -> None:
    """Guards: what the machine has, where jobs run on one, and what a job may ask for."""
    monkeypatch.setattr(estimates, "SHARD_SECONDS", 1e-6)  # these files are small
    gateway = lab.api.gateway
    policy = replace(gateway.policy, machine_cores=machine, ceilings=Ceilings(cores=most))
    request = QueryRequest(Selection(all_samples=True))
    planned = plan_query(gateway.sessions, gateway.store, lab.project, request, gateway.maps, policy)
    assert planned.shards == shards


def test_where_no_index_knows_a_record_nothing_is_planned(lab: Lab) -> None:
    """Guards: the error of contigs without records, which is told before anything is submitted."""
    answer = plan(lab, "view -r chr1:5000000-5300000", files=["b.vcf.gz"])
    assert answer.status_code == 422
    assert "There are no records on chr1 in the files." in answer.json()["detail"]


@pytest.mark.parametrize("mode", ["gateway", "manifest"])
def test_the_node_is_told_which_part_to_read(lab: Lab, files: Files, tmp_path: Path, mode: Mode) -> None:
    """Guards: that what the manifest says is enough for the records, and in the form of the protocol."""
    manifest = submit(lab, mode, command=f"view -r {REGION}")
    (one,) = manifest["inputs"]
    assert (one["index"], one["key"]) == (None, "a.vcf.gz")
    content = files.a.read_bytes()
    small = tmp_path / "small.vcf.gz"
    count = assemble(one["part"], reader(content), small, is_bcf=False)
    assert count < len(content) / 10
    assert pysam.bcftools.view("-H", "-r", REGION, str(small)) == pysam.bcftools.view("-H", "-r", REGION, str(files.a))
    (recorded,) = manifest["provenance"]["inputs"]
    assert recorded["part"] == {"spans": one["part"]["spans"]}


@pytest.mark.parametrize("mode", ["gateway", "manifest"])
def test_the_node_is_told_of_the_cache(lab: Lab, mode: Mode) -> None:
    """Guards: it is off unless the site has one, whose folder and limit reach the node in both modes."""
    assert submit(lab, mode, command="view -r chr1")["cache"] is None
    policy = replace(lab.api.gateway.policy, cache=NodeCache("/scratch/divbase", 10**9))
    lab.api.gateway = replace(lab.api.gateway, policy=policy)
    lab.api.client = ApiClient(create_app(lab.api.gateway))
    told = submit(lab, mode, command="view -r chr2")["cache"]
    assert told == {"folder": "/scratch/divbase", "bytes": 10**9}


@pytest.mark.parametrize("mode", ["gateway", "manifest"])
def test_a_file_without_maps_is_read_whole(lab: Lab, files: Files, mode: Mode) -> None:
    """Guards: files that were catalogued by an earlier release."""
    with lab.api.gateway.sessions.write() as session:
        session.execute(update(FileVersionRow).values(data_begin=None))
        session.execute(delete(IndexMapRow))
    shown = plan(lab, f"view -r {REGION}").json()
    assert [each["key"] for each in shown["inputs"]] == ["a.vcf.gz", "b.vcf.gz"]
    assert shown["bytes_needed"] == shown["bytes_total"]
    for one in submit(lab, mode, command=f"view -r {REGION}")["inputs"]:
        assert one["part"] is None
        assert one["index"]["kind"] == "csi"


def test_maps_that_cannot_be_read_cost_bytes_and_no_records(lab: Lab) -> None:
    """Guards: a damaged row, and one that is missing where there should be one: never an empty answer."""
    with lab.api.gateway.sessions.write() as session:
        session.execute(update(IndexMapRow).where(IndexMapRow.contig == "chr1").values(packed=b"damaged"))
        session.execute(delete(IndexMapRow).where(IndexMapRow.contig == "chr2"))
    for region in (REGION, "chr2:1-1000"):
        shown = plan(lab, f"view -r {region}").json()
        assert shown["bytes_needed"] == shown["bytes_total"]


def test_a_better_index_brings_its_own_maps(database: Database, files: Files) -> None:
    """Guards: the maps of an index that is not used any more."""
    lab = lab_in_memory(database)
    lab.upload_file(Path(f"{files.a}.tbi"))
    lab.upload_file(files.a)
    old = stored_maps(lab, "a.vcf.gz")
    assert len(unpack(old["chr1"]).linear) > 0
    lab.upload_file(Path(f"{files.a}.csi"))
    assert lab.info("a.vcf.gz")["index"] == "csi"
    new = stored_maps(lab, "a.vcf.gz")
    assert set(new) == set(old)
    assert len(unpack(new["chr1"]).linear) == 0


def test_only_files_that_are_ready_have_maps(database: Database, files: Files) -> None:
    """Guards: what is stored of a file whose index is still being built."""
    lab = lab_in_memory(database)
    lab.upload_file(files.a)
    assert lab.info("a.vcf.gz")["state"] == "INDEXING"
    assert stored_maps(lab, "a.vcf.gz") == {}


def test_targets_are_read_in_parts_and_leave_no_file_out(lab: Lab, files: Files, tmp_path: Path) -> None:
    """Guards: --targets in the first step, which reads a file from its begin to its end: the same records, the file
    without any gives its samples."""
    manifest = submit(lab, "gateway", command=f"view -t {REGION}")
    assert [each["index"] for each in manifest["inputs"]] == [None, None]
    for one, path in zip(manifest["inputs"], (files.a, files.b), strict=True):
        content = path.read_bytes()
        small = tmp_path / one["key"]
        count = assemble(one["part"], reader(content), small, is_bcf=False)
        assert count < len(content) / 4
        assert pysam.bcftools.view("-h", str(small)).count("##contig") == 2
        assert pysam.bcftools.view("-H", "-t", REGION, str(small)) == pysam.bcftools.view("-H", "-t", REGION, str(path))


@pytest.mark.parametrize(
    "command", [f"view -t ^{REGION}", f"view -t {REGION} --targets-overlap 1", f"view; view -t {REGION}"]
)
def test_other_targets_read_the_whole(lab: Lab, command: str) -> None:
    """Guards: targets that name what is left out, that look at ends, or that come after the first step."""
    shown = plan(lab, command).json()
    assert shown["bytes_needed"] == shown["bytes_total"]


# --- the cache -----------------------------------------------------------------------------------------------------


@contextmanager
def counted_queries(database: Database) -> Iterator[list[str]]:
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "index_maps" in statement:
            said.append(statement)

    with at_each_statement(database, note):
        yield said


def test_maps_are_asked_for_once(lab: Lab, database: Database) -> None:
    """Guards: one query for all files, none for the next plan, none without regions."""
    with counted_queries(database) as said:
        plan(lab, "view")
        assert said == []
        first = plan(lab, f"view -r {REGION},chr2").json()
        assert len(said) == 1
        assert plan(lab, f"view -r {REGION},chr2").json() == first
        assert len(said) == 1


def test_the_cache_is_bounded(lab: Lab, database: Database) -> None:
    """Guards: the memory of a gateway of many projects; what does not fit is still found."""
    cache = MapCache(max_bytes=1)
    with database.read() as session:
        known: list[CataloguedFile] = catalogue_of(session, lab.project.id)
        found = cache.load(session, lab.project.id, known, ["chr1"])
        assert set(found) == {"a.vcf.gz", "b.vcf.gz"}
        assert found["a.vcf.gz"].contigs["chr1"].nbytes > 1
        with counted_queries(database) as said:
            assert cache.load(session, lab.project.id, known, ["chr1"]) == found
            assert len(said) == 1
