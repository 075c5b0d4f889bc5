"""Many small files, and one of many samples: what the plan says of memory and processes, and what the job then takes.

The gateway's own code looks at the files and plans; the node's own code stages from a server on the same machine and
runs. Files are made from a seed, as one that is varied.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread

import psutil
import pysam.bcftools
from divbase_gateway.domain.files import CataloguedFile
from divbase_gateway.domain.index_maps import FileMap, unpack
from divbase_gateway.domain.planning import make_plan
from divbase_gateway.domain.queries import Plan, QueryRequest, Selection
from divbase_gateway.local.bcftools import write_pysam_bcftools
from divbase_gateway.services.catalogue import inspect

from benchmarks.bare_node import prepare, start
from benchmarks.faulty_store import FaultyStore
from benchmarks.figures import Section, Table, spread
from benchmarks.stack import say
from tests.fakes.object_store import FakeObjectStore
from tests.variants import bgzf, vcf_header

_CONTIGS = {"chr1": 4_000_000}
_REGION = "chr1:1000000-1400000"
_LOOK_S = 0.3
_ROUNDS = 3
_VARIANTS = 8
"""Of genotypes; more files have those of others under other names."""
PROGRAM = "DIVBASE_BENCH_CROWD_BCFTOOLS"
"""Path of a bcftools that is used instead of that of pysam, which is started by way of Python."""


@dataclass(frozen=True)
class Crowd:
    """`files` files of `samples` samples each, with the same sites."""

    title: str
    files: int
    samples: int
    sites: int


QUICK = (Crowd("50 files of one sample", 50, 1, 2000), Crowd("1 file of 200 samples", 1, 200, 2000))
FULL = (
    Crowd("100 files of one sample", 100, 1, 20_000),
    Crowd("1,000 files of one sample", 1000, 1, 20_000),
    Crowd("1 file of 2,000 samples", 1, 2000, 20_000),
)


@dataclass(frozen=True)
class Taken:
    """Seconds of planning (each round) and of the node's steps, the most at a time of what the processes had."""

    planning_s: tuple[float, ...]
    staging_s: float
    running_s: float
    memory_mb: int
    processes: int
    open_files: int
    planned_mb: int
    planned_processes: int
    bytes_read: int
    records: int
    samples: int


def measure(folder: Path, quick: bool) -> Section:
    """Make, plan and run each crowd."""
    named = os.environ.get(PROGRAM)
    (folder / "bin").mkdir()
    if named:
        (folder / "bin" / "bcftools").symlink_to(Path(named).resolve())
    program = folder / "bin" / "bcftools" if named else write_pysam_bcftools(folder / "bin").path
    taken = {}
    for number, crowd in enumerate(QUICK if quick else FULL):
        say(crowd.title)
        taken[crowd.title] = _take(crowd, folder / str(number), program)
        say(str(taken[crowd.title]))
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    rows = tuple((title, *_row(one)) for title, one in taken.items())
    columns = (
        "",
        "plan, ms",
        "stage, s",
        "run, s",
        "memory, MB",
        "planned, MB",
        "processes",
        "files open",
        "records",
    )
    words = (
        f"A region (a tenth of the genome) of all samples, with bcftools {version}"
        f"{'' if named else ' of pysam, each of whose processes is a Python too'}. Planning: of files that are in the "
        "catalogue with their indexes' maps in memory. Memory: of all processes of the job at a time, what they share "
        f"counted once (PSS), by a look every {_LOOK_S:g} s. Files open: of all processes together.",
    )
    raw = {title: asdict(one) for title, one in taken.items()}
    return Section("crowds", "Many files, many samples", words, (Table("What a crowd takes", columns, rows),), raw)


def _row(one: Taken) -> tuple[str, ...]:
    planning = str(spread([1000 * each for each in one.planning_s]))
    times = (f"{one.staging_s:.1f}", f"{one.running_s:.1f}")
    counts = (str(one.memory_mb), str(one.planned_mb), str(one.processes), str(one.open_files), str(one.records))
    return planning, *times, *counts


# --- one crowd ---------------------------------------------------------------------------------------------------


def _take(crowd: Crowd, folder: Path, program: Path) -> Taken:
    folder.mkdir()
    kept, files, maps = _catalogue(crowd, folder)
    planning, plan = [], None
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        plan = _planned(files, maps)
        planning.append(time.perf_counter() - begun)
    assert plan is not None
    with FaultyStore() as store:
        store.objects = kept
        prepare(folder / "run", plan, store, retry_for_s=60)
        process = start(folder / "run", program)
        with _Look(process.pid) as look:
            process.wait()
    log = (folder / "run" / "job" / "job.log").read_text(errors="replace")
    if process.returncode:
        raise RuntimeError(f"the node's steps failed: {log[-3000:]}")
    state = json.loads((folder / "run" / "scratch" / "state.json").read_text())
    counts, timings = state["counts"], state["timings"]
    return Taken(
        tuple(planning),
        timings["staging_s"],
        timings["running_s"],
        look.memory >> 20,
        look.processes,
        look.open_files,
        plan.memory_mb,
        len(plan.processes),
        plan.bytes_needed,
        counts["records"],
        counts["samples"],
    )


def _catalogue(crowd: Crowd, folder: Path) -> tuple[dict[str, bytes], list[CataloguedFile], dict[str, FileMap]]:
    """The objects by key, the files as the gateway sees them, and their maps."""
    store = FakeObjectStore()
    store.ensure_bucket("b")
    objects: dict[str, bytes] = {}
    files, maps = [], {}
    for key, body in _bodies(crowd):
        path = folder / key
        path.write_bytes(body)
        pysam.bcftools.index("--csi", str(path))
        objects |= {key: body, f"{key}.csi": Path(f"{path}.csi").read_bytes()}
        info, index = (store.write("b", name, objects[name]) for name in (key, f"{key}.csi"))
        seen = inspect(store, "b", info, None, [index])
        assert seen.file.data_begin is not None, seen.file.reason
        files.append(seen.file)
        maps[key] = FileMap(seen.file.data_begin, {name: unpack(each) for name, each in seen.maps.items()})
        for each in (path, Path(f"{path}.csi")):
            each.unlink()
    return objects, files, maps


def _bodies(crowd: Crowd) -> Iterator[tuple[str, bytes]]:
    """(key, file): the sites are those of all files."""
    rng = random.Random(7)
    places = sorted(rng.sample(range(1, _CONTIGS["chr1"]), crowd.sites))
    fixed = [f"chr1\t{place}\t.\t{'ACGT'[place % 4]}\t{'CGTA'[place % 4]}\t50\tPASS\tDP=9\tGT:DP" for place in places]
    calls = ("0/0:9", "0/1:8", "1/1:7", "./.:.", "0/0:11", "0/0:10")
    packed = []
    for seed in range(min(crowd.files, _VARIANTS)):
        rng = random.Random(seed)
        rows = ("\t".join([site, *rng.choices(calls, k=crowd.samples)]) for site in fixed)
        packed.append(bgzf(("\n".join(rows) + "\n").encode(), block=16_000))
    for file in range(crowd.files):
        names = [f"S{file * crowd.samples + each:05}" for each in range(crowd.samples)]
        header = bgzf(vcf_header(names, _CONTIGS).encode(), eof=False)
        yield f"part.{file:04}.vcf.gz", header + packed[file % len(packed)]


def _planned(files: Sequence[CataloguedFile], maps: Mapping[str, FileMap]) -> Plan:
    request = QueryRequest(Selection(all_samples=True), command=f"view -r {_REGION}")
    return make_plan(request, files, None, lambda some, contigs: {each.key: maps[each.key] for each in some})


class _Look:
    """While it is entered: the most memory, processes and open files of a process and all that it started."""

    def __init__(self, pid: int):
        self.memory, self.processes, self.open_files = 0, 0, 0
        self._pid = pid
        self._over = Event()
        self._thread = Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Look:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_S):
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(self._pid)
                pids = [process.pid, *(each.pid for each in process.children(recursive=True))]
                self.memory = max(self.memory, sum(map(_share_of_memory, pids)))
                self.processes = max(self.processes, len(pids))
                self.open_files = max(self.open_files, sum(map(_open_files_of, pids)))


def _share_of_memory(pid: int) -> int:
    """What it has for itself, and its share of what it shares."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def _open_files_of(pid: int) -> int:
    with suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0
