"""Maps of indexes for planning, from the database; kept for the next plan, because unpacking costs more than using."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.orm import Session

from divbase_gateway.db.index_maps import find_index_maps
from divbase_gateway.db.sidecars import find_maps as find_copied_maps
from divbase_gateway.domain.files import CataloguedFile
from divbase_gateway.domain.index_maps import ContigMap, FileMap, unpack

log = structlog.get_logger()

MAX_BYTES = 128 * 1024 * 1024
"""Unpacked. A human chromosome 1 of a file of hundreds of samples has half a megabyte, most contigs have far less."""

Place = tuple[str, str, str]
"""Key, version id, contig."""


@dataclass(frozen=True)
class _Mapped:
    """An object that has maps: a version of a file, or the copy of one. `file` tells on which contigs."""

    key: str
    version_id: str
    data_begin: int
    file: CataloguedFile


_Find = Callable[[Session, int, Sequence[tuple[str, str]], Sequence[str]], Mapping[Place, bytes]]


class MapCache:
    """The maps that were used last, of all projects, up to `max_bytes`. What a version holds never changes, so none of
    them is ever wrong."""

    def __init__(self, max_bytes: int = MAX_BYTES):
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[int, Place], ContigMap] = OrderedDict()
        self._lock = threading.Lock()

    def load(
        self, session: Session, project_id: int, files: Sequence[CataloguedFile], contigs: Sequence[str]
    ) -> dict[str, FileMap]:
        """By key, the maps of those of the files that have some, and of their BCF copies, on the contigs on which they
        have records.

        At most one query (one per 1000 files), for what is not at hand, and one for what is of copies.
        """
        own = [
            _Mapped(each.key, each.version_id, each.data_begin, each) for each in files if each.data_begin is not None
        ]
        copied = [(each.sidecar, each) for each in files if each.sidecar is not None]
        copies = [_Mapped(copy.key, copy.version_id, copy.data_begin, each) for copy, each in copied]
        found = self._load(session, project_id, own, contigs, find_index_maps)
        return found | self._load(session, project_id, copies, contigs, find_copied_maps) if copies else found

    def _load(
        self, session: Session, project_id: int, mapped: Sequence[_Mapped], contigs: Sequence[str], find: _Find
    ) -> dict[str, FileMap]:
        wanted = {each.key: _places(each, contigs) for each in mapped}
        found = self._take(project_id, [place for places in wanted.values() for place in places])
        missing = [(key, places[0][1]) for key, places in wanted.items() if any(each not in found for each in places)]
        if missing:
            for place, packed in find(session, project_id, missing, contigs).items():
                if place not in found and place in wanted.get(place[0], ()):
                    self._unpack(project_id, place, packed, found)
        return {
            each.key: FileMap(each.data_begin, {place[2]: found[place] for place in wanted[each.key] if place in found})
            for each in mapped
        }

    def _take(self, project_id: int, places: Sequence[Place]) -> dict[Place, ContigMap]:
        found = {}
        with self._lock:
            for place in places:
                contig = self._kept.get((project_id, place))
                if contig is not None:
                    self._kept.move_to_end((project_id, place))
                    found[place] = contig
        return found

    def _unpack(self, project_id: int, place: Place, packed: bytes, found: dict[Place, ContigMap]) -> None:
        try:
            contig = unpack(packed)
        except ValueError as error:  # the file is read whole
            log.warning("index_map.unreadable", key=place[0], version_id=place[1], contig=place[2], error=str(error))
            return
        found[place] = contig
        with self._lock:
            if (project_id, place) not in self._kept:
                self._kept[project_id, place] = contig
                self._bytes += contig.nbytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes


def _places(mapped: _Mapped, contigs: Sequence[str]) -> list[Place]:
    named = frozenset(contigs)
    return [
        (mapped.key, mapped.version_id, each.name)
        for each in mapped.file.contigs
        if each.variants != 0 and each.name in named
    ]
