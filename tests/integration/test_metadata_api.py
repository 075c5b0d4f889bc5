"""Sample metadata over the API: pushed, described and filtered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore

import pytest
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import InvalidMetadata
from divbase_gateway.domain.samples import read_table
from divbase_gateway.services import metadata
from divbase_gateway.services.metadata import TableCache, load_table, reason_of

from tests.lab import Lab, lab_in_memory
from tests.variants import simulate

KEY = "sample_metadata.tsv"
TABLE = b'#Sample_ID\tArea\tYear\tTags\nS001\tNorth\t2001\t["a","b"]\nS002\tWest\t1999\t\nS009\tNorth\t2010\ta\n'
BROKEN = b"#Sample_ID\tArea\nS001\tNorth\nS001\tWest\textra\n\tEast\n"


@pytest.fixture
def lab(database: Database) -> Lab:
    return lab_in_memory(database)


@pytest.fixture
def stocked(lab: Lab, tmp_path: Path) -> Lab:
    """Two variant files, S001 to S003 and S003 to S004, and a table."""
    lab.upload_file(simulate(tmp_path / "a.vcf.gz", samples=["S001", "S002", "S003"]).path)
    lab.upload_file(simulate(tmp_path / "b.vcf.gz", samples=["S003", "S004"]).path)
    lab.upload(KEY, TABLE)
    return lab


def test_the_table_is_described(stocked: Lab) -> None:
    """Guards: columns with kind, lists and values, and what table and files do not share."""
    answer = stocked.editor.get(f"{stocked.path}/metadata").json()
    assert (answer["key"], answer["rows"]) == (KEY, 3)
    assert answer["version_id"] == stocked.info(KEY)["version_id"]
    assert answer["columns"] == [
        {"name": "#Sample_ID", "kind": "text", "is_list": False, "values": ["S001", "S002", "S009"], "distinct": 3},
        {"name": "Area", "kind": "text", "is_list": False, "values": ["North", "West"], "distinct": 2},
        {"name": "Year", "kind": "number", "is_list": False, "values": ["2001", "1999", "2010"], "distinct": 3},
        {"name": "Tags", "kind": "text", "is_list": True, "values": ["a", "b"], "distinct": 2},
    ]
    assert answer["warnings"] == [
        "1 sample(s) of the table are in no file yet: S009.",
        "2 sample(s) of the files have no row: S003, S004.",
    ]


def test_a_filter_gives_samples_and_their_files(stocked: Lab) -> None:
    """Guards: the answer of a metadata query, with a warning for a sample that no file has."""
    answer = stocked.editor.post(f"{stocked.path}/metadata/query", {"where": "Area:North"}).json()
    assert answer["samples"] == [{"sample": "S001", "files": ["a.vcf.gz"]}, {"sample": "S009", "files": []}]
    assert answer["files"] == ["a.vcf.gz"]
    assert answer["warnings"] == ["1 matching sample(s) are in no file yet: S009."]


def test_an_empty_filter_gives_all_rows(stocked: Lab) -> None:
    """Guards: no condition leaves every row."""
    answer = stocked.editor.post(f"{stocked.path}/metadata/query", {}).json()
    assert [sample["sample"] for sample in answer["samples"]] == ["S001", "S002", "S009"]


def test_an_unknown_column_names_the_known_ones(stocked: Lab) -> None:
    """Guards: a wrong filter is an error, never a wider result."""
    problem = stocked.editor.post(f"{stocked.path}/metadata/query", {"where": "Areal:North"}).json()
    assert problem["code"] == "invalid_filter"
    assert problem["details"]["known"] == ["#Sample_ID", "Area", "Year", "Tags"]


def test_who_waits_for_s3_holds_up_no_reader(stocked: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: few may read the database at once (api/deps.py), and a slow bucket must not take their places."""
    there, go_on = Semaphore(0), Event()

    def wait(*_arguments: object) -> None:
        there.release()
        go_on.wait(20)

    monkeypatch.setattr(metadata, "summarize", wait)
    with ThreadPoolExecutor(9) as others:
        waiting = [others.submit(stocked.editor.get, f"{stocked.path}/metadata") for _ in range(8)]
        try:
            assert all(there.acquire(timeout=20) for _ in waiting)
            answer = others.submit(stocked.editor.get, f"{stocked.path}/samples").result(timeout=20)
            assert (answer.status_code, [each.done() for each in waiting]) == (200, [False] * 8)
        finally:
            go_on.set()


def test_samples_are_listed_with_their_files(stocked: Lab) -> None:
    """Guards: every sample once, in file and header order, also while the index is being built."""
    assert stocked.editor.get(f"{stocked.path}/samples").json()["samples"] == [
        {"sample": "S001", "files": ["a.vcf.gz"]},
        {"sample": "S002", "files": ["a.vcf.gz"]},
        {"sample": "S003", "files": ["a.vcf.gz", "b.vcf.gz"]},
        {"sample": "S004", "files": ["b.vcf.gz"]},
    ]


def test_without_a_table_the_answer_says_how_to_make_one(lab: Lab) -> None:
    """Guards: the hint names the commands, before there was a table and after it was deleted."""
    lab.upload(KEY, TABLE)
    lab.delete(KEY)
    answer = lab.editor.get(f"{lab.path}/metadata")
    assert answer.status_code == 404
    assert "divbase metadata template" in answer.json()["hint"]
    assert "divbase metadata push" in answer.json()["hint"]


def test_a_broken_table_is_kept_and_every_fault_told(lab: Lab) -> None:
    """Guards: an invalid table is UNUSABLE with all its faults, and questions about it are answered with them."""
    file = lab.upload(KEY, BROKEN)
    assert file["state"] == "UNUSABLE"
    assert file["reason"].splitlines() == [
        "line 3: The line has 3 column(s), the header has 2; separate with tabs.",
        "line 3, column #Sample_ID: The sample 'S001' is already in line 2.",
        "line 4, column #Sample_ID: The sample has no name.",
    ]
    problem = lab.editor.get(f"{lab.path}/metadata").json()
    assert problem["code"] == "invalid_metadata"
    assert [(fault["row"], fault["column"]) for fault in problem["details"]["faults"]] == [
        (3, None),
        (3, "#Sample_ID"),
        (4, "#Sample_ID"),
    ]


def test_a_good_table_after_a_broken_one_is_used(lab: Lab) -> None:
    """Guards: the current version counts."""
    lab.upload(KEY, BROKEN)
    assert lab.upload(KEY, TABLE)["state"] == "STORED"
    assert lab.editor.get(f"{lab.path}/metadata").json()["rows"] == 3


def test_an_empty_table_is_a_fault_not_a_crash(lab: Lab) -> None:
    """Guards: zero bytes."""
    assert lab.upload(KEY, b"")["state"] == "UNUSABLE"


def test_a_table_is_read_once(stocked: Lab) -> None:
    """Guards: answers come from the cache while the version is the same, even with S3 away."""
    stocked.store.away = {"read", "head"}
    assert stocked.editor.get(f"{stocked.path}/metadata").status_code == 200


def test_planning_gets_the_table_or_none(lab: Lab) -> None:
    """Guards: `load_table` for the query planner."""
    with lab.api.gateway.sessions.read() as session:
        assert load_table(lab.api.gateway.store, session, lab.project) is None
    lab.upload(KEY, TABLE)
    with lab.api.gateway.sessions.read() as session:
        table = load_table(lab.api.gateway.store, session, lab.project)
    assert table is not None
    assert table.sample_ids == ("S001", "S002", "S009")


def test_the_cache_forgets_what_was_used_least_recently() -> None:
    """Guards: the bound on memory, and that a use counts."""
    table = read_table(TABLE)
    cache = TableCache(size=2)
    for version in ("1", "2"):
        cache.put("bucket", version, "etag", table)
    assert cache.get("bucket", "1", "etag") is table
    cache.put("bucket", "3", "etag", table)
    assert cache.get("bucket", "2", "etag") is None
    assert cache.get("bucket", "1", "etag") is table
    assert cache.get("bucket", "1", "other etag") is None


def test_a_reason_is_cut_at_a_limit() -> None:
    """Guards: a table with a fault in every line does not fill the database; the number of the rest is told."""
    with pytest.raises(InvalidMetadata) as caught:
        read_table(BROKEN)
    assert reason_of(caught.value, 1).splitlines()[1:] == ["… and 2 more"]
