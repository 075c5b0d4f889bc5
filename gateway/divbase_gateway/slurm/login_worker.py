"""The process that stays on the login node while jobs are submitted: it makes a job's directory and runs one command in
exchange for one message, so that a submission costs no login shell and no file session. It knows nothing of SLURM and
of DivBase; its text is sent over SSH and run there by Python 3.6 or later, with nothing but the standard library.

Every message, either way, is the length of a JSON object, a line feed and the object. A request is followed by its
files' contents; its answer is `fault` (nothing was run), or `begun`, and when the command has ended `status`, `stdout`
and `stderr`. A request that did not arrive whole does nothing. Silence or the end of input ends the process.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from typing import IO, Any, Dict, List, Optional, Tuple

SILENCE_S = 300


def main() -> None:
    os.umask(0o077)
    mark = sys.argv[2]
    sys.stdout.buffer.write(b"\n%s\n" % mark.encode())  # what login files print ends here
    say(python=sys.version.split()[0])
    while select.select([sys.stdin], [], [], SILENCE_S)[0]:
        request, contents = hear(sys.stdin.buffer)
        if request is None:
            return
        fault = make_directory(request["directory"], [name for name, _ in request["files"]], contents)
        if fault is not None:
            say(fault=fault)
            continue
        say(begun=True)  # heard or not: from here on the command may have run
        run(request)


def say(**words: Any) -> None:
    text = json.dumps(words).encode()
    sys.stdout.buffer.write(b"%d\n%s" % (len(text), text))
    sys.stdout.buffer.flush()


def hear(source: IO[bytes]) -> Tuple[Optional[Dict[str, Any]], List[bytes]]:
    """A request and the contents of its files; (None, []) where the input ends before it does."""
    line = source.readline()
    text = source.read(int(line)) if line.endswith(b"\n") else b""
    if not text or len(text) < int(line):
        return None, []
    request = json.loads(text.decode())
    contents = [source.read(size) for _, size in request["files"]]
    whole = all(len(content) == size for content, (_, size) in zip(contents, request["files"]))
    return (request, contents) if whole else (None, [])


def make_directory(path: str, names: List[str], contents: List[bytes]) -> Optional[str]:
    """What went wrong, or None. A directory that could not be filled is gone; one that was there is left alone."""
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        return error.strerror
    try:
        for name, content in zip(names, contents):
            write_private(os.path.join(path, name), content)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        return error.strerror
    return None


def write_private(path: str, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def run(request: Dict[str, Any]) -> None:
    """Run the command and say how it ended, or leave without a word when it takes too long: nobody waits any more."""
    argv = request["argv"]
    try:
        process = subprocess.Popen(
            argv,
            env=request["environment"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        say(status=127, stdout="", stderr="%s: %s" % (argv[0], error.strerror))  # as a shell would say it
        return
    try:
        stdout, stderr = process.communicate(timeout=request["limit_s"])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        sys.exit(1)
    say(status=process.returncode, stdout=stdout.decode(errors="replace"), stderr=stderr.decode(errors="replace"))


if __name__ == "__main__":
    main()
