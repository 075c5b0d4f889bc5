"""BGZF: packing told by the first bytes, leading blocks unpacked, damage refused in words."""

from __future__ import annotations

import gzip
from contextlib import suppress

import pytest
from divbase_gateway.domain import bgzf
from divbase_gateway.domain.bgzf import Block, Compression, DamagedBlock
from hypothesis import given
from hypothesis import strategies as st

from tests.variants import bgzf as pack
from tests.variants import plain_gzip

LIMIT = 1_000_000


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (pack(b"x"), Compression.BGZF),
        (bgzf.EOF_BLOCK, Compression.BGZF),
        (plain_gzip(b"x" * 100), Compression.GZIP),
        (b"##fileformat=VCFv4.2\n", Compression.NONE),
        (b"", Compression.NONE),
    ],
)
def test_packing_is_told_by_the_first_bytes(head: bytes, expected: Compression) -> None:
    """Only gzip with a BC field that holds the block's size is BGZF."""
    assert bgzf.compression_of(head) is expected


def test_another_extra_field_before_bc_is_skipped() -> None:
    """The SAM specification allows more extra fields in a block's header, in any order."""
    block = pack(b"data", eof=False)
    extra = b"ZZ\x03\x00abc" + b"BC\x02\x00" + (len(block) + 7 - 1).to_bytes(2, "little")
    longer = block[:10] + len(extra).to_bytes(2, "little") + extra + block[18:]
    assert bgzf.block_size(longer) == len(longer)
    assert bgzf.unpack_blocks(longer, LIMIT)[1] == b"data"


def test_blocks_say_where_their_data_is() -> None:
    """A virtual offset is found through the start of each block, in the file and in the data."""
    packed = pack(b"abcdefg", block=3)
    blocks, data = bgzf.unpack_blocks(packed, LIMIT)
    assert data == b"abcdefg"
    assert [(block.data_start, block.data_size) for block in blocks] == [(0, 3), (3, 3), (6, 1), (7, 0)]
    assert [block.start for block in blocks] == [0, *(block.end for block in blocks[:-1])]
    assert blocks[-1] == Block(len(packed) - 28, 28, 7, 0)


def test_a_cut_off_last_block_is_left_out() -> None:
    """A range read ends anywhere; what it has whole is used."""
    packed = pack(b"abcdef", block=3)
    first = bgzf.block_size(packed)
    assert first is not None
    assert bgzf.unpack_blocks(packed[: first + 20], LIMIT)[1] == b"abc"


def test_a_flipped_bit_is_found() -> None:
    """A block whose checksum is wrong is refused with its place."""
    packed = bytearray(pack(b"abc" * 100, block=150, level=0))
    second = bgzf.block_size(bytes(packed)) or 0
    packed[second + 40] ^= 1
    with pytest.raises(DamagedBlock, match=f"the BGZF block at byte {second} does not unpack"):
        bgzf.unpack_blocks(bytes(packed), LIMIT)


def test_no_more_is_unpacked_than_asked_for() -> None:
    """A small file that unpacks to much costs no more memory than the limit and one block."""
    blocks, data = bgzf.unpack_blocks(pack(bytes(1_000_000)), 100_000)
    assert len(data) == 2 * 65280
    assert len(blocks) == 2
    assert len(bgzf.unpack_prefix(plain_gzip(bytes(1_000_000)), 1000).data) == 1000


@given(st.binary(max_size=5000), st.binary(max_size=5000), st.integers(0, 12000))
def test_gzip_of_several_members_is_unpacked_as_gzip_does(one: bytes, two: bytes, limit: int) -> None:
    """`cat a.gz b.gz` is one gzip file."""
    packed = gzip.compress(one) + gzip.compress(two)
    assert bgzf.unpack_prefix(packed, limit).data == (one + two)[:limit]


@given(st.binary(min_size=1, max_size=400), st.integers(1, 60))
def test_data_positions_and_virtual_offsets_are_inverse(data: bytes, block: int) -> None:
    """Every byte of the data has one virtual offset, the byte after the last included."""
    blocks, _ = bgzf.unpack_blocks(pack(data, block=block, eof=False), LIMIT)
    for position in range(len(data) + 1):
        assert bgzf.data_position(blocks, bgzf.virtual_offset(blocks, position)) == position


@pytest.mark.parametrize("offset", [1 << 16, 200 << 16, 4, (29 << 16) | 1])
def test_a_virtual_offset_outside_the_blocks_has_no_position(offset: int) -> None:
    """An offset that points between blocks or behind a block's data is of another file."""
    blocks, _ = bgzf.unpack_blocks(pack(b"abc", eof=False), LIMIT)
    assert bgzf.data_position(blocks, offset) is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (plain_gzip(b"x" * 50), "plain gzip"),
        (pack(b"x" * 50)[:-5], "truncated"),
        (pack(bytes(LIMIT)), "more than 1000 bytes"),
    ],
)
def test_a_small_file_is_unpacked_whole_or_refused(data: bytes, reason: str) -> None:
    """Half an index is no index."""
    with pytest.raises(DamagedBlock, match=reason):
        bgzf.unpack_all(data, 1000)


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_raise_anything_but_damage(data: bytes, as_gzip: bool) -> None:
    """What users send never ends in a traceback."""
    data = pack(b"")[:18] + data if as_gzip else data
    with suppress(DamagedBlock):
        bgzf.unpack_prefix(data, LIMIT)
        bgzf.unpack_all(data, LIMIT)
