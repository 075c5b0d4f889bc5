"""The catalogue over an object store: every file that users really send ends READY, INDEXING, STORED or UNUSABLE with
a reason in their words, at a cost that does not grow with the file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from divbase_gateway.domain.errors import StoreUnavailable, UnusableFile
from divbase_gateway.domain.files import CataloguedFile, Contig, FileFormat, FileState, IndexKind, IndexRef
from divbase_gateway.domain.index_maps import chunks_of, unpack
from divbase_gateway.domain.indexes import UnusableIndex, parse_index
from divbase_gateway.ports import ObjectInfo
from divbase_gateway.services.catalogue import Inspection, attach_index, inspect
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.object_store import FakeObjectStore
from tests.variants import bgzf, index_variants, plain_gzip, simulate, vcf_header, vcf_records, write_variants

REAL = Path(__file__).parents[3] / "shared" / "data"


class Objects(FakeObjectStore):
    """The object store in memory, which here notes the ranges that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.ensure_bucket("bucket")
        self.reads: list[tuple[str, int, int]] = []

    def put(self, key: str, body: bytes) -> ObjectInfo:
        return self.write("bucket", key, body)

    def put_index(self, index: Path, kind: str) -> IndexRef:
        info = self.put(index.name, index.read_bytes())
        return IndexRef(info.key, info.version_id, IndexKind(kind), info.size, info.etag)

    def read(self, bucket: str, key: str, version_id: str | None, start: int, length: int) -> bytes:
        self.reads.append((key, start, length))
        return super().read(bucket, key, version_id, start, length)


def look(objects: Objects, path: Path, *indexes: Path, key: str | None = None) -> Inspection:
    info = objects.put(key or path.name, path.read_bytes())
    beside = [objects.put(index.name, index.read_bytes()) for index in indexes]
    return inspect(objects, "bucket", info, "ab" * 32, beside)


def look_at(key: str, body: bytes) -> CataloguedFile:
    objects = Objects()
    return inspect(objects, "bucket", objects.put(key, body), None).file


@pytest.mark.parametrize(("name", "kind"), [("a.vcf.gz", "csi"), ("a.vcf.gz", "tbi"), ("a.bcf", "csi")])
def test_a_file_with_its_index_is_ready(tmp_path: Path, name: str, kind: str) -> None:
    """Everything that planning needs is known after one look."""
    file = simulate(tmp_path / name, samples=["x", "y"], sites={"chr1": 5}, index=kind)
    assert file.index is not None
    objects = Objects()
    info = objects.put(name, file.path.read_bytes())
    index = objects.put_index(file.index, kind)
    found = inspect(objects, "bucket", info, "ab" * 32, [objects.head("bucket", index.key)])
    assert found.index_warning is None
    assert found.file == CataloguedFile(
        key=name,
        version_id=info.version_id,
        size=file.path.stat().st_size,
        etag=hashlib.md5(file.path.read_bytes()).hexdigest(),  # noqa: S324
        sha256="ab" * 32,
        format=FileFormat.BCF if name.endswith(".bcf") else FileFormat.VCF_GZ,
        state=FileState.READY,
        reason=None,
        samples=("x", "y"),
        contigs=(Contig("chr1", 1_000_000, 5), Contig("chr2", 500_000, 0)),
        index=index,
        data_begin=parse_index(file.index.read_bytes()).begin,
    )
    assert set(found.maps) == {"chr1"}
    assert list(chunks_of(unpack(found.maps["chr1"]), 0, 1_000_000)) != []


def test_a_file_without_an_index_waits_for_one(tmp_path: Path) -> None:
    """The caller submits an index job; attach_index makes the file READY when it has ended."""
    objects = Objects()
    file = simulate(tmp_path / "a.vcf.gz", sites=7)
    found = look(objects, file.path)
    assert (found.file.state, found.file.samples) == (FileState.INDEXING, ("S001", "S002", "S003"))
    assert found.file.contigs == (Contig("chr1", 1_000_000, None), Contig("chr2", 500_000, None))
    built = objects.put_index(index_variants(file.path, "csi"), "csi")
    ready = attach_index(objects, "bucket", found.file, built)
    assert (found.file.data_begin, found.maps, set(ready.maps)) == (None, {}, {"chr1", "chr2"})
    assert ready.file == replace(
        found.file,
        state=FileState.READY,
        contigs=(Contig("chr1", 1_000_000, 7), Contig("chr2", 500_000, 7)),
        index=built,
        data_begin=parse_index(Path(f"{file.path}.csi").read_bytes()).begin,
    )


def test_the_index_of_an_earlier_version_is_not_used(tmp_path: Path) -> None:
    """The file waits for a new index and the user hears why the old one is left aside."""
    file = simulate(tmp_path / "a.vcf.gz", index="tbi")
    assert file.index is not None
    simulate(file.path, sites=60)
    found = look(Objects(), file.path, file.index)
    assert (found.file.state, found.file.index) == (FileState.INDEXING, None)
    assert found.index_warning is not None
    assert found.index_warning.startswith("The index a.vcf.gz.tbi is not used. It belongs to another file")
    assert found.index_warning.endswith("DivBase builds a new one.")


def test_a_good_index_serves_where_another_is_old(tmp_path: Path) -> None:
    """A stale .csi beside a fresh .tbi is common and hurts nobody."""
    file = simulate(tmp_path / "a.vcf.gz", index="csi")
    assert file.index is not None
    simulate(file.path, sites=60)
    found = look(Objects(), file.path, file.index, index_variants(file.path, "tbi"))
    assert (found.file.state, found.index_warning) == (FileState.READY, None)
    assert found.file.index is not None
    assert found.file.index.kind is IndexKind.TBI


def test_a_wrong_index_cannot_be_attached(tmp_path: Path) -> None:
    """A job that indexed an older version must not make the new one READY."""
    objects = Objects()
    old = simulate(tmp_path / "a.vcf.gz", index="csi")
    assert old.index is not None
    index = objects.put_index(old.index, "csi")
    new = look(objects, simulate(old.path, sites=60).path).file
    with pytest.raises(UnusableIndex, match="It belongs to another file"):
        attach_index(objects, "bucket", new, index)


def test_what_is_no_variant_file_is_stored_unread() -> None:
    """A README costs nothing."""
    objects = Objects()
    for key in ("README.md", "sample_metadata.tsv", "a.vcf.gz.csi", "reads.bam"):
        found = inspect(objects, "bucket", objects.put(key, b"x" * 100), None)
        assert (found.file.state, found.file.reason) == (FileState.STORED, None)
    assert objects.reads == []


TEXT = (vcf_header(["A", "B"], {"chr1": 5000}) + vcf_records("chr1", 5000, ["A", "B"], 20, 1)).encode()
PLAIN = (
    "It is plain gzip and must be BGZF: bcftools can neither index it nor read parts of it."
    " Run `divbase files repair in/a.vcf.gz`, or `bcftools view -Oz -o bgzf_a.vcf.gz a.vcf.gz` and upload the new file."
)
TRUNCATED = "It is truncated: the empty block that ends every whole BGZF file is missing after"


@pytest.mark.parametrize(
    ("key", "body", "reason"),
    [
        ("a.vcf.gz", b"", "It is empty: the file has no bytes."),
        ("in/a.vcf.gz", plain_gzip(TEXT), PLAIN),
        (
            "a.vcf",
            TEXT,
            "It is not compressed and must be BGZF: bcftools can neither index it nor read parts of it. Run",
        ),
        ("a.vcf.gz", bgzf(TEXT, eof=False), TRUNCATED),
        ("a.vcf.gz", bgzf(TEXT)[:-100], TRUNCATED),
        ("a.vcf.gz", bgzf(TEXT, block=99)[:200], TRUNCATED),
        ("a.vcf.gz", bgzf(TEXT)[:30], TRUNCATED),
        ("a.vcf.gz", b"<html><body>404</body></html>", "It is not a VCF: it looks like an HTML page"),
        ("a.vcf.gz", bgzf(b"BAM\x01" + bytes(90)), "It is not a VCF: it looks like a BAM file"),
        ("a.bcf", b"PK\x03\x04" + bytes(50), "It is not a VCF: it looks like a ZIP archive"),
        (
            "a.vcf.gz",
            bgzf(TEXT.replace(b"\tB\n", b"\tA\n")),
            "It has duplicate samples, more than one column named: A.",
        ),
        ("a.vcf.gz", bgzf(TEXT.replace(b"#CHROM", b"CHROM")), "It has no #CHROM line, which names the columns"),
        ("a.bcf", b"BCF\x02\x02\x05\0\0\0x", "It is not compressed and must be BGZF"),
        (
            "a.vcf",
            TEXT[:-1],
            "It is not compressed and must be BGZF: bcftools can neither index it nor read parts of it."
            " Run `bcftools view -Oz -o bgzf_a.vcf.gz a.vcf` and upload the new file. Its last line has no end,",
        ),
    ],
)
def test_an_unusable_file_says_why(key: str, body: bytes, reason: str) -> None:
    """The file is kept, and its owner reads what is wrong and the command that mends it."""
    file = look_at(key, body)
    assert file.state is FileState.UNUSABLE
    assert file.reason is not None
    assert file.reason.startswith(reason)


def test_every_fault_is_named_at_once() -> None:
    """Nobody should upload 40 GB three times to learn three faults."""
    file = look_at("a.vcf.gz", plain_gzip(TEXT.replace(b"\tB\n", b"\tA\n")))
    assert file.reason is not None
    assert "duplicate samples" in file.reason
    assert "plain gzip" in file.reason
    assert "divbase files repair" not in file.reason  # it would mend one of the two


@pytest.mark.parametrize("body", [plain_gzip(TEXT), TEXT, bgzf(TEXT, eof=False)])
def test_samples_of_an_unusable_file_are_known_where_they_can_be(body: bytes) -> None:
    """A query for these samples must be able to say that their file cannot be used."""
    file = look_at("a.vcf.gz", body)
    assert (file.state, file.samples) == (FileState.UNUSABLE, ("A", "B"))


def test_a_hostile_name_stays_one_word_of_the_command() -> None:
    """People paste the command that the reason gives them."""
    file = look_at("x/a b$(id).vcf.gz", plain_gzip(TEXT))
    assert file.reason is not None
    assert "`bcftools view -Oz -o 'bgzf_a b$(id).vcf.gz' 'a b$(id).vcf.gz'`" in file.reason
    assert "`divbase files repair 'x/a b$(id).vcf.gz'`" in file.reason


def test_contents_decide_the_format(tmp_path: Path) -> None:
    """bcftools goes by contents, and a BCF under a VCF's name works."""
    file = simulate(tmp_path / "a.bcf", index="csi")
    assert file.index is not None
    found = look(Objects(), file.path, file.index, key="a.vcf.gz").file
    assert (found.format, found.state) == (FileFormat.BCF, FileState.READY)


@pytest.mark.parametrize("positions", [("0", "1"), ("1", "2000000000")])
def test_the_ends_of_a_contig_can_be_indexed(tmp_path: Path, positions: tuple[str, str]) -> None:
    """Position 0 is a telomere, and wheat has long chromosomes."""
    path = tmp_path / "a.vcf.gz"
    records = "".join(f"c\t{position}\t.\tA\tC\t.\t.\t.\n" for position in positions)
    write_variants(path, vcf_header([], {"c": 2_100_000_000}) + records)
    found = look(Objects(), path, index_variants(path, "csi"))
    assert (found.index_warning, found.file.contigs) == (None, (Contig("c", 2_100_000_000, 2),))


def test_a_header_of_thousands_of_samples_is_read_to_its_end(tmp_path: Path) -> None:
    """The first range holds part of it only; the rest is fetched, nothing twice."""
    names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(9000)]
    objects = Objects()
    file = simulate(tmp_path / "a.vcf.gz", samples=names, contigs={"c": 900}, sites=1, index="csi")
    assert file.index is not None
    found = look(objects, file.path, file.index)
    assert (found.file.state, found.file.samples) == (FileState.READY, tuple(names))
    starts = [(start, length) for key, start, length in objects.reads if key == "a.vcf.gz" and start < 500_000]
    assert starts[:2] == [(0, 65536), (65536, 65536)]
    assert found.bytes_read < 900_000


@pytest.mark.slow
@pytest.mark.parametrize("sites", [400, 3000])
def test_the_cost_does_not_grow_with_the_file(tmp_path: Path, sites: int) -> None:
    """100 samples: under 200 KB in three requests (start, end, index), whatever the file's size."""
    objects = Objects()
    file = simulate(tmp_path / "a.vcf.gz", samples=100, sites=sites, index="csi")
    assert file.index is not None
    found = look(objects, file.path, file.index)
    assert found.file.state is FileState.READY
    assert found.bytes_read == sum(length for _, _, length in objects.reads)
    assert found.requests == len(objects.reads) == 3
    assert found.bytes_read < 65536 + 28 + 2000
    assert file.path.stat().st_size > found.bytes_read


def test_a_short_answer_of_the_store_is_no_answer() -> None:
    """A cut-off body must never become the verdict that the file is truncated."""
    objects = Objects()
    info = objects.put("a.vcf.gz", bgzf(TEXT))
    with pytest.raises(StoreUnavailable, match=r"of 500\d* bytes of 'a\.vcf\.gz' at byte 0"):
        inspect(objects, "bucket", replace(info, size=5000), None)


def test_an_unusable_file_takes_no_index(tmp_path: Path) -> None:
    """attach_index looks at the file again and repeats the reason."""
    objects = Objects()
    index = objects.put("i.csi", b"")
    file = inspect(objects, "bucket", objects.put("a.vcf.gz", plain_gzip(TEXT)), None).file
    with pytest.raises(UnusableFile, match="It is plain gzip"):
        attach_index(objects, "bucket", file, IndexRef("i.csi", index.version_id, IndexKind.CSI, 0, index.etag))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=300), st.integers(0, 1200), st.sampled_from([bgzf(TEXT), plain_gzip(TEXT), TEXT, b""]))
def test_whatever_is_sent_ends_in_a_state(noise: bytes, cut: int, good: bytes) -> None:
    """Cut-off and overwritten files are UNUSABLE with a reason or, where the damage is past the header, wait."""
    for body in (good[:cut], good[:cut] + noise, good[:cut] + noise + good[cut + len(noise) :]):
        file = look_at("a.vcf.gz", body)
        assert (file.reason is not None) == (file.state is FileState.UNUSABLE)
        assert file.state in (FileState.UNUSABLE, FileState.INDEXING)


@pytest.fixture
def real() -> Callable[[str], Path]:
    def find(name: str) -> Path:
        if not (REAL / name).exists():
            pytest.skip(f"{name} is not beside the checkout (shared/data)")
        return REAL / name

    return find


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "kind", "samples"), [("pinf_americas.vcf.gz", "csi", 11), ("pinf_old_world.vcf.gz", "tbi", 7)]
)
def test_real_files_with_an_index_are_ready(real: Callable[[str], Path], name: str, kind: str, samples: int) -> None:
    """Phytophthora infestans: one contig, 22,031 variants in each file."""
    found = look(Objects(), real(name), real(f"{name}.{kind}"))
    assert (found.file.state, found.index_warning, len(found.file.samples)) == (FileState.READY, None, samples)
    assert [(contig.name, contig.variants) for contig in found.file.contigs] == [("Supercontig_1.50", 22_031)]
    assert found.bytes_read < 70_000


@pytest.mark.realdata
def test_the_published_plain_gzip_is_unusable_with_its_18_samples(real: Callable[[str], Path]) -> None:
    """What users really send."""
    file = look(Objects(), real("pinf_sc50.plain-gzip.vcf.gz")).file
    assert file.state is FileState.UNUSABLE
    assert len(file.samples) == 18
    assert file.reason is not None
    assert file.reason.startswith("It is plain gzip and must be BGZF")


@pytest.mark.realdata
def test_the_human_file_waits_for_its_index(real: Callable[[str], Path]) -> None:
    """1000 Genomes: 100 samples, 3,366 contig lines, no index."""
    file = look(Objects(), real("human_chr22_100samples.vcf.gz")).file
    assert (file.state, file.reason, len(file.samples)) == (FileState.INDEXING, None, 100)
    assert len(file.contigs) == 3366
    assert file.contigs[21] == Contig("chr22", 50_818_468, None)


@pytest.mark.realdata
def test_a_real_index_beside_the_other_file_is_refused(real: Callable[[str], Path]) -> None:
    """Same contig, same sites, other samples: only the bytes tell."""
    found = look(Objects(), real("pinf_old_world.vcf.gz"), real("pinf_americas.vcf.gz.csi"))
    assert found.file.state is FileState.INDEXING
    assert found.index_warning is not None
