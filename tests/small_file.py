"""Makes the small file of a part as docs/node-protocol.md says, in the plainest way there is: what the gateway's choice
of bytes is held against. It knows nothing of the node helper, which does the same in its own way."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.variants import EOF_BLOCK, bgzf


def assemble(part: dict[str, Any], read: Callable[[int, int], bytes], path: Path, *, is_bcf: bool) -> int:
    """Write the small file of a part and its index, `<path>.csi`; returns how many bytes were read.

    Args:
        part: as the manifest has it.
        read: (start, length) -> bytes of the whole file; nothing else of it is looked at.
    """
    written = bytearray()
    moved: dict[int, int] = {}  # begin of a block -> what to add to virtual offsets in it
    ends: dict[int, int] = {}
    count = 0
    for start, length, first, end in part["spans"]:
        data = read(start, length)
        assert len(data) == length
        count += length
        for at, block in blocks_of(data, start):
            if at << 16 >= end:
                break
            contents = zlib.decompress(block, 31)
            left = first & 0xFFFF if at == first >> 16 else 0
            right = end & 0xFFFF if at == end >> 16 else len(contents)
            assert left <= right <= len(contents)
            moved[at] = (len(written) << 16) - left - (at << 16)
            whole = (left, right) == (0, len(contents))
            written += block if whole else bgzf(contents[left:right], eof=False)
        ends[end] = len(written) << 16
    path.write_bytes(bytes(written) + EOF_BLOCK)

    def translate(offset: int) -> int:
        return ends[offset] if offset >> 16 not in moved else offset + moved[offset >> 16]

    Path(f"{path}.csi").write_bytes(bgzf(_index_of(part, translate, is_bcf=is_bcf)))
    return count


def blocks_of(data: bytes, start: int) -> list[tuple[int, bytes]]:
    """The whole blocks that `data`, from byte `start` of a file, begins with, each with its place in the file."""
    at = 0
    found = []
    while at + 18 <= len(data):
        assert data[at : at + 4] == b"\x1f\x8b\x08\x04"
        end = at + int(struct.unpack_from("<H", data, at + 16)[0]) + 1
        if end > len(data):
            break
        found.append((start + at, data[at:end]))
        at = end
    return found


def _index_of(part: dict[str, Any], translate: Callable[[int], int], *, is_bcf: bool) -> bytes:
    names = b"".join(name.encode() + b"\0" for name, _, _ in part["contigs"])
    aux = b"" if is_bcf else struct.pack("<7i", 2, 1, 2, 0, ord("#"), 0, len(names)) + names
    contigs = {number if is_bcf else place: bins for place, (_, number, bins) in enumerate(part["contigs"])}
    count = max(contigs, default=-1) + 1
    out = [b"CSI\x01", struct.pack("<iii", part["min_shift"], part["depth"], len(aux)), aux, struct.pack("<i", count)]
    for place in range(count):
        bins = contigs.get(place, [])
        out.append(struct.pack("<i", len(bins)))
        for number, offsets in bins:
            out.append(struct.pack("<IQi", number, 0, len(offsets) // 2))
            out.append(struct.pack(f"<{len(offsets)}Q", *map(translate, offsets)))
    return b"".join(out)
