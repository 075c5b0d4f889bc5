"""What people do today, as a process of its own: download every file whole with boto3, then bcftools, step by step or
with pipes. It says that it is ready, begins when it is told to, and stays until it was looked at.

    python -m benchmarks.by_hand < one line of JSON, then an empty line to begin, then the end of the input
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3


def main() -> None:
    told = json.loads(sys.stdin.readline())
    steps = _Steps(told)
    _say({"ready": True})
    sys.stdin.readline()
    times = {}
    for step in (steps.download, steps.index, steps.pipe if told["piped"] else steps.files):
        begun = time.perf_counter()
        step()
        times[step.__name__] = time.perf_counter() - begun
    _say(times)
    sys.stdin.read()


def _say(words: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


class _Steps:
    """The folder has `in/`, `tmp/` and, where samples are chosen, `samples/NUMBER.txt`; the result is made in it."""

    def __init__(self, told: dict[str, Any]):
        self._folder = Path(told["folder"])
        self._bcftools = told["bcftools"]
        self._bucket, self._keys = told["bucket"], told["keys"]
        chosen = ["--regions", told["region"]] if told["region"] else []
        cut = [["--samples-file", f"samples/{number}.txt"] if told["cut"] else [] for number in range(len(self._keys))]
        self._views = [["view", "--no-version", *chosen, *each] for each in cut]
        self._inputs = [f"in/{number}.vcf.gz" for number in range(len(self._keys))]
        access, secret = told["s3_keys"]
        self._s3: Any = boto3.client(
            "s3",
            endpoint_url=told["endpoint"],
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            region_name="us-east-1",
        )

    def download(self) -> None:
        for key, path in zip(self._keys, self._inputs, strict=True):
            self._s3.download_file(self._bucket, key, str(self._folder / path))

    def index(self) -> None:
        for path in self._inputs:
            self._run("index", path)

    def files(self) -> None:
        """Every step writes a file, and the next one reads it."""
        views = [f"tmp/{number}.vcf.gz" for number in range(len(self._inputs))]
        for view, source, target in zip(self._views, self._inputs, views, strict=True):
            self._run(*view, "-Oz", "-o", target, source)
            self._run("index", target)
        if len(views) > 1:
            self._run("merge", "--no-version", "-Oz", "-o", "tmp/merged.vcf.gz", *views)
        last = "tmp/merged.vcf.gz" if len(views) > 1 else views[0]
        self._run("sort", "-T", "tmp/sort", "-Oz", "-o", "result.vcf.gz", last)
        self._run("index", "result.vcf.gz")

    def pipe(self) -> None:
        """The same steps at once, with uncompressed BCF between them."""
        views = [self._typed(*view, "-Ou", path) for view, path in zip(self._views, self._inputs, strict=True)]
        several = self._typed("merge", "--no-version", "--no-index", "-Ou") + "".join(f" <({each})" for each in views)
        sort = self._typed("sort", "-T", "tmp/sort", "-Oz", "-o", "result.vcf.gz")
        script = f"{several if len(views) > 1 else views[0]} | {sort} -"
        self._do(lambda: subprocess.run(["bash", "-euo", "pipefail", "-c", script], **self._options()))
        self._run("index", "result.vcf.gz")

    def _typed(self, *words: str) -> str:
        return shlex.join([self._bcftools, *words])

    def _run(self, *words: str) -> None:
        self._do(lambda: subprocess.run([self._bcftools, *words], **self._options()))

    def _options(self) -> dict[str, Any]:
        return {"cwd": self._folder, "stdin": subprocess.DEVNULL, "capture_output": True, "check": True}

    @staticmethod
    def _do(run: Callable[[], Any]) -> None:
        try:
            run()
        except subprocess.CalledProcessError as exc:
            words = exc.stderr.decode(errors="replace")[-2000:]
            raise RuntimeError(f"{shlex.join(map(str, exc.cmd))[:500]} failed: {words}") from exc


if __name__ == "__main__":
    main()
