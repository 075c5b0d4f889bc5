"""Maps of indexes for planning, from the database; kept for the next plan, because unpacking costs more than using."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import structlog
from sqlalchemy.orm import Session

from divbase_gateway.db.index_maps import find_index_maps
from divbase_gateway.domain.files import CataloguedFile
from divbase_gateway.domain.index_maps import ContigMap, FileMap, unpack

log = structlog.get_logger()

MAX_BYTES = 128 * 1024 * 1024
"""Unpacked. A human chromosome 1 of a file of hundreds of samples has half a megabyte, most contigs have far less."""

Place = tuple[str, str, str]
"""Key, version id, contig."""


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
        """By key, the maps of those of the files that have some, on the contigs on which they have records.

        At most one query (one per 1000 files), for what is not at hand.
        """
        wanted = {file.key: _places(file, contigs) for file in files if file.data_begin is not None}
        found = self._take(project_id, [place for places in wanted.values() for place in places])
        missing = [(key, places[0][1]) for key, places in wanted.items() if any(each not in found for each in places)]
        if missing:
            for place, packed in find_index_maps(session, project_id, missing, contigs).items():
                if place not in found and place in wanted.get(place[0], ()):
                    self._unpack(project_id, place, packed, found)
        return {
            file.key: FileMap(file.data_begin, {place[2]: found[place] for place in wanted[file.key] if place in found})
            for file in files
            if file.data_begin is not None
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


def _places(file: CataloguedFile, contigs: Sequence[str]) -> list[Place]:
    named = frozenset(contigs)
    return [
        (file.key, file.version_id, each.name) for each in file.contigs if each.variants != 0 and each.name in named
    ]
