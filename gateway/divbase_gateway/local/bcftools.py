"""Finds a bcftools that works: the one on the PATH, or else the one inside pysam behind a small executable.

It must not know what bcftools is used for, nor import pysam: only the file that pysam brings is needed.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from divbase_gateway.domain.errors import Unavailable

_VERSION_TIMEOUT_S = 20.0
_MAX_SHEBANG = 120
"""Older kernels cut a `#!` line at 127 bytes, the newline included."""

_LAUNCHER = '''\
"""bcftools out of pysam. Written by DivBase; runs bcftools in this process, on this process's own files."""
import ctypes
import os
import sys

try:
    import _signal as signal  # without the enums of `signal`: 4 ms less for every bcftools
except ImportError:
    import signal

# Python ignores these two and catches SIGINT; a closed pipe or Ctrl-C must end bcftools as it ends any program.
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

lib = ctypes.CDLL({library!r})
libc = ctypes.CDLL(None)
for name in ("stdout", "stderr"):
    stream = ctypes.c_void_p.in_dll(libc, {prefix!r} + name + {suffix!r})
    ctypes.c_void_p.in_dll(lib, "bcftools_" + name).value = stream.value
ctypes.c_char_p.in_dll(lib, "bcftools_stdout_fn").value = b"-"

words = [b"bcftools", *map(os.fsencode, sys.argv[1:])]
argv = (ctypes.c_char_p * (len(words) + 2))(None, *words, None)  # one free slot in front: "+name" moves argv back
status = lib.bcftools_dispatch(len(words), ctypes.byref(argv, ctypes.sizeof(ctypes.c_char_p)))
if libc.fflush(None) != 0:
    os.write(2, b"bcftools: could not write all of the output\\n")
    status = status or 1
os._exit(status & 0xFF)
'''


@dataclass(frozen=True)
class BcftoolsExecutable:
    """A bcftools that answered. `version` as it states it (`1.24`)."""

    path: Path
    version: str
    source: Literal["PATH", "pysam"]


def ensure_bcftools(folder: Path) -> BcftoolsExecutable:
    """The bcftools on the PATH if it works, else pysam's, as an executable named `bcftools` in `folder`.

    The executable streams, takes `/dev/fd/N`, and ends as bcftools ends. pysam brings no plugins (`+fill-tags`).

    Raises:
        Unavailable: neither is there, or pysam's does not run.
    """
    found = shutil.which("bcftools")
    version = _version_of(Path(found)) if found else None
    if found and version:
        return BcftoolsExecutable(Path(found), version, "PATH")
    return write_pysam_bcftools(folder)


def write_pysam_bcftools(folder: Path) -> BcftoolsExecutable:
    """Write the executable that runs pysam's bcftools into `folder`, and try it.

    Raises:
        Unavailable: pysam is not installed, or the executable does not run.
    """
    library = _pysam_library()
    if library is None:
        raise Unavailable(
            "There is no bcftools on the PATH, and pysam, which brings one, is not installed.",
            hint="Install bcftools, or run: pip install 'divbase-gateway[embedded]'",
        )
    path = _write_executable(folder / "bcftools", launcher(library, sys.executable))
    version = _version_of(path)
    if version is None:
        raise Unavailable(
            f"{path} runs the bcftools of pysam ({library}) and did not answer to --version.",
            hint="Install bcftools on the PATH, or another release of pysam.",
        )
    return BcftoolsExecutable(path, version, "pysam")


def _pysam_library() -> Path | None:
    """pysam's shared library that holds bcftools, found without importing pysam."""
    spec = importlib.util.find_spec("pysam")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for library in sorted(Path(folder).glob("libcbcftools*.so")):
            return library
    return None


def launcher(library: PurePath, python: str) -> str:
    """The text of an executable that runs the bcftools in pysam's `library` by this interpreter, here or elsewhere."""
    # C's stdout and stderr are variables of these names in glibc and musl, and of the others on macOS.
    prefix, suffix = ("__", "p") if sys.platform == "darwin" else ("", "")
    return _shebang(python) + _LAUNCHER.format(library=str(library), prefix=prefix, suffix=suffix)


def _shebang(python: str) -> str:
    """First lines that start `python` isolated and without site-packages, whatever its path looks like."""
    if len(python) <= _MAX_SHEBANG - len("#! -IS") and not any(c.isspace() for c in python):
        return f"#!{python} -IS\n"
    # To sh the second line is a command; to Python the two are one string.
    return f"#!/bin/sh\n''':'\nexec {shlex.quote(python)} -IS \"$0\" \"$@\"\n'''\n"


def _write_executable(path: Path, text: str) -> Path:
    """Replace `path` in one step: another process may be starting it right now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".bcftools-")
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(text)
    Path(name).chmod(0o755)
    return Path(name).replace(path)


def _version_of(path: Path) -> str | None:
    """The version that the program states, None if it does not run or is no bcftools."""
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    words = done.stdout.partition("\n")[0].split()
    return words[1] if done.returncode == 0 and len(words) >= 2 and words[0] == "bcftools" else None
