"""What becomes of an answer when network or files are at fault: DivBase against bcftools that reads S3 by itself.

Both ask for the same region of the same file through the same faulty server. For DivBase the gateway's own code looks
at file and index as it does after an upload and plans, and the node's own code stages and runs. An answer is right when
its records are those of the file as it was planned with; it is loud when the exit status is not 0. Everything else is
silent.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from divbase_gateway.domain.files import CataloguedFile, FileState, IndexKind, IndexRef
from divbase_gateway.domain.index_maps import FileMap, unpack
from divbase_gateway.domain.planning import make_plan
from divbase_gateway.domain.queries import Plan, QueryRequest, Selection
from divbase_gateway.local.bcftools import write_pysam_bcftools
from divbase_gateway.services.catalogue import attach_index, inspect

from benchmarks.bare_node import prepare, start
from benchmarks.faulty_store import WELL, Behaviour, FaultyStore, Reply
from benchmarks.figures import Section, Table
from benchmarks.stack import say
from tests.fakes.object_store import FakeObjectStore
from tests.variants import index_variants, vcf_header, vcf_records, write_variants

MORE_PROGRAMS = "DIVBASE_BENCH_BCFTOOLS"
"""Paths of other releases of bcftools, `:` between them; they read by themselves for the comparison."""

_KEY = "calls.vcf.gz"
_CONTIGS = {"chr1": 2_000_000}
_SAMPLES = tuple(f"S{number:03}" for number in range(40))
_SITES = 6000
_REGION = "chr1:700000-1100000"
_NAIVE = (("view", "-H"), ("query", "-f", r"%CHROM\t%POS\t%REF\t%ALT[\t%GT]\n"))
_RETRY_FOR_S = 3
_PATIENCE_S = 60


@dataclass(frozen=True)
class Objects:
    """What is in the store: the file and its index; `planned` is the file as it was when the query was planned."""

    file: bytes
    index: bytes
    planned: bytes


@dataclass(frozen=True)
class Fault:
    """`spoil`: what was uploaded, out of what is well. `behave`: how the store answers, once there is a plan."""

    title: str
    behave: Behaviour = WELL
    spoil: Callable[[Objects, Objects], Objects] | None = None


@dataclass(frozen=True)
class Ending:
    """How one reader ended: records that it gave, or None where there is no answer; `words` of the failure."""

    right: bool
    loud: bool
    records: int
    words: str

    @property
    def shown(self) -> str:
        if self.loud:
            return "loud failure"
        return "right" if self.right else f"**SILENT**, {self.records}"


FAULTS = (
    Fault("none"),
    Fault("two connections dropped in mid-body", lambda get: Reply(drop=get.number < 2)),
    Fault("every connection dropped in mid-body", lambda get: Reply(drop=True)),
    Fault("503, five times", lambda get: Reply(status=503 if get.number < 5 else None)),
    Fault("503 from the second request on", lambda get: Reply(status=503 if get.number else None)),
    Fault("503 storm", lambda get: Reply(status=503)),
    Fault("two short bodies with a length that agrees", lambda get: Reply(short=get.number < 2)),
    Fault("every body short, with a length that agrees", lambda get: Reply(short=True)),
    Fault("a bit flipped on the way, every time", lambda get: Reply(flip=True)),
    Fault("object replaced before the first read", lambda get: Reply(other=True)),
    Fault("object replaced after the first read", lambda get: Reply(other=get.number > 0)),
    Fault("URL expired before the job", lambda get: Reply(status=None if get.renewed else 403)),
    Fault("URL expires in mid-job", lambda get: Reply(status=None if get.renewed or not get.number else 403)),
    Fault("no URL works any more", lambda get: Reply(status=403)),
    Fault("corrupt block", spoil=lambda well, other: _spoilt(well, _with_zeros(well.file))),
    Fault("file truncated between blocks", spoil=lambda well, other: _spoilt(well, _cut(well.file, 0.45))),
    Fault(
        "file truncated, end block written", spoil=lambda well, other: _spoilt(well, _cut(well.file, 0.45, end=True))
    ),
    Fault("index of another file", spoil=lambda well, other: Objects(well.file, other.index, well.file)),
    Fault("index older than the file", spoil=lambda well, other: Objects(other.file, well.index, other.file)),
)


def measure(folder: Path, quick: bool) -> Section:
    """Every fault for every reader; the answers are compared with that of the whole file, read from the disk."""
    bench = Bench(folder)
    faults = FAULTS[:: 3 if quick else 1]
    rows, raw = [], []
    readers = bench.readers()
    with FaultyStore() as store:
        for fault in faults:
            spoilt = fault.spoil(bench.well, bench.other) if fault.spoil else bench.well
            expected = bench.expected(spoilt)
            endings = {title: read(store, fault, spoilt, expected) for title, read in readers.items()}
            say(f"{fault.title}: " + ", ".join(f"{title} {each.shown}" for title, each in endings.items()))
            rows.append((fault.title, str(len(expected)), *(each.shown for each in endings.values())))
            raw.append({"fault": fault.title, "expected": len(expected), **{t: vars(e) for t, e in endings.items()}})
    columns = ("", "records expected", *readers)
    silent = [sum("SILENT" in row[at] for row in rows) for at in range(2, len(columns))]
    counted = ", ".join(f"{title} {count}" for title, count in zip(columns[2:], silent, strict=True))
    words = (*_WORDS, f"Silent wrong answers among {len(rows)} rows: {counted}.")
    table = Table("What the user gets", columns, tuple(rows))
    return Section("faults", "When something goes wrong", words, (table,), {"rows": raw})


_WORDS = (
    f"A region (`{_REGION}`) of a file of {len(_SAMPLES)} samples and {_SITES} records, through a server that has the "
    "fault of the row. DivBase: the gateway looks at the file as after an upload and plans, the node stages and runs. "
    f"The others: `bcftools view -r {_REGION} URL` and `bcftools query -r {_REGION} -f '...' URL`, with the URL of the "
    "index beside it, as people read from S3 with presigned URLs. Requests for the index are always answered well.",
    "Right: exit status 0 and exactly the records that the file had when the query was planned. Loud: an exit status "
    "other than 0, or the file was refused with its reason before there was a plan. SILENT: exit status 0 and other "
    "records than those, with the number of records that came.",
)


# --- files -------------------------------------------------------------------------------------------------------


def _spoilt(well: Objects, file: bytes) -> Objects:
    return Objects(file, well.index, well.file)


def _with_zeros(body: bytes) -> bytes:
    at = len(body) * 45 // 100
    return body[:at] + bytes(40) + body[at + 40 :]


def _cut(body: bytes, share: float, end: bool = False) -> bytes:
    """As far as the last block that ends before that share of the file."""
    at = 0
    while at + (step := int.from_bytes(body[at + 16 : at + 18], "little") + 1) <= len(body) * share:
        at += step
    return body[:at] + (body[-28:] if end else b"")


class Bench:
    """Two files of one kind and the readers."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._number = 0
        self.program = write_pysam_bcftools(folder / "bin").path
        self.well = self._make("well", 1, _SITES)
        self.other = self._make("other", 2, _SITES + 500)

    def _make(self, name: str, seed: int, sites: int) -> Objects:
        path = self._folder / name / _KEY
        path.parent.mkdir()
        records = "".join(vcf_records("chr1", _CONTIGS["chr1"], _SAMPLES, sites, seed))
        write_variants(path, vcf_header(_SAMPLES, _CONTIGS) + records)
        index = index_variants(path, "csi")
        return Objects(path.read_bytes(), index.read_bytes(), path.read_bytes())

    def _new_folder(self) -> Path:
        self._number += 1
        folder = self._folder / f"try.{self._number}"
        folder.mkdir()
        return folder

    def expected(self, objects: Objects) -> list[str]:
        """Records of the region by way of no index at all."""
        folder = self._new_folder()
        (folder / _KEY).write_bytes(objects.planned)
        return _run([self.program, "view", "-H", "-t", _REGION, "--targets-overlap", "1", folder / _KEY])[1]

    def readers(self) -> Mapping[str, Callable[[FaultyStore, Fault, Objects, Sequence[str]], Ending]]:
        others = [Path(each) for each in os.environ.get(MORE_PROGRAMS, "").split(":") if each]
        programs = {_version(each): each for each in (self.program, *others)}
        naive = {
            f"bcftools {version} {words[0]}": _Naive(program, self.program, self._new_folder, words)
            for version, program in programs.items()
            for words in _NAIVE
        }
        return {"DivBase": self.by_divbase, **naive}

    def by_divbase(self, store: FaultyStore, fault: Fault, objects: Objects, expected: Sequence[str]) -> Ending:
        folder = self._new_folder()
        planned = self._plan(folder, objects)
        if isinstance(planned, str):
            return Ending(right=False, loud=True, records=0, words=planned)
        store.objects = {_KEY: objects.file, "index": objects.index}
        store.faulty, store.successor = _KEY, self.other.file
        store.reset(fault.behave)
        status, log = _stage_and_run(folder, planned, store, self.program)
        if status:
            return Ending(right=False, loud=True, records=0, words=log)
        records = _run([self.program, "view", "-H", folder / "scratch" / "out" / planned.output_name])[1]
        return Ending(records == expected, False, len(records), log)

    def _plan(self, folder: Path, objects: Objects) -> Plan | str:
        """What the gateway plans after it has looked at the upload, or its reason for not using the file."""
        kept = FakeObjectStore()
        kept.ensure_bucket("b")
        info = kept.write("b", _KEY, objects.file)
        index = kept.write("b", f"{_KEY}.csi", objects.index)
        seen = inspect(kept, "b", info, None, [index])
        file, maps = seen.file, seen.maps
        if file.state is FileState.INDEXING:  # the index is none of this file: a job makes another
            (folder / _KEY).write_bytes(objects.file)
            status, _, words = _run([self.program, "index", "--csi", folder / _KEY])
            if status:
                return words
            index = kept.write("b", "made.csi", (folder / f"{_KEY}.csi").read_bytes())
            made = IndexRef("made.csi", index.version_id, IndexKind.CSI, index.size, index.etag)
            indexed = attach_index(kept, "b", file, made)
            file, maps = indexed.file, indexed.maps
        if file.state is not FileState.READY:
            return f"refused: {file.reason}"
        return _planned(file, maps)


def _planned(file: CataloguedFile, maps: Mapping[str, bytes]) -> Plan:
    assert file.data_begin is not None
    known = FileMap(file.data_begin, {name: unpack(each) for name, each in maps.items()})
    request = QueryRequest(Selection(all_samples=True), command=f"view -r {_REGION}")
    return make_plan(request, [file], None, lambda some, contigs: {each.key: known for each in some})


# --- DivBase's node ----------------------------------------------------------------------------------------------


def _stage_and_run(folder: Path, plan: Plan, store: FaultyStore, program: Path) -> tuple[int, str]:
    """Exit status and log of the node's two steps."""
    prepare(folder, plan, store, _RETRY_FOR_S)
    status = start(folder, program).wait(timeout=_PATIENCE_S)
    return status, (folder / "job" / "job.log").read_text(errors="replace")


# --- bcftools by itself ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Naive:
    """bcftools on presigned URLs. `reference` reads the file that was planned with, from the disk."""

    program: Path
    reference: Path
    new_folder: Callable[[], Path]
    words: tuple[str, ...]

    def __call__(self, store: FaultyStore, fault: Fault, objects: Objects, expected: Sequence[str]) -> Ending:
        store.objects = {_KEY: objects.file, "index": objects.index}
        store.reset(fault.behave)
        url = f"{store.signed(_KEY)}##idx##{store.signed('index')}"
        folder = self.new_folder()  # bcftools leaves the index there, and would take it for that of the next try
        (folder / _KEY).write_bytes(objects.planned)
        place = ("-t", _REGION, "--targets-overlap", "1")
        expected = _run([self.reference, *self.words, *place, folder / _KEY])[1]
        status, records, words = _run([self.program, *self.words, "-r", _REGION, url], folder)
        return Ending(status == 0 and records == expected, status != 0, len(records), words)


def _run(command: Sequence[str | Path], folder: Path | None = None) -> tuple[int, list[str], str]:
    """(status, lines, words); what does not end is killed, and that is a status too."""
    try:
        ended = subprocess.run(command, cwd=folder, capture_output=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return 124, [], "it did not end"
    printed, words = (each.decode(errors="replace") for each in (ended.stdout, ended.stderr))
    return ended.returncode, printed.splitlines(), words


def _version(program: Path) -> str:
    return _run([program, "--version"])[1][0].split()[1]
