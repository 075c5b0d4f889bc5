"""The golden scripts, really run: bash, the node helper, a real bcftools, and a gateway with S3 that has faults."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pysam
import pytest
from divbase_gateway.domain.regions import Region
from divbase_jobscripts import node
from divbase_jobscripts.render import IndexScript, QueryScript, node_helper_source

from tests.bcftools import bcftools_for_tests
from tests.fakes.node_gateway import SIGNATURE, TOKEN, NodeGateway
from tests.golden.scripts import CONCAT, FILLED, INDEX, MERGE, MIXED, SHARDED, SINGLE, TABLE, render
from tests.parts import BlockFile, block_file, in_manifest
from tests.variants import EOF_BLOCK, simulate, vcf_header, vcf_records, write_variants

pytestmark = pytest.mark.slow  # real programs

CONTIGS = {"chr1": 1_000_000, "chr2": 500_000}
NORTH = ["N1", "N2", "N3"]
SOUTH = ["S1", "S2"]


@pytest.fixture(scope="module")
def bcftools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bcftools_for_tests(tmp_path_factory.mktemp("bcftools"))


@pytest.fixture
def gateway() -> Iterator[NodeGateway]:
    with NodeGateway() as server:
        yield server


@dataclass(frozen=True)
class Ended:
    """A script that ended: its exit status, its log, and what it left in $TMPDIR."""

    status: int
    log: str
    left_behind: list[str]


@dataclass(frozen=True)
class JobFolder:
    """A job's directory as a scheduler makes it, with a PATH of its own."""

    path: Path
    python: str = sys.executable

    def prepare(self, script: QueryScript | IndexScript, gateway: NodeGateway, bcftools: Path | None) -> None:
        for name in ("job", "bin", "tmp"):
            (self.path / name).mkdir(parents=True)
        self.write("job/script.sh", render(script), 0o600)
        self.write("job/divbase_node.py", node_helper_source().decode(), 0o600)
        self.write("job/job.json", json.dumps(gateway.ticket()), 0o600)
        self.write("bin/python3", f'#!/bin/sh\nexec {self.python} "$@"\n', 0o755)
        if bcftools is not None:
            (self.path / "bin/bcftools").symlink_to(bcftools)

    def write(self, name: str, text: str, mode: int) -> None:
        (self.path / name).write_text(text, encoding="utf-8")
        (self.path / name).chmod(mode)

    def start(self, **variables: str) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": f"{self.path}/bin:/usr/bin:/bin",
            "TMPDIR": f"{self.path}/tmp",
            "LC_ALL": "C",
            **variables,
        }
        with (self.path / "job/job.log").open("ab") as log:
            return subprocess.Popen(
                ["bash", "script.sh"],
                cwd=self.path / "job",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, process: subprocess.Popen[bytes]) -> Ended:
        try:
            status = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        log = (self.path / "job/job.log").read_text(encoding="utf-8", errors="replace")
        assert TOKEN not in log
        assert SIGNATURE not in log
        return Ended(status, log, sorted(os.listdir(self.path / "tmp")))


Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path, gateway: NodeGateway, bcftools: Path) -> Run:
    def run_script(script: QueryScript | IndexScript, name: str = "run", **options: Any) -> Ended:
        folder = JobFolder(tmp_path / name)
        folder.prepare(script, gateway, options.get("bcftools", bcftools))
        return folder.wait(folder.start(**options.get("variables", {})))

    return run_script


def records(body: bytes, path: Path) -> list[str]:
    """The result's records as VCF lines, read by pysam's own API."""
    path.write_bytes(body)
    with pysam.VariantFile(str(path)) as file:
        return [str(record).rstrip("\n") for record in file]


def genotypes(lines: list[str]) -> list[tuple[str, str, list[str]]]:
    """(contig, position, genotype of every sample)"""
    cells = [line.split("\t") for line in lines]
    return [(row[0], row[1], [cell.split(":")[0] for cell in row[9:]]) for row in cells]


def lines_of(samples: Sequence[str], sites: int, seed: int = 1) -> list[str]:
    text = "".join(vcf_records(contig, length, samples, sites, seed) for contig, length in CONTIGS.items())
    return text.splitlines()


def add_single(gateway: NodeGateway, folder: Path, checksum: str = "sha256", sites: int = 50) -> Path:
    """The input of SINGLE: three samples, of which two are kept."""
    file = simulate(folder / "snps.vcf.gz", samples=NORTH, contigs=CONTIGS, index="csi", sites=sites)
    gateway.add_input(file.path, index=file.index, samples=["N1", "N3"], checksum=checksum)
    return file.path


def add_single_part(gateway: NodeGateway, folder: Path) -> BlockFile:
    """The input of SINGLE, of which only the blocks of its region are read."""
    text = vcf_header(NORTH, CONTIGS) + "\n".join(lines_of(NORTH, 6000)) + "\n"
    file = block_file(folder / "snps.vcf.gz", text, block=20_000)
    part = in_manifest(file.part(Region("chr1", 1, 500_000)))
    gateway.add_input(file.path, samples=["N1", "N3"], part=part)
    return file


def add_two_groups(gateway: NodeGateway, folder: Path) -> None:
    """The inputs of MERGE: of the first only N1 and N3 are kept."""
    for name, samples, kept in (("north", NORTH, ["N1", "N3"]), ("south", SOUTH, None)):
        file = simulate(folder / f"{name}.vcf.gz", samples=samples, contigs=CONTIGS, index="csi")
        gateway.add_input(file.path, index=file.index, samples=kept)


def replace_input(gateway: NodeGateway, folder: Path, body: bytes) -> None:
    """One input of this content, whatever it is."""
    path = folder / "snps.vcf.gz"
    path.write_bytes(body)
    gateway.add_input(path)


def failure(ended: Ended, gateway: NodeGateway) -> tuple[str, str]:
    """(reason, message) after what holds for every failure that could be reported."""
    assert ended.status not in (0, 3)
    assert ended.left_behind == []
    assert gateway.report["status"] == "failed"
    assert set(gateway.outputs) <= {"job.log"}
    assert TOKEN not in json.dumps(gateway.report)
    assert SIGNATURE not in json.dumps(gateway.report)
    return gateway.report["reason"], gateway.report["message"]


# --- the four ways to combine, and the index -----------------------------------------------------------------------


def test_single(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """A region, a selection of samples and an expression give the records that a reader of the input finds."""
    add_single(gateway, tmp_path)
    ended = run(SINGLE)
    assert (ended.status, ended.left_behind) == (0, [])
    expected = [
        (row[0], row[1], [row[9].split(":")[0], row[11].split(":")[0]])
        for row in (line.split("\t") for line in lines_of(NORTH, 50))
        if row[0] == "chr1" and int(row[1]) <= 500_000 and int(row[5]) > 30 and len(row[3]) == 1
    ]
    assert len(expected) > 5
    assert genotypes(records(gateway.outputs["result.vcf.gz"].body, tmp_path / "result.vcf.gz")) == expected
    assert gateway.report["counts"] == {"records": len(expected), "samples": 2}


def test_single_from_a_part(run: Run, gateway: NodeGateway, tmp_path: Path, bcftools: Path) -> None:
    """What is not needed is not read, and the result is that of the whole file; provenance says how much was."""
    file = add_single_part(gateway, tmp_path)
    slow = fake_bcftools(tmp_path, bcftools, '[[ "$*" == *QUAL* ]] && sleep 0.3')
    assert run(SINGLE, "part", bcftools=slow).status == 0
    of_part = gateway.outputs["result.vcf.gz"].body
    record = json.loads(gateway.outputs["provenance.json"].body)
    read = sum(span[1] for span in gateway.inputs[0]["part"]["spans"])
    assert (record["inputs"][0]["bytes_read"], read < file.size / 2) == (read, True)
    (staged,) = {told["total"] for told in gateway.bodies("progress") if told["stage"] == "running"}
    assert 0.9 * read < staged < 1.1 * read
    gateway.inputs.clear()
    gateway.add_input(file.path, index=file.index, samples=["N1", "N3"])
    gateway.claimant = None
    assert run(SINGLE, "whole").status == 0
    assert (of_part, gateway.bodies("finish")[-1]["counts"]["records"] > 1000) == (
        gateway.outputs["result.vcf.gz"].body,
        True,
    )
    assert json.loads(gateway.outputs["provenance.json"].body)["inputs"][0]["bytes_read"] == file.size


def test_concat(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """Files of one contig each become one file in order."""
    for contig in CONTIGS:
        path = tmp_path / f"{contig}.vcf.gz"
        file = simulate(path, samples=NORTH, contigs=CONTIGS, sites={contig: 50}, index="csi")
        gateway.add_input(file.path, index=file.index)
    assert run(CONCAT).status == 0
    found = records(gateway.outputs["result.vcf.gz"].body, tmp_path / "result.vcf.gz")
    assert genotypes(found) == genotypes(lines_of(NORTH, 50))


def test_merge(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """Samples of two files stand side by side, those that were not selected left out."""
    add_two_groups(gateway, tmp_path)
    assert run(MERGE).status == 0
    found = records(gateway.outputs["result.vcf.gz"].body, tmp_path / "result.vcf.gz")
    assert genotypes(found) == genotypes(lines_of(["N1", "N3", *SOUTH], 50))


def test_shards_are_joined_in_order(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """Each is a merge of its own; those that plain concat reads get no index, which it does not need."""
    for name, samples in (("north", NORTH), ("south", SOUTH)):
        file = simulate(tmp_path / f"{name}.vcf.gz", samples=samples, contigs=CONTIGS, index="csi")
        gateway.add_input(file.path, index=file.index)
    assert run(SHARDED).status == 0
    found = genotypes(records(gateway.outputs["result.vcf.gz"].body, tmp_path / "result.vcf.gz"))
    assert found == [row for row in genotypes(lines_of([*NORTH, *SOUTH], 50)) if row[0] == "chr1"]
    assert {int(row[1]) > 500_000 for row in found} == {False, True}


def test_mixed_with_files_in_between(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """A concat that seeks reads indexed files, while the rest of the pipeline is pipes."""
    for name, seed in (("snps", 1), ("indels", 2)):
        file = simulate(tmp_path / f"north.{name}.vcf.gz", samples=NORTH, contigs=CONTIGS, seed=seed, index="csi")
        gateway.add_input(file.path, index=file.index)
    file = simulate(tmp_path / "south.vcf.gz", samples=SOUTH, contigs=CONTIGS, index="csi")
    gateway.add_input(file.path, index=file.index, samples=["S2"])
    assert run(MIXED).status == 0
    found = genotypes(records(gateway.outputs["result.vcf.gz"].body, tmp_path / "result.vcf.gz"))
    north = {(*row[:2], *row[2]) for row in genotypes(lines_of(NORTH, 50) + lines_of(NORTH, 50, seed=2))}
    assert {(*row[:2], *row[2][:3]) for row in found} == north
    south = genotypes(lines_of(["S2"], 50))
    assert [(contig, position, row[3:]) for contig, position, row in found if row[3:] != ["./."]] == [
        row for row in south if row[2] != ["./."]
    ]


def test_index_job(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """The index of an index job is one that a reader of the file can use."""
    gateway.kind = "index"
    file = simulate(tmp_path / "new.vcf.gz", samples=NORTH, contigs=CONTIGS)
    gateway.add_input(file.path)
    assert run(INDEX).status == 0
    assert gateway.outputs["index.csi"].role == "index"
    assert gateway.report["counts"] == {"records": 100, "samples": 3}
    (tmp_path / "new.vcf.gz.csi").write_bytes(gateway.outputs["index.csi"].body)
    with pysam.VariantFile(str(file.path)) as variants:
        assert len(list(variants.fetch("chr2"))) == 50


def test_empty_result_is_a_result(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """No record in the region is an answer, not a failure."""
    add_single(gateway, tmp_path, sites=0)
    assert run(SINGLE).status == 0
    assert gateway.report["counts"] == {"records": 0, "samples": 2}


def has_plugin(bcftools: Path) -> bool:
    done = subprocess.run([bcftools, "plugin", "-l"], capture_output=True, text=True, check=False)
    return "fill-tags" in done.stdout.split()


def with_last(script: QueryScript, *argv: str) -> QueryScript:
    """The same script with other words for its last process."""
    last = replace(script.processes[-1], argv=argv)
    return replace(script, processes=(*script.processes[:-1], last))


def test_table(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """What the last process prints is the result: no index is made, and its lines are counted."""
    add_two_groups(gateway, tmp_path)
    ended = run(TABLE)
    assert (ended.status, ended.left_behind) == (0, [])
    expected = []
    for contig, position, calls in genotypes(lines_of(["N1", "N3", *SOUTH], 50)):
        alleles = [allele for call in calls for allele in call.split("/") if allele != "."]
        if alleles.count("1") >= 2:
            expected.append("\t".join([contig, position, str(alleles.count("1")), str(len(alleles)), *calls]))
    assert gateway.outputs["result.tsv"].body.decode().splitlines() == expected
    assert {name: output.role for name, output in gateway.outputs.items()} == {
        "result.tsv": "result",
        "provenance.json": "provenance",
        "job.log": "log",
    }
    assert gateway.report["counts"] == {"lines": len(expected)}
    record = json.loads(gateway.outputs["provenance.json"].body)
    assert record["commands"][-1]["argv"] == ["bcftools", *TABLE.processes[-1].argv]
    assert [output["name"] for output in record["outputs"]] == ["result.tsv"]


def test_empty_table_is_a_result(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """No line is an answer too."""
    add_two_groups(gateway, tmp_path)
    assert run(with_last(TABLE, "query", "--include", "POS<0", "--format", r"%POS\n")).status == 0
    assert (gateway.outputs["result.tsv"].body, gateway.report["counts"]) == (b"", {"lines": 0})


def test_two_runs_of_statistics_give_equal_bytes(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """Tables of bcftools stats name the command, and no path or date of the run."""
    add_two_groups(gateway, tmp_path)
    script = with_last(TABLE, "stats", "--samples", "-")
    assert run(script, "first").status == 0
    first = gateway.outputs["result.tsv"].body
    gateway.claimant = None
    assert run(script, "second").status == 0
    assert gateway.outputs["result.tsv"].body == first
    assert b"# The command line was:\tbcftools stats  --samples - -\n" in first


def test_failed_print_is_no_result(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """A table whose process fails is not sent, however much of it was printed."""
    add_two_groups(gateway, tmp_path)
    reason, message = failure(run(with_last(TABLE, "query", "--format", r"%POS\t%NOTHING\n")), gateway)
    assert reason == "bcftools_failed"
    assert "NOTHING" in message


def test_tags_of_all_files_together(run: Run, gateway: NodeGateway, tmp_path: Path, bcftools: Path) -> None:
    """+fill-tags counts every sample of the merged stream; where the plugin is missing, the job says so."""
    add_two_groups(gateway, tmp_path)
    ended = run(FILLED)
    if not has_plugin(bcftools):
        reason, message = failure(ended, gateway)
        assert reason == "bcftools_failed"
        assert "has no plugin for bcftools +fill-tags" in message
        pytest.skip("this bcftools has no plugins: only the failure was seen")
    assert ended.status == 0
    for line in records(gateway.outputs["result.vcf.gz"].body, tmp_path / "result.vcf.gz"):
        info = dict(item.split("=") for item in line.split("\t")[7].split(";"))
        alleles = [allele for cell in line.split("\t")[9:] for allele in cell.split(":")[0].split("/") if allele != "."]
        assert int(info["AN"]) == len(alleles)
        assert float(info["AF"]) == pytest.approx(alleles.count("1") / len(alleles) if alleles else 0, rel=1e-4)


# --- what is left behind and what is reported ----------------------------------------------------------------------


def test_what_is_pushed(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """Result, index, provenance and log arrive, and the report lists them with their checksums."""
    add_single(gateway, tmp_path)
    run(SINGLE)
    roles = {name: output.role for name, output in gateway.outputs.items()}
    assert roles == {
        "result.vcf.gz": "result",
        "result.vcf.gz.csi": "index",
        "provenance.json": "provenance",
        "job.log": "log",
    }
    assert [output["name"] for output in gateway.report["outputs"]] == list(roles)
    assert gateway.outputs["result.vcf.gz"].body.endswith(EOF_BLOCK)
    assert "claimed: query job k3v9" in gateway.report["log_tail"]


def test_provenance(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """The record holds the request, the inputs with checksums, the exact commands and the result's checksum."""
    add_single(gateway, tmp_path)
    run(SINGLE)
    record = json.loads(gateway.outputs["provenance.json"].body)
    assert record["request"] == {"query": "as it was asked"}
    assert record["inputs"][0]["sha256"] == gateway.inputs[0]["sha256"]
    assert record["commands"][0]["argv"] == ["bcftools", *SINGLE.processes[0].argv]
    assert record["outputs"][0]["sha256"] == gateway.report["outputs"][0]["sha256"]
    assert record["tools"]["bcftools"] == gateway.bodies("claim")[0]["bcftools"]


def test_two_runs_give_equal_bytes(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """Same inputs, same query, same tools: the same result and the same index."""
    add_two_groups(gateway, tmp_path)
    run(MERGE, "first")
    first = (gateway.outputs["result.vcf.gz"].body, gateway.outputs["result.vcf.gz.csi"].body)
    gateway.claimant = None
    run(MERGE, "second")
    assert (gateway.outputs["result.vcf.gz"].body, gateway.outputs["result.vcf.gz.csi"].body) == first


def test_large_result_goes_in_parts(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """What is larger than a part is sent as a multipart upload that joins to the same bytes."""
    gateway.part_size = 1000
    add_single(gateway, tmp_path, sites=500)
    assert run(SINGLE).status == 0
    stored = gateway.outputs["result.vcf.gz"]
    assert stored.parts == -(-len(stored.body) // 1000) > 2


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "157"}, "157"),
        ({"SLURM_JOB_ID": "157", "SLURM_ARRAY_JOB_ID": "155", "SLURM_ARRAY_TASK_ID": "2"}, "155_2"),
    ],
)
def test_claim_tells_which_run_it_is(
    run: Run, gateway: NodeGateway, tmp_path: Path, variables: dict[str, str], told: str | None
) -> None:
    """The id that SLURM's commands show: of a task of an array the array's, with its number; none outside SLURM."""
    add_single(gateway, tmp_path)
    gateway.faults.claimed = True
    run(SINGLE, variables=variables)
    assert gateway.bodies("claim")[0]["slurm_job_id"] == told


def test_second_claimant_does_nothing(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """A copy of a job whose attempt is claimed ends with 3: no file is read, nothing is pushed, no end is reported."""
    add_single(gateway, tmp_path)
    gateway.faults.claimed = True
    ended = run(SINGLE)
    assert (ended.status, ended.left_behind) == (3, [])
    assert ([name for name, _ in gateway.calls], gateway.gets, gateway.outputs) == (["claim"], [], {})


def test_dead_token_does_nothing(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """A job whose token is dead ends without work."""
    add_single(gateway, tmp_path)
    gateway.faults.refused_calls = {"claim"}
    ended = run(SINGLE)
    assert (ended.status, ended.left_behind, gateway.calls) == (3, [], [])


def test_refused_report_is_no_success(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """The script ends with 0 only if the gateway took the report."""
    add_single(gateway, tmp_path)
    gateway.faults.refused_calls = {"finish"}
    ended = run(SINGLE)
    assert (ended.status, ended.left_behind) == (1, [])


@pytest.mark.parametrize("call", ["claim", "finish"])
def test_a_gateway_that_stays_away_is_told_by_the_exit_status(
    run: Run, gateway: NodeGateway, tmp_path: Path, call: str
) -> None:
    """75 lets the gateway know, from the scheduler, that nothing is wrong with the question."""
    gateway.retry_for_s = 1
    add_single(gateway, tmp_path)
    gateway.faults.failing_calls = {call: 10**6}
    ended = run(SINGLE)
    assert (ended.status, ended.left_behind) == (75, [])


# --- faults that pass ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        {"failing_gets": 4},
        {"dropped_bodies": 2},
        {"expired": True},
        {"failing_puts": 3},
        {"expired_puts": 2},
        {"damaged_puts": 1},
        {"mismatched": 1},
        {"failing_calls": {"claim": 2, "outputs": 1, "outputs/complete": 1, "finish": 2, "progress": 9}},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_passing_fault_changes_nothing(run: Run, gateway: NodeGateway, tmp_path: Path, fault: dict[str, Any]) -> None:
    """Refused, dropped, expired and damaged transfers are made again until the result is right."""
    add_single(gateway, tmp_path)
    vars(gateway.faults).update(fault)
    assert run(SINGLE).status == 0
    found = genotypes(records(gateway.outputs["result.vcf.gz"].body, tmp_path / "result.vcf.gz"))
    assert (gateway.report["status"], len(found)) == ("succeeded", gateway.report["counts"]["records"])
    assert len(found) > 5


def test_dropped_download_goes_on_where_it_ended(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """The bytes that came before a connection broke are not asked for again."""
    size = add_single(gateway, tmp_path).stat().st_size
    gateway.faults.dropped_bodies = 1
    run(SINGLE)
    ranges = [asked for key, asked in gateway.gets if key == "snps.vcf.gz"]
    assert ranges in ([f"bytes=0-{size - 1}", f"bytes={size // 2}-{size - 1}"], [f"bytes=0-{size - 1}"])


def test_file_in_many_ranges(gateway: NodeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges that arrive in any order, some after drops, refusals and an expired URL, make up the same file."""
    whole = simulate(tmp_path / "a.vcf.gz", samples=NORTH, contigs=CONTIGS, sites=3000, index="tbi")
    gateway.add_input(whole.path, index=whole.index)
    vars(gateway.faults).update(dropped_bodies=5, failing_gets=5, expired=True)
    (tmp_path / "job.json").write_text(json.dumps(gateway.ticket()))
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(node, "RANGE_BYTES", 1000)
    job = node.Job(str(tmp_path / "scratch"))
    job.state["manifest"] = gateway.answer("claim", {"claimant": "me"}, f"Bearer {TOKEN}")[1]
    node.stage(job)
    assert (tmp_path / "scratch/in/1.vcf.gz").read_bytes() == whole.path.read_bytes()
    assert whole.index is not None
    assert (tmp_path / "scratch/in/1.vcf.gz.tbi").read_bytes() == whole.index.read_bytes()
    assert len(gateway.gets) > whole.path.stat().st_size // 1000 + 10
    assert len(gateway.bodies("urls")) == 1


# --- faults that last ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        ({"wrong_bytes": {"snps.vcf.gz"}}, "input_corrupt", "snps.vcf.gz is damaged: its SHA-256 is"),
        ({"short_objects": {"snps.vcf.gz"}}, "input_corrupt", "snps.vcf.gz has not the size"),
        ({"missing": {"snps.vcf.gz"}}, "input_missing", "NoSuchVersion"),
        ({"expired_for_ever": True}, "store_unavailable", "S3 refuses even fresh URLs"),
        ({"failing_gets": 10**6}, "store_unavailable", "503 SlowDown"),
        ({"failing_puts": 10**6}, "store_unavailable", "503 SlowDown"),
        ({"damaged_puts": 10**6}, "upload_failed", "BadDigest"),
        ({"mismatched": 10**6}, "upload_failed", "did not arrive as it was sent"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_lasting_fault_is_reported(
    run: Run, gateway: NodeGateway, tmp_path: Path, fault: dict[str, Any], reason: str, words: str
) -> None:
    """A fault that does not pass ends the job with its reason; there is no result."""
    gateway.retry_for_s = 1
    add_single(gateway, tmp_path)
    vars(gateway.faults).update(fault)
    found = failure(run(SINGLE), gateway)
    assert (found[0], words in found[1]) == (reason, True), found


@pytest.mark.parametrize("checksum", ["sha256", "md5"])
def test_wrong_bytes_are_found_by_each_checksum(run: Run, gateway: NodeGateway, tmp_path: Path, checksum: str) -> None:
    """Where SHA-256 is not known, an ETag that is an MD5 is checked."""
    add_single(gateway, tmp_path, checksum=checksum)
    gateway.faults.wrong_bytes = {"snps.vcf.gz"}
    assert failure(run(SINGLE), gateway)[0] == "input_corrupt"


def test_wrong_bytes_of_an_index_are_found(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """An index that is not the one of the plan would leave records out, so it is checked like its file."""
    add_single(gateway, tmp_path)
    gateway.faults.wrong_bytes = {"snps.vcf.gz.index"}
    reason, message = failure(run(SINGLE), gateway)
    assert (reason, message.startswith("the index of snps.vcf.gz is damaged")) == ("input_corrupt", True), message


def test_replaced_index_is_refused(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """An index that was written anew after the plan is another file, even of the same size."""
    add_single(gateway, tmp_path)
    planned = dict(gateway.inputs[0]["index"])
    gateway.inputs[0]["index"]["etag"] = "another"
    gateway.faults.on_get = lambda key: gateway.inputs[0]["index"].update(planned)
    reason, message = failure(run(SINGLE), gateway)
    assert (reason, "the index of snps.vcf.gz" in message) == ("input_corrupt", True), message


def test_replaced_object_is_refused(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """An object that has another ETag than the plan says is not used, even of the same size."""
    add_single(gateway, tmp_path, checksum="none")
    planned = dict(gateway.inputs[0])
    gateway.inputs[0]["etag"] = "another"
    gateway.faults.on_get = lambda key: gateway.inputs[0].update(planned)
    assert failure(run(SINGLE), gateway)[0] == "input_corrupt"


def test_truncated_input(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """A file that was cut off before it was uploaded is named as such, whatever its checksum says."""
    whole = simulate(tmp_path / "whole.vcf.gz", sites=200).path.read_bytes()
    replace_input(gateway, tmp_path, whole[: len(whole) // 2])
    reason, message = failure(run(SINGLE), gateway)
    assert (reason, "snps.vcf.gz is truncated" in message) == ("input_corrupt", True)


def test_input_with_a_broken_block(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """Damage inside a file is found by bcftools; the message has the file's name and bcftools's words."""
    file = simulate(tmp_path / "snps.vcf.gz", samples=NORTH, contigs=CONTIGS, sites=2000, index="csi")
    body = bytearray(file.path.read_bytes())
    body[len(body) // 8 : len(body) // 8 + 40] = bytes(40)
    file.path.write_bytes(body)
    gateway.add_input(file.path, index=file.index, samples=["N1"])
    reason, message = failure(run(SINGLE), gateway)
    assert (reason, "snps.vcf.gz cannot be read whole" in message) == ("input_corrupt", True), message


def test_part_with_a_broken_block(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """Damage in a block that the node takes as it is, is found by bcftools: no result, and none that is short."""
    file = add_single_part(gateway, tmp_path)
    start, length, _, _ = gateway.inputs[0]["part"]["spans"][-1]
    damaged = [block for block in file.blocks if start < block.start < start + length // 2][-1]
    body = bytearray(gateway.objects["snps.vcf.gz"])
    body[damaged.start + 200 : damaged.start + 240] = bytes(40)
    gateway.objects["snps.vcf.gz"] = bytes(body)
    reason, message = failure(run(SINGLE), gateway)
    assert (reason, "snps.vcf.gz cannot be read whole" in message) == ("input_corrupt", True), message


def test_full_disk_is_known_before_the_download(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """A node without room for the inputs fails at once and says where and how much."""
    add_single(gateway, tmp_path)
    gateway.inputs[0]["size"] = 10**18
    reason, message = failure(run(SINGLE), gateway)
    assert (reason, f"{tmp_path}/run/tmp/divbase." in message) == ("disk_full", True)
    assert "the input files need 1000000000.0 GB" in message
    assert gateway.gets == []


def test_no_bcftools(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """A node without bcftools says so to the gateway."""
    add_single(gateway, tmp_path)
    assert failure(run(SINGLE, bcftools=None), gateway)[0] == "bcftools_missing"


# --- failing processes ---------------------------------------------------------------------------------------------


def fake_bcftools(folder: Path, bcftools: Path, body: str) -> Path:
    """A bcftools that does something else for some arguments."""
    path = folder / "fake-bcftools"
    path.write_text(f'#!/bin/bash\n{body}\nexec {bcftools} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        ('[[ "$*" == *QUAL* ]] && { echo "the reason" >&2; exit 7; }', "bcftools_failed", "status 7: the reason"),
        ('[[ "$*" == *QUAL* ]] && { head -c 100; kill -9 $$; }', "out_of_memory", "QUAL>30"),
        (
            '[[ "$*" == *-Oz3* ]] && { echo "the reason" >&2; exit 7; }',
            "bcftools_failed",
            "out/result.vcf.gz ended with",
        ),
        ('[[ "$*" == *in/1* ]] && { echo "no luck" >&2; exit 5; }', "bcftools_failed", "in/1.vcf.gz ended with"),
        ('[[ "$*" == *QUAL* ]] && { echo "[E::x] bad" >&2; }', "bcftools_failed", "although it ended with status 0"),
        ('[[ "$*" == *QUAL* ]] && { echo "No space left on device" >&2; exit 1; }', "disk_full", "No space is left in"),
    ],
)
def test_failing_process_is_named(
    run: Run, gateway: NodeGateway, tmp_path: Path, bcftools: Path, body: str, reason: str, words: str
) -> None:
    """The first process that failed is the one in the message, not those that it took with it."""
    add_single(gateway, tmp_path, sites=5000)
    ended = run(SINGLE, bcftools=fake_bcftools(tmp_path, bcftools, body))
    found = failure(ended, gateway)
    assert (found[0], words in found[1]) == (reason, True), found


def test_warning_is_no_failure(run: Run, gateway: NodeGateway, tmp_path: Path, bcftools: Path) -> None:
    """[W:: lines go to the log with the id of their process, and that is all."""
    add_single(gateway, tmp_path)
    fake = fake_bcftools(tmp_path, bcftools, '[[ "$*" == *QUAL* ]] && echo "[W::x] mind this" >&2')
    ended = run(SINGLE, bcftools=fake)
    assert (ended.status, "f1.2: [W::x] mind this" in ended.log) == (0, True)


def test_unknown_contig_has_the_words_of_bcftools(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """What bcftools itself refuses is reported in its words."""
    file = simulate(tmp_path / "a.vcf.gz", samples=NORTH, contigs={"other": 10_000}, index="csi")
    gateway.add_input(file.path, index=file.index, samples=["nobody"])
    reason, message = failure(run(SINGLE), gateway)
    assert (reason, "subset called for sample that does not exist" in message) == ("bcftools_failed", True), message


def test_old_bcftools(run: Run, gateway: NodeGateway, tmp_path: Path, bcftools: Path) -> None:
    """Older than what is tested: it could know other options, or mean other things by them. Nothing is read."""
    add_single(gateway, tmp_path)
    says = '[[ "$1" == --version ]] && { printf "bcftools 1.10.2\\nUsing htslib 1.10.2\\n"; exit; }'
    reason, message = failure(run(SINGLE, bcftools=fake_bcftools(tmp_path, bcftools, says)), gateway)
    assert (reason, "this job needs 1.16 or later" in message) == ("bcftools_missing", True), message
    assert gateway.gets == []


# --- index jobs that cannot succeed ----------------------------------------------------------------------------------


def shuffled_vcf() -> bytes:
    text = vcf_header(NORTH, CONTIGS) + "".join(reversed(vcf_records("chr1", 10_000, NORTH, 30, 1).splitlines(True)))
    return text.encode()


def test_index_of_an_unsorted_file(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """Unsorted positions are their own reason, and the message says what to do."""
    gateway.kind = "index"
    write_variants(tmp_path / "new.vcf.gz", shuffled_vcf().decode())
    gateway.add_input(tmp_path / "new.vcf.gz")
    reason, message = failure(run(INDEX), gateway)
    assert (reason, "`divbase files repair new.vcf.gz` sorts it" in message) == ("unsorted", True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda body: gzip.compress(gzip.decompress(body)), "is not BGZF-compressed"),
        (lambda body: gzip.decompress(body), "is not BGZF-compressed"),
        (lambda body: body[:-28], "is truncated"),
        (lambda body: body[:5000] + bytes(60) + body[5060:], "cannot be read whole"),
    ],
    ids=["plain gzip", "text", "no end", "broken block"],
)
def test_index_of_a_damaged_file(
    run: Run, gateway: NodeGateway, tmp_path: Path, spoil: Callable[[bytes], bytes], words: str
) -> None:
    """What is wrong with a file that cannot be indexed is said in plain words."""
    gateway.kind = "index"
    body = simulate(tmp_path / "whole.vcf.gz", sites=2000).path.read_bytes()
    replace_input(gateway, tmp_path, spoil(body))
    reason, message = failure(run(INDEX), gateway)
    assert (reason, words in message) == ("input_corrupt", True), message


# --- signals --------------------------------------------------------------------------------------------------------

SLOW_BCFTOOLS = '[[ "$*" == *QUAL* ]] && { echo started >&2; exec sleep 600; }'


def start_slow(gateway: NodeGateway, tmp_path: Path, bcftools: Path) -> tuple[JobFolder, subprocess.Popen[bytes]]:
    """A job that hangs in the middle of its pipeline."""
    add_single(gateway, tmp_path)
    folder = JobFolder(tmp_path / "run")
    folder.prepare(SINGLE, gateway, fake_bcftools(tmp_path, bcftools, SLOW_BCFTOOLS))
    process = folder.start()
    deadline = time.monotonic() + 30
    while "f1.2: started" not in (folder.path / "job/job.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return folder, process


def session_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of the script's session that are still at work."""
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(each.pid) == process.pid and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


@pytest.mark.parametrize(
    ("number", "to_group", "status", "reason"),
    [
        (signal.SIGUSR2, False, 140, "timed_out"),
        (signal.SIGTERM, False, 143, "cancelled"),
        (signal.SIGTERM, True, 143, "cancelled"),
    ],
    ids=["time limit", "scancel", "scancel to all"],
)
def test_signal_ends_the_job_at_once(
    gateway: NodeGateway, tmp_path: Path, bcftools: Path, number: int, to_group: bool, status: int, reason: str
) -> None:
    """A signal ends every process; the reason is reported, the log still goes out, the folder is removed."""
    folder, process = start_slow(gateway, tmp_path, bcftools)
    started = time.monotonic()
    os.killpg(process.pid, number) if to_group else os.kill(process.pid, number)
    ended = folder.wait(process)
    assert time.monotonic() - started < 10
    assert (ended.status, failure(ended, gateway)[0]) == (status, reason)
    assert session_of(process) == []
    assert b"f1.2: started" in gateway.outputs["job.log"].body


def test_signal_during_a_download(gateway: NodeGateway, tmp_path: Path, bcftools: Path) -> None:
    """A transfer that hangs does not keep a job alive."""
    asked: list[str] = []

    def hang(key: str) -> None:
        asked.append(key)
        time.sleep(4)

    gateway.faults.on_get = hang
    add_single(gateway, tmp_path)
    folder = JobFolder(tmp_path / "run")
    folder.prepare(SINGLE, gateway, bcftools)
    process = folder.start()
    deadline = time.monotonic() + 30
    while not asked:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    ended = folder.wait(process)
    assert (ended.status, failure(ended, gateway)[0]) == (143, "cancelled")


def test_killed_helper_takes_its_processes_along(gateway: NodeGateway, tmp_path: Path, bcftools: Path) -> None:
    """When the system kills the helper, most often for memory, nothing goes on and the guess is reported."""
    folder, process = start_slow(gateway, tmp_path, bcftools)
    (helper,) = [each for each in session_of(process) if each.cmdline()[-1:] == ["work"]]
    helper.kill()
    ended = folder.wait(process)
    assert (ended.status, failure(ended, gateway)[0]) == (137, "out_of_memory")
    assert session_of(process) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_signal_during_the_last_report(
    gateway: NodeGateway, tmp_path: Path, bcftools: Path, number: signal.Signals
) -> None:
    """Everything was done by then: the job has succeeded, and says so once."""
    started: list[subprocess.Popen[bytes]] = []

    def interrupt(name: str) -> None:
        if name == "finish":
            os.killpg(started[0].pid, number)
            time.sleep(0.3)

    gateway.faults.on_call = interrupt
    add_single(gateway, tmp_path)
    folder = JobFolder(tmp_path / "run")
    folder.prepare(SINGLE, gateway, bcftools)
    started.append(folder.start())
    ended = folder.wait(started[0])
    assert (ended.status, gateway.report["status"], ended.left_behind) == (0, "succeeded", [])


def test_a_job_is_one_process_of_the_helper(gateway: NodeGateway, tmp_path: Path, bcftools: Path) -> None:
    """Each start of Python costs a tenth of a second of a core; a job that failed needs a second one to say so."""
    add_single(gateway, tmp_path)
    folder = JobFolder(tmp_path / "run")
    folder.prepare(SINGLE, gateway, bcftools)
    folder.write("bin/python3", f'#!/bin/sh\necho "$4" >> {tmp_path}/started\nexec {folder.python} "$@"\n', 0o755)
    assert folder.wait(folder.start()).status == 0
    assert (tmp_path / "started").read_text().split() == ["work"]


def test_outputs_whose_version_the_store_names(run: Run, gateway: NodeGateway, tmp_path: Path) -> None:
    """What was sent whole needs no second call; what was sent in parts is joined by the gateway."""
    gateway.names_versions = True
    gateway.part_size = 3000
    add_single(gateway, tmp_path, sites=600)
    ended = run(SINGLE)
    assert ended.status == 0, ended.log
    joined = {name for name, output in gateway.outputs.items() if output.parts > 1}
    assert "result.vcf.gz" in joined
    assert joined < set(gateway.outputs)
    assert {body["name"] for body in gateway.bodies("outputs/complete")} == joined
    told = {output["name"]: output["version_id"] for output in gateway.report["outputs"]}
    assert told == {name: "v1" if name in joined else f"v-{name}" for name in gateway.outputs}


def test_full_disk_at_the_very_end(gateway: NodeGateway, tmp_path: Path, bcftools: Path) -> None:
    """The report was taken: that the end cannot be noted down fails no job, and the same is said once more."""

    def fill(name: str) -> None:
        for scratch in (tmp_path / "run/tmp").glob("divbase.*"):
            if name == "finish" and not (scratch / "ended").is_symlink():
                (scratch / "ended").symlink_to("/dev/full")

    gateway.faults.on_call = fill
    add_single(gateway, tmp_path)
    folder = JobFolder(tmp_path / "run")
    folder.prepare(SINGLE, gateway, bcftools)
    ended = folder.wait(folder.start())
    assert (ended.status, ended.left_behind) == (0, []), ended.log
    assert "could not be noted down" in ended.log
    assert [body["status"] for body in gateway.bodies("finish")] == ["succeeded", "succeeded"]
