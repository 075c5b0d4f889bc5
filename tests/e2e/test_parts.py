"""A region of large files through the whole stack: the jobs read a part of each, and the result is that of whole files
to the byte."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pysam.bcftools
import pytest

from tests.e2e.conftest import MakeStack
from tests.e2e.stack import Bcftools, Project, result_of
from tests.variants import bgzf, vcf_header, vcf_records

CONTIGS = {"chr1": 30_000_000, "chr2": 1_000_000}
COMMANDS = ("view -r chr1:7000000-9000000,chr2:900000-", "view -t chr1:7000000-9000000")


def write_file(path: Path, samples: list[str], contigs: dict[str, int]) -> None:
    """Some megabytes, which hardly any samples would have if they were packed."""
    records = "".join(vcf_records(contig, length, samples, 9000, 1) for contig, length in contigs.items())
    text = (vcf_header(samples, CONTIGS) + records).encode()
    whole = path.with_suffix("") if path.suffix == ".bcf" else path
    whole.write_bytes(bgzf(text, block=20_000, level=0))
    if path.suffix == ".bcf":
        pysam.bcftools.view("--no-version", "-Ob0", "-o", str(path), str(whole), catch_stdout=False)


@pytest.mark.slow
def test_a_region_is_answered_from_parts_as_from_whole_files(make_stack: MakeStack, tmp_path: Path) -> None:
    """Guards: parts from the index that a job built, over VCF and BCF, merged; and that no result tells them apart."""
    files = [tmp_path / "a.vcf.gz", tmp_path / "b.bcf"]
    write_file(files[0], ["A", "B"], CONTIGS)
    write_file(files[1], ["C", "D"], CONTIGS)
    stack = make_stack()
    project = Project.create(stack, "auks", files)
    parts = [project.succeeds(project.submit(command)) for command in COMMANDS]
    assert all(job.plan and job.plan.bytes_needed < job.plan.bytes_total / 3 for job in parts)

    folder = tmp_path / "result"
    result = project.fetch(parts[0].id, folder)
    bcftools = Bcftools.in_folder(tmp_path / "by-hand")
    for path in files:
        bcftools.run("index", "--csi", path)
    merged = bcftools.indexed("merged.bcf", "merge", *files)
    by_hand = bcftools.run("view", "-H", *COMMANDS[0].split()[1:], merged).decode().splitlines()
    assert bcftools.records(result) == by_hand
    assert len(by_hand) > 1000
    told = json.loads((folder / "provenance.json").read_text())["request"]["inputs"]
    assert [set(each["part"]) for each in told] == [{"spans"}, {"spans"}]

    (database,) = stack.data.rglob("*.sqlite3")
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE file_versions SET data_begin = NULL")
    connection.close()
    for command, part in zip(COMMANDS, parts, strict=True):
        whole = project.succeeds(project.submit(command))
        assert whole.plan is not None
        assert whole.plan.bytes_needed == whole.plan.bytes_total
        assert result_of(whole) == result_of(part)
