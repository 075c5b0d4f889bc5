"""`divbase jobs stats`: reading what bcftools stats prints, the tables for people and machines, the picture."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pysam
import pysam.bcftools
import pytest
from divbase_cli.failure import ExitCode
from divbase_client.vcf_stats import DepthBin, FrequencyBin, VcfStats, depth_quantiles, parse_stats

from tests.fakes.gateway_server import KEY, FakeGateway, running_gateway
from tests.unit.test_cli_commands import Shell

HEADER = """##fileformat=VCFv4.2
##contig=<ID=1,length=1000>
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Depth">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tA\tB
"""
RECORDS = [
    ("A", "G", "0/1:5", "0/0:7"),  # a transition, a singleton
    ("A", "C", "0/1:5", "0/1:900"),  # a transversion at one half
    ("C", "T", "1/1:9", "1/1:5"),  # a transition at one
    ("AT", "A", "0/1:5", "0/1:5"),
    ("G", "A", "./.:.", "0/1:7"),
]


def printed(folder: Path, records: list[tuple[str, ...]], *options: str) -> str:
    rows = (
        f"1\t{n}\t.\t{ref}\t{alt}\t.\t.\t.\tGT:DP\t{a}\t{b}\n" for n, (ref, alt, a, b) in enumerate(records, start=1)
    )
    path = folder / "a.vcf"
    path.write_text(HEADER + "".join(rows))
    return str(pysam.bcftools.stats(*options, str(path)))


@pytest.fixture
def stats(tmp_path: Path) -> VcfStats:
    return parse_stats(printed(tmp_path, RECORDS, "-s", "-"))


def test_counts(stats: VcfStats) -> None:
    """The summary by bcftools' own words, and who counted."""
    assert stats.bcftools.startswith(pysam.version.__bcftools_version__.split("-")[0])
    assert {"number of samples": 2, "number of records": 5, "number of SNPs": 4}.items() <= stats.summary.items()
    assert stats.ts_tv == 3.0


def test_frequencies(stats: VcfStats) -> None:
    """Bins of one width with their upper ends; singletons, which bcftools puts at 0, are in the first."""
    assert [each for each in stats.frequencies(4) if each.snps or each.indels] == [
        FrequencyBin(0.0, 0.25, 2, 0),
        FrequencyBin(0.25, 0.5, 1, 1),
        FrequencyBin(0.75, 1.0, 1, 0),
    ]


def test_depths(stats: VcfStats) -> None:
    """Of genotypes, in the order of the depth, with bcftools' word for what is beyond its last bin."""
    of_genotypes = [(each.label, each.genotypes) for each in stats.depths() if each.genotypes]
    assert of_genotypes == [("5", 5), ("7", 2), ("9", 1), (">500", 1)]
    assert depth_quantiles(stats.depths(), [0.05, 0.5, 0.75, 0.95]) == ["5", "5", "7", ">500"]


def test_depths_of_sites_where_no_sample_was_counted() -> None:
    """Without `-s` bcftools counts sites only."""
    assert depth_quantiles([DepthBin("3", 3, 0, 1), DepthBin("4", 4, 0, 9)], [0.05, 0.5]) == ["3", "4"]
    assert depth_quantiles([], [0.5]) == []


def test_nothing_counted(tmp_path: Path) -> None:
    """A result without records has tables without rows."""
    empty = parse_stats(printed(tmp_path, []))
    assert (empty.summary["number of records"], empty.ts_tv, empty.frequencies(), empty.depths()) == (0, None, [], [])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "chr1\t100\tA\tG\n",
        lambda text: text.replace("SN\t0\tnumber of records:\t5", "SN\t0\tnumber of records:"),
        lambda text: text.replace("TSTV\t0", "WHAT\t0"),
        lambda text: text.replace("ID\t0\t", "ID\t1\t"),
    ],
)
def test_what_is_no_statistics_is_refused(tmp_path: Path, change: object) -> None:
    """Half a file is not read as a whole one."""
    assert callable(change)
    with pytest.raises(ValueError, match=r"line|first"):
        parse_stats(change(printed(tmp_path, RECORDS)))


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[FakeGateway]:
    with running_gateway() as one:
        one.store("results/job1/snps.stats.txt", printed(tmp_path, RECORDS, "-s", "-").encode())
        one.store("results/job2/result.vcf.gz", b"records")
        yield one


@pytest.fixture
def shell(gateway: FakeGateway, tmp_path: Path) -> Shell:
    return Shell(
        {
            "DIVBASE_CONFIG": str(tmp_path / "config.toml"),
            "DIVBASE_URL": gateway.url,
            "DIVBASE_API_KEY": KEY,
            "DIVBASE_PROJECT": "vole",
        }
    )


def test_tables_for_people(shell: Shell) -> None:
    lines = shell("jobs", "stats", "job1").stdout.splitlines()
    assert lines[1].split() == ["number", "of", "records:", "5"]
    assert "0.4 to 0.5\t1\t1\t" + "#" * 40 in lines
    assert "DEPTH OF GENOTYPES\t5%\t25%\t50%\t75%\t95%" in lines
    assert "A\t0\t2\t1\t1\t1\t1\t6.0" in lines


def test_tables_for_machines(shell: Shell) -> None:
    """Everything that bcftools printed, by its own names."""
    found = shell.json("jobs", "stats", "job1")
    assert (found["summary"]["number of SNPs"], found["ts_tv"]) == (4, 3.0)
    assert found["tables"]["PSC"]["columns"][0] == "sample"
    assert [row[0] for row in found["tables"]["PSC"]["rows"]] == ["A", "B"]


def test_a_result_of_another_kind(shell: Shell) -> None:
    """Says how to get statistics."""
    assert "--after 'stats -s -'" in shell("jobs", "stats", "job2", code=ExitCode.BAD_INPUT).stderr


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG\r\n"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_picture(shell: Shell, tmp_path: Path, suffix: str, magic: bytes) -> None:
    """In the format that its name says; an earlier one is replaced when that is asked for."""
    target = tmp_path / f"plot.{suffix}"
    shell("jobs", "stats", "job1", "--plot", str(target))
    assert target.read_bytes().startswith(magic)
    target.write_bytes(b"mine")
    shell("jobs", "stats", "job1", "--plot", str(target), code=ExitCode.CONFLICT)
    assert target.read_bytes() == b"mine"
    shell("jobs", "stats", "job1", "--plot", str(target), "--force")
    assert target.read_bytes().startswith(magic)
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.slow
def test_picture_of_nothing(shell: Shell, gateway: FakeGateway, tmp_path: Path) -> None:
    """A result without records and without depths is drawn as such."""
    gateway.store("results/job3/x.stats.txt", printed(tmp_path, []).encode())
    shell("jobs", "stats", "job3", "--plot", str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["plot.jpeg", "plot", "nowhere/plot.png"])
def test_picture_that_cannot_be(shell: Shell, gateway: FakeGateway, tmp_path: Path, name: str) -> None:
    """Told before anything is fetched."""
    shell("jobs", "stats", "job1", "--plot", str(tmp_path / name), code=ExitCode.USAGE)
    assert not gateway.requests("GET /api/v1/projects/vole/jobs/job1/result")


def test_only_pictures_need_matplotlib() -> None:
    """It takes longer to import than the other commands take."""
    code = "import sys, divbase_cli.main; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
