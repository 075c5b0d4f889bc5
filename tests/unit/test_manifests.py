"""What a node that reaches S3 only is given, and what the gateway does with the objects it leaves."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from divbase_gateway.db.models import JobRow, ProjectRow
from divbase_gateway.domain.errors import Conflict
from divbase_gateway.domain.jobs import Reason
from divbase_gateway.ports import Audience
from divbase_gateway.services import manifests, reports
from divbase_gateway.services.policy import JobPolicy

from tests.fakes.object_store import FakeObjectStore

BUCKET = "birch"
POLICY = JobPolicy(node_url="http://gateway.example.org", node_access="manifest")
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
GIB = 1 << 30
MIB = 1 << 20


class Heedless(FakeObjectStore):
    """A store that overlooks `If-None-Match`."""

    def _has(self, bucket: str, key: str) -> bool:
        return False


def store_with_bucket(kind: type[FakeObjectStore] = FakeObjectStore) -> FakeObjectStore:
    store = kind(lambda: NOW)
    store.ensure_bucket(BUCKET)
    return store


def index_job() -> JobRow:
    plan = {
        "key": "a.vcf.gz",
        "version_id": "v1",
        "size": 10,
        "etag": "e" * 32,
        "sha256": None,
        "format": "vcf.gz",
        "output_key": ".divbase/indexes/a.csi",
        "memory_mb": 1000,
        "cores": 1,
        "minutes": 10,
        "scratch_mb": 100,
    }
    return JobRow(public_id="k3v9", kind="index", plan=plan, project=ProjectRow(name="birch", bucket=BUCKET))


@pytest.mark.parametrize(
    ("bytes_total", "expected"),
    [
        (0, (64 * MIB, 0)),
        (64 * MIB, (64 * MIB, 0)),  # four times that is still worth no upload of its own
        (65 * MIB, (64 * MIB, 5)),
        (GIB, (64 * MIB, 64)),
        (4 * GIB, (128 * MIB, 128)),
        (10_000 * GIB, (5 * GIB, 128)),  # the ceiling: 640 GiB, S3's largest part 128 times
    ],
)
def test_parts_are_enough_for_four_times_the_inputs(bytes_total: int, expected: tuple[int, int]) -> None:
    """Guards: the bound, the ceiling, and that no upload is begun for small results."""
    assert manifests.parts_for(bytes_total, 64 * MIB) == expected


def test_an_index_job_gets_what_it_needs_and_no_more() -> None:
    """Guards: requests for index, log, claim and report under the node's name of the store, all with one expiry."""
    signed = manifests.sign(index_job(), 2, store_with_bucket(), POLICY)
    manifest = json.loads(signed.content)
    assert (sorted(manifest["outputs"]), signed.uploads) == (["index", "log"], [])
    assert manifest["expires_at"] == int((NOW + timedelta(days=7)).timestamp())
    requests = {
        "claim": manifest["claim"]["put"],
        "report": manifest["report"],
        "index": manifest["outputs"]["index"]["request"],
    }
    assert {name: urlsplit(each["url"]).path for name, each in requests.items()} == {
        "claim": "/birch/results/k3v9/.claim-2",
        "report": "/birch/results/k3v9/.report-2",
        "index": "/birch/.divbase/indexes/a.csi",
    }
    assert requests["claim"]["headers"]["If-None-Match"] == "*"
    assert {urlsplit(each["url"]).hostname for each in requests.values()} == {f"{Audience.NODE.value}.s3.test"}


def test_closing_a_claim_twice_is_closing_it_once() -> None:
    """Guards: a gateway that was killed between the claim and its own row gives the attempt up at the next start."""
    store = store_with_bucket()
    assert manifests.close_claim(store, BUCKET, "k3v9", 1)
    assert manifests.close_claim(store, BUCKET, "k3v9", 1)
    assert len(list(store.list_versions(BUCKET))) == 1


def test_a_claim_that_a_run_has_is_not_closed() -> None:
    """Guards: what runs is not given up."""
    store = store_with_bucket()
    store.write(BUCKET, "results/k3v9/.claim-1", b'{"claimant": "somebody else"}')
    assert not manifests.close_claim(store, BUCKET, "k3v9", 1)


def test_only_the_objects_of_the_attempt_are_removed() -> None:
    """Guards: every version of claim and report, and nothing of another attempt or of the results."""
    store = store_with_bucket()
    for name in (".claim-1", ".report-1", ".report-1", ".claim-11", ".claim-2", "result.vcf.gz"):
        store.write(BUCKET, f"results/k3v9/{name}", b"x")
    manifests.remove_control_objects(store, BUCKET, "k3v9", 1)
    assert [each.key.rpartition("/")[2] for each in store.list_versions(BUCKET)] == [
        ".claim-11",
        ".claim-2",
        "result.vcf.gz",
    ]


def test_a_store_that_overlooks_the_condition_is_found_out() -> None:
    """Guards: two runs of a job would both win there."""
    store = store_with_bucket(Heedless)
    with pytest.raises(Conflict, match="If-None-Match"):
        manifests.require_conditional_put(store, BUCKET)
    assert list(store.list_versions(BUCKET)) == []


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"{}", b'{"status": "succeeded", "claim": 1}', b"\xff\xfe"])
def test_a_report_that_is_none_is_a_failure_with_words(body: bytes) -> None:
    """Guards: whatever is found under the report's name, the job has an end and the tick goes on."""
    store = store_with_bucket()
    store.write(BUCKET, "results/k3v9/.report-1", body)
    words = reports.collect(store, reports.Post(BUCKET, "k3v9", 1, {}, {}))
    assert words.report is not None
    assert (words.report["status"], words.report["reason"]) == ("failed", Reason.INTERNAL_ERROR)


@pytest.mark.parametrize("body", [b"", b"nonsense", b'{"claimant": "the gateway, which gave this attempt up"}'])
def test_a_claim_that_no_node_wrote_says_nothing(body: bytes) -> None:
    """Guards: the gateway's own mark is no claimant."""
    store = store_with_bucket()
    store.write(BUCKET, "results/k3v9/.claim-1", body)
    assert reports.collect(store, reports.Post(BUCKET, "k3v9", 1, {}, {})) == reports.Words(None, None)
