"""The node's two steps, stage and run, of a plan: its inputs come from a server here, and nobody is asked or told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from divbase_gateway.domain.plans import part_to_dict
from divbase_gateway.domain.queries import Plan, PlannedInput, Process
from divbase_jobscripts.render import node_helper_source

from benchmarks.faulty_store import FaultyStore

_TOLD = ("number", "key", "format", "size", "etag", "sha256")


def prepare(folder: Path, plan: Plan, store: FaultyStore, retry_for_s: float) -> None:
    """Write what the node finds: the helper, its ticket, the manifest and the pipeline."""
    for name in ("job", "scratch"):
        (folder / name).mkdir(parents=True)
    fresh = [
        {"number": entry.number, "request": _request(store, entry.key, 2), "index_request": None}
        for entry in plan.inputs
    ]
    store.fresh = {"inputs": fresh}
    manifest = {"job": "bare", "attempt": 1, "kind": "query", "part_size": 64 << 20, "retry_for_s": retry_for_s}
    manifest["inputs"] = [_input(store, entry) for entry in plan.inputs]
    ticket = {"gateway": store.url, "attempt": "bare.1", "token": "t", "retry_for_s": retry_for_s}
    (folder / "job" / "divbase_node.py").write_bytes(node_helper_source())
    (folder / "job" / "job.json").write_text(json.dumps(ticket))
    (folder / "scratch" / "state.json").write_text(json.dumps({"manifest": manifest}))
    (folder / "scratch" / "pipeline").write_bytes(b"".join(map(_noted, plan.processes)))


def start(folder: Path, program: Path) -> subprocess.Popen[bytes]:
    """Both steps, the second if the first went well; what they say is in `job/job.log`."""
    step = 'import sys; sys.path.insert(0, ""); import divbase_node; divbase_node.start()'
    path = f"{program.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    with (folder / "job" / "job.log").open("wb") as log:
        return subprocess.Popen(
            ["bash", "-c", 'for step in stage run; do "$0" -IS -c "$1" "$step" || exit 1; done', sys.executable, step],
            cwd=folder / "job",
            env={"PATH": path, "LANG": "C.UTF-8", "DIVBASE_SCRATCH": str(folder / "scratch")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _input(store: FaultyStore, entry: PlannedInput) -> dict[str, Any]:
    facts: dict[str, Any] = {name: getattr(entry, name) for name in _TOLD}
    facts |= {"request": _request(store, entry.key, 1), "index": None}
    facts["samples"] = None if entry.samples is None else list(entry.samples)
    if entry.part is not None:
        return facts | {"part": part_to_dict(entry.part)}
    index = {"kind": entry.index.kind, "size": entry.index.size, "etag": entry.index.etag}
    return facts | {"index": index | {"request": _request(store, entry.index.key, 1)}}


def _request(store: FaultyStore, key: str, generation: int) -> dict[str, Any]:
    return {"method": "GET", "url": store.signed(key, generation), "headers": {}, "expires_at": "2100-01-01T00:00:00Z"}


def _noted(process: Process) -> bytes:
    """As the script's `pipe` notes a process down."""
    words = [process.id, *(word for source in process.sources for word in ("--from", source))]
    words += ["--materialise"] if process.materialise else []
    words += ["--output", process.output] if process.output else []
    words += ["--", *process.argv]
    return b"".join(word.encode() + b"\0" for word in (str(len(words)), *words))
