"""The bcftools executable out of pysam behaves as bcftools does: records, pipes, exit status, closed pipes."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pysam
import pysam.bcftools
import pytest
from divbase_gateway.local.bcftools import BcftoolsExecutable, _shebang, ensure_bcftools, write_pysam_bcftools
from pysam.version import __bcftools_version__

RECORDS = 3000


def write_vcf(path: Path, samples: list[str], seed: int) -> Path:
    """A small VCF of one contig with random genotypes, compressed by pysam's API."""
    chance = random.Random(seed)
    lines = [
        "##fileformat=VCFv4.2",
        '##FILTER=<ID=PASS,Description="All filters passed">',
        "##contig=<ID=21,length=100000>",
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">',
        "\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *samples]),
    ]
    for n in range(RECORDS):
        genotypes = [chance.choice(["0/0", "0/1", "1/1", "./."]) for _ in samples]
        lines.append("\t".join(["21", str(10 + n * 20), ".", "A", "G", "50", "PASS", ".", "GT", *genotypes]))
    plain = path.with_suffix(".plain")
    plain.write_text("\n".join(lines) + "\n")
    pysam.tabix_compress(str(plain), str(path), force=True)
    return path


@pytest.fixture(scope="module")
def bcftools(tmp_path_factory: pytest.TempPathFactory) -> BcftoolsExecutable:
    return write_pysam_bcftools(tmp_path_factory.mktemp("a folder") / "bin")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("vcf")
    return write_vcf(folder / "a.vcf.gz", ["a1", "a2"], 1), write_vcf(folder / "b.vcf.gz", ["b1", "b2"], 2)


def run(bcftools: BcftoolsExecutable, *arguments: str | Path, **options: object) -> bytes:
    done = subprocess.run([bcftools.path, *map(str, arguments)], capture_output=True, check=True, **options)  # type: ignore[call-overload]
    assert isinstance(done.stdout, bytes)
    return done.stdout


def test_version_is_stated_as_bcftools_does(bcftools: BcftoolsExecutable) -> None:
    """The first line of --version is `bcftools` and the release, and the release is pysam's."""
    first = run(bcftools, "--version").decode().splitlines()[0]
    assert first.startswith(f"bcftools {bcftools.version}")
    assert bcftools.version == __bcftools_version__
    assert bcftools.source == "pysam"


def test_records_equal_those_of_the_api(bcftools: BcftoolsExecutable, inputs: tuple[Path, Path]) -> None:
    """The executable writes the bytes that pysam's own interface returns."""
    arguments = ["view", "--no-version", "-s", "a2", "-i", 'GT="alt"', str(inputs[0])]
    expected = str(pysam.bcftools.view(*arguments[1:])).encode()
    assert expected.count(b"\n") > 1000
    assert run(bcftools, *arguments) == expected


def test_standard_input_and_output_are_streams(bcftools: BcftoolsExecutable, inputs: tuple[Path, Path]) -> None:
    """Two processes in a pipe, uncompressed BCF between them, give what one gives."""
    expected = run(bcftools, "view", "--no-version", "-H", "-s", "a1", inputs[0])
    first = subprocess.Popen([bcftools.path, "view", "-Ou", inputs[0]], stdout=subprocess.PIPE)
    piped = run(bcftools, "view", "--no-version", "-H", "-s", "a1", "-", stdin=first.stdout)
    assert first.stdout is not None
    first.stdout.close()
    assert first.wait() == 0
    assert piped == expected


def test_merge_reads_inherited_pipes(bcftools: BcftoolsExecutable, inputs: tuple[Path, Path]) -> None:
    """`merge --no-index` on two /dev/fd inputs has the samples of both and every record."""
    producers = [subprocess.Popen([bcftools.path, "view", "-Ou", path], stdout=subprocess.PIPE) for path in inputs]
    fds = [producer.stdout.fileno() for producer in producers if producer.stdout]
    merged = run(
        bcftools, "merge", "--no-version", "--no-index", *(f"/dev/fd/{fd}" for fd in fds), pass_fds=fds
    ).decode()
    for producer in producers:
        assert producer.stdout is not None
        producer.stdout.close()
        assert producer.wait() == 0
    header, *records = merged[merged.index("#CHROM") :].splitlines()
    assert header.split("\t")[9:] == ["a1", "a2", "b1", "b2"]
    assert len(records) == RECORDS


def test_index_view_region_and_concat(bcftools: BcftoolsExecutable, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    """`view -Oz3 -o` with `-S`, `index --csi`, a region, and `concat` work on files."""
    (tmp_path / "samples").write_text("a2\n")
    whole, left, right = (tmp_path / name for name in ("whole.vcf.gz", "left.vcf.gz", "right.vcf.gz"))
    run(bcftools, "view", "--no-version", "-S", "samples", "-Oz3", "-o", whole.name, inputs[0], cwd=tmp_path)
    run(bcftools, "index", "--csi", whole)
    assert (tmp_path / "whole.vcf.gz.csi").exists()
    run(bcftools, "view", "--no-version", "-r", "21:1-30000", "-Oz", "-o", left, whole)
    run(bcftools, "view", "--no-version", "-r", "21:30001-100000", "-Oz", "-o", right, whole)
    joined = run(bcftools, "concat", "--no-version", left, right)
    assert joined == run(bcftools, "view", "--no-version", whole)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["view", "missing.vcf.gz"], 255), (["view", "--no-such-option"], 1), (["nonsense"], 1), ([], 1)],
)
def test_failure_exits_non_zero(
    bcftools: BcftoolsExecutable, tmp_path: Path, arguments: list[str], status: int
) -> None:
    """A command that fails says why on standard error, nothing on standard output, and exits as bcftools does."""
    done = subprocess.run([bcftools.path, *arguments], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (status, b"")
    assert done.stderr


def test_closed_pipe_ends_it(bcftools: BcftoolsExecutable, inputs: tuple[Path, Path]) -> None:
    """When nobody reads any more, SIGPIPE ends the process without a traceback."""
    process = subprocess.Popen([bcftools.path, "view", inputs[0]], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(100)
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=10) != 0
    assert b"Traceback" not in stderr


def test_full_disk_is_a_failure(bcftools: BcftoolsExecutable) -> None:
    """Text that could not be written makes the exit status non-zero."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([bcftools.path, "--version"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"could not write" in done.stderr


def test_bcftools_on_the_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working bcftools on the PATH is used, with the version that it states."""
    program = tmp_path / "bcftools"
    program.write_text("#!/bin/sh\necho bcftools 1.16\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert ensure_bcftools(tmp_path / "bin") == BcftoolsExecutable(program, "1.16", "PATH")


def test_broken_bcftools_on_the_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bcftools that does not run (a missing library, say) gives way to pysam's."""
    program = tmp_path / "bcftools"
    program.write_text("#!/bin/sh\nexit 127\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = ensure_bcftools(tmp_path / "bin")
    assert (found.path, found.source) == (tmp_path / "bin" / "bcftools", "pysam")


@pytest.mark.parametrize("folder", ["with space", 'with\'quote and "more"', "long" * 40])
def test_any_python_path_starts(tmp_path: Path, folder: str) -> None:
    """A path of Python with spaces, quotes or more than a `#!` line can hold still starts the launcher."""
    python = tmp_path / folder / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    launcher = tmp_path / "launcher"
    launcher.write_text(_shebang(str(python)))
    compile(launcher.read_text(), "launcher", "exec")  # what sh reads as a command is nothing to Python
    launcher.chmod(0o755)
    done = subprocess.run([launcher, "a b", "$c"], capture_output=True, text=True, check=True)
    assert done.stdout == f"-IS {launcher} a b $c\n"
