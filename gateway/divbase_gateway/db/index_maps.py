"""Queries over the maps of indexes, which are kept packed. What is in them is for the domain to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from divbase_gateway.db.models import FileRow, FileVersionRow, IndexMapRow

_MOST_NAMED = 1000
"""Files that are named in one query: databases take so many values only."""


def replace_index_maps(session: Session, version_row_id: int, maps: Mapping[str, bytes]) -> None:
    """Let a version have these maps, by contig, and no others."""
    session.execute(delete(IndexMapRow).where(IndexMapRow.version_row_id == version_row_id))
    if maps:
        values = [{"version_row_id": version_row_id, "contig": name, "packed": data} for name, data in maps.items()]
        session.connection().execute(insert(IndexMapRow), values)  # by the session it takes twice as long


def find_index_maps(
    session: Session, project_id: int, versions: Sequence[tuple[str, str]], contigs: Sequence[str]
) -> dict[tuple[str, str, str], bytes]:
    """(key, version id, contig) -> packed map, of these (key, version id) of a project. One query per 1000 of them."""
    found: dict[tuple[str, str, str], bytes] = {}
    for begin in range(0, len(versions), _MOST_NAMED):
        named = versions[begin : begin + _MOST_NAMED]
        query = (
            select(FileRow.key, FileVersionRow.version_id, IndexMapRow.contig, IndexMapRow.packed)
            .join(FileVersionRow, FileVersionRow.file_id == FileRow.id)
            .join(IndexMapRow, IndexMapRow.version_row_id == FileVersionRow.id)
            .where(
                FileRow.project_id == project_id,
                FileRow.key.in_([key for key, _ in named]),
                FileVersionRow.version_id.in_([version_id for _, version_id in named]),
                IndexMapRow.contig.in_(contigs),
            )
        )
        found.update(((key, version_id, contig), packed) for key, version_id, contig, packed in session.execute(query))
    return found
