"""Parts of files: few bytes, few spans, few bins, and the whole file where that is better. That a part has the records
of the whole is tested with bcftools (integration/test_parts_bcftools.py)."""

from __future__ import annotations

import random
import time
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import pytest
from divbase_gateway.domain import spans
from divbase_gateway.domain.bgzf import MAX_BLOCK_BYTES, unpack_prefix, virtual_offset
from divbase_gateway.domain.index_maps import ContigMap, FileMap, map_contigs, pack, unpack
from divbase_gateway.domain.indexes import parse_index
from divbase_gateway.domain.regions import Region
from divbase_gateway.domain.spans import MAX_BINS, MAX_SPANS, Part, Span, has_records, part_for
from divbase_gateway.domain.vcf import measure_header, parse_header

from tests.small_file import blocks_of
from tests.variants import bgzf, index_variants, vcf_header

LENGTH = 800_000
STEP = 200
BLOCK = 65280


class Dense:
    """A file as a cohort's is: a window of its index has some blocks. (htslib joins bins of fewer bytes, up to
    eight at a time, so that of sparser files more is read than is needed, half a megabyte at the most.)"""

    def __init__(self, folder: Path, kind: str):
        rng = random.Random(7)
        header = vcf_header(["A"], {"1": LENGTH, "2": LENGTH})
        lines = [
            f"{contig}\t{at}\t{'x' * 2200}\tA{'C' * rng.choice([0, 0, 0, 30])}\tG\t.\t.\t.\tGT\t0/1\n"
            for contig in "12"
            for at in range(1, LENGTH, STEP)
        ]
        self.header = len(header)
        self.starts = [self.header]
        for line in lines:
            self.starts.append(self.starts[-1] + len(line))
        text = (header + "".join(lines)).encode()
        self.path = folder / f"{kind}.vcf.gz"
        self.data = bgzf(text, block=BLOCK, level=0)
        self.path.write_bytes(self.data)
        self.blocks = [start for start, _ in blocks_of(self.data, 0)]
        prefix = unpack_prefix(self.data[:200_000], BLOCK)
        head = measure_header(prefix.data, whole=True)
        assert head is not None
        index = parse_index(index_variants(self.path, kind).read_bytes())
        maps = map_contigs(index, parse_header(prefix.data[:head]))
        self.map = FileMap(virtual_offset(prefix.blocks, head), maps)

    def bytes_of(self, start: int, end: int) -> int:
        """Of the blocks that hold the records of positions [start, end] of contig 2."""
        first = len(self.starts) // 2 + (start - 1) // STEP
        last = len(self.starts) // 2 + (end - 1) // STEP + 1
        begin, stop = self.starts[first] // BLOCK, (self.starts[last] - 1) // BLOCK
        return self.blocks[stop + 1] - self.blocks[begin]


@pytest.fixture(scope="module", params=["csi", "tbi"])
def dense(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dense:
    return Dense(tmp_path_factory.mktemp("dense"), request.param)


def test_little_more_is_read_than_the_blocks_that_have_the_records(dense: Dense) -> None:
    """At most a tenth more, the windows at both ends, and a block of which the index does not say how long it is."""
    assert len(dense.blocks) > 100
    rng = random.Random(1)
    for _ in range(300):
        width = rng.choice([100, 30_000, 100_000, 300_000])
        start = rng.randint(1, LENGTH - width)
        part = part_for([Region("2", start, start + width)], dense.map, len(dense.data))
        assert part is not None
        window = 1.1 * (1 << 14) // STEP * 2240
        assert part.size <= 1.1 * dense.bytes_of(start, start + width) + 2 * window + 2 * MAX_BLOCK_BYTES
        assert len(part.spans) <= 2


def test_a_part_is_in_order_and_inside_the_file(dense: Dense) -> None:
    """Spans begin with a block, do not touch each other, and the first has the header."""
    regions = [Region("1", start, start + 5000) for start in range(1, LENGTH, 100_000)]
    part = part_for(regions, dense.map, len(dense.data))
    assert part is not None
    assert len(part.spans) > 5
    assert part.spans[0].first == 0
    assert part.spans[0].end >= dense.map.data_begin
    at = 0
    for span in part.spans:
        assert span.start == span.first >> 16
        assert span.start in dense.blocks
        assert span.start >= at
        assert span.first < span.end
        at = span.start + span.length
    assert at <= len(dense.data)


@pytest.mark.parametrize(
    ("regions", "whole"),
    [
        ([Region("1"), Region("2")], True),
        ([Region("1"), Region("2", 1, LENGTH // 2)], True),  # three quarters
        ([Region("2")], False),  # half
        ([Region("1"), Region("2", 1, LENGTH // 3)], False),  # two thirds
    ],
)
def test_above_seventy_percent_the_whole_is_read(dense: Dense, regions: Sequence[Region], whole: bool) -> None:
    """A whole file can be checked by its checksum, and is staged without being cut."""
    assert (part_for(regions, dense.map, len(dense.data)) is None) is whole


def test_a_contig_without_records_has_none(dense: Dense) -> None:
    """The header is still read where the caller wants the file for it."""
    nowhere = [Region("3"), Region("1", LENGTH + 100_000, LENGTH + 200_000)]
    assert not has_records(nowhere, dense.map)
    part = part_for(nowhere, dense.map, len(dense.data))
    assert part is not None
    assert (part.contigs, len(part.spans)) == ((), 1)
    assert has_records([*nowhere, Region("1", 7, 7)], dense.map)


def test_a_whole_contig_is_as_quick_as_a_place_in_it(dense: Dense) -> None:
    """A hundred files are planned in a fraction of what an answer may take."""
    began = time.process_time()
    for _ in range(100):
        assert has_records([Region("2")], dense.map)
        part_for([Region("2")], dense.map, len(dense.data))
        part_for([Region("2", 500_000, 600_000)], dense.map, len(dense.data))
    assert time.process_time() - began < 2  # 0.02 s, and minutes for what goes through every window


# --- limits --------------------------------------------------------------------------------------------------------


def test_many_regions_become_few_bins_and_spans(dense: Dense, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest of a job stays small, whatever a user asks for."""
    monkeypatch.setattr(spans, "WHOLE_FROM", 2)
    monkeypatch.setattr(spans, "GAP_BYTES", 0)
    monkeypatch.setattr(spans, "MAX_SPANS", 20)
    regions = [Region(contig, at, at) for contig in "12" for at in range(1, LENGTH, 16_500)]
    part = part_for(regions, dense.map, len(dense.data))
    assert part is not None
    assert len(part.spans) <= 20
    assert [each.name for each in part.contigs] == ["1", "2"]
    assert all(0 < len(each.bins) <= MAX_BINS // 2 for each in part.contigs)
    for contig in part.contigs:
        inside = [(chunks[2 * i], chunks[2 * i + 1]) for _, chunks in contig.bins for i in range(len(chunks) // 2)]
        assert all(_is_inside(part.spans, begin, end) for begin, end in inside)


def _is_inside(found: Sequence[Span], begin: int, end: int) -> bool:
    at = bisect_right([span.first for span in found], begin) - 1
    return at >= 0 and end <= found[at].end


def test_more_contigs_than_bins_keep_one_bin_each(dense: Dense) -> None:
    """Nothing is dropped for the sake of the limit."""
    one = dense.map.contigs["1"]
    many = FileMap(dense.map.data_begin, {str(number): one for number in range(MAX_BINS + 44)})
    regions = [Region(name, at, at) for name in many.contigs for at in (1, LENGTH // 2)]
    part = part_for(regions, many, 1 << 40)
    assert part is not None
    assert [len(each.bins) for each in part.contigs] == [1] * (MAX_BINS + 44)
    assert len(part.spans) <= MAX_SPANS


def test_indexes_of_two_schemes_are_not_put_into_one(dense: Dense) -> None:
    """An index has one binning scheme; no index has two, so the file is read whole."""
    one = dense.map.contigs["1"]
    other = ContigMap(1, 15, one.depth, one.bins, one.loffsets, one.ends, one.chunks, one.linear)
    odd = FileMap(dense.map.data_begin, {"1": one, "2": other})
    assert part_for([Region("1", 1, 2), Region("2", 1, 2)], odd, 1 << 40) is None
    assert isinstance(part_for([Region("1", 1, 2)], odd, 1 << 40), Part)


def test_maps_are_smaller_than_what_they_say(dense: Dense) -> None:
    """Packed they go into a row a contig."""
    for contig in dense.map.contigs.values():
        packed = pack(contig)
        assert unpack(packed) == contig
        assert len(packed) < contig.nbytes
