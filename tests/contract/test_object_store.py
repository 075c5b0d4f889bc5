"""What every object store must do, run over the one in memory and over a real SeaweedFS."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import pytest
from divbase_gateway.domain.errors import Conflict, NotFound, StoreUnavailable
from divbase_gateway.local.seaweedfs import S3Endpoint, SeaweedServer
from divbase_gateway.ports import Audience, ObjectStore, Part, PresignedRequest
from divbase_gateway.s3.store import S3Store

from tests.fakes.object_store import Answer, FakeObjectStore

HOUR = timedelta(hours=1)
MIB = 1 << 20
NAMES = [
    "plain.vcf.gz",
    "folder/with spaces in it.vcf.gz",
    'it\'s "quoted" `twice`',
    "$(rm -rf ~); echo",
    "a&b=c?d#e%20f",
    "one+one",
    "Örebro/größe 日本.tsv",
    "*?[a-z]{1,2}|<>",
]


class World(Protocol):
    """A store, and the means of those around it: to send presigned requests, to let time pass, to take it away."""

    store: ObjectStore

    def send(self, request: PresignedRequest, body: bytes = b"", **headers: str) -> Answer: ...
    def wait(self, seconds: float) -> None: ...


@dataclass
class Memory:
    store: FakeObjectStore
    now: datetime = datetime(2026, 5, 1, 12, tzinfo=UTC)

    def send(self, request: PresignedRequest, body: bytes = b"", **headers: str) -> Answer:
        return self.store.send(request, _merged(request, headers), body)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Seaweed:
    store: S3Store

    def send(self, request: PresignedRequest, body: bytes = b"", **headers: str) -> Answer:
        return _http(request, body, _merged(request, headers))

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


def _merged(request: PresignedRequest, headers: dict[str, str]) -> dict[str, str]:
    """The signed headers, with those given in their place; an empty one is left out."""
    asked = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    signed = {name.lower(): value for name, value in request.headers.items()}
    return {name: value for name, value in {**signed, **asked}.items() if value}


def _http(request: PresignedRequest, body: bytes, headers: dict[str, str]) -> Answer:
    data = body if request.method == "PUT" else None
    outgoing = urllib.request.Request(request.url, data=data, method=request.method, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(outgoing, timeout=30) as answer:  # noqa: S310 - signed for loopback
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())


def _s3(endpoint: S3Endpoint, **more: object) -> S3Store:
    return S3Store(
        endpoint.endpoint_url,
        access_key=endpoint.access_key,
        secret_key=endpoint.secret_key,
        **more,  # type: ignore[arg-type]
    )


STORES = ["memory", pytest.param("seaweed", marks=pytest.mark.slow)]


@pytest.fixture(params=STORES)
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "seaweed":
        return Seaweed(_s3(request.getfixturevalue("seaweed")))
    memory = Memory(FakeObjectStore())
    memory.store = FakeObjectStore(lambda: memory.now)
    return memory


@pytest.fixture
def store(world: World) -> ObjectStore:
    return world.store


@pytest.fixture
def bucket(store: ObjectStore, bucket_name: str) -> str:
    store.ensure_bucket(bucket_name)
    return bucket_name


def _digest(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _md5(data: bytes) -> str:
    return base64.b64encode(_digest(data)).decode()


def _part(number: int, data: bytes) -> Part:
    return Part(number, _digest(data).hex(), len(data))


def _send_part(world: World, bucket: str, key: str, upload: str, number: int, data: bytes) -> Answer:
    request = world.store.presign_part(bucket, key, upload, number, Audience.LAPTOP, HOUR, _md5(data))
    return world.send(request, data)


# --- buckets -------------------------------------------------------------------------------------------------------


def test_a_bucket_is_created_once_and_adopted_afterwards(store: ObjectStore, bucket_name: str) -> None:
    """ensure_bucket says whether it created the bucket, and may be called again."""
    assert store.ensure_bucket(bucket_name) is True
    assert store.ensure_bucket(bucket_name) is False


def test_ping_proves_that_the_store_answers(store: ObjectStore) -> None:
    """ping returns a line for people."""
    assert store.ping().startswith("S3 ")


@pytest.mark.parametrize(
    "call", ["head", "read", "write", "list_objects", "list_versions", "delete", "start_multipart"]
)
def test_a_missing_bucket_is_not_found(store: ObjectStore, bucket_name: str, call: str) -> None:
    """Every method that names a bucket says NotFound where there is none; writing does not create it."""
    calls = {
        "head": lambda: store.head(bucket_name, "k"),
        "read": lambda: store.read(bucket_name, "k", None, 0, 1),
        "write": lambda: store.write(bucket_name, "k", b"x"),
        "list_objects": lambda: list(store.list_objects(bucket_name)),
        "list_versions": lambda: list(store.list_versions(bucket_name)),
        "delete": lambda: store.delete(bucket_name, "k"),
        "start_multipart": lambda: store.start_multipart(bucket_name, "k", {}),
    }
    with pytest.raises(NotFound):
        calls[call]()


# --- objects and versions ------------------------------------------------------------------------------------------


def test_a_written_object_is_described(store: ObjectStore, bucket: str) -> None:
    """write and head agree on size, ETag, version and metadata, whose keys are lower case."""
    written = store.write(bucket, "a.txt", b"hello", {"Sha256": "abc"})
    assert (written.size, written.etag, dict(written.metadata)) == (
        5,
        "5d41402abc4b2a76b9719d911017c592",
        {"sha256": "abc"},
    )
    assert store.head(bucket, "a.txt") == written
    assert store.head(bucket, "a.txt").modified_at.tzinfo is not None


def test_an_overwritten_version_stays_readable(store: ObjectStore, bucket: str) -> None:
    """Queries are pinned: the bytes of a version do not change when the key gets another."""
    first = store.write(bucket, "k", b"first")
    second = store.write(bucket, "k", b"second")
    assert store.read(bucket, "k", first.version_id, 0, 100) == b"first"
    assert store.read(bucket, "k", None, 0, 100) == b"second"
    assert store.head(bucket, "k", first.version_id).etag == first.etag
    assert store.head(bucket, "k").version_id == second.version_id


def test_a_deleted_object_is_restored_by_removing_its_marker(store: ObjectStore, bucket: str) -> None:
    """delete hides and loses nothing; delete_version of the marker brings the same version back, at any size."""
    written = store.write(bucket, "k", b"data")
    marker = store.delete(bucket, "k")
    with pytest.raises(NotFound):
        store.head(bucket, "k")
    assert list(store.list_objects(bucket)) == []
    assert store.read(bucket, "k", written.version_id, 0, 4) == b"data"
    store.delete_version(bucket, "k", marker)
    assert store.head(bucket, "k") == written


def test_removing_the_current_version_uncovers_the_one_before(store: ObjectStore, bucket: str) -> None:
    """delete_version is for good, and what was under it is current again."""
    first = store.write(bucket, "k", b"first")
    second = store.write(bucket, "k", b"second")
    store.delete_version(bucket, "k", second.version_id)
    assert store.head(bucket, "k").version_id == first.version_id
    with pytest.raises(NotFound):
        store.head(bucket, "k", second.version_id)


def test_versions_are_listed_by_key_newest_first(store: ObjectStore, bucket: str) -> None:
    """Versions and delete markers of one second keep their true order."""
    a1 = store.write(bucket, "a", b"1")
    marker = store.delete(bucket, "a")
    a2 = store.write(bucket, "a", b"22")
    b1 = store.write(bucket, "b", b"333")
    seen = [(v.key, v.version_id, v.size, v.is_latest, v.deleted) for v in store.list_versions(bucket)]
    assert seen == [
        ("a", a2.version_id, 2, True, False),
        ("a", marker, 0, False, True),
        ("a", a1.version_id, 1, False, False),
        ("b", b1.version_id, 3, True, False),
    ]


def test_a_delete_marker_on_top_is_the_latest(store: ObjectStore, bucket: str) -> None:
    """A deleted object is recognised by its latest entry."""
    store.write(bucket, "a", b"1")
    marker = store.delete(bucket, "a")
    latest = [v for v in store.list_versions(bucket) if v.is_latest]
    assert [(v.version_id, v.deleted) for v in latest] == [(marker, True)]


def test_listing_is_in_byte_order_of_keys_and_knows_versions(store: ObjectStore, bucket: str) -> None:
    """Keys come as S3 orders them, folders and letters beyond ASCII included, each with its current version."""
    keys = ["z", "a/b", "a-b", "a", "a.b/c", "Ä", "B"]
    written = {key: store.write(bucket, key, key.encode()) for key in keys}
    listed = list(store.list_objects(bucket))
    assert [info.key for info in listed] == ["B", "a", "a-b", "a.b/c", "a/b", "z", "Ä"]
    assert {info.key: info.version_id for info in listed} == {k: i.version_id for k, i in written.items()}
    assert [info.key for info in store.list_objects(bucket, "a")] == ["a", "a-b", "a.b/c", "a/b"]


def _write_all(store: ObjectStore, bucket: str, keys: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.write(bucket, key, b"x"), keys))


@pytest.mark.slow
def test_a_listing_of_more_than_1000_keys_is_complete(store: ObjectStore, bucket: str) -> None:
    """Pages are followed, and nothing beside a large folder is lost (SeaweedFS loses it in a plain listing)."""
    keys = [f"r/{i:04d}.vcf.gz" for i in range(1100)] + ["r", "r-x.vcf.gz", "r.tsv", "q/1", "s"]
    _write_all(store, bucket, keys)
    assert [info.key for info in store.list_objects(bucket)] == sorted(keys)
    assert [version.key for version in store.list_versions(bucket)] == sorted(keys)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_a_person_may_give_works(world: World, bucket: str, name: str) -> None:
    """Spaces, quotes, shell syntax, URL syntax and Unicode come back as they went in, by presigned URL as well."""
    info = world.store.write(bucket, name, name.encode())
    request = world.store.presign_get(bucket, name, info.version_id, Audience.NODE, HOUR, filename=name)
    answer = world.send(request)
    assert (answer.status, answer.body) == (200, name.encode())
    assert [o.key for o in world.store.list_objects(bucket)] == [name]


@pytest.mark.parametrize(
    ("start", "length", "expected"), [(0, 3, b"012"), (7, 3, b"789"), (8, 5, b"89"), (10, 5, b""), (4, 0, b"")]
)
def test_a_range_is_exact_and_short_only_at_the_end(
    store: ObjectStore, bucket: str, start: int, length: int, expected: bytes
) -> None:
    """read returns [start, start + length), fewer bytes only where the object ends before."""
    store.write(bucket, "k", b"0123456789")
    assert store.read(bucket, "k", None, start, length) == expected


@pytest.mark.parametrize("version", [None, "0" * 32, "nonsense"])
def test_a_missing_key_or_version_is_not_found(store: ObjectStore, bucket: str, version: str | None) -> None:
    """head, read, delete and delete_version say NotFound of what is not there, also where S3 itself would not."""
    store.write(bucket, "other", b"x")
    for call in (
        lambda: store.head(bucket, "k", version),
        lambda: store.read(bucket, "k", version, 0, 1),
        lambda: store.head(bucket, "other", version or "1" * 32),
        lambda: store.delete(bucket, "k"),
        lambda: store.delete_version(bucket, "other", version or "1" * 32),
    ):
        with pytest.raises(NotFound):
            call()


# --- presigned requests --------------------------------------------------------------------------------------------


def test_a_presigned_get_reads_a_range_of_the_pinned_version(world: World, bucket: str) -> None:
    """The URL stays with its version although the key was overwritten and deleted since."""
    old = world.store.write(bucket, "k", b"0123456789")
    request = world.store.presign_get(bucket, "k", old.version_id, Audience.NODE, HOUR)
    world.store.write(bucket, "k", b"other bytes")
    world.store.delete(bucket, "k")
    answer = world.send(request, Range="bytes=2-5")
    assert (answer.status, answer.body) == (206, b"2345")
    assert answer.headers["content-range"] == "bytes 2-5/10"
    assert answer.headers["etag"].strip('"') == old.etag


def test_a_presigned_get_names_the_file(world: World, bucket: str) -> None:
    """A browser saves the download under the name that was asked for."""
    info = world.store.write(bucket, "k", b"x")
    request = world.store.presign_get(bucket, "k", info.version_id, Audience.LAPTOP, HOUR, filename="größe 1.tsv")
    assert "gr%C3%B6%C3%9Fe%201.tsv" in world.send(request).headers["content-disposition"]


def test_a_presigned_request_dies_when_it_expires(world: World, bucket: str) -> None:
    """After `expires_at` the bearer gets nothing."""
    info = world.store.write(bucket, "k", b"x")
    request = world.store.presign_get(bucket, "k", info.version_id, Audience.LAPTOP, timedelta(seconds=1))
    world.wait(2.1)
    assert world.send(request).status == 403


def test_a_presigned_url_does_not_show_in_logs(store: ObjectStore, bucket: str) -> None:
    """Whoever logs the request, or raises with it, does not give the URL away."""
    info = store.write(bucket, "k", b"x")
    request = store.presign_get(bucket, "k", info.version_id, Audience.LAPTOP, HOUR)
    assert "X-Amz-Signature" in request.url
    assert "X-Amz-Signature" not in repr(request)


def test_a_presigned_put_stores_the_signed_bytes_and_metadata(world: World, bucket: str) -> None:
    """The bearer needs no key, and the object has the metadata that was signed."""
    request = world.store.presign_put(bucket, "k", Audience.LAPTOP, HOUR, _md5(b"hello"), {"sha256": "2cf2"})
    assert world.send(request, b"hello").status == 200
    info = world.store.head(bucket, "k")
    assert (info.size, dict(info.metadata)) == (5, {"sha256": "2cf2"})


def test_a_presigned_put_refuses_other_bytes(world: World, bucket: str) -> None:
    """Content-MD5 is enforced: damaged bytes are refused and leave nothing behind."""
    request = world.store.presign_put(bucket, "k", Audience.LAPTOP, HOUR, _md5(b"hello"), {})
    assert world.send(request, b"jello").status == 400
    with pytest.raises(NotFound):
        world.store.head(bucket, "k")


@pytest.mark.parametrize(
    "changed", [{"content_md5": _md5(b"jello")}, {"content_md5": ""}, {"x_amz_meta_sha256": "other"}]
)
def test_a_presigned_put_refuses_changed_headers(world: World, bucket: str, changed: dict[str, str]) -> None:
    """MD5 and metadata are part of the signature: the bearer can neither change nor drop them."""
    request = world.store.presign_put(bucket, "k", Audience.LAPTOP, HOUR, _md5(b"hello"), {"sha256": "2cf2"})
    assert world.send(request, b"jello", **changed).status == 403


@pytest.mark.slow
def test_a_presigned_request_is_signed_for_its_audience(seaweed: S3Endpoint) -> None:
    """A URL carries the name under which its reader sees the store."""
    store = S3Store(
        seaweed.endpoint_url, "https://s3.example.org", "http://storage:8333", "eu-north-1", "ACCESS", "SECRET"
    )
    urls = {a: store.presign_get("bucket", "k", "v", a, HOUR).url for a in Audience}
    assert urlsplit(urls[Audience.LAPTOP]).netloc == "s3.example.org"
    assert urlsplit(urls[Audience.NODE]).netloc == "storage:8333"
    assert "eu-north-1" in urls[Audience.NODE]


def test_only_the_first_conditional_put_is_taken(world: World, bucket: str) -> None:
    """Of those who hold one conditional request the first wins; the others change nothing."""
    request = world.store.presign_put(bucket, "results/k/.claim-1", Audience.NODE, HOUR, None, {}, if_absent=True)
    assert world.send(request, b"first").status == 200
    assert world.send(request, b"second").status == 412
    assert world.store.read(bucket, "results/k/.claim-1", None, 0, 100) == b"first"


def test_one_of_many_conditional_puts_at_once_is_taken(world: World, bucket: str) -> None:
    """Guards: the store decides, not the time between looking and writing."""
    request = world.store.presign_put(bucket, "claim", Audience.NODE, HOUR, None, {}, if_absent=True)
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda number: world.send(request, b"%d" % number).status, range(8)))
    assert sorted(statuses) == [200] + [412] * 7


def test_the_condition_is_part_of_the_signature(world: World, bucket: str) -> None:
    """A bearer cannot overwrite by leaving the condition out."""
    request = world.store.presign_put(bucket, "claim", Audience.NODE, HOUR, None, {}, if_absent=True)
    assert world.send(request, b"x", if_none_match="").status == 403


def test_a_conditional_write_finds_what_is_there(world: World, bucket: str) -> None:
    """The gateway's own conditional write is refused where a bearer was faster, and made where nobody was."""
    request = world.store.presign_put(bucket, "claim", Audience.NODE, HOUR, None, {}, if_absent=True)
    assert world.send(request, b"node").status == 200
    with pytest.raises(Conflict):
        world.store.write(bucket, "claim", b"gateway", if_absent=True)
    world.store.write(bucket, "other", b"gateway", if_absent=True)
    assert world.store.read(bucket, "other", None, 0, 100) == b"gateway"


def test_an_unsigned_md5_is_checked_all_the_same(world: World, bucket: str) -> None:
    """Where the bytes are not known at signing, their bearer states their MD5, and the store holds it to that."""
    request = world.store.presign_put(bucket, "k", Audience.NODE, HOUR, None, {})
    assert world.send(request, b"jello", content_md5=_md5(b"hello")).status == 400
    assert world.send(request, b"hello", content_md5=_md5(b"hello")).status == 200
    upload = world.store.start_multipart(bucket, "k", {})
    part = world.store.presign_part(bucket, "k", upload, 1, Audience.NODE, HOUR, None)
    assert world.send(part, b"jello", content_md5=_md5(b"hello")).status == 400
    assert world.send(part, b"hello", content_md5=_md5(b"hello")).status == 200
    assert world.store.complete_multipart(bucket, "k", upload, [_part(1, b"hello")]).size == 5


def test_a_get_without_a_version_reads_what_is_current(world: World, bucket: str) -> None:
    """What is written after the signing can be read with it."""
    request = world.store.presign_get(bucket, "k", None, Audience.NODE, HOUR)
    assert world.send(request).status == 404
    world.store.write(bucket, "k", b"one")
    world.store.write(bucket, "k", b"two")
    assert world.send(request).body == b"two"


def test_an_expired_request_says_so(world: World, bucket: str) -> None:
    """The bearer can tell it from a refused signature, for reading and for writing."""
    requests = [
        world.store.presign_get(bucket, "k", None, Audience.NODE, timedelta(seconds=1)),
        world.store.presign_put(bucket, "k", Audience.NODE, timedelta(seconds=1), None, {}, if_absent=True),
    ]
    world.wait(2.1)
    for request in requests:
        answer = world.send(request, b"x" if request.method == "PUT" else b"")
        assert (answer.status, b"expired" in answer.body.lower()) == (403, True), answer.body


# --- multipart uploads ---------------------------------------------------------------------------------------------


def test_a_multipart_upload_is_resumed_and_joined(world: World, bucket: str) -> None:
    """After an interruption list_parts says what is there; the rest is sent and the whole is right."""
    one, two = secrets.token_bytes(5 * MIB), b"the last part may be small"
    upload = world.store.start_multipart(bucket, "big.bcf", {"sha256": "abc"})
    assert world.store.list_parts(bucket, "big.bcf", upload) == []
    assert _send_part(world, bucket, "big.bcf", upload, 2, two).status == 200
    assert world.store.list_parts(bucket, "big.bcf", upload) == [_part(2, two)]
    with pytest.raises(NotFound):
        world.store.head(bucket, "big.bcf")
    assert _send_part(world, bucket, "big.bcf", upload, 1, one).status == 200
    info = world.store.complete_multipart(bucket, "big.bcf", upload, [_part(1, one), _part(2, two)])
    digest = _digest(_digest(one) + _digest(two)).hex()
    assert (info.size, info.etag, dict(info.metadata)) == (5 * MIB + 26, f"{digest}-2", {"sha256": "abc"})
    assert world.store.read(bucket, "big.bcf", info.version_id, 5 * MIB - 2, 5) == one[-2:] + b"the"


def test_a_part_with_other_bytes_is_refused(world: World, bucket: str) -> None:
    """Content-MD5 is enforced for parts, and a part without it is refused."""
    upload = world.store.start_multipart(bucket, "k", {})
    request = world.store.presign_part(bucket, "k", upload, 1, Audience.LAPTOP, HOUR, _md5(b"hello"))
    assert world.send(request, b"jello").status == 400
    assert world.send(request, b"jello", content_md5="").status == 403
    assert world.store.list_parts(bucket, "k", upload) == []


def test_a_part_that_is_sent_again_replaces_the_first(world: World, bucket: str) -> None:
    """The last bytes of a part number count."""
    upload = world.store.start_multipart(bucket, "k", {})
    _send_part(world, bucket, "k", upload, 1, b"first")
    world.wait(1.1)  # SeaweedFS keeps both and tells them apart by the second
    _send_part(world, bucket, "k", upload, 1, b"second try")
    assert world.store.list_parts(bucket, "k", upload) == [_part(1, b"second try")]
    info = world.store.complete_multipart(bucket, "k", upload, [_part(1, b"second try")])
    assert world.store.read(bucket, "k", info.version_id, 0, 100) == b"second try"


def test_completing_twice_gives_the_same_object(world: World, bucket: str) -> None:
    """A lost answer is asked for again without harm."""
    upload = world.store.start_multipart(bucket, "k", {"a": "b"})
    _send_part(world, bucket, "k", upload, 1, b"data")
    first = world.store.complete_multipart(bucket, "k", upload, [_part(1, b"data")])
    assert world.store.complete_multipart(bucket, "k", upload, [_part(1, b"data")]) == first
    assert [v.version_id for v in world.store.list_versions(bucket, "k")] == [first.version_id]


def test_completing_again_finds_the_version_under_a_newer_one(world: World, bucket: str) -> None:
    """The answer to a repeated completion is its own version, also when the key was overwritten since."""
    upload = world.store.start_multipart(bucket, "k", {})
    _send_part(world, bucket, "k", upload, 1, b"data")
    first = world.store.complete_multipart(bucket, "k", upload, [_part(1, b"data")])
    world.store.write(bucket, "k", b"newer")
    assert world.store.complete_multipart(bucket, "k", upload, [_part(1, b"data")]) == first


@pytest.mark.parametrize("completed_before", [False, True])
def test_completing_with_other_parts_is_refused(world: World, bucket: str, completed_before: bool) -> None:
    """Parts that the store does not have are an error, not a success with other bytes."""
    upload = world.store.start_multipart(bucket, "k", {})
    _send_part(world, bucket, "k", upload, 1, b"data")
    if completed_before:
        world.store.complete_multipart(bucket, "k", upload, [_part(1, b"data")])
    with pytest.raises((Conflict, NotFound)):
        world.store.complete_multipart(bucket, "k", upload, [_part(1, b"else")])


def test_aborting_is_idempotent_and_forgets_the_parts(world: World, bucket: str) -> None:
    """After abort the upload is unknown, and aborting it again is no error."""
    upload = world.store.start_multipart(bucket, "k", {})
    _send_part(world, bucket, "k", upload, 1, b"data")
    world.store.abort_multipart(bucket, "k", upload)
    world.store.abort_multipart(bucket, "k", upload)
    with pytest.raises(NotFound):
        world.store.list_parts(bucket, "k", upload)
    with pytest.raises(NotFound):
        world.store.complete_multipart(bucket, "k", upload, [_part(1, b"data")])


def test_aborting_a_completed_upload_leaves_the_object(world: World, bucket: str) -> None:
    """A late abort does not touch what was joined."""
    upload = world.store.start_multipart(bucket, "k", {})
    _send_part(world, bucket, "k", upload, 1, b"data")
    info = world.store.complete_multipart(bucket, "k", upload, [_part(1, b"data")])
    world.store.abort_multipart(bucket, "k", upload)
    assert world.store.read(bucket, "k", info.version_id, 0, 10) == b"data"


# --- faults --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=STORES)
def absent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """A store that had a bucket `bucket` with an object `k`, and that is away now."""
    if request.param == "memory":
        fake = FakeObjectStore()
        _fill(fake)
        fake.away = True
        yield fake
        return
    server = SeaweedServer(tmp_path / "weed")
    try:
        store = _s3(server.start(), attempts=1)
        _fill(store)
    finally:
        server.stop()
    yield store


def _fill(store: ObjectStore) -> None:
    store.ensure_bucket("bucket")
    store.write("bucket", "k", b"x")


@pytest.mark.slow
def test_a_store_that_is_away_is_unavailable_in_every_method(absent: ObjectStore) -> None:
    """No method mistakes silence for absence: all raise StoreUnavailable."""
    for call in (
        lambda: absent.ensure_bucket("bucket"),
        lambda: absent.head("bucket", "k"),
        lambda: absent.read("bucket", "k", None, 0, 1),
        lambda: absent.write("bucket", "k", b"x"),
        lambda: list(absent.list_objects("bucket")),
        lambda: list(absent.list_versions("bucket")),
        lambda: absent.delete("bucket", "k"),
        lambda: absent.delete_version("bucket", "k", "v"),
        lambda: absent.start_multipart("bucket", "k", {}),
        lambda: absent.list_parts("bucket", "k", "u"),
        lambda: absent.complete_multipart("bucket", "k", "u", [_part(1, b"x")]),
        lambda: absent.abort_multipart("bucket", "k", "u"),
        lambda: absent.ping(),
    ):
        with pytest.raises(StoreUnavailable):
            call()


@pytest.mark.slow
def test_wrong_keys_are_named_as_the_cause(seaweed: S3Endpoint) -> None:
    """The operator reads which settings to check."""
    store = S3Store(seaweed.endpoint_url, access_key=seaweed.access_key, secret_key="wrong")
    with pytest.raises(StoreUnavailable) as caught:
        store.ping()
    assert "s3.secret_key" in str(caught.value)
    assert seaweed.endpoint_url in str(caught.value)


def test_a_lost_answer_to_a_completion_is_recovered() -> None:
    """The fake can lose an answer after the work was done, which is what idempotent completion is for."""
    memory = Memory(FakeObjectStore())
    memory.store.ensure_bucket("bucket")
    upload = memory.store.start_multipart("bucket", "k", {})
    _send_part(memory, "bucket", "k", upload, 1, b"data")
    memory.store.lose_answer_of.add("complete_multipart")
    with pytest.raises(StoreUnavailable):
        memory.store.complete_multipart("bucket", "k", upload, [_part(1, b"data")])
    assert memory.store.complete_multipart("bucket", "k", upload, [_part(1, b"data")]).size == 4


# --- S3 only -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_adopting_a_bucket_switches_versioning_on(seaweed: S3Endpoint, bucket_name: str) -> None:
    """A bucket that somebody made without versions keeps its objects and gets versions from then on."""
    store = _s3(seaweed)
    plain = store._client
    plain.create_bucket(Bucket=bucket_name)
    plain.put_object(Bucket=bucket_name, Key="k", Body=b"before")
    assert store.ensure_bucket(bucket_name) is False
    before = store.head(bucket_name, "k")
    after = store.write(bucket_name, "k", b"after")
    assert after.version_id != before.version_id
    assert store.read(bucket_name, "k", before.version_id, 0, 10) == b"before"
    assert [v.version_id for v in store.list_versions(bucket_name)] == [after.version_id, before.version_id]


@pytest.mark.slow
def test_fifty_threads_share_one_store(seaweed: S3Endpoint, bucket_name: str) -> None:
    """The store is used by every request thread of the gateway at once."""
    store = _s3(seaweed)
    store.ensure_bucket(bucket_name)
    with ThreadPoolExecutor(50) as pool:
        infos = list(pool.map(lambda i: store.write(bucket_name, f"k{i}", str(i).encode()), range(50)))
        bodies = list(pool.map(lambda i: store.read(bucket_name, i.key, i.version_id, 0, 9), infos))
    assert bodies == [str(i).encode() for i in range(50)]
