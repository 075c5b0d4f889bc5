"""Sample metadata of a project: look, ask, push and begin a table. It knows the routes and wire models of this noun;
what a valid table is stands in sample_metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from divbase_client.connection import Connection, path_of
from divbase_client.files import Files
from divbase_client.models import MatchedSample, Metadata, MetadataAnswer, MetadataQuery, SampleList
from divbase_client.uploads import Uploaded

KEY = "sample_metadata.tsv"


class SampleMetadata:
    def __init__(self, connection: Connection, files: Files) -> None:
        self._connection = connection
        self._files = files

    def get(self, project: str) -> Metadata:
        """Columns, rows and warnings of the current table."""
        return self._connection.get(path_of("projects", project, "metadata"), Metadata)

    def query(self, project: str, where: str = "") -> MetadataAnswer:
        """Samples that match the filter, for example `Area:North,West;Year:>=2000`, and the files that hold them."""
        path = path_of("projects", project, "metadata", "query")
        return self._connection.post(path, MetadataAnswer, MetadataQuery(where=where))

    def samples(self, project: str) -> Sequence[MatchedSample]:
        """Every sample of the project's usable variant files."""
        return self._connection.get(path_of("projects", project, "samples"), SampleList).samples

    def template(self, project: str, columns: Sequence[str] = ()) -> str:
        """A table to fill in: one row for each sample, empty cells under `columns`."""
        head = "\t".join(["#Sample_ID", *columns])
        rows = [matched.sample + "\t" * len(columns) for matched in self.samples(project)]
        return "\n".join([head, *rows]) + "\n"

    def push(self, project: str, path: Path | str) -> Uploaded:
        """Validate the table here, then upload it. Raises sample_metadata.InvalidTable with every fault at once."""
        from divbase_client.sample_metadata import parse_table

        parse_table(Path(path).read_bytes())
        return self._files.upload(project, path, KEY)
