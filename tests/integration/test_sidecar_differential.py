"""Random projects and questions as in test_differential, asked twice: of the files, and of BCF copies of some of them.
Equal have to be the bytes of the results and of their indexes, in shards as well, and the digests of the plans.

    DIVBASE_SIDECAR_CASES=2000 DIVBASE_SIDECAR_FROM=100 pytest tests/integration/test_sidecar_differential.py
"""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from divbase_gateway.domain import estimates, spans
from divbase_gateway.domain.bgzf import unpack_prefix
from divbase_gateway.domain.errors import InvalidSelection
from divbase_gateway.domain.files import CataloguedFile, FileFormat, IndexKind, IndexRef, Sidecar
from divbase_gateway.domain.index_maps import FileMap
from divbase_gateway.domain.planning import make_plan
from divbase_gateway.domain.plans import without_copies
from divbase_gateway.domain.queries import OutputFormat, Plan

from tests.integration.test_differential import (
    Answer,
    Bcftools,
    by_node,
    indexed,
    load_maps,
    make_project,
    make_question,
    program,
)
from tests.variants import bgzf

__all__ = ["program"]  # the fixture

pytestmark = pytest.mark.slow  # real programs

CASES = int(os.environ.get("DIVBASE_SIDECAR_CASES", "8"))
FIRST = int(os.environ.get("DIVBASE_SIDECAR_FROM", "0"))


def with_copies(rng: random.Random, files: Sequence[CataloguedFile], bcftools: Bcftools) -> list[CataloguedFile]:
    """Some of the VCFs with a BCF copy, written as a job does, in blocks of random size."""
    return [
        replace(file, sidecar=_copy(rng, file, bcftools))
        if file.format is FileFormat.VCF_GZ and rng.random() < 0.7
        else file
        for file in files
    ]


QUALITIES = ("1e-05", "0.30000001", "12345678", "30", ".", "1e+10")


def spiced(rng: random.Random, file: CataloguedFile, bcftools: Bcftools) -> CataloguedFile:
    """A VCF with what survives a way through BCF least: floats, nothing at all, INFO in any order, other genotypes."""
    path = bcftools.folder / file.key
    if file.format is not FileFormat.VCF_GZ or file.index is None:
        return file
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    text = "".join((line if line.startswith("#") else _spiced(rng, line)) + "\n" for line in lines)
    path.write_bytes(bgzf(text.encode(), block=rng.choice([400, 1500, 60_000])))
    bcftools("index", "--force", f"--{file.index.kind}", file.key)
    size = (bcftools.folder / file.index.key).stat().st_size
    return replace(file, size=path.stat().st_size, index=replace(file.index, size=size))


def _spiced(rng: random.Random, line: str) -> str:
    columns = line.split("\t")
    columns[5] = rng.choice(QUALITIES)
    columns[6] = rng.choice([columns[6], ".", "PASS;q10"])
    info = columns[7].split(";")
    columns[7] = ";".join(rng.sample(info, len(info)))
    calls = [call.replace("/", "|") if rng.random() < 0.3 else call for call in columns[9:]]
    columns[9:] = [call[0] + call[3:] if rng.random() < 0.2 else call for call in calls]
    return "\t".join(columns)


def _copy(rng: random.Random, file: CataloguedFile, bcftools: Bcftools) -> Sidecar:
    key = f"{file.key}.copy.bcf"
    path = bcftools.folder / key
    bcftools("view", "--no-version", "-Ob1", "-o", key, file.key)
    path.write_bytes(bgzf(unpack_prefix(path.read_bytes(), 1 << 30).data, block=rng.choice([400, 1500, 60_000])))
    bcftools("index", "--csi", key)
    index = IndexRef(f"{key}.csi", "v1", IndexKind.CSI, Path(f"{path}.csi").stat().st_size, "e")
    return Sidecar(key, "v1", path.stat().st_size, key, "", index, 0)


@dataclass(frozen=True)
class Sides:
    """The same project without and with copies, and what is known of all indexes."""

    files: list[CataloguedFile]
    copied: list[CataloguedFile]
    maps: dict[str, FileMap]

    def find_maps(self, some: Sequence[CataloguedFile], _: Sequence[str]) -> dict[str, FileMap]:
        keys = {file.key for file in some} | {file.sidecar.key for file in some if file.sidecar}
        return {key: found for key, found in self.maps.items() if key in keys}


def make_sides(rng: random.Random, bcftools: Bcftools) -> Sides:
    files = [spiced(rng, file, bcftools) for file in make_project(rng, bcftools)]
    copied = with_copies(rng, files, bcftools)
    twins = [
        replace(file, key=file.sidecar.key, index=file.sidecar.index) for file in copied if file.sidecar is not None
    ]
    return Sides(files, copied, load_maps(bcftools.folder, [*files, *twins]))


def run(plan: Plan, bcftools: Bcftools, scratch: Path) -> Answer:
    answer = by_node(plan, bcftools, scratch)
    assert answer.status == 0, (plan, answer.log)
    return answer


@pytest.mark.parametrize("seed", range(FIRST, FIRST + CASES))
def test_a_copy_changes_nothing(
    tmp_path: Path, program: tuple[Path, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Guards: whoever reads copies has the bytes and the digest of who reads files, read in parts, whole and in
    shards; and the plan that falls back to the files is the one that never knew of copies.
    """
    monkeypatch.setattr(spans, "GAP_BYTES", 500)
    monkeypatch.setattr(estimates, "TRANSFER_RATE", 1e12)  # such small copies are larger than their files
    rng = random.Random(f"copies {seed}")
    monkeypatch.setattr(spans, "WHOLE_FROM", rng.choice([10.0, 0.7]))
    (tmp_path / "files").mkdir()
    bcftools = Bcftools(program[0], tmp_path / "files", program[1])
    sides = make_sides(rng, bcftools)
    for number in range(2):
        request = replace(make_question(rng, sides.files).request, output=rng.choice([None, OutputFormat.BCF]))
        try:
            plain = make_plan(request, sides.files, None, sides.find_maps)
        except InvalidSelection:
            with pytest.raises(InvalidSelection):
                make_plan(request, sides.copied, None, sides.find_maps)
            continue
        copied = make_plan(request, sides.copied, None, sides.find_maps)
        assert copied.digest == plain.digest
        assert [entry.key for entry in copied.inputs if entry.copy] == [
            file.key for file in copied_files(sides, plain) if file.sidecar is not None
        ]
        assert (without_copies(copied).inputs, without_copies(copied).processes) == (plain.inputs, plain.processes)
        if not bcftools.can(plain):
            continue
        answer = run(plain, bcftools, tmp_path / f"plain.{number}")
        for name, plan in (
            ("copied", copied),
            ("cut", make_plan(request, sides.copied, None, sides.find_maps, shards=3)),
        ):
            other = run(plan, bcftools, tmp_path / f"{name}.{number}")
            assert other.result.read_bytes() == answer.result.read_bytes(), (seed, name, request)
            assert indexed(other.result) == indexed(answer.result), (seed, name, request)


def copied_files(sides: Sides, plan: Plan) -> list[CataloguedFile]:
    by_key = {file.key: file for file in sides.copied}
    return [by_key[entry.key] for entry in plan.inputs]
