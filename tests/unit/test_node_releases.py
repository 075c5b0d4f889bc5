"""Releases of bcftools that a node does not take, for all jobs or for some."""

from __future__ import annotations

import pytest
from divbase_jobscripts import node


def process(*argv: str) -> node.Process:
    return node.Process([b"p", b"--output", b"out/r", b"--", *(word.encode() for word in argv)])


@pytest.mark.parametrize(
    ("version", "release"),
    [("1.16", (1, 16)), ("1.21-3-gf00+htslib-1.21", (1, 21)), ("1.9", (1, 9)), ("develop", (999,))],
)
def test_release_of(version: str, release: tuple[int, ...]) -> None:
    assert node.release_of(version) == release


@pytest.mark.parametrize("version", ["1.19", "1.20", "1.20-5-gabc"])
def test_a_release_that_gives_values_to_other_samples_merges_nothing(version: str) -> None:
    """bcftools issue 2244: the answer would be wrong, and nobody would see it."""
    with pytest.raises(node.Failed, match=r"needs 1\.21 or later") as failed:
        node.require_release(version, [process("view", "-Ou"), process("merge", "--no-index")])
    assert failed.value.reason == "bcftools_missing"
    node.require_release(version, [process("view", "-Ou"), process("concat")])


@pytest.mark.parametrize("option", ["-r", "--regions", "-t", "--targets"])
def test_a_release_without_braces_gets_none(option: str) -> None:
    asked = [process("view", option, "chr1:1-5,{HLA:3-1}:1-100")]
    with pytest.raises(node.Failed, match=r"a contig with ':' in its name; this job needs 1\.18 or later"):
        node.require_release("1.17", asked)
    node.require_release("1.18", asked)


@pytest.mark.parametrize("version", ["1.16", "1.18", "1.21", "1.24", None])
def test_other_releases_do_everything_else(version: str | None) -> None:
    """Braces elsewhere are no places."""
    node.require_release(version, [process("view", "-r", "chr1", "-i", 'ID="{x}"'), process("merge", "--no-index")])
