"""How a command ends: the exit codes, and one line (or one JSON problem) for each error. It starts nothing itself."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum

from divbase_client.errors import (
    ApiError,
    ChecksumMismatch,
    ClientError,
    Conflict,
    GatewayUnreachable,
    InvalidSettings,
    NotAllowed,
    NotFound,
    ServerFault,
    TargetExists,
    TooManyRequests,
    TransferInterrupted,
    Unauthenticated,
)

from divbase_cli.output import printable


class ExitCode(IntEnum):
    OK = 0
    FAULT = 1
    USAGE = 2
    BAD_INPUT = 3
    NOT_FOUND = 4
    NOT_ALLOWED = 5
    CONFLICT = 6
    UNREACHABLE = 7
    JOB_FAILED = 8
    CHECKSUM = 9
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAULT: "an unexpected fault",
    ExitCode.USAGE: "a wrong option or argument, or a setting that is missing",
    ExitCode.BAD_INPUT: "the input is not valid (a query, a table, a name, a file that is not there)",
    ExitCode.NOT_FOUND: "no such project, file or job",
    ExitCode.NOT_ALLOWED: "the key is missing or refused, or may not do this",
    ExitCode.CONFLICT: "it clashes with what is there already, or a limit is reached",
    ExitCode.UNREACHABLE: "the gateway or S3 cannot be reached, or has a fault",
    ExitCode.JOB_FAILED: "the job failed, was cancelled or got lost",
    ExitCode.CHECKSUM: "the bytes are not those that were promised",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
    ExitCode.BROKEN_PIPE: "the reader of the output went away",
}

_CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (Unauthenticated, ExitCode.NOT_ALLOWED),
    (NotAllowed, ExitCode.NOT_ALLOWED),
    (NotFound, ExitCode.NOT_FOUND),
    (Conflict, ExitCode.CONFLICT),
    (TooManyRequests, ExitCode.UNREACHABLE),
    (ServerFault, ExitCode.UNREACHABLE),
    (ApiError, ExitCode.BAD_INPUT),
    (GatewayUnreachable, ExitCode.UNREACHABLE),
    (TransferInterrupted, ExitCode.UNREACHABLE),
    (ChecksumMismatch, ExitCode.CHECKSUM),
    (TargetExists, ExitCode.CONFLICT),
    (InvalidSettings, ExitCode.USAGE),
    (FileNotFoundError, ExitCode.BAD_INPUT),
    (IsADirectoryError, ExitCode.BAD_INPUT),
    (NotADirectoryError, ExitCode.BAD_INPUT),
    (PermissionError, ExitCode.BAD_INPUT),
)


class CommandFailed(ClientError):
    """A command's own end without success, with its exit code."""

    def __init__(self, message: str, exit_code: ExitCode, *, hint: str | None = None, code: str = "failed") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.code = code


class UsageError(CommandFailed):
    """Options that do not go together, or a setting that is missing."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, ExitCode.USAGE, hint=hint, code="usage")


def exit_code_of(error: BaseException) -> ExitCode:
    """The documented exit code of an error."""
    if isinstance(error, CommandFailed):
        return error.exit_code
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return ExitCode.FAULT


def line_of(error: BaseException) -> str:
    """`what happened. What to do.` on one line."""
    if isinstance(error, ClientError):
        words = [error.message, error.hint or ""]
        if isinstance(error, ServerFault) and error.request_id:
            words.append(f"(request {error.request_id})")
        return " ".join(word.strip() for word in words if word)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        todo = " Free some space and run the same again." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"{where}{error.strerror}.{todo}"
    return f"{type(error).__name__}: {error}. Set DIVBASE_DEBUG=1 to see where, and please report it."


def report(error: BaseException, *, as_json: bool) -> ExitCode:
    """Say what went wrong on standard error; return the exit code."""
    code = exit_code_of(error)
    if as_json:
        problem = error.as_problem() if isinstance(error, ClientError) else ClientError(line_of(error)).as_problem()
        sys.stderr.write(json.dumps({**problem, "exit_code": int(code)}) + "\n")
    else:
        sys.stderr.write(f"divbase: {printable(' '.join(line_of(error).split()))}\n")
    return code


@contextmanager
def reported(*, as_json: bool, interrupted: Callable[[], str]) -> Iterator[None]:
    """Turn every error of a command into its line and SystemExit with its code; `interrupted()` goes with Ctrl-C."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more at its end; give it something that takes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(ExitCode.BROKEN_PIPE) from None
    except KeyboardInterrupt:
        stop = CommandFailed("Interrupted.", ExitCode.INTERRUPTED, hint=interrupted(), code="interrupted")
        sys.stderr.write("\n" if sys.stderr.isatty() else "")
        raise SystemExit(report(stop, as_json=as_json)) from None
    except (ClientError, OSError) as error:
        raise SystemExit(report(error, as_json=as_json)) from error
    except Exception as error:
        if os.environ.get("DIVBASE_DEBUG"):
            raise
        raise SystemExit(report(error, as_json=as_json)) from error
