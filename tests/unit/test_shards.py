"""Shards: every position of the regions in exactly one, in the order of the result, about as many bytes in each."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from divbase_gateway.domain.index_maps import ContigMap, FileMap
from divbase_gateway.domain.regions import Region
from divbase_gateway.domain.shards import Shard, cut, follows, in_order, split
from hypothesis import given, settings
from hypothesis import strategies as st

CONTIGS = ("b", "a", "c")
WINDOWS, WINDOW, LEAF = 24, 1 << 14, 4681
END = WINDOWS * WINDOW


@dataclass(frozen=True)
class Record:
    """From `start` to `end`, 1-based."""

    contig: str
    start: int
    end: int


def regions_of(contig: str) -> st.SearchStrategy[Region]:
    start = st.integers(1, 60)
    return st.one_of(
        st.just(Region(contig)),
        start.map(lambda begin: Region(contig, begin)),
        st.tuples(start, st.integers(0, 25)).map(lambda each: Region(contig, each[0], each[0] + each[1])),
    )


some_regions = st.lists(st.sampled_from(CONTIGS).flatmap(regions_of), min_size=1, max_size=6)
records = st.builds(
    lambda contig, start, length: Record(contig, start, start + length),
    st.sampled_from(CONTIGS), st.integers(1, 90), st.sampled_from([0, 0, 3, 40]),
)  # fmt: skip


def read(regions: Sequence[Region], found: Sequence[Record], taken: int = 0) -> list[Record]:
    """What `view -r` gives of records, each with the first region that it overlaps; `-t ^` leaves out by POS."""
    given = []
    for region in regions:
        begin, end = region.start or 1, region.end or 10**9
        some = [each for each in found if each.contig == region.contig and each.start <= end and each.end >= begin]
        given += [each for each in some if each not in given]
    return [each for each in given if not (each.contig == regions[0].contig and each.start <= taken)]


@settings(max_examples=60, deadline=None)
@given(some_regions, st.lists(records, max_size=40, unique=True), st.data())
def test_every_record_is_in_one_shard(asked: list[Region], found: list[Record], data: st.DataObject) -> None:
    """Wherever borders are, shards one after the other give what all regions at once do, in the same order."""
    regions = in_order(asked, CONTIGS)
    found.sort(key=lambda each: (CONTIGS.index(each.contig), each.start))
    places = [(n, 0) for n in range(1, len(regions))]
    places += [(n, at) for n, each in enumerate(regions) for at in range((each.start or 1) + 1, (each.end or 99) + 1)]
    borders = sorted(data.draw(st.sets(st.sampled_from(places), max_size=6))) if places else []
    shards = split(regions, borders)
    assert len(shards) == len(borders) + 1
    assert [each for shard in shards for each in read(shard.regions, found, shard.taken)] == read(regions, found)


def test_shards_are_written_as_one_would() -> None:
    """A whole contig cut in two, a border between two regions, and what is taken before each shard."""
    regions = in_order([Region("a", 50, 60), Region("b"), Region("a", 10, 20), Region("nowhere")], CONTIGS)
    assert regions == (Region("b"), Region("a", 10, 20), Region("a", 50, 60))
    assert split(regions, [(0, 7), (1, 0), (2, 0), (2, 55)]) == (
        Shard((Region("b", 1, 6),)),
        Shard((Region("b", 7),), taken=6),
        Shard((Region("a", 10, 20),)),
        Shard((Region("a", 50, 54),), taken=20),
        Shard((Region("a", 55, 60),), taken=54),
    )


def test_overlapping_regions_are_joined() -> None:
    """As bcftools joins them; regions that only touch stay two."""
    asked = [
        Region("a", 5, 9),
        Region("a", 8, 30),
        Region("a", 10, 12),
        Region("a", 31, 31),
        Region("b", 3),
        Region("b"),
    ]
    assert in_order(asked, CONTIGS) == (Region("b"), Region("a", 5, 30), Region("a", 31, 31))


# --- by bytes ----------------------------------------------------------------------------------------------------


def contig_map(sizes: Sequence[int], begin: int) -> ContigMap:
    """A contig with so many bytes in each window of 16 kb; none where there are 0."""
    bins, chunks, at = array("I"), array("Q"), begin
    for window, size in enumerate(sizes):
        if size:
            bins.append(LEAF + window)
            chunks.extend((at << 16, at + size << 16))
            at += size
    return ContigMap(0, 14, 5, bins, array("Q"), array("I", range(1, len(bins) + 1)), chunks, array("Q"))


file_maps = st.lists(
    st.lists(st.sampled_from([0, 0, 1, 100, 100, 5000]), min_size=WINDOWS, max_size=WINDOWS), min_size=3, max_size=3
).map(
    lambda sizes: FileMap(
        0, {name: contig_map(each, place << 20) for place, (name, each) in enumerate(zip(CONTIGS, sizes, strict=True))}
    )
)


def bytes_in(regions: Sequence[Region], files: Sequence[FileMap]) -> int:
    """Of all windows that the regions touch."""
    total = 0
    for region in regions:
        first, last = ((region.start or 1) - 1) // WINDOW, ((region.end or END) - 1) // WINDOW
        for file in files:
            found = file.contigs[region.contig]
            for number, begin, end in zip(found.bins, found.chunks[::2], found.chunks[1::2], strict=True):
                total += end - begin >> 16 if first <= number - LEAF <= last else 0
    return total


@settings(max_examples=50, deadline=None)
@given(st.lists(file_maps, min_size=1, max_size=3), st.integers(1, 16))
def test_shards_are_even(files: list[FileMap], count: int) -> None:
    """Of whole contigs: as many as wanted or fewer, none without bytes, none above its share by over two windows."""
    shards = cut([Region(name) for name in CONTIGS], files, count)
    sizes = [bytes_in(shard.regions, files) for shard in shards]
    assert len(shards) <= count
    assert sum(sizes) == bytes_in([Region(name) for name in CONTIGS], files)
    assert all(sizes) or len(shards) == 1
    assert max(sizes) <= sum(sizes) / count + 2 * len(files) * 5000


def test_bytes_that_lie_together_are_cut_in_the_middle() -> None:
    """Equal windows: halves and quarters."""
    files = [FileMap(0, {"a": contig_map([100] * WINDOWS, 0)})]
    assert cut([Region("a")], files, 2) == (
        Shard((Region("a", 1, END // 2),)), Shard((Region("a", END // 2 + 1),), taken=END // 2)
    )  # fmt: skip
    quarters = cut([Region("a", 1, END)], files, 4)
    assert [shard.regions[0].start for shard in quarters] == [1, END // 4 + 1, END // 2 + 1, 3 * END // 4 + 1]


def test_what_lies_in_one_window_is_not_cut() -> None:
    """Nor is anything without records."""
    one = [FileMap(0, {"a": contig_map([0, 0, 5000, 0], 0)})]
    assert cut([Region("a")], one, 5) == (Shard((Region("a"),)),)
    assert cut([Region("b", 3, 9)], one, 5) == (Shard((Region("b", 3, 9),)),)


def test_many_small_regions_are_dealt_out() -> None:
    """Regions that an index cannot tell apart from nothing count all the same."""
    files = [FileMap(0, {"a": contig_map([100] * WINDOWS, 0)})]
    regions = [Region("a", at * WINDOW + 5, at * WINDOW + 9) for at in range(8)]
    assert [len(shard.regions) for shard in cut(regions, files, 4)] == [2, 2, 2, 2]


def test_the_largest_files_stand_for_all() -> None:
    """Of forty files eight are looked at; one with all its bytes at the end of the contig is among them."""
    small = [FileMap(0, {"a": contig_map([1] * WINDOWS, 0)}) for _ in range(40)]
    large = FileMap(0, {"a": contig_map([0] * (WINDOWS - 2) + [5000, 5000], 0)})
    shards = cut([Region("a")], [*small, large], 2)
    assert shards[1].regions[0].start == (WINDOWS - 1) * WINDOW + 1


def test_the_order_of_a_file_is_known() -> None:
    """Where contigs are not in the order of the header, records are not either."""
    file = FileMap(0, {"a": contig_map([1], 0), "b": contig_map([1], 100)})
    assert follows(file, ("a", "c", "b"))
    assert not follows(file, ("b", "a"))
