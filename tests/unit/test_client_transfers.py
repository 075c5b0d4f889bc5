"""Uploads and downloads against real HTTP that breaks, over the fake gateway and S3."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from divbase_client import ChecksumMismatch, Client, Failed, Moved, Retry, Source, TargetExists, TransferInterrupted
from divbase_client.downloads import Downloader
from divbase_client.errors import InvalidSettings
from divbase_client.files import local_name
from divbase_client.store import Store
from divbase_client.transfers import Lanes

from tests.fakes.gateway_server import FakeGateway, Fault, running_gateway

PART = 1 << 16
QUICK = Retry(attempts=4, first=0.001, longest=0.002, patience=0.01)


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with running_gateway(PART) as one:
        yield one


@pytest.fixture
def client(gateway: FakeGateway) -> Iterator[Client]:
    with Client(gateway.url, gateway.key, retry=QUICK, timeout=5.0) as one:
        yield one


def bytes_of(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def download_in_ranges(client: Client, key: str, to: Path, size: int, force: bool = False) -> None:
    with Lanes(Store(5.0), in_flight=2) as lanes:
        wanted = client.files.want("vole", key, to, force=force)
        Downloader(lanes, QUICK, range_size=size).download(wanted)


class TestUpload:
    def test_small_file_is_one_put(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """A file up to the threshold is one PUT, and arrives byte for byte."""
        data = bytes_of(1000)
        outcome = client.files.upload("vole", write(tmp_path / "a.vcf.gz", data), "in/a.vcf.gz")
        assert gateway.files["in/a.vcf.gz"][-1].data == data
        assert (outcome.sent, outcome.unchanged) == (1000, False)
        assert len(gateway.requests("PUT /s3")) == 1

    def test_empty_file(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """A file without bytes is a file too."""
        client.files.upload("vole", write(tmp_path / "empty.txt", b""))
        assert gateway.files["empty.txt"][-1].data == b""

    def test_large_file_goes_in_parts(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """Above the threshold each part is sent once and the last one is shorter."""
        data = bytes_of(3 * PART + 17)
        client.files.upload("vole", write(tmp_path / "b.bcf", data))
        assert gateway.files["b.bcf"][-1].data == data
        assert sorted(len(one.body) for one in gateway.requests("PUT /s3")) == [17, PART, PART, PART]

    def test_same_content_is_not_sent_again(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """Content that the project has already costs no PUT."""
        path = write(tmp_path / "a.vcf.gz", b"same")
        gateway.store("a.vcf.gz", b"same")
        assert client.files.upload("vole", path).unchanged
        assert gateway.requests("PUT /s3") == []

    def test_resume_sends_only_the_missing_parts(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """Running the same upload again sends what S3 lacks and nothing else."""
        path = write(tmp_path / "b.bcf", bytes_of(4 * PART))
        gateway.faults.append(Fault("/s3/upload/up1/3", 400, times=1, code="InvalidRequest"))
        with pytest.raises(TransferInterrupted):
            client.files.upload("vole", path)
        before = len(gateway.requests("PUT /s3"))
        had = set(gateway.uploads["up1"].parts)
        client.files.upload("vole", path)
        again = {int(one.path.split("?")[0].rsplit("/", 1)[1]) for one in gateway.requests("PUT /s3")[before:]}
        assert again == {1, 2, 3, 4} - had
        assert gateway.files["b.bcf"][-1].data == path.read_bytes()

    def test_part_in_s3_with_other_bytes_is_sent_again(
        self, client: Client, gateway: FakeGateway, tmp_path: Path
    ) -> None:
        """A resumed upload trusts no part that it has not compared with the file."""
        data = bytes_of(2 * PART)
        path = write(tmp_path / "b.bcf", data)
        body = {"key": "b.bcf", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        gateway.begin_upload({}, body, "vole")
        gateway.uploads["up1"].parts[1] = b"x" * PART
        client.files.upload("vole", path)
        assert gateway.files["b.bcf"][-1].data == data

    @pytest.mark.parametrize("action", ["drop", 503, 500])
    def test_passing_fault_of_s3_is_retried(
        self, client: Client, gateway: FakeGateway, tmp_path: Path, action: str | int
    ) -> None:
        """A dropped connection or a 5xx during a part costs that part's time and nothing else."""
        gateway.faults.append(Fault("PUT /s3", action, times=2))
        data = bytes_of(3 * PART)
        client.files.upload("vole", write(tmp_path / "b.bcf", data))
        assert gateway.files["b.bcf"][-1].data == data

    def test_expired_url_is_renewed(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """403 on a part means a fresh URL, not a failed upload."""
        gateway.faults.append(Fault("PUT /s3", 403, code="AccessDenied"))
        client.files.upload("vole", write(tmp_path / "a.txt", b"abc"))
        assert gateway.files["a.txt"][-1].data == b"abc"
        assert len(gateway.requests("/urls")) == 2

    def test_bytes_changed_under_way_are_refused(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """S3's BadDigest, when it stays, is a checksum mismatch."""
        gateway.faults.append(Fault("PUT /s3", 400, times=9, code="BadDigest"))
        with pytest.raises(ChecksumMismatch):
            client.files.upload("vole", write(tmp_path / "a.txt", b"abc"))

    def test_s3_that_stays_away_interrupts(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """Retries end, and the error says how to go on without showing the presigned URL."""
        gateway.faults.append(Fault("PUT /s3", "drop", times=99))
        with pytest.raises(TransferInterrupted) as error:
            client.files.upload("vole", write(tmp_path / "a.txt", b"abc"))
        assert "again" in str(error.value.hint)
        assert "secret" not in str(error.value)

    def test_file_that_changes_meanwhile(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """A file that is written to during its upload is not completed."""
        path = write(tmp_path / "a.txt", b"abc")

        def change(moved: Moved) -> None:
            if moved.stage == "sending":
                path.write_bytes(b"abcd")

        with pytest.raises(ChecksumMismatch):
            client.files.upload("vole", path, progress=change)
        assert "a.txt" not in gateway.files

    def test_indexes_complete_before_their_files(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """The gateway finds the index when the variant file completes, whatever order the files were named in."""
        names = ["a.vcf.gz", "a.vcf.gz.csi", "b.vcf.gz", "b.vcf.gz.tbi"]
        sources = [Source(write(tmp_path / name, name.encode()), name) for name in names]
        list(client.files.upload_all("vole", sources))
        completed = list(gateway.files)
        assert set(completed[:2]) == {"a.vcf.gz.csi", "b.vcf.gz.tbi"}

    def test_one_bad_file_stops_no_other(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """A file that cannot be read is reported; the rest arrives."""
        sources = [Source(tmp_path / "missing", "missing"), Source(write(tmp_path / "a", b"a"), "a")]
        outcomes = list(client.files.upload_all("vole", sources))
        assert isinstance(outcomes[0], Failed)
        assert gateway.files["a"][-1].data == b"a"

    def test_connections_are_reused(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """Twenty parts need no more connections than there are lanes."""
        client.files.upload("vole", write(tmp_path / "b.bcf", bytes_of(20 * PART)))
        assert len({one.port for one in gateway.requests("PUT /s3")}) <= 8

    def test_progress_ends_at_the_size(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """After retries the bytes reported are the bytes of the file, each once."""
        gateway.faults.append(Fault("PUT /s3", 503, times=2))
        seen: list[Moved] = []
        client.files.upload("vole", write(tmp_path / "b.bcf", bytes_of(3 * PART)), progress=seen.append)
        assert seen[-1].stage == "sending"
        assert max(one.done for one in seen) == seen[-1].done == 3 * PART


class TestDownload:
    def test_arrives_and_leaves_nothing_beside_it(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """The file takes its name only when whole, and journal and .part are gone."""
        gateway.store("in/a.bcf", bytes_of(100_000))
        outcome = client.files.download("vole", "in/a.bcf", tmp_path)
        assert outcome.path == tmp_path / "a.bcf"
        assert outcome.path.read_bytes() == bytes_of(100_000)
        assert [path.name for path in tmp_path.iterdir()] == ["a.bcf"]

    def test_empty_file(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """A file without bytes needs no range."""
        gateway.store("empty", b"")
        assert client.files.download("vole", "empty", tmp_path).path.read_bytes() == b""

    @pytest.mark.parametrize("action", ["drop", "cut", 503])
    def test_passing_fault_is_retried(
        self, client: Client, gateway: FakeGateway, tmp_path: Path, action: str | int
    ) -> None:
        """A broken range goes on behind what has arrived, and the file is whole."""
        data = bytes_of(300_000)
        gateway.store("a.bcf", data)
        gateway.faults.append(Fault("GET /s3", action, times=3))
        download_in_ranges(client, "a.bcf", tmp_path, 100_000)
        assert (tmp_path / "a.bcf").read_bytes() == data

    def test_cut_range_is_not_read_twice(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """The second try asks for the rest only."""
        gateway.store("a.bcf", bytes_of(100_000))
        gateway.faults.append(Fault("GET /s3", "cut"))
        client.files.download("vole", "a.bcf", tmp_path)
        assert [one.headers["range"] for one in gateway.requests("GET /s3")] == ["bytes=0-99999", "bytes=50000-99999"]

    def test_wrong_bytes_are_never_kept(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """Other bytes of the right length fail loudly, and nothing stays behind."""
        gateway.store("a.bcf", bytes_of(1000))
        gateway.faults.append(Fault("GET /s3", "wrong"))
        with pytest.raises(ChecksumMismatch):
            client.files.download("vole", "a.bcf", tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_resume_fetches_only_the_missing_ranges(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """A download that broke off goes on with the ranges that its journal lacks."""
        data = bytes_of(400_000)
        gateway.store("a.bcf", data)
        gateway.faults.append(Fault("GET /s3", 400, times=1, code="InvalidRequest", after=2))
        with pytest.raises(TransferInterrupted):
            download_in_ranges(client, "a.bcf", tmp_path, 100_000)
        had = (tmp_path / "a.bcf.part.journal").read_text().split("\n")[1:-1]
        assert had
        before = len(gateway.requests("GET /s3"))
        download_in_ranges(client, "a.bcf", tmp_path, 100_000)
        assert len(gateway.requests("GET /s3")) - before == 4 - len(had)
        assert (tmp_path / "a.bcf").read_bytes() == data

    def test_journal_of_another_version_starts_over(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """Ranges of an older version are never mixed with those of a newer one."""
        gateway.store("a.bcf", bytes_of(400_000, seed=1))
        gateway.faults.append(Fault("GET /s3", 400, times=1, code="InvalidRequest", after=2))
        with pytest.raises(TransferInterrupted):
            download_in_ranges(client, "a.bcf", tmp_path, 100_000)
        gateway.store("a.bcf", bytes_of(400_000, seed=2))
        before = len(gateway.requests("GET /s3"))
        download_in_ranges(client, "a.bcf", tmp_path, 100_000)
        assert len(gateway.requests("GET /s3")) - before == 4
        assert (tmp_path / "a.bcf").read_bytes() == bytes_of(400_000, seed=2)

    def test_journal_line_that_was_cut_off_is_not_believed(
        self, client: Client, gateway: FakeGateway, tmp_path: Path
    ) -> None:
        """A kill may cut the last line of the journal: `1` of `12` does not count."""
        data = bytes_of(1_300_000)
        gateway.store("a.bcf", data)
        gateway.faults.append(Fault("GET /s3", 400, times=99, code="InvalidRequest", after=2))
        with pytest.raises(TransferInterrupted):
            download_in_ranges(client, "a.bcf", tmp_path, 100_000)
        gateway.faults.clear()
        journal = tmp_path / "a.bcf.part.journal"
        head = journal.read_text().split("\n")[0]
        journal.write_text(head + "\n1")
        download_in_ranges(client, "a.bcf", tmp_path, 100_000)
        assert (tmp_path / "a.bcf").read_bytes() == data

    def test_equal_file_is_left_alone(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """What is there already is not fetched again."""
        gateway.store("a.bcf", b"abc")
        write(tmp_path / "a.bcf", b"abc")
        assert client.files.download("vole", "a.bcf", tmp_path).unchanged
        assert gateway.requests("GET /s3") == []

    def test_different_file_needs_force(self, client: Client, gateway: FakeGateway, tmp_path: Path) -> None:
        """A file of the user is not overwritten unless they say so."""
        gateway.store("a.bcf", b"abc")
        write(tmp_path / "a.bcf", b"mine")
        with pytest.raises(TargetExists):
            client.files.download("vole", "a.bcf", tmp_path)
        assert (tmp_path / "a.bcf").read_bytes() == b"mine"
        client.files.download("vole", "a.bcf", tmp_path, force=True)
        assert (tmp_path / "a.bcf").read_bytes() == b"abc"

    def test_expired_url_is_renewed_for_the_same_version(
        self, client: Client, gateway: FakeGateway, tmp_path: Path
    ) -> None:
        """After a 403 the pinned version is asked for, though a newer one exists by then."""
        gateway.store("a.bcf", b"first")

        def expire_once(url: str) -> bool:
            if len(gateway.files["a.bcf"]) == 1:
                gateway.store("a.bcf", b"second")
                return True
            return False

        gateway.link_is_expired = expire_once
        outcome = client.files.download("vole", "a.bcf", tmp_path)
        assert (outcome.version_id, outcome.path.read_bytes()) == ("v1", b"first")

    def test_file_without_checksum_is_said_to_be_unverified(
        self, client: Client, gateway: FakeGateway, tmp_path: Path
    ) -> None:
        """An adopted object has no SHA-256; the outcome does not pretend."""
        gateway.store("a.bcf", b"abc", sha256=None)
        assert not client.files.download("vole", "a.bcf", tmp_path).verified

    def test_s3_that_ignores_the_range_is_refused(self, tmp_path: Path, client: Client, gateway: FakeGateway) -> None:
        """A 200 with the whole body in place of a range is not written anywhere."""
        gateway.store("a.bcf", bytes_of(200_000))
        gateway.faults.append(Fault("GET /s3", 200, times=9))
        with pytest.raises(TransferInterrupted):
            download_in_ranges(client, "a.bcf", tmp_path, 100_000)

    @pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\nb", "..", "", "C:\\x", "a\\b"])
    def test_hostile_name(self, name: str) -> None:
        """A name from another machine cannot lead out of the folder."""
        with pytest.raises(InvalidSettings):
            local_name(name)


class TestRead:
    def test_broken_stream_goes_on(self, client: Client, gateway: FakeGateway) -> None:
        """A cut connection in `read` repeats and loses no byte."""
        gateway.store("a.bcf", bytes_of(100_000))
        gateway.faults.append(Fault("GET /s3", "cut", times=2))
        assert b"".join(client.files.read("vole", "a.bcf")) == bytes_of(100_000)

    def test_wrong_bytes_raise_at_the_end(self, client: Client, gateway: FakeGateway) -> None:
        """A stream cannot take bytes back, but it says that they were wrong."""
        gateway.store("a.bcf", b"abc")
        gateway.faults.append(Fault("GET /s3", "wrong"))
        with pytest.raises(ChecksumMismatch):
            list(client.files.read("vole", "a.bcf"))
