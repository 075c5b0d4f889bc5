"""Jobs through the API: submit, follow, end, fetch. It knows the routes and wire models of this noun only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from divbase_client.connection import Connection, path_of
from divbase_client.downloads import Downloaded
from divbase_client.errors import GatewayUnreachable, ServerFault, UnexpectedAnswer
from divbase_client.files import Files
from divbase_client.models import (
    Job,
    JobDetail,
    JobLog,
    JobState,
    NewJob,
    Query,
    Rerun,
    ResultDownload,
    ResultDownloads,
)
from divbase_client.transfers import Failed, Progress
from divbase_client.vcf_stats import VcfStats, parse_stats

_PATIENCE = 600.0  # seconds without an answer before `wait` gives up; the job goes on anyway
_FIRST_LOOK, _LONGEST = 0.1, 5.0  # seconds between looks; growing by a quarter, they cost a quick job no second


class Jobs:
    def __init__(self, connection: Connection, files: Files) -> None:
        self._connection = connection
        self._files = files

    def list(
        self, project: str, *, state: JobState | None = None, mine: bool = False, kind: str | None = None
    ) -> Iterator[Job]:
        """Newest first. `kind`: query, shard, index or repair; shards are listed only where they are asked for."""
        params = {"state": state.value if state else None, "mine": mine or None, "kind": kind}
        return self._connection.pages(path_of("projects", project, "jobs"), Job, params)

    def get(self, project: str, job: str) -> JobDetail:
        return self._connection.get(path_of("projects", project, "jobs", job), JobDetail)

    def submit(self, project: str, query: Query, *, fresh: bool = False) -> JobDetail:
        """Accepted jobs are never lost: the answer may be forgotten, the job can be found again by `list`.

        Where an earlier job has the answer already, that job is returned and `reused` is set, unless `fresh` is.
        """
        body = NewJob(**query.model_dump(), fresh=fresh)
        return self._connection.post(path_of("projects", project, "jobs"), JobDetail, body, creates=True)

    def log(self, project: str, job: str) -> JobLog:
        return self._connection.get(path_of("projects", project, "jobs", job, "log"), JobLog)

    def cancel(self, project: str, job: str) -> Job:
        """A job that has ended stays as it is."""
        return self._connection.post(path_of("projects", project, "jobs", job, "cancel"), Job)

    def pin(self, project: str, job: str) -> Job:
        """Keep its result, however long the project keeps others."""
        return self._connection.put(path_of("projects", project, "jobs", job, "pin"), Job)

    def unpin(self, project: str, job: str) -> Job:
        """Keep its result only as long as the project keeps others, from now on."""
        return self._connection.delete(path_of("projects", project, "jobs", job, "pin"), Job)

    def rerun(
        self, project: str, job: str, *, memory_mb: int | None = None, minutes: int | None = None, more: bool = False
    ) -> JobDetail:
        """A new attempt on the same inputs, after an end without success or where the result was removed.

        `memory_mb` and `minutes` are what it asks for, None as much as before; `more` doubles what ran out.
        """
        wish = Rerun(memory_mb=memory_mb, minutes=minutes, more=more)
        return self._connection.post(path_of("projects", project, "jobs", job, "rerun"), JobDetail, wish, creates=True)

    def wait(
        self,
        project: str,
        job: str,
        *,
        timeout: float | None = None,
        on_look: Callable[[JobDetail | None], None] | None = None,
    ) -> JobDetail:
        """Look until the job has ended, often at first and each five seconds in the end.

        `on_look` gets each answer, and None while the gateway is away. Raises TimeoutError; the job goes on.
        """
        begin = heard = time.monotonic()
        pause = _FIRST_LOOK
        while True:
            try:
                seen: JobDetail | None = self.get(project, job)
                heard = time.monotonic()
            except (GatewayUnreachable, ServerFault):
                if time.monotonic() - heard > _PATIENCE:
                    raise
                seen = None
            if on_look:
                on_look(seen)
            if seen is not None and seen.state.is_end:
                return seen
            if timeout is not None and time.monotonic() - begin + pause > timeout:
                raise TimeoutError(f"job {job} has not ended after {timeout:.0f} s")
            time.sleep(pause)
            pause = min(pause * 1.25, _LONGEST)

    def result(self, project: str, job: str) -> Sequence[ResultDownload]:
        """Presigned downloads of a succeeded job's files. Raises Conflict while there is no result."""
        return self._connection.get(path_of("projects", project, "jobs", job, "result"), ResultDownloads).files

    def stats(self, project: str, job: str) -> VcfStats | None:
        """The statistics that the job's last step has made; None where its result is something else.

        Raises:
            Conflict: there is no result (yet).
            UnexpectedAnswer: the result is not what `bcftools stats` prints.
        """
        found = [one for one in self.result(project, job) if one.role == "result"]
        if not found or not found[0].download.key.endswith(".stats.txt"):
            return None
        with TemporaryDirectory(prefix="divbase-") as folder:
            wanted = self._files.want(project, found[0].download.key, Path(folder), known=found[0].download)
            (outcome,) = self._files.download_all([wanted])
            if isinstance(outcome, Failed):
                raise outcome.error
            text = outcome.path.read_text(encoding="utf-8", errors="replace")
        try:
            return parse_stats(text)
        except ValueError as error:
            raise UnexpectedAnswer(f"The statistics of job {job} cannot be read: {error}") from error

    def download(
        self, project: str, job: str, to: Path | str = ".", *, force: bool = False, progress: Progress | None = None
    ) -> Iterator[Downloaded | Failed]:
        """The result, its index, the log and the provenance record into the folder `to`."""
        wanted = [
            self._files.want(project, one.download.key, Path(to), force=force, known=one.download)
            for one in self.result(project, job)
        ]
        return self._files.download_all(wanted, progress)
