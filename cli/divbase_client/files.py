"""Files of a project through the API, and their bytes through S3. It knows the routes of this noun; the bytes are moved
by uploads and downloads.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from divbase_client.connection import Connection, path_of
from divbase_client.downloads import Downloaded, Downloader, Wanted, stream
from divbase_client.errors import InvalidSettings
from divbase_client.models import Download, File, FileDetail, FileState, JobDetail, Page, RepairFile, RestoreFile
from divbase_client.store import Store
from divbase_client.transfers import Failed, Lanes, Progress
from divbase_client.uploads import Source, Uploaded, Uploader

_UNSAFE_NAME = re.compile(r"[\x00-\x1f\x7f]")


class Files:
    def __init__(self, connection: Connection, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout

    def list(self, project: str, *, prefix: str = "", versions: bool = False, deleted: bool = False) -> Iterator[File]:
        """Files whose key begins with `prefix`; `versions` adds their older versions, `deleted` the deleted files."""
        params = {"prefix": prefix or None, "versions": versions or None, "deleted": deleted or None}
        return self._connection.pages(path_of("projects", project, "files"), File, params)

    def info(self, project: str, key: str, *, version: str | None = None) -> FileDetail:
        path = path_of("projects", project, "files", "info")
        return self._connection.get(path, FileDetail, {"key": key, "version": version})

    def link(self, project: str, key: str, *, version: str | None = None) -> Download:
        """Size, checksum and a presigned URL of one version; keys of results are welcome too."""
        path = path_of("projects", project, "files", "download")
        return self._connection.get(path, Download, {"key": key, "version": version})

    def remove(self, project: str, key: str) -> File:
        """Soft: the versions stay, and `restore` brings the file back."""
        return self._connection.delete(path_of("projects", project, "files"), File, {"key": key})

    def restore(self, project: str, key: str) -> File:
        path = path_of("projects", project, "files", "restore")
        return self._connection.post(path, File, RestoreFile(key=key), creates=True)

    def repair(self, project: str, key: str) -> JobDetail:
        """Mend a file that is UNUSABLE with a job, which writes a new version; `reused` is set where one does already.

        Raises Conflict where no job can mend it, or nothing is wrong with it.
        """
        path = path_of("projects", project, "files", "repair")
        return self._connection.post(path, JobDetail, RepairFile(key=key), creates=True)

    def refresh(self, project: str) -> Page[File]:
        """Catalogue what came into the bucket without DivBase; return what changed."""
        path = path_of("projects", project, "files", "refresh")
        return self._connection.post(path, Page[File], creates=True)

    def upload(
        self, project: str, path: Path | str, key: str | None = None, progress: Progress | None = None
    ) -> Uploaded:
        """One file, as `key` or under its own name. Content that the project has already is not sent again.

        Run it again after an interruption: only the missing parts are sent.
        """
        source = Source(Path(path), key or Path(path).name)
        with Lanes(Store(self._timeout)) as lanes:
            return Uploader(self._connection, project, lanes, self._connection.retry, progress).upload(source)

    def upload_all(
        self, project: str, sources: Iterable[Source], progress: Progress | None = None
    ) -> Iterator[Uploaded | Failed]:
        """Several files side by side; indexes first. A file that fails is answered as `Failed`."""
        with Lanes(Store(self._timeout)) as lanes:
            yield from Uploader(self._connection, project, lanes, self._connection.retry, progress).upload_all(sources)

    def download(
        self,
        project: str,
        key: str,
        to: Path | str = ".",
        *,
        version: str | None = None,
        force: bool = False,
        progress: Progress | None = None,
    ) -> Downloaded:
        """One file into the folder `to`, under the last word of its key. See `download_all`."""
        (outcome,) = self.download_all([self.want(project, key, Path(to), version=version, force=force)], progress)
        if isinstance(outcome, Failed):
            raise outcome.error
        return outcome

    def want(
        self,
        project: str,
        key: str,
        to: Path,
        *,
        version: str | None = None,
        name: str | None = None,
        force: bool = False,
        known: Download | None = None,
    ) -> Wanted:
        """A download to hand to `download_all`: into the folder `to`, under `name` or the last word of the key.

        `known`: a first answer that is at hand already. The version is pinned by the first answer.
        """
        pinned = [version or (known.version_id if known else None)]
        at_hand = [known] if known else []

        def look_up() -> Download:
            answer = at_hand.pop() if at_hand else self.link(project, key, version=pinned[0])
            pinned[0] = answer.version_id
            return answer

        return Wanted(key, look_up, to / local_name(name or PurePosixPath(key).name), force)

    def download_all(self, wanted: Iterable[Wanted], progress: Progress | None = None) -> Iterator[Downloaded | Failed]:
        """Several files side by side. Each is verified before it takes its name, and resumes when run again.

        A target with the same content is left alone; one with other content is an error unless `force` was set.
        """
        with Lanes(Store(self._timeout)) as lanes:
            yield from Downloader(lanes, self._connection.retry, progress).download_all(wanted)

    def read(self, project: str, key: str, *, version: str | None = None) -> Iterator[bytes]:
        """The bytes of one version, in order and in large pieces. Raises ChecksumMismatch after the last, if at all."""
        store = Store(self._timeout)
        try:
            yield from stream(self.want(project, key, Path(), version=version).look_up, store, self._connection.retry)
        finally:
            store.close()

    def wait_until_indexed(self, project: str, key: str, timeout: float = 3600.0) -> FileDetail:
        """Look until the gateway has read the file and has an index, or says that it cannot. Raises TimeoutError."""
        until = time.monotonic() + timeout
        pause = 0.5
        while True:
            detail = self.info(project, key)
            if detail.state is not FileState.INDEXING:
                return detail
            if time.monotonic() > until:
                raise TimeoutError(f"{key} is still {detail.state} after {timeout:.0f} s")
            self._connection.retry.sleep(pause)
            pause = min(pause * 1.5, 5.0)


def local_name(name: str) -> Path:
    """A relative path for a name that another machine gave. Raises InvalidSettings when it could lead elsewhere."""
    path = PurePosixPath(name)
    parts = path.parts
    if not parts or path.is_absolute() or ".." in parts or "\\" in name or ":" in parts[0] or _UNSAFE_NAME.search(name):
        raise InvalidSettings(f"{name!r} cannot be used as a file name here.", hint="Use `divbase files cat` instead.")
    return Path(*parts)
