"""Maps of contigs: what is packed comes back, what is damaged is refused, and every look at one keeps to its arrays."""

from __future__ import annotations

import zlib
from array import array
from dataclasses import replace

import pytest
from divbase_gateway.domain.files import IndexKind
from divbase_gateway.domain.index_maps import ContigMap, chunks_of, first_offset, map_contigs, next_block, pack, unpack
from divbase_gateway.domain.indexes import Bin, ContigIndex, FileIndex
from divbase_gateway.domain.vcf import HeaderContig, VcfHeader
from hypothesis import given, settings
from hypothesis import strategies as st

LEAF = 4681
HEADER = VcfHeader((), (HeaderContig("a", None, 0), HeaderContig("b", None, 2)))


def contig_map(bins: dict[int, tuple[tuple[int, int], ...]], linear: tuple[int, ...] = ()) -> ContigMap:
    """A map by itself, of bins with their chunks in blocks."""
    contig = ContigIndex(
        1, {number: Bin(tuple((b << 16, e << 16) for b, e in chunks)) for number, chunks in bins.items()}, linear
    )
    return map_contigs(FileIndex(IndexKind.CSI, 14, 5, ("a",), (contig,), 0, 0), HEADER)["a"]


THREE = {LEAF: ((1, 2),), LEAF + 1: ((2, 5), (6, 7)), LEAF + 9: ((9, 11),)}


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    """No look at a row can end in anything else than a map or a ValueError."""
    with pytest.raises(ValueError, match=r"map"):
        unpack(data)


def test_damaged_rows_are_refused() -> None:
    """Every byte counts: a wrong map would lose records without a word."""
    data = pack(contig_map(THREE))
    for at in range(len(data)):
        for flipped in (1, 16, 128):
            damaged = bytearray(data)
            damaged[at] ^= flipped
            try:
                found = unpack(bytes(damaged))
            except ValueError:
                continue
            assert found == contig_map(THREE), at  # a bit that says nothing


def test_rows_that_are_cut_off_are_refused() -> None:
    """At any place."""
    data = pack(contig_map(THREE))
    for cut in range(len(data)):
        with pytest.raises(ValueError, match="map"):
            unpack(data[:cut])


def test_arrays_that_do_not_fit_each_other_are_refused() -> None:
    """As a fault of ours would store them."""
    whole = contig_map(THREE)
    with pytest.raises(ValueError, match="damaged"):
        unpack(pack(replace(whole, chunks=whole.chunks[:4])))
    with pytest.raises(ValueError, match="damaged"):
        unpack(pack(replace(whole, loffsets=whole.loffsets[:1])))
    with pytest.raises(ValueError, match="damaged"):
        unpack(b"\x01" + zlib.compress(zlib.decompress(pack(whole)[1:]) + b"more"))


def test_a_row_of_another_release_is_refused() -> None:
    """Its form is said in its first byte."""
    with pytest.raises(ValueError, match="form 09, not 01"):
        unpack(b"\x09" + pack(contig_map(THREE))[1:])


@settings(max_examples=50)
@given(st.dictionaries(st.integers(0, 37448), st.integers(1, 3), max_size=30), st.booleans())
def test_what_is_packed_comes_back(sizes: dict[int, int], is_tbi: bool) -> None:
    """Whatever the bins, with a linear index or without."""
    at = iter(range(10_000))
    bins = array("I", sorted(sizes))
    chunks = array("Q", (next(at) << 40 for number in bins for _ in range(2 * sizes[number])))
    ends = array("I")
    for number in bins:
        ends.append(sizes[number] + (ends[-1] if ends else 0))
    loffsets, linear = (array("Q"), array("Q", range(9))) if is_tbi else (array("Q", range(len(bins))), array("Q"))
    contig = ContigMap(3, 14, 5, bins, loffsets, ends, chunks, linear)
    assert unpack(pack(contig)) == contig


def test_bins_that_begin_in_the_region_are_given_as_one() -> None:
    """And in a bin that holds all of them, so that the small file's index leads there from any of their places."""
    contig = contig_map({LEAF + number: ((number, number + 1),) for number in range(20)})
    assert list(chunks_of(contig, 0, 1 << 29)) == [(73, 0, 20 << 16)]  # bins 585, 586 and 587 of 8 leaves are in it
    assert list(chunks_of(contig, 0, 3 << 14)) == [(585, 0, 3 << 16)]
    assert sorted(chunks_of(contig, (1 << 14) + 5, 3 << 14)) == [
        (LEAF + 1, 1 << 16, 2 << 16),
        (LEAF + 2, 2 << 16, 3 << 16),
    ]


def test_a_place_without_records_has_no_chunks() -> None:
    """Between two records, right of all, beyond what the index can hold, and an empty stretch."""
    contig = contig_map({LEAF: ((1, 2),), LEAF + 9: ((9, 11),), 585: ((2, 3),)})
    assert list(chunks_of(contig, 20 << 14, 21 << 14)) == []
    assert list(chunks_of(contig, 1 << 29, 1 << 30)) == []
    assert list(chunks_of(contig, 5, 5)) == []
    assert [number for number, _, _ in chunks_of(contig, 3 << 14, 4 << 14)] == [585]


def test_no_chunk_is_empty() -> None:
    """A long chunk whose part for the region has no length is no sign of records."""
    linear = (1 << 16, 9 << 16, 9 << 16)
    contig = contig_map({0: ((1, 12),), LEAF: ((1, 2),), LEAF + 2: ((9, 10),)}, linear)
    assert list(chunks_of(contig, 1 << 14, (1 << 14) + 5)) == []


def test_contigs_out_of_order_have_no_map() -> None:
    """Of an index that was not made from a sorted file nothing is concluded; the file is read whole."""
    index = [
        ContigIndex(1, {LEAF: Bin(((5 << 16, 6 << 16),)), LEAF + 1: Bin(((1 << 16, 2 << 16),))}),
        ContigIndex(0),
        ContigIndex(1, {LEAF: Bin(((7 << 16, 8 << 16), (6 << 16, 7 << 16))), LEAF + 3: Bin(())}),
    ]
    named = FileIndex(IndexKind.CSI, 14, 5, ("a", "x", "b"), tuple(index), 0, 0)
    assert set(map_contigs(named, HEADER)) == {"b"}
    bcf = FileIndex(IndexKind.CSI, 14, 5, (), tuple(index), 0, 0)
    (contig,) = map_contigs(bcf, HEADER).values()
    assert (contig.number, list(contig.bins), list(contig.chunks)) == (2, [LEAF], [6 << 16, 7 << 16, 7 << 16, 8 << 16])


def test_block_borders() -> None:
    """What a map knows of blocks: borders of chunks on any level, and a TBI's windows."""
    contig = contig_map({**THREE, 0: ((3, 4),)}, tuple(each << 16 for each in (1, 2, 8)))
    assert [next_block(contig, byte) for byte in range(12)] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 11, None]
    assert first_offset(contig) == 1 << 16
