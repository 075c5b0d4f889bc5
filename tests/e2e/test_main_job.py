"""The main job, whole: files in two layouts, sample metadata, a query, its result; and what bcftools says by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from demo.simulate import Survey
from tests.e2e.conftest import MakeStack
from tests.e2e.stack import Bcftools, Project, Stack, result_of

REGIONS = "chr21:5000000-25000000,chr22:15000000-45000000"
WHERE = "Sex:F;Country:Norway"
COMMAND = f"view -r {REGIONS}"

REAL = Path(__file__).parents[3] / "shared" / "data"
REAL_FILES = (
    "human_chr22_100samples.vcf.gz",
    "pinf_americas.vcf.gz",
    "pinf_americas.vcf.gz.csi",
    "pinf_old_world.vcf.gz",
    "pinf_old_world.vcf.gz.tbi",
    "pinf_sc50.plain-gzip.vcf.gz",
)
REAL_REGION = "Supercontig_1.50:1-200000"


def digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def females_from_norway(survey: Survey) -> set[str]:
    """Read from the table without any of DivBase's code."""
    rows = [line.split("\t") for line in survey.metadata.read_text().splitlines()]
    return {row[0] for row in rows[1:] if row[2:4] == ["Norway", "F"]}


def by_hand(bcftools: Bcftools, survey: Survey) -> Path:
    """The same question asked of the local copies: cut down each file, join the chromosomes, merge the groups."""
    wanted = females_from_norway(survey)
    cut = {}
    for file in survey.files:
        kept = ",".join(sample for sample in bcftools.samples(file) if sample in wanted)
        name = file.name.removesuffix(".vcf.gz")
        whole = bcftools.indexed(f"{name}.whole.bcf", "view", file)
        if kept:
            cut[name] = bcftools.indexed(f"{name}.bcf", "view", "-r", REGIONS, "-s", kept, whole)
    coast = bcftools.indexed("coast.bcf", "concat", "-a", cut["coast.chr21"], cut["coast.chr22"])
    return bcftools.indexed("merged.bcf", "merge", coast, cut["hornoya"], cut["runde"])


def run_by_command_line(stack: Stack, survey: Survey) -> tuple[str, Path]:
    """A researcher's day: (id of the job, its result)."""
    stack.run("login", stack.url, "--api-key-stdin", stdin=f"{stack.key}\n")
    stack.run("projects", "create", "puffins")
    stack.run("projects", "use", "puffins")
    stack.run("files", "upload", *map(str, survey.files), "--wait")
    stack.run("metadata", "push", str(survey.metadata))
    plan = json.loads(stack.run("query", "plan", "--where", WHERE, "-c", COMMAND, "--json"))
    assert plan["combine"] == "mixed"
    assert set(plan["samples"]) == females_from_norway(survey)
    stack.run("query", "run", "--where", WHERE, "-c", COMMAND, "--download", "result")
    (job,) = json.loads(stack.run("jobs", "ls", "--json", "--kind", "query"))
    return job["id"], stack.folder / "result" / "result.vcf.gz"


def tables_by_command_line(stack: Stack, bcftools: Bcftools, merged: Path) -> None:
    """The same question answered by text: the table and the numbers of bcftools by hand, one file each, no index."""
    columns = r"%CHROM\t%POS[\t%GT]\n"
    asked = ("query", "run", "--where", WHERE, "-c", COMMAND)
    stack.run(*asked, "--after", f"query -f '{columns}'", "--name", "sites", "--download", "table")
    counted = json.loads(stack.run(*asked, "--after", "view -v snps; stats -s -", "--name", "snps", "--wait", "--json"))
    stack.run("jobs", "result", counted["id"], "--download", "numbers")
    shown = json.loads(stack.run("jobs", "stats", counted["id"], "--plot", "snps.png", "--json"))
    assert shown["summary"]["number of SNPs"] == shown["summary"]["number of records"] > 0
    assert (stack.folder / "snps.png").read_bytes().startswith(b"\x89PNG")
    table, numbers = stack.folder / "table", stack.folder / "numbers"
    assert sorted(path.name for path in table.iterdir()) == ["job.log", "provenance.json", "sites.tsv"]
    assert sorted(path.name for path in numbers.iterdir()) == ["job.log", "provenance.json", "snps.stats.txt"]
    assert (table / "sites.tsv").read_bytes() == bcftools.run("query", "-f", columns, merged)
    expected = bcftools.run("stats", "-s", "-", bcftools.indexed("snps.bcf", "view", "-v", "snps", merged))
    assert figures((numbers / "snps.stats.txt").read_text()) == figures(expected.decode())


def figures(text: str) -> list[str]:
    """The lines of `bcftools stats` that do not name files and commands."""
    return [line for line in text.splitlines() if not line.startswith(("#", "ID\t"))]


@pytest.mark.slow
def test_the_main_job(make_stack: MakeStack, survey: Survey, tmp_path: Path) -> None:
    """Guards: by the command line, over both layouts, records and genotypes are those of bcftools run by hand; asked
    again, and asked of another stack from scratch, the answer is the same to the byte."""
    first = make_stack("first")
    job, result = run_by_command_line(first, survey)
    bcftools = Bcftools.in_folder(tmp_path / "by-hand")
    merged = by_hand(bcftools, survey)
    records, expected = bcftools.records(result), bcftools.records(merged)
    assert len(expected) > 500
    assert digest(records) == digest(expected)
    assert bcftools.samples(result) == bcftools.samples(merged)

    puffins = Project(first, "puffins")
    sha256 = hashlib.sha256(result.read_bytes()).hexdigest()
    assert result_of(puffins.job(job)) == sha256
    assert result_of(puffins.succeeds(puffins.submit(where=WHERE, command=COMMAND))) == sha256
    provenance = json.loads((result.parent / "provenance.json").read_text())
    assert provenance["counts"] == {"records": len(expected), "samples": len(females_from_norway(survey))}
    assert [each["sha256"] for each in provenance["outputs"] if each["role"] == "result"] == [sha256]
    tables_by_command_line(first, bcftools, merged)
    first.stop()

    elsewhere = Project.create(make_stack("second"), "auks", survey.files, survey.metadata)
    assert result_of(elsewhere.succeeds(elsewhere.submit(where=WHERE, command=COMMAND))) == sha256


@pytest.mark.slow
@pytest.mark.realdata
def test_the_main_job_on_real_files(make_stack: MakeStack, tmp_path: Path) -> None:
    """Guards: real files as their users have them: the one that is not BGZF says so and blocks nothing, the one without
    an index gets one, and the query's answer is that of bcftools run by hand."""
    missing = [name for name in REAL_FILES if not (REAL / name).is_file()]
    if missing:
        pytest.skip(f"{', '.join(missing)} not beside the checkout (shared/data)")
    stack = make_stack()
    order = sorted(REAL_FILES, key=lambda name: not name.endswith((".csi", ".tbi")))
    project = Project.create(stack, "blight", [REAL / name for name in order], REAL / "sample_metadata.tsv")
    with stack.client() as client:
        files = {file.key: file for file in client.files.list("blight")}
        jobs = [job.name for job in client.jobs.list("blight", kind="index")]
    usable = {name for name, file in files.items() if file.state == "READY"}
    assert usable == {"human_chr22_100samples.vcf.gz", "pinf_americas.vcf.gz", "pinf_old_world.vcf.gz"}
    assert files["pinf_sc50.plain-gzip.vcf.gz"].state == "UNUSABLE"
    assert "BGZF" in (files["pinf_sc50.plain-gzip.vcf.gz"].reason or "")
    assert jobs == ["index human_chr22_100samples.vcf.gz"]

    command = f"view -r {REAL_REGION}"
    job = project.submit(where="Continent:Europe,North America;Year:>=2000", command=command)
    chosen = project.succeeds(job).plan
    assert chosen is not None
    assert [each.key for each in chosen.inputs] == ["pinf_americas.vcf.gz", "pinf_old_world.vcf.gz"]
    result = project.fetch(job, tmp_path / "result")
    bcftools = Bcftools.in_folder(tmp_path / "by-hand")
    records, expected = bcftools.records(result), bcftools.records(blight_by_hand(bcftools))
    print(f"DivBase  {digest(records)}\nbcftools {digest(expected)}\n{len(expected)} records")
    assert len(expected) > 1000
    assert digest(records) == digest(expected)


def blight_by_hand(bcftools: Bcftools) -> Path:
    rows = [line.split("\t") for line in (REAL / "sample_metadata.tsv").read_text().splitlines()[1:]]
    wanted = {row[0] for row in rows if row[2] in ("Europe", "North America") and row[4] and int(row[4]) >= 2000}
    cut = []
    for name in ("pinf_americas", "pinf_old_world"):
        file = REAL / f"{name}.vcf.gz"
        kept = ",".join(sample for sample in bcftools.samples(file) if sample in wanted)
        cut.append(bcftools.indexed(f"{name}.bcf", "view", "-r", REAL_REGION, "-s", kept, file))
    return bcftools.indexed("merged.bcf", "merge", *cut)
