"""The bcftools that tests run: the one inside pysam, or another that is named.

    DIVBASE_TEST_BCFTOOLS=/usr/bin/bcftools pytest tests/integration/test_differential.py

docs/bcftools.md says how to get older ones without installing them.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from divbase_gateway.local.bcftools import write_pysam_bcftools

VARIABLE = "DIVBASE_TEST_BCFTOOLS"


def bcftools_for_tests(folder: Path) -> Path:
    """An executable called `bcftools` in `folder`, for a PATH that begins with it."""
    named = os.environ.get(VARIABLE)
    if not named:
        return write_pysam_bcftools(folder).path
    if not os.access(named, os.X_OK):
        raise ValueError(f"{VARIABLE} is {named!r}; it has to be the path of a program")
    (folder / "bcftools").symlink_to(Path(named).resolve())
    return folder / "bcftools"


def release_of(program: Path) -> tuple[int, ...]:
    """(1, 21) of one that says 1.21."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    return tuple(int(number) for number in said.split("-")[0].split("."))


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status, negative for a signal, and what it printed."""

    status: int
    stdout: str
    stderr: str


def run_by_hand(program: Path, words: Sequence[str], folder: Path, most_bytes: int) -> Ended:
    """Run one command in `folder` as a person would. No file that it writes grows beyond `most_bytes`."""
    with tempfile.TemporaryDirectory() as kept:
        printed = [Path(kept, name) for name in ("stdout", "stderr")]
        if os.environ.get(VARIABLE):
            status = _run_alone([program, *words], folder, most_bytes, *printed)
        else:
            status = _forks_of(program).run(words, folder, most_bytes, *printed)
        return Ended(status, *(path.read_text() for path in printed))


def _run_alone(command: Sequence[str | Path], folder: Path, most_bytes: int, stdout: Path, stderr: Path) -> int:
    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    with stdout.open("wb") as out, stderr.open("wb") as err:
        return subprocess.run(command, cwd=folder, stdout=out, stderr=err, preexec_fn=bound, check=False).returncode


class _Forks:
    """Runs pysam's bcftools in forks of a small process that has loaded it already: 4 ms each, and not 23.

    What the forks run is the executable that DivBase writes, word for word.
    """

    def __init__(self, program: Path) -> None:
        command = [sys.executable, "-IS", "-c", _SERVER, program]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(self._process.communicate)

    def run(self, words: Sequence[str], folder: Path, most_bytes: int, stdout: Path, stderr: Path) -> int:
        asked = [list(words), str(folder), most_bytes, str(stdout), str(stderr)]
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


_forks_of = cache(_Forks)

_SERVER = """
import ast, ctypes, json, os, re, resource, sys
program = sys.argv[1]
text = open(program).read()
ctypes.CDLL(ast.literal_eval(re.search(r"CDLL\\(('.+')\\)", text)[1]))
code = compile(text, program, "exec")
for line in sys.stdin:
    words, folder, most_bytes, *printed = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, path in enumerate(printed, start=1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
            sys.argv = [program, *words]
            exec(code, {"__name__": "__main__"})
        except BaseException as error:
            os.write(2, repr(error).encode())
        os._exit(125)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
