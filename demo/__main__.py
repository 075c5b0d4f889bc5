"""A researcher's day on one machine, on simulated data: every command is shown as one would type it, and really run.

    python -m demo [--keep] [--folder demo-data]

The stack is the embedded one, as `divbase-gateway up` starts it. Nothing outside the folder is touched, the command
line's own configuration included.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from demo.simulate import simulate_survey

REGIONS = "chr21:15000000-25000000,chr22:15000000-25000000"
QUERY = ["--where", "Sex:F;Country:Norway", "--command", f'view -r {REGIONS}; view -i "QUAL>=30"']

_BIN = Path(sys.executable).parent
_START_S = 90

console = Console(highlight=False, soft_wrap=True)


class StepFailed(Exception):
    """A command of the demo ended with an error; its own words are on the terminal."""


def main() -> int:
    """Run the demo. Returns 0 when every step did what it should."""
    options = _options()
    folder = options.folder.absolute()
    shutil.rmtree(folder / "laptop", ignore_errors=True)
    (folder / "laptop").mkdir(parents=True)
    began = time.monotonic()
    try:
        with _stack(folder, keep=options.keep) as url:
            _day(folder, url)
            console.print(f"\nThe whole day took {time.monotonic() - began:.0f} s.", style="bold")
            if options.keep:
                _invite(folder, url)
    except StepFailed as failure:
        console.print(f"\nThe demo stopped: {failure}", style="bold red")
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave DivBase running afterwards")
    parser.add_argument("--folder", type=Path, default=Path("demo-data"), help="where everything is kept")
    return parser.parse_args()


# --- the day -----------------------------------------------------------------------------------------------------


def _day(folder: Path, url: str) -> None:
    laptop = Laptop(folder / "laptop", url, (folder / "stack" / "admin.key").read_text().strip())
    project = f"puffins-{time.strftime('%H%M%S')}"

    _say("Two surveys of a sea bird are on the laptop: one file for each chromosome, and one for each colony.")
    survey = simulate_survey(laptop.folder)
    laptop.shell("ls -sh1")

    _say("Sign in, and make a project: a bucket of its own, with versions of everything.")
    laptop.run(["login", url, "--api-key-stdin"], stdin=laptop.key, typed_before="cat ~/my-api-key | ")
    laptop.run(["projects", "create", project, "--description", "Puffins of the north"])
    laptop.run(["projects", "use", project])

    _say("Upload the files. Bytes go straight to S3; the gateway reads headers and has indexes built by jobs.")
    laptop.run(["files", "upload", *[file.name for file in survey.files], "--wait"])
    laptop.run(["files", "ls"])

    _say("The sample table: checked on the laptop, then pushed. Which samples does a filter find?")
    laptop.shell("head -4 sample_metadata.tsv")
    laptop.run(["metadata", "validate", survey.metadata.name])
    laptop.run(["metadata", "push", survey.metadata.name])
    laptop.run(["metadata", "query", "Sex:F;Country:Norway"])

    _say("The question: females from Norway, two regions, good quality, over all files. First the plan, for free.")
    laptop.run(["query", "plan", *QUERY])

    _say("A wrong question is answered at once, and costs nothing.")
    laptop.run(["query", "run", "--where", "Gender:F"], expect=3)

    _say("Now the job: submitted, followed, checked, downloaded.")
    laptop.run(["query", "run", *QUERY, "--download", "result"])

    _say("What became of it all, and the answer itself.")
    laptop.run(["jobs", "ls"])
    laptop.shell("gzip -dc result/result.vcf.gz | grep -v '^##' | cut -f 1,2,4,5,10-14 | head -8")
    laptop.shell("ls -sh1 result")


class Laptop:
    """A folder with a command line whose configuration is its own. `key` is the API key that it signs in with."""

    def __init__(self, folder: Path, url: str, key: str):
        self.folder = folder
        self.key = key
        own = {name: value for name, value in os.environ.items() if not name.startswith("DIVBASE_")}
        self._environment = own | {
            "DIVBASE_CONFIG": str(folder / ".config" / "divbase.toml"),
            "PATH": f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def run(self, words: list[str], *, stdin: str | None = None, typed_before: str = "", expect: int = 0) -> None:
        """Show and run one `divbase` command.

        Raises:
            StepFailed: its exit code is not the expected one.
        """
        _prompt(f"{typed_before}divbase {shlex.join(words)}")
        self._run([str(_BIN / "divbase"), *words], stdin, expect)

    def shell(self, command: str) -> None:
        """Show and run an ordinary command."""
        _prompt(command)
        self._run(["sh", "-c", command], None, 0)

    def _run(self, argv: list[str], stdin: str | None, expect: int) -> None:
        ended = subprocess.run(
            argv, cwd=self.folder, env=self._environment, input=stdin, text=True, check=False, timeout=600
        )
        if ended.returncode != expect:
            raise StepFailed(f"exit code {ended.returncode}, not {expect}")


def _say(words: str) -> None:
    console.print(f"\n# {words}", style="bold cyan", markup=False)


def _prompt(command: str) -> None:
    console.print(f"$ {command}", style="bold", markup=False)


# --- the stack ---------------------------------------------------------------------------------------------------


@contextmanager
def _stack(folder: Path, *, keep: bool) -> Iterator[str]:
    """The embedded stack, up and answering; its address. At the end it stops, unless all went well and `keep` is set.

    Raises:
        StepFailed: it did not come up.
    """
    _say("DivBase on this machine: S3 server, database, scheduler and API.")
    _prompt("divbase-gateway up --port 0 &")
    log = folder / "gateway.log"
    command = [str(_BIN / "divbase-gateway"), "up", "--folder", str(folder / "stack"), "--port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    worked = False
    try:
        yield _address(process, folder / "stack" / "port", log)
        worked = True
    finally:
        if not (keep and worked):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _address(process: subprocess.Popen[bytes], port_file: Path, log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        if port_file.is_file() and _answers(url := f"http://127.0.0.1:{port_file.read_text().strip()}"):
            console.print(f"DivBase answers at {url}; its log is {_short(log)}.")
            return url
        time.sleep(0.1)
    raise StepFailed(f"DivBase did not come up:\n{log.read_text()[-2000:]}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/api/v1/ready", timeout=10) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except OSError:
        return False


def _invite(folder: Path, url: str) -> None:
    console.print(f"\nDivBase goes on at {url}. To go on by hand:", style="bold")
    console.print(f"  export DIVBASE_CONFIG={shlex.quote(str(folder / 'laptop' / '.config' / 'divbase.toml'))}")
    console.print(f"  cd {shlex.quote(_short(folder / 'laptop'))} && divbase files ls")
    console.print(f"Stop it with: kill {_gateway_pid(folder)}")


def _gateway_pid(folder: Path) -> str:
    return (folder / "stack" / "pid").read_text().strip()


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    sys.exit(main())
