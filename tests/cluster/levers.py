"""What a test can do to the jobs and the SLURM commands of one site: hold a step of a job, act before it, stand before
sbatch. The real commands always run; who uses this and why is not known here."""

from __future__ import annotations

import shlex
import time
from pathlib import PurePosixPath

from tests.cluster.containers import Cluster

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")

_COMMAND = """\
#!/bin/sh
# The real command of this name, after what a test wants done before it.
if [ -e "$0.first" ]; then . "$0.first"; fi
exec "/usr/bin/${0##*/}" "$@"
"""

_PYTHON = """\
#!/bin/sh
# The real Python, for the node helper (its command is the fourth word): each step begins when the test lets it.
if [ "$3" = "${3#*divbase_node}" ]; then exec /usr/bin/python3 "$@"; fi
exec /usr/bin/python3 -IS "${0%/*}/stepwise.py" "$0" "$4" "$5" "$6"
"""

_STEPWISE = """\
import os, subprocess, sys, time
sys.path.insert(0, "")
import divbase_node
lever = sys.argv[1]
sys.argv[1:] = [word for word in sys.argv[2:] if word]
perform = divbase_node.perform

def stepwise(job, arguments):
    step = arguments[0]
    if os.path.exists(lever + ".hold-" + step):
        open(lever + ".at-" + step, "w").close()
        while os.path.exists(lever + ".hold-" + step):
            time.sleep(0.1)
    if os.path.exists(lever + ".first-" + step):
        status = subprocess.call(["/bin/sh", lever + ".first-" + step])
        if status:
            raise divbase_node.Failed("internal_error", "what comes before ended with %d" % status)
    return perform(job, arguments)

divbase_node.perform = stepwise
divbase_node.start()
"""

_SLOW_ANSWER = """\
said=$(/usr/bin/sbatch "$@") || exit
touch "$0.accepted"
while [ -e "$0.held" ]; do sleep 0.05; done
echo "$said"
exit 0
"""


class Levers:
    """In a folder of the volume that all machines share, reached through Docker, so that it works without sshd too.

    Steps are those of divbase_node.py: claim, stage, run, index, push, finish.
    """

    def __init__(self, cluster: Cluster, folder: PurePosixPath):
        self._cluster = cluster
        self.folder = folder
        self.work_dir = folder / "jobs"
        self.bin_dir = folder / "bin"
        self.node_dir = folder / "node"
        self.prologue = folder / "prologue.sh"

    def set_up(self) -> None:
        self.run(f"mkdir -m 700 {self.folder} {self.work_dir} {self.bin_dir} {self.node_dir}")
        scripts = {self.bin_dir / name: _COMMAND for name in COMMANDS}
        scripts |= {self.node_dir / "python3": _PYTHON, self.node_dir / "stepwise.py": _STEPWISE}
        lines = [f"printf %s {shlex.quote(text)} > {path}; chmod 755 {path}" for path, text in scripts.items()]
        self.run("; ".join(lines))
        self.reset()

    def tear_down(self) -> None:
        self.run(f"rm -rf {self.folder}")

    def reset(self) -> None:
        """Nothing is held and nothing is done before anything."""
        self.run(f"rm -f {self.bin_dir}/*.* {self.node_dir}/python3.* {self.node_dir}/bcftools")
        self.write(self.prologue, f"PATH={self.node_dir}:$PATH\n")

    # --- jobs ----------------------------------------------------------------------------------------------------

    def hold(self, step: str) -> None:
        """Every job that comes to this step waits there, until `release`."""
        self.run(f"rm -f {self.node_dir}/python3.at-{step}; touch {self.node_dir}/python3.hold-{step}")

    def wait_held(self, step: str, patience_s: float = 60.0) -> None:
        """Until a job waits at the step."""
        self._wait_for(f"{self.node_dir}/python3.at-{step}", patience_s)

    def until_held(self, step: str) -> str:
        """The same, as a line of sh for `before_command`."""
        return f"until [ -e {self.node_dir}/python3.at-{step} ]; do sleep 0.1; done"

    def release(self, step: str) -> None:
        self.run(f"rm -f {self.node_dir}/python3.hold-{step}")

    def before(self, step: str, script: str) -> None:
        """Lines of sh that each job does before this step, in a shell beside it; where they fail, so does the step."""
        self.write(PurePosixPath(f"{self.node_dir}/python3.first-{step}"), script)

    def before_all(self, script: str) -> None:
        """Lines at the very start of each job, after the site's own."""
        self.write(self.prologue, f"PATH={self.node_dir}:$PATH\n{script}\n")

    def stand_before_bcftools(self, script: str) -> None:
        """A bcftools of the jobs that is this script of sh; the real one is /usr/bin/bcftools."""
        path = self.node_dir / "bcftools"
        self.write(path, f"#!/bin/sh\n{script}\n")
        self.run(f"chmod 755 {path}")

    # --- commands ------------------------------------------------------------------------------------------------

    def before_command(self, name: str, script: str) -> None:
        """Lines of sh before a SLURM command of the gateway's; `exit` means that the real one is not run."""
        self.write(PurePosixPath(f"{self.bin_dir}/{name}.first"), script)

    def hold_command(self, name: str) -> None:
        """A SLURM command of the gateway's waits before it begins, until `release_command`."""
        self.run(f"touch {self.bin_dir}/{name}.held")
        self.before_command(name, 'while [ -e "$0.held" ]; do sleep 0.05; done')

    def release_command(self, name: str) -> None:
        self.run(f"rm -f {self.bin_dir}/{name}.first {self.bin_dir}/{name}.held")

    def hold_answer_of_sbatch(self) -> None:
        """SLURM takes the job, and the gateway does not hear of it until `release_command`."""
        self.run(f"rm -f {self.bin_dir}/sbatch.accepted; touch {self.bin_dir}/sbatch.held")
        self.before_command("sbatch", _SLOW_ANSWER)

    def wait_accepted(self, patience_s: float = 30.0) -> None:
        self._wait_for(f"{self.bin_dir}/sbatch.accepted", patience_s)

    # --- files ---------------------------------------------------------------------------------------------------

    def run(self, script: str) -> str:
        return self._cluster.admin("login", "bash", "-c", f"umask 077; {script}", user="divbase")

    def write(self, path: PurePosixPath, text: str) -> None:
        """In one step, so that no job reads half of it."""
        self.run(f"printf %s {shlex.quote(text)} > {path}-new && mv {path}-new {path}")

    def exists(self, path: str) -> bool:
        return self.run(f"test -e {path} && echo yes || true").strip() == "yes"

    def _wait_for(self, path: str, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while not self.exists(path):
            assert time.monotonic() < deadline, f"waited {patience_s:.0f} s in vain for {path}"
            time.sleep(0.1)
