"""Files as users really send them, from upload to answer: the catalogue's look at them, the plan, parts, the node, and
the result against bcftools by hand on the whole files. What is written here is small and odd, where
`test_differential` is random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from divbase_gateway.domain import spans
from divbase_gateway.domain.files import CataloguedFile, FileState, IndexKind, IndexRef
from divbase_gateway.domain.index_maps import FileMap, unpack
from divbase_gateway.domain.planning import make_plan
from divbase_gateway.services.catalogue import attach_index, inspect

from tests.bcftools import bcftools_for_tests, release_of
from tests.fakes.object_store import FakeObjectStore
from tests.integration.test_differential import Bcftools, Question, by_hand, by_node, indexed, takes_part
from tests.variants import bgzf

pytestmark = pytest.mark.slow  # real programs

BUCKET = "b"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bcftools_for_tests(tmp_path_factory.mktemp("bcftools"))


@pytest.fixture
def bcftools(program: Path, tmp_path: Path) -> Bcftools:
    (tmp_path / "files").mkdir()
    return Bcftools(program, tmp_path / "files", release_of(program))


@pytest.fixture(autouse=True)
def everything_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are small here, and are to be read in parts all the same."""
    monkeypatch.setattr(spans, "WHOLE_FROM", 10.0)
    monkeypatch.setattr(spans, "GAP_BYTES", 0)


@dataclass
class Upload:
    """A catalogue of files as the gateway makes it, and their maps."""

    bcftools: Bcftools
    files: list[CataloguedFile] = field(default_factory=list)
    maps: dict[str, FileMap] = field(default_factory=dict)

    def add(self, key: str, text: str, index: str | None = "csi") -> None:
        """Send VCF text as `key` says, in blocks of a few records, with an index of the user's own or without one."""
        folder = self.bcftools.folder
        if key.endswith(".bcf"):
            (folder / "plain.vcf").write_text(text)
            self.bcftools("view", "--no-version", "-Ob", "-o", key, "plain.vcf")
        else:
            (folder / key).write_bytes(bgzf(text.encode(), block=300))
        self.bcftools("index", f"--{index or 'csi'}", key)
        file, maps = look_at(folder, key, index)
        assert file.state is FileState.READY, file.reason
        assert file.data_begin is not None
        self.files.append(file)
        self.maps[key] = FileMap(file.data_begin, {name: unpack(each) for name, each in maps.items()})

    def find_maps(self, files: Sequence[CataloguedFile], _: Sequence[str]) -> dict[str, FileMap]:
        return {file.key: self.maps[file.key] for file in files}


def look_at(folder: Path, key: str, index: str | None) -> tuple[CataloguedFile, Mapping[str, bytes]]:
    """What the catalogue says of a file; one that was sent without an index gets that of an index job."""
    store = FakeObjectStore()
    store.ensure_bucket(BUCKET)
    info = store.write(BUCKET, key, (folder / key).read_bytes())
    made = f"{key}.{index or 'csi'}"
    stored = store.write(BUCKET, made, (folder / made).read_bytes())
    seen = inspect(store, BUCKET, info, None, [stored] if index else [])
    if index:
        return seen.file, seen.maps
    assert seen.file.state is FileState.INDEXING, seen.file.reason
    after = attach_index(
        store, BUCKET, seen.file, IndexRef(made, stored.version_id, IndexKind.CSI, stored.size, stored.etag)
    )
    return after.file, after.maps


@pytest.fixture
def upload(bcftools: Bcftools) -> Upload:
    return Upload(bcftools)


def ask(upload: Upload, scratch: Path, question: Question, *, shards: int = 2) -> list[str]:
    """The answer's records, after it was compared with that by hand, header and all, and with that in shards."""
    bcftools = upload.bcftools
    plan = make_plan(question.request, upload.files, None, upload.find_maps)
    if not bcftools.can(plan):
        pytest.skip("this release of bcftools cannot, and the job says so")
    answer = by_node(plan, bcftools, scratch / "one")
    assert answer.status == 0, answer.log
    read = {entry.key for entry in plan.inputs}
    ordered = sorted(upload.files, key=lambda file: file.key)
    hand = by_hand(question, [file for file in ordered if file.key in read and takes_part(question, file)], bcftools)
    result = bcftools("view", "--no-version", str(answer.result))
    assert result.splitlines() == hand.splitlines()
    cut = make_plan(question.request, upload.files, None, upload.find_maps, shards=shards)
    if cut.shards > 1:
        again = by_node(cut, bcftools, scratch / "cut")
        assert again.status == 0, again.log
        assert again.result.read_bytes() == answer.result.read_bytes()
        assert indexed(again.result) == indexed(answer.result)
    return [line for line in result.splitlines() if not line.startswith("#")]


def asked(regions: str | None = None, by: str = "-r", samples: tuple[str, ...] | None = None) -> Question:
    """A question at regions, names in braces, without filters."""
    return Question(regions, by, (), False, samples)


# --- versions ----------------------------------------------------------------------------------------------------

CONTIG_LINES = "##contig=<ID=chr1,length=100000>\n##contig=<ID=chr2,length=50000>\n##contig=<ID=chrX,length=40000>\n"
DEFINED = """\
##FILTER=<ID=q10,Description="Below 10">
##ALT=<ID=DEL,Description="Deletion">
##ALT=<ID=NON_REF,Description="Any other">
##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth">
##INFO=<ID=AF,Number=A,Type=Float,Description="Frequency">
##INFO=<ID=END,Number=1,Type=Integer,Description="End">
##INFO=<ID=SVLEN,Number=A,Type=Integer,Description="Length">
##INFO=<ID=SVTYPE,Number=1,Type=String,Description="Type">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Depth">
##FORMAT=<ID=PL,Number=G,Type=Integer,Description="Likelihoods">
"""
VERSIONS = {
    "VCFv4.1": '##SAMPLE=<ID=A,Genomes=Germline,Mixture=1.,Description="as 4.1 has it">\n##assembly=ftp://x/y.fa\n',
    "VCFv4.2": '##INFO=<ID=R,Number=R,Type=Integer,Description="one an allele",Source="x",Version="1">\n',
    "VCFv4.3": "##META=<ID=Assay,Type=String,Number=.,Values=[WholeGenome, Exome]>\n##SAMPLE=<ID=A,Assay=Exome>\n"
    "##PEDIGREE=<ID=A,Father=B,Mother=C>\n##pedigreeDB=<http://x/y>\n",
    "VCFv4.4": '##INFO=<ID=SVCLAIM,Number=A,Type=String,Description="Claim">\n'
    '##INFO=<ID=CIPOS,Number=.,Type=Integer,Description="Around POS">\n',
}


def text(
    records: Sequence[str],
    samples: Sequence[str],
    *,
    version: str = "VCFv4.2",
    contigs: str = CONTIG_LINES,
    more: str = "",
    end: str = "\n",
) -> str:
    """A VCF; records have spaces for tabs."""
    columns = [
        "#CHROM",
        "POS",
        "ID",
        "REF",
        "ALT",
        "QUAL",
        "FILTER",
        "INFO",
        *(["FORMAT", *samples] if samples else []),
    ]
    head = f"##fileformat={version}\n{DEFINED}{more}{contigs}" + "\t".join(columns) + "\n"
    return (head + "".join("\t".join(each.split()) + "\n" for each in records)).replace("\n", end)


def snps(calls: str, contigs: Sequence[str] = ("chr1", "chr2"), step: int = 700) -> list[str]:
    """Thirty SNPs a contig with these calls."""
    return [
        f"{contig} {position} . A C 50 PASS DP={position} GT:DP {calls}"
        for contig in contigs
        for position in range(100, 100 + 30 * step, step)
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_by_itself(upload: Upload, tmp_path: Path, version: str) -> None:
    """Guards: header lines that came with a version are no hindrance, those neither that htslib calls an error."""
    records = snps("0/1:5 1|1:. ./.:0")
    upload.add("a.vcf.gz", text(records, ["A", "B", "C"], version=version, more=VERSIONS[version]))
    assert len(ask(upload, tmp_path, asked("{chr1}:3000-9000"))) == 8


@pytest.mark.parametrize("kind", ["vcf.gz", "bcf"])
def test_all_versions_in_one_answer(upload: Upload, tmp_path: Path, kind: str) -> None:
    """Guards: files of four versions are merged as bcftools merges them."""
    for number, (version, more) in enumerate(VERSIONS.items()):
        name = "ABCD"[number]
        body = text(snps("0/1:5"), [name], version=version, more=more.replace("ID=A", f"ID={name}"))
        upload.add(f"{number}.{kind}", body, "tbi" if kind == "vcf.gz" and number % 2 else "csi")
    records = ask(upload, tmp_path, asked("{chr1}:3000-9000,{chr2}"))
    assert (len(records), len(records[0].split("\t"))) == (38, 13)


def test_lines_that_end_in_crlf(upload: Upload, tmp_path: Path) -> None:
    """Guards: what a Windows program wrote is read as bcftools reads it."""
    upload.add("a.vcf.gz", text(snps("0/1:5"), ["A"], end="\r\n"))
    upload.add("b.vcf.gz", text(snps("0/0:7"), ["B"]))
    assert len(ask(upload, tmp_path, asked("{chr1}:3000-9000"))) == 8


# --- genotypes ---------------------------------------------------------------------------------------------------

CALLS = ["0", "1", ".", "./.", ".|.", "1/.", ".|1", "0|1", "0/1/1", "1:.", "0/1:7:0,10,20", "0:3:0,9", ".:.:.", "./.:."]


@pytest.mark.parametrize("kind", ["vcf.gz", "bcf"])
def test_haploid_and_missing_calls(upload: Upload, tmp_path: Path, kind: str) -> None:
    """Guards: one allele, none, half of a call, three, phased or not, with fields left out: as bcftools has them."""
    for number, names in enumerate((["M1", "M2"], ["F1"], ["F2", "F3"])):
        records = [
            f"chrX {100 + 50 * at} . A C {at} PASS DP={at} GT:DP:PL "
            + " ".join(CALLS[(at + 5 * number + 3 * place) % len(CALLS)] for place in range(len(names)))
            for at in range(4 * len(CALLS))
        ]
        upload.add(f"{number}.{kind}", text(records, names))
    for samples in (None, ("M2", "F1"), ("F2",)):
        question = asked("{chrX}:600-1600", samples=samples)
        assert len(ask(upload, tmp_path / str(samples), question)) == 21


def test_records_without_genotypes_beside_others(upload: Upload, tmp_path: Path) -> None:
    """Guards: FORMAT without GT, and with GT alone, in one file of two that are merged."""
    forms = [("DP", "5"), ("GT", "1"), ("GT:DP", "./.")] * 20
    lines = zip(snps("0/1:5"), forms, strict=True)
    records = [line.replace("GT:DP 0/1:5", f"{form} {call}") for line, (form, call) in lines]
    upload.add("a.vcf.gz", text(records, ["A"]))
    upload.add("b.bcf", text(snps("0/1:5"), ["B"]))
    assert len(ask(upload, tmp_path, asked("{chr1}:3000-9000"))) == 8


# --- what is longer than its REF ------------------------------------------------------------------------------------

LONG = [
    "chr1 100 del A <DEL> 50 PASS SVTYPE=DEL;END=60000 GT 0/1",
    "chr1 200 dup A <DUP:TANDEM> 50 PASS SVTYPE=DUP;END=20000 GT 0/1",
    "chr1 300 inv A <INV> 50 PASS SVTYPE=INV;END=300 GT 0/1",
    "chr1 400 ins A <INS> 50 PASS SVTYPE=INS;END=400;SVLEN=5000 GT 0/1",
    "chr1 500 bnd A ]chr2:321]A 50 PASS SVTYPE=BND GT 0/1",
    "chr1 600 star A C,* 50 PASS . GT 1/2",
    "chr1 700 cn A <CN0>,<CN2> 50 PASS END=45000 GT 1/2",
    "chr1 800 long ACGTACGTACGTACGTACGTACGTACGTACGTACGTACGT A 50 PASS . GT 0/1",
    *(f"chr1 {at} . A C 50 PASS . GT 0/1" for at in range(1000, 60_000, 1500)),
    "chr2 5 del A <DEL> 50 PASS SVTYPE=DEL;END=45000 GT 0/1",
    *(f"chr2 {at} . A C 50 PASS . GT 0/1" for at in range(1000, 40_000, 1500)),
]
INSIDE = {
    "{chr1}:50000-50100": {"del"},
    "{chr1}:30000-30100": {"del", "cn"},
    "{chr1}:820-830": {"del", "dup", "cn", "long"},
    "{chr1}:59999-70000,{chr2}:44990-44999": {"del"},
    "{chr1}:300-300": {"del", "dup", "inv"},
}


@pytest.mark.parametrize(("kind", "index"), [("vcf.gz", "csi"), ("vcf.gz", "tbi"), ("vcf.gz", None), ("bcf", "csi")])
def test_regions_that_begin_inside_a_record(upload: Upload, tmp_path: Path, kind: str, index: str | None) -> None:
    """Guards: a record that began far left of the region, by its END or its REF, is in the answer."""
    upload.add(f"a.{kind}", text(LONG, ["A"]), index)
    upload.add(f"b.{kind}", text([each.replace("0/1", "1/1") for each in LONG], ["B"]), index)
    for number, (regions, ids) in enumerate(INSIDE.items()):
        found = {line.split("\t")[2] for line in ask(upload, tmp_path / str(number), asked(regions))}
        assert found - {"."} == ids


def test_length_without_end(upload: Upload, tmp_path: Path) -> None:
    """Guards: VCF 4.4 says how long a deletion is by SVLEN alone; whatever this release makes of that, so do we."""
    records = [each.replace("END=60000", "SVLEN=-59900").replace("END=45000", "SVLEN=44000") for each in LONG]
    upload.add("a.vcf.gz", text(records, ["A"], version="VCFv4.4", more=VERSIONS["VCFv4.4"]))
    for number, regions in enumerate(("{chr1}:50000-50100", "{chr1}:30000-32000", "{chr2}:20000-21000")):
        ask(upload, tmp_path / str(number), asked(regions))


def gvcf(calls: Sequence[str], every: int, begin: int) -> list[str]:
    """Blocks of hom-ref one after the other, a variant between them now and then."""
    lines = []
    for number, position in enumerate(range(begin, 30_000, every)):
        call = calls[number % len(calls)]
        if number % 4 == 3:
            lines.append(f"chr1 {position} . A C,<NON_REF> 50 PASS DP=9 GT:DP:PL {call}:9:0,1,2,3,4,5")
        else:
            end = position + every - 1
            lines.append(f"chr1 {position} . A <NON_REF> . . END={end} GT:DP:PL 0/0:7:0,20,200")
    return lines


@pytest.mark.parametrize("kind", ["vcf.gz", "bcf"])
def test_regions_that_begin_inside_a_gvcf_block(upload: Upload, tmp_path: Path, kind: str) -> None:
    """Guards: the block that covers the region's begin is in the answer, of one file and of two with other blocks."""
    places = ["{chr1}:10450-10460", "{chr1}:9000-12000", "{chr1}:29990-40000", None]
    upload.add(f"a.{kind}", text(gvcf(["0/1", "1/1"], 400, 1), ["A"]))
    alone = [len(ask(upload, tmp_path / f"one.{at}", asked(place))) for at, place in enumerate(places)]
    assert alone == [1, 8, 1, 75]
    upload.add(f"b.{kind}", text(gvcf(["0/1", "1/2"], 700, 50), ["B"]))
    both = [len(ask(upload, tmp_path / f"two.{at}", asked(place))) for at, place in enumerate(places)]
    assert all(more >= one for more, one in zip(both, alone, strict=True))


# --- 0 samples ---------------------------------------------------------------------------------------------------

SITES = [f"{contig} {at} . A C 50 PASS DP={at}" for contig in ("chr1", "chr2") for at in range(100, 20_000, 500)]


@pytest.mark.parametrize("kind", ["vcf.gz", "bcf"])
def test_files_without_samples(upload: Upload, tmp_path: Path, kind: str) -> None:
    """Guards: a table of sites is answered from like any other file, and two are put together in order."""
    upload.add(f"a.{kind}", text(SITES[::2], []))
    records = ask(upload, tmp_path / "one", asked("{chr1}:3000-9000,{chr2}:100-600"))
    assert (len(records), {len(line.split("\t")) for line in records}) == (7, {8})
    upload.add(f"b.{kind}", text(SITES[1::2], []))
    assert len(ask(upload, tmp_path / "two", asked("{chr1}:3000-9000,{chr2}:100-600"))) == 14


def test_a_file_without_samples_beside_one_with(upload: Upload, tmp_path: Path) -> None:
    """Guards: where there are samples, tables of sites are left out, and the plan says so."""
    upload.add("a.vcf.gz", text(snps("0/1:5"), ["A"]))
    upload.add("sites.vcf.gz", text(SITES, []))
    plan = make_plan(asked().request, upload.files, None, upload.find_maps)
    assert plan.warnings == ("1 file(s) without samples are left out: sites.vcf.gz.",)
    assert len(ask(upload, tmp_path, asked("{chr1}:3000-9000"))) == 8


# --- names of contigs --------------------------------------------------------------------------------------------

NAMES = ("chr1", "chr1:100-200", "HLA:3-1", "HLA-A*01:01:01:01", "chr-2", "gi|12|ref", "1", "GL000192.1", "a=b")


@pytest.mark.parametrize("kind", ["vcf.gz", "bcf"])
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "not declared"])
def test_names_of_contigs(upload: Upload, tmp_path: Path, kind: str, declared: bool) -> None:
    """Guards: a name with `:`, `-` and the like is a name and not a range, in header, index, plan and on the node."""
    lines = "".join(f"##contig=<ID={each},length=100000>\n" for each in NAMES) if declared or kind == "bcf" else ""
    for file, call in (("a", "0/1:5"), ("b", "1/1:6")):
        upload.add(f"{file}.{kind}", text(snps(call, NAMES), [file.upper()], contigs=lines))
    some = [name for name in NAMES if name not in ("1", "GL000192.1")]
    records = ask(upload, tmp_path, asked(",".join(f"{{{name}}}:3000-9000" for name in some)))
    assert [line.split("\t")[0] for line in records] == [name for name in some for _ in range(8)]


# --- headers without contigs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "by", "regions"),
    [
        ("csi", "-r", "{chr2}:3000-9000"),
        ("tbi", "-r", "{chr2}:1-900,{chr1}:3000-9000"),
        (None, "-r", "{chrX}"),
        ("csi", "-t", "{chrX}:1-900,{chr1}:3000-9000"),
        ("tbi", "-r", None),
    ],
)
def test_one_header_without_contigs(
    upload: Upload, tmp_path: Path, index: str | None, by: str, regions: str | None
) -> None:
    """Guards: what contigs there are is known from the index; the result's header has all, whatever is asked."""
    upload.add("a.vcf.gz", text(snps("0/1:5", ("chr1", "chr2", "chrX")), ["A"], contigs=""), index)
    assert len(ask(upload, tmp_path, asked(regions, by))) > 7


@pytest.mark.parametrize(
    ("second", "order"),
    [(CONTIG_LINES, ("chr1", "chr2", "chrX")), ("", ("chr1", "chr2", "chrX")), ("", ("chr2", "chrX"))],
    ids=["beside contigs", "none has contigs", "others"],
)
@pytest.mark.parametrize("same", [True, False], ids=["concat", "merge"])
def test_two_headers_without_contigs(
    upload: Upload, tmp_path: Path, second: str, order: tuple[str, ...], same: bool
) -> None:
    """Guards: files whose headers name no contigs are combined in the order of the first that has them."""
    upload.add("a.vcf.gz", text(snps("0/1:5", ("chr1", "chr2")), ["A"], contigs=""))
    upload.add("b.vcf.gz", text(snps("1/1:5", order, 350), ["A" if same else "B"], contigs=second), "tbi")
    for regions in ("{chrX}:1-900,{chr1}:3000-9000", None):
        assert len(ask(upload, tmp_path / str(regions), asked(regions))) > 8
