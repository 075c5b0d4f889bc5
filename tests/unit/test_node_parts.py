"""The small file that a node makes of spans: the right bytes, and every offset where its record has gone."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tempfile
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from divbase_gateway.domain.bgzf import Block, data_position, unpack_blocks
from divbase_jobscripts import node
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.variants import bgzf


@dataclass(frozen=True)
class Lines:
    """Lines of random lengths, packed with blocks of one size; `edges` is where lines begin and end in `data`."""

    data: bytes
    body: bytes
    blocks: tuple[Block, ...]
    edges: list[int]

    def offsets(self, position: int) -> list[int]:
        """The virtual offsets that mean a position: a block's end is the next one's begin as well."""
        found = [
            block.start << 16 | position - block.data_start
            for block in self.blocks
            if block.data_start <= position <= block.data_start + block.data_size
        ]
        return [offset for offset in found if data_position(self.blocks, offset) == position]


def lines(seed: int, count: int, longest: int, block: int) -> Lines:
    rng = random.Random(seed)
    texts = [rng.randbytes(rng.randint(0, longest) // 2).hex().encode() + b"\n" for _ in range(count)]
    edges = [0]
    for text in texts:
        edges.append(edges[-1] + len(text))
    body = bgzf(b"".join(texts), block=block)
    return Lines(b"".join(texts), body, unpack_blocks(body, 1 << 40)[0], edges)


@st.composite
def spans_of_lines(draw: st.DrawFn) -> tuple[Lines, list[tuple[int, int, int, int]]]:
    """Lines, and some spans of them as a manifest has them."""
    block = draw(st.sampled_from([40, 1000, 65280, 65536]))
    made = lines(draw(st.integers(0, 10**6)), draw(st.integers(2, 60)), draw(st.sampled_from([20, 5000])), block)
    chosen = draw(st.lists(st.sampled_from(made.edges), min_size=2, max_size=8, unique=True).map(sorted))
    spans = []
    for begin, end in zip(chosen[::2], chosen[1::2], strict=False):
        first, last = (draw(st.sampled_from(made.offsets(position))) for position in (begin, end))
        length = (last >> 16) - (first >> 16)
        if last & 0xFFFF:
            (block_size,) = [each.size for each in made.blocks if each.start == last >> 16]
            length = min(length + block_size + draw(st.integers(0, 70)), len(made.body) - (first >> 16))
        spans.append((first >> 16, length, first, last))
    return made, spans


def small_file(made: Lines, spans: list[tuple[int, int, int, int]]) -> tuple[node.SmallFile, bytes]:
    written = io.BytesIO()
    small = node.SmallFile("a.vcf.gz", "vcf.gz", written)
    with tempfile.TemporaryFile(buffering=0) as fetched:
        at = 0
        for start, length, first, end in spans:
            fetched.write(made.body[start : start + length])
            small.add(node.Blocks("a.vcf.gz", fetched, start, length, at), first, end)
            at += length
    small.end()
    return small, written.getvalue()


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(spans_of_lines())
def test_small_file(example: tuple[Lines, list[tuple[int, int, int, int]]]) -> None:
    """It unpacks to the lines of the spans, its only empty block is its last, and every offset is where it was.

    Whatever the blocks' sizes, wherever spans begin and end in them, in either way to name a block's end.
    """
    made, spans = example
    small, body = small_file(made, spans)
    assert body.endswith(node.BGZF_END)
    blocks, data = unpack_blocks(body, 1 << 40)
    expected = b""
    for _, _, first, end in spans:
        begin, stop = data_position(made.blocks, first), data_position(made.blocks, end)
        assert begin is not None
        for edge in (edge for edge in made.edges if stop is not None and begin <= edge <= stop):
            for offset in made.offsets(edge):
                if first <= offset <= end:
                    assert data_position(blocks, small.place(offset)) == len(expected) + edge - begin
        expected += made.data[begin:stop]
    assert data == gzip.decompress(body) == expected
    assert all(block.data_size for block in blocks[:-1])


def test_cut_block_that_makes_two() -> None:
    """What is left of a block as full as a block can be goes into two, and offsets near its end into the second."""
    half = node.CONTENT_BYTES
    data = b"line\n" * 40_000
    body = bgzf(data, block=65536)
    blocks, _ = unpack_blocks(body, 1 << 40)
    made = Lines(data, body, blocks, [5, 65_300, 65_535, 65_540, 131_000, 131_070])
    span = (0, len(body), 5, blocks[1].start << 16 | 131_070 - 65_536)
    small, packed = small_file(made, [span])
    found, unpacked = unpack_blocks(packed, 1 << 40)
    assert unpacked == data[5:131_070]
    assert [block.data_size for block in found] == [half, half - 5, half, half - 2, 0]
    for edge in made.edges:
        (offset,) = made.offsets(edge)
        assert data_position(found, small.place(offset)) == edge - 5


@pytest.mark.parametrize("content", [random.Random(1).randbytes(node.CONTENT_BYTES), bytes(node.CONTENT_BYTES), b"x"])
def test_pack_block(content: bytes) -> None:
    """A block is never larger than a block may be, however badly its contents pack."""
    packed = node.pack_block(content)
    assert len(packed) <= node.BLOCK_BYTES
    assert unpack_blocks(packed, 1 << 20) == ((Block(0, len(packed), 0, len(content)),), content)


@given(st.lists(st.integers(1, 3 * node.RANGE_BYTES), min_size=1, max_size=5))
def test_ranges_of_spans(lengths: list[int]) -> None:
    """The ranges of all spans together are the spans, and lie one after the other in the file that they go to."""
    starts = [10**9 * number for number in range(len(lengths))]
    part = {"spans": [[start, length, 0, 0] for start, length in zip(starts, lengths, strict=True)]}
    ranges = node.PartialCopy.spans(SimpleNamespace(part=part))
    at = 0
    for each in ranges:
        assert (each.at, 0 < each.length <= node.RANGE_BYTES) == (at, True)
        at += each.length
    for start, length in zip(starts, lengths, strict=True):
        assert sum(each.length for each in ranges if start <= each.start < start + length) == length


@pytest.mark.parametrize(("least", "entries"), [(0, 3), (2, 3), (5, 5)])
def test_index_of_a_bcf_has_all_contigs(least: int, entries: int) -> None:
    """bcftools 1.16 dies of a region on a contig that is in the header and not in the index."""
    part = {"min_shift": 14, "depth": 5, "contigs": [["chr3", 2, [[4681, [0, 1]]]]]}
    index = node.csi_of(part, "bcf", lambda offset: offset, least)
    assert struct.unpack_from("<i", index, 16) == (entries,)
