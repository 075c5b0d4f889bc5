"""Commands about the files of a project. It knows the client and the output, no route; the bytes are the client's."""

from __future__ import annotations

import fnmatch
import glob
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from divbase_cli.command import command, group
from divbase_cli.completion import complete_keys
from divbase_cli.failure import CommandFailed, ExitCode, UsageError, exit_code_of, line_of
from divbase_cli.output import size
from divbase_cli.progress import transfer_bars
from divbase_cli.session import Session

if TYPE_CHECKING:
    from divbase_client.downloads import Downloaded
    from divbase_client.models import File, Sidecar
    from divbase_client.transfers import Failed
    from divbase_client.uploads import Source, Uploaded

app = group("files", "Files of a project.")

Key = Annotated[str, typer.Argument(help="Key of the file.", show_default=False, autocompletion=complete_keys)]
Keys = Annotated[list[str], typer.Argument(help="Keys of files.", show_default=False, autocompletion=complete_keys)]
Version = Annotated[str | None, typer.Option(help="Version id, from `ls --versions`; the newest if left out.")]
To = Annotated[Path, typer.Option("--to", help="Folder to write into.", file_okay=False)]
Force = Annotated[bool, typer.Option("--force", help="Replace files of this machine that differ.")]


def _dump(files: Sequence[File]) -> list[dict[str, Any]]:
    return [one.model_dump(mode="json") for one in files]


@command(app, "ls", example=["divbase files ls", "divbase files ls --prefix vcf/ --versions"])
def ls(
    session: Session,
    prefix: Annotated[str, typer.Option(help="Only keys that begin with this.")] = "",
    versions: Annotated[bool, typer.Option("--versions", help="Older versions too.")] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="Deleted files too.")] = False,
) -> None:
    """List files with what DivBase knows of them. UNUSABLE files say why."""
    found = list(session.client.files.list(session.project, prefix=prefix, versions=versions, deleted=deleted))
    if session.output.as_json:
        session.output.json(_dump(found))
        return
    columns: list[tuple[str, Callable[[File], object]]] = [
        ("KEY", lambda one: one.key),
        ("SIZE", lambda one: size(one.size)),
        ("STATE", lambda one: "DELETED" if one.deleted else one.state),
        ("SAMPLES", lambda one: one.samples),
        ("VARIANTS", lambda one: one.variants),
        ("UPLOADED", lambda one: one.uploaded_at),
    ]
    if versions:
        columns.append(("VERSION", lambda one: one.version_id))
    columns.append(("REASON", lambda one: one.reason))
    session.output.table([name for name, _ in columns], [[value(one) for _, value in columns] for one in found])


@command(app, "info", example="divbase files info vcf/chr21.vcf.gz")
def info(session: Session, key: Key, version: Version = None) -> None:
    """Show everything that is known of one file."""
    file = session.client.files.info(session.project, key, version=version)
    if session.output.as_json:
        session.output.json(file.model_dump(mode="json"))
        return
    session.output.facts(
        [
            ("Key", file.key),
            ("Version", file.version_id),
            ("Size", f"{size(file.size)} ({file.size} bytes)"),
            ("SHA-256", file.sha256),
            ("State", "DELETED" if file.deleted else file.state),
            ("Reason", file.reason),
            ("Format", file.format),
            ("Index", f"{file.index} ({file.index_key})" if file.index_key else file.index),
            ("Index job", file.index_job),
            ("BCF copy", _copy(file.sidecar)),
            ("Variants", file.variants),
            ("Samples", f"{len(file.sample_names)}: {', '.join(file.sample_names)}" if file.sample_names else None),
            ("Uploaded", file.uploaded_at),
            ("By", file.uploaded_by),
        ]
    )
    if file.contig_list:
        session.output.text("")
        session.output.table(
            ["CONTIG", "LENGTH", "VARIANTS"], [(one.name, one.length, one.variants) for one in file.contig_list]
        )


def _copy(sidecar: Sidecar | None) -> str | None:
    if sidecar is None:
        return None
    if sidecar.state == "READY" and sidecar.size is not None:
        return f"{size(sidecar.size)} ({sidecar.size} bytes)"
    return f"none: {sidecar.reason}" if sidecar.state == "NONE" else f"being written by job {sidecar.job}"


@command(
    app,
    "upload",
    example=[
        "divbase files upload chr21.vcf.gz chr21.vcf.gz.csi",
        "divbase files upload --recursive data/ --prefix vcf --wait",
    ],
)
def upload(
    session: Session,
    paths: Annotated[list[str], typer.Argument(help="Files, globs, or folders with --recursive.", show_default=False)],
    prefix: Annotated[str, typer.Option(help="Folder of the project to put them into.")] = "",
    key: Annotated[str | None, typer.Option(help="Key for a single file; its own name if left out.")] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders with all that is in them.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until DivBase has indexed them.")] = False,
) -> None:
    """Upload files. What the project has already is skipped; run it again to resume.

    Indexes (.csi, .tbi) go before their files. A folder's files keep their place below it. Hidden files are left out.
    """
    sources = plan_upload(paths, prefix=prefix, key=key, recursive=recursive)
    session.interrupted = "Run the same command again: only what is missing is sent."
    outcomes: list[Uploaded | Failed] = []
    with transfer_bars(session.output) as progress:
        outcomes.extend(session.client.files.upload_all(session.project, sources, progress))
    say_failures(session, outcomes)
    if wait:
        outcomes = _wait(session, outcomes)
    _print_uploads(session, outcomes)
    fail_if_any(outcomes)


def plan_upload(paths: Sequence[str], *, prefix: str, key: str | None, recursive: bool) -> list[Source]:
    """Which file becomes which key. Raises UsageError for folders without `recursive` and for keys named twice."""
    from divbase_client.uploads import Source

    folder = prefix.strip("/") + "/" if prefix.strip("/") else ""
    found = [(path, folder + name) for path, name in _local_files(paths, recursive)]
    if key is not None:
        if len(found) != 1:
            raise UsageError(f"--key names one file, and {len(found)} are to be uploaded.", hint="Use --prefix.")
        found = [(found[0][0], folder + key)]
    keys: dict[str, Path] = {}
    for path, name in found:
        if name in keys and keys[name] != path:
            raise UsageError(
                f"{keys[name]} and {path} would both become {name}.", hint="Upload them with two --prefix."
            )
        keys[name] = path
    return [Source(path, name) for name, path in keys.items()]


def _local_files(paths: Sequence[str], recursive: bool) -> Iterator[tuple[Path, str]]:
    for word in paths:
        matches = (
            [word] if os.path.lexists(word) or not glob.has_magic(word) else sorted(glob.glob(word, recursive=True))
        )
        if not matches:
            raise UsageError(f"No file matches {word!r}.")
        for path in map(Path, matches):
            if not path.is_dir():
                yield path, path.name
            elif recursive:
                yield from _files_below(path)
            elif path == Path(word):
                raise UsageError(f"{path} is a folder.", hint="Add --recursive for all that is in it.")


def _files_below(folder: Path) -> Iterator[tuple[Path, str]]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(here, name)
            if not name.startswith(".") and path.is_file():
                yield path, path.relative_to(folder).as_posix()


def say_failures(session: Session, outcomes: Sequence[object]) -> None:
    """A line for each failure of several files; that of a single file is the command's own error line."""
    from divbase_client.transfers import Failed

    for one in outcomes:
        if isinstance(one, Failed) and len(outcomes) > 1:
            session.output.note(f"divbase: {one.key}: {line_of(one.error)}")


def _wait(session: Session, outcomes: Sequence[Uploaded | Failed]) -> list[Uploaded | Failed]:
    from dataclasses import replace

    from divbase_client.transfers import Failed

    session.interrupted = "The files are uploaded and the index jobs go on; look with: divbase files ls"
    return [
        one
        if isinstance(one, Failed)
        else replace(one, file=session.client.files.wait_until_indexed(session.project, one.key))
        for one in outcomes
    ]


def _print_uploads(session: Session, outcomes: Sequence[Uploaded | Failed]) -> None:
    from divbase_client.transfers import Failed

    if session.output.as_json:
        session.output.json(
            [
                {"key": one.key, "error": line_of(one.error)}
                if isinstance(one, Failed)
                else {
                    "key": one.key,
                    "sent": one.sent,
                    "unchanged": one.unchanged,
                    "file": one.file.model_dump(mode="json"),
                }
                for one in outcomes
            ]
        )
        return
    session.output.table(
        ["KEY", "SIZE", "UPLOAD", "STATE", "REASON"],
        [
            (one.key, None, "failed", None, None)
            if isinstance(one, Failed)
            else (one.key, size(one.file.size), _how(one), one.file.state, one.file.reason)
            for one in outcomes
        ],
    )


def _how(one: Uploaded) -> str:
    if one.unchanged:
        return "unchanged"
    return "sent" if one.sent == one.file.size else f"resumed, {size(one.sent)} sent"


def fail_if_any(outcomes: Sequence[object]) -> None:
    """Raise what says how many failed; the exit code is that of the first."""
    from divbase_client.transfers import Failed

    failed = [one for one in outcomes if isinstance(one, Failed)]
    if len(outcomes) == 1 and failed:
        raise failed[0].error
    if failed:
        code = exit_code_of(failed[0].error)
        hint = f"The first: {failed[0].key}: {line_of(failed[0].error)}"
        raise CommandFailed(f"{len(failed)} of {len(outcomes)} files failed.", code, hint=hint, code="some_failed")


@command(
    app,
    "download",
    example=["divbase files download vcf/chr21.vcf.gz --to data", "divbase files download 'vcf/*' --tree"],
)
def download(
    session: Session,
    keys: Annotated[
        list[str],
        typer.Argument(help="Keys or globs (in quotes).", show_default=False, autocompletion=complete_keys),
    ],
    to: To = Path(),
    tree: Annotated[bool, typer.Option("--tree", help="Keep the folders of the keys below the target folder.")] = False,
    version: Version = None,
    force: Force = False,
) -> None:
    """Download files and verify them. Equal files are skipped; run it again to resume.

    A glob's `*` matches folders too. Without --tree each file is written under the last part of its key.
    """
    wanted = _match(session, keys)
    if version and len(wanted) != 1:
        raise UsageError("--version goes with one key.")
    names = _local_names(wanted, tree)
    downloads = [
        session.client.files.want(session.project, key, to, version=version, name=name, force=force)
        for key, name in zip(wanted, names, strict=True)
    ]
    session.interrupted = "Run the same command again: it goes on where it stopped."
    with transfer_bars(session.output) as progress:
        outcomes = list(session.client.files.download_all(downloads, progress))
    print_downloads(session, outcomes)


def _match(session: Session, words: Sequence[str]) -> list[str]:
    """Keys as they are, globs as the keys that they match, each key once."""
    found: dict[str, None] = {}
    for word in words:
        if not glob.has_magic(word):
            found[word] = None
            continue
        fixed = word[: min(word.find(sign) for sign in "*?[" if sign in word)]
        keys = [one.key for one in session.client.files.list(session.project, prefix=fixed)]
        matches = [key for key in keys if fnmatch.fnmatchcase(key, word)] or [key for key in keys if key == word]
        if not matches:
            raise CommandFailed(f"No file matches {word!r}.", ExitCode.NOT_FOUND, hint="List them: divbase files ls")
        found.update(dict.fromkeys(matches))
    return list(found)


def _local_names(keys: Sequence[str], tree: bool) -> list[str]:
    names = [key if tree else key.rsplit("/", 1)[-1] for key in keys]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        both = " and ".join(key for key, name in zip(keys, names, strict=True) if name == twice)
        raise UsageError(f"{both} would both become {twice}.", hint="Add --tree to keep their folders.")
    return names


def print_downloads(session: Session, outcomes: Sequence[Downloaded | Failed]) -> None:
    """Say what arrived. Raises the failure, if any."""
    from divbase_client.transfers import Failed

    say_failures(session, outcomes)
    if session.output.as_json:
        session.output.json(
            [
                {"key": one.key, "error": line_of(one.error)}
                if isinstance(one, Failed)
                else {**asdict(one), "path": str(one.path)}
                for one in outcomes
            ]
        )
    else:
        session.output.table(
            ["FILE", "SIZE", "DOWNLOAD", "CHECKSUM"],
            [
                (one.key, None, "failed", None)
                if isinstance(one, Failed)
                else (
                    one.path,
                    size(one.size),
                    "unchanged" if one.unchanged else "received",
                    "verified" if one.verified else "none known; size compared",
                )
                for one in outcomes
            ],
        )
    fail_if_any(outcomes)


@command(app, "cat", example="divbase files cat vcf/chr21.vcf.gz | bcftools view -h -")
def cat(session: Session, key: Key, version: Version = None) -> None:
    """Write the bytes of a file to standard output, and verify them."""
    sys.stdout.flush()
    for piece in session.client.files.read(session.project, key, version=version):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _each(session: Session, keys: Sequence[str], act: Callable[[str, str], File], done: str) -> None:
    changed = []
    for key in keys:
        changed.append(act(session.project, key))
        if not session.output.as_json:
            session.output.text(f"{key} {done}")
    if session.output.as_json:
        session.output.json(_dump(changed))


@command(app, "rm", example="divbase files rm vcf/old.vcf.gz")
def rm(session: Session, keys: Keys) -> None:
    """Delete files. Their versions stay: `divbase files restore` brings them back."""
    _each(session, keys, session.client.files.remove, "deleted; bring it back with: divbase files restore")


@command(app, "restore", example="divbase files restore vcf/old.vcf.gz")
def restore(session: Session, keys: Keys) -> None:
    """Bring deleted files back."""
    _each(session, keys, session.client.files.restore, "restored")


@command(app, "refresh", example="divbase files refresh")
def refresh(session: Session) -> None:
    """Take in files that came into the bucket without DivBase."""
    changed = session.client.files.refresh(session.project).items
    if session.output.as_json:
        session.output.json(_dump(changed))
        return
    session.output.table(
        ["KEY", "SIZE", "STATE", "REASON"], [(f.key, size(f.size), f.state, f.reason) for f in changed]
    )
