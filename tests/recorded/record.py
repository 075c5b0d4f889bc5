"""Asks a real cluster the questions that our parsers read the answers to, and writes the answers down as they came.

Run by hand after `slurm-docker-cluster/cluster up`: `python -m tests.recorded.record` replaces the folder of the
release that runs. It knows the container cluster (two nodes, partitions main, slots and closed) and of the
gateway the command lines that it uses.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from divbase_gateway.slurm.commands import SlurmCommands

from tests.cluster.containers import connect

HERE = Path(__file__).parent
CLUSTER = connect()
ENVIRONMENT = "LC_ALL=C SLURM_TIME_FORMAT=%s"
PATIENCE_S = 200.0
COMMANDS = SlurmCommands(PurePosixPath("/usr/bin"))

SQUEUE_FIELDS = "%i|%F|%K|%j|%T|%r|%u|%a|%P|%q|%V|%S|%e|%M|%l|%N|%k"
SQUEUE_LONG = (
    "JobID:.40|,Name:.80|,State:.30|,Reason:.60|,RestartCnt:.12|,UserName:.40|,SubmitTime:.20|,StartTime:.20|,"
    "TimeUsed:.20|,NodeList:.40|,Comment:.200"
)
SACCT_FIELDS = (
    "JobID,JobIDRaw,JobName,State,ExitCode,DerivedExitCode,Reason,User,Account,Partition,QOS,Submit,Start,End,Elapsed,"
    "ElapsedRaw,TotalCPU,CPUTimeRAW,MaxRSS,NodeList,Restarts,Comment"
)
OLD_SACCT_FIELDS = SACCT_FIELDS.replace("Restarts,", "")  # 22.05 has no such field


def user(command: str) -> subprocess.CompletedProcess[str]:
    """Run on the login node as the user divbase."""
    return CLUSTER.ssh(command)


def admin(service: str, command: str) -> str:
    """Run in the container of a service as root."""
    return CLUSTER.admin(service, "bash", "-c", command)


@dataclass
class Recorder:
    """Writes `<case>.stdout`, `<case>.stderr` where there was any, and a line with code and command for each."""

    folder: Path
    lines: list[str] = field(default_factory=list)

    def record(self, case: str, command: str) -> str:
        shown = f"{ENVIRONMENT} {command}"
        answer = user(shown)
        (self.folder / f"{case}.stdout").write_text(answer.stdout)
        if answer.stderr:
            (self.folder / f"{case}.stderr").write_text(answer.stderr)
        self.lines.append(f"{case}\t{answer.returncode}\t{shown}\n")
        (self.folder / "commands.tsv").write_text("case\texit\tcommand\n" + "".join(self.lines))
        print(f"{answer.returncode:3} {case}")
        return answer.stdout

    def sbatch(self, case: str, name: str, script: str, *options: str) -> str:
        """Submit and return the job's id, empty where sbatch refused."""
        argv = [
            "sbatch", "--parsable", f"--job-name=divbase-pelican-{name}", "--export=NONE", "--output=/dev/null",
            f"--comment=job={name} project=pelican user=anna", *options, f"--wrap={script}",
        ]  # fmt: skip
        defaults = [
            o
            for o in ("--account=divbase", "--no-requeue")
            if not any(p.split("=")[0] == o.split("=")[0] for p in options)
        ]
        return self.record(case, shlex.join(argv[:1] + defaults + argv[1:])).strip().partition(";")[0]

    def squeue(self, case: str, jobs: str) -> None:
        self.record(f"squeue-{case}", f"squeue --noheader --states=all --jobs={jobs} --format='{SQUEUE_FIELDS}'")
        self.record(f"squeue-long-{case}", f"squeue --noheader --states=all --jobs={jobs} --Format='{SQUEUE_LONG}'")

    def sacct(self, case: str, jobs: str, *options: str) -> None:
        self.record(f"sacct-{case}", sacct_command(jobs, *options))


def sacct_command(jobs: str, *options: str) -> str:
    return shlex.join(
        [
            "sacct",
            "--parsable2",
            "--noheader",
            "--starttime=now-1hour",
            f"--jobs={jobs}",
            f"--format={sacct_fields()}",
            *options,
        ]
    )


def sacct_fields() -> str:
    return OLD_SACCT_FIELDS if release() == "22.05" else SACCT_FIELDS


def release() -> str:
    """`24.11` for `slurm-wlm 24.11.5`."""
    return ".".join(user("sinfo --version").stdout.split()[1].split(".")[:2])


def wait_state(job: str, *states: str) -> None:
    """Until sacct gives one of these states for every task of the job."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        seen = user(f"sacct -X -n -P -S now-1hour -j {job} -o State").stdout.split("\n")
        words = {line.split()[0] for line in seen if line.strip()}
        if words and words <= set(states):
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"job {job} is {words}, not one of {states}")
        time.sleep(0.5)


def record_waiting(recorder: Recorder) -> None:
    """Two jobs that run in `slots`, and a job for every reason to wait."""
    running = [
        recorder.sbatch(f"sbatch-running-{n}", f"run{n}-0a1b2c3d", "sleep 600", "--partition=slots") for n in (1, 2)
    ]
    failed = recorder.sbatch("sbatch-failed-first", "failfirst-0a1b2c3d", "exit 3")
    wait_state(running[1], "RUNNING")
    wait_state(failed, "FAILED")
    waiting = {
        "resources": ["--partition=slots"],
        "priority": ["--partition=slots"],
        "held-user": ["--hold"],
        "begin-time": ["--begin=now+1hour"],
        "dependency": [f"--dependency=afterany:{running[0]}"],
        "dependency-never": [f"--dependency=afterok:{failed}"],
        "partition-down": ["--partition=closed"],
        "array-waiting": ["--array=2-5%2", "--hold"],
    }
    ids = {name: recorder.sbatch(f"sbatch-{name}", f"{name}-0a1b2c3d", "sleep 600", *o) for name, o in waiting.items()}
    ids["time-limit"] = recorder.sbatch("sbatch-time-limit", "timelimit-0a1b2c3d", "true", "--time=10-0")
    for n in (1, 2):
        ids[f"qos-{n}"] = recorder.sbatch(f"sbatch-qos-{n}", f"qos{n}-0a1b2c3d", "sleep 600", "--qos=single")
    ids["held-admin"] = recorder.sbatch("sbatch-held-admin", "heldadmin-0a1b2c3d", "sleep 600", "--hold")
    admin("slurmctld", f"scontrol hold {ids['held-admin']}")
    ids["suspended"] = recorder.sbatch("sbatch-suspended", "suspended-0a1b2c3d", "sleep 600")
    wait_state(ids["suspended"], "RUNNING")
    admin("slurmctld", f"scontrol suspend {ids['suspended']}")
    time.sleep(12)  # a round of backfill gives reasons and expected starts
    everything = ",".join([*running, *ids.values()])
    recorder.squeue("running", running[0])
    for name, job in ids.items():
        recorder.squeue(name, job)
    recorder.squeue("many", everything)
    record_gateway(recorder, "waiting", *running, *ids.values())
    recorder.record("squeue-mine", f"squeue --noheader --me --format='{SQUEUE_FIELDS}'")
    recorder.record("squeue-plain", "squeue")
    recorder.record("squeue-name", f"squeue --noheader --name=divbase-pelican-run1-0a1b2c3d --format='{SQUEUE_FIELDS}'")
    recorder.record("squeue-start", f"squeue --start --noheader --jobs={ids['resources']} --format='%i|%S|%r'")
    recorder.sacct("running", running[0])
    recorder.sacct("waiting", everything)
    recorder.record("scontrol-show-job-running", f"scontrol --oneliner show job {running[0]}")
    recorder.record("scontrol-show-job-waiting", f"scontrol --oneliner show job {ids['resources']}")
    recorder.record("scancel-waiting", f"scancel --verbose {ids['resources']}")
    recorder.sacct("cancelled-waiting", ids["resources"])
    recorder.squeue("cancelled-waiting", ids["resources"])
    user("scancel --user=divbase")
    wait_state(everything, "CANCELLED", "COMPLETED")


def record_ends(recorder: Recorder) -> None:
    """One job for every way to end."""
    hungry = "python3 -c \"import time; x = b'1' * 600_000_000; time.sleep(30)\""
    timeout = recorder.sbatch("sbatch-timeout", "timeout-0a1b2c3d", "sleep 600", "--time=1")
    completed = recorder.sbatch("sbatch-completed", "completed-0a1b2c3d", "hostname; sleep 3")
    failed = recorder.sbatch("sbatch-failed", "failed-0a1b2c3d", "exit 7")
    killed = recorder.sbatch("sbatch-killed", "killed-0a1b2c3d", "kill -9 $$")
    oom = recorder.sbatch("sbatch-over-memory", "overmemory-0a1b2c3d", hungry, "--mem=100")
    wait_state(",".join([completed, failed, killed]), "COMPLETED", "FAILED")
    own = recorder.sbatch("sbatch-cancelled", "cancelled-0a1b2c3d", "sleep 600")
    root = recorder.sbatch("sbatch-cancelled-by-root", "byroot-0a1b2c3d", "sleep 600")
    array = recorder.sbatch(
        "sbatch-array", "array-0a1b2c3d", "sleep 1; exit $((SLURM_ARRAY_TASK_ID == 2))", "--array=1-3"
    )
    wait_state(f"{own},{root}", "RUNNING")
    recorder.record("scancel-running", f"scancel --verbose {own}")
    admin("slurmctld", f"scancel {root}")
    wait_state(f"{own},{root}", "CANCELLED")
    wait_state(array, "COMPLETED", "FAILED")
    wait_state(oom, "FAILED", "OUT_OF_MEMORY")
    ended = {
        "completed": completed, "failed": failed, "killed": killed, "cancelled": own, "cancelled-by-root": root,
        "array": array, "over-memory": oom,
    }  # fmt: skip
    record_requeue(recorder)
    record_node_fail(recorder)
    wait_state(timeout, "TIMEOUT")
    ended["timeout"] = timeout
    for name, job in ended.items():
        recorder.squeue(name, job)
        recorder.sacct(name, job)
    recorder.sacct("many", ",".join(ended.values()), "--allocations")
    record_gateway(recorder, "ended", *ended.values())
    recorder.record("sacct-name", sacct_by_name("divbase-pelican-completed-0a1b2c3d"))
    recorder.record("sacct-plain", f"sacct --starttime=now-1hour --jobs={','.join(ended.values())}")
    recorder.record("scontrol-show-job-completed", f"scontrol --oneliner show job {completed}")
    recorder.record("scancel-ended", f"scancel --verbose {completed}")


def sacct_by_name(name: str) -> str:
    return f"sacct --parsable2 --noheader --allocations --starttime=now-1hour --name={name} --format={sacct_fields()}"


def record_requeue(recorder: Recorder) -> None:
    """A job that the admin requeues: seen while it waits, while it runs again, and after its end."""
    job = recorder.sbatch("sbatch-requeued", "requeued-0a1b2c3d", "sleep 8", "--requeue")
    wait_state(job, "RUNNING")
    time.sleep(2)
    admin("slurmctld", f"scontrol requeue {job}")
    time.sleep(1)
    recorder.squeue("requeued-waiting", job)
    recorder.sacct("requeued-waiting", job)
    record_gateway(recorder, "requeued-waiting", job)
    recorder.sacct("requeued-waiting-duplicates", job, "--duplicates")
    wait_state(job, "COMPLETED")
    recorder.squeue("requeued-ended", job)
    recorder.sacct("requeued-ended", job)
    recorder.sacct("requeued-ended-duplicates", job, "--duplicates")
    record_gateway(recorder, "requeued-ended", job)
    held = recorder.sbatch("sbatch-requeued-held", "requeuedheld-0a1b2c3d", "sleep 600", "--requeue")
    wait_state(held, "RUNNING")
    admin("slurmctld", f"scontrol requeuehold {held}")
    time.sleep(6)
    recorder.squeue("requeued-held", held)
    recorder.sacct("requeued-held", held)
    user(f"scancel {held}")


def record_node_fail(recorder: Recorder) -> None:
    """A job whose node the admin declares down."""
    job = recorder.sbatch("sbatch-node-fail", "nodefail-0a1b2c3d", "sleep 600", "--nodelist=c2")
    wait_state(job, "RUNNING")
    admin("slurmctld", "scontrol update nodename=c2 state=down reason=recording")
    recorder.record("sinfo-node-down", "sinfo --noheader --format='%P|%a|%D|%t|%N|%E'")
    wait_state(job, "NODE_FAIL")
    recorder.squeue("node-fail", job)
    recorder.sacct("node-fail", job)
    record_gateway(recorder, "node-fail", job)
    CLUSTER.wait_healthy("c2")  # a node that registers is taken back


def record_refusals(recorder: Recorder) -> None:
    """What sbatch says when it says no, and what the other commands say of what is not there."""
    refused = {
        "account": ["--account=nobody"], "partition": ["--partition=nowhere"], "qos": ["--qos=platinum"],
        "memory": ["--mem=900G"], "time": ["--time=10-0"], "nodes": ["--nodes=5"], "cores": ["--cpus-per-task=64"],
        "option": ["--no-such-option"], "begin": ["--begin=yesterdayish"],
        "dependency": ["--dependency=afterok:999999"],
    }  # fmt: skip
    for name, options in refused.items():
        recorder.sbatch(f"sbatch-refused-{name}", f"refused-{name}", "true", *options)
    user("scancel --user=divbase")  # SLURM takes a time beyond the partition's, and lets the job wait for ever
    recorder.record("sbatch-refused-no-shebang", "sbatch --account=divbase <<< 'hostname'")
    recorder.record("sbatch-refused-no-file", "sbatch --account=divbase /no/such/script.sh")
    recorder.record("squeue-unknown-one", f"squeue --noheader --jobs=999999 --format='{SQUEUE_FIELDS}'")
    recorder.record("squeue-unknown-two", f"squeue --noheader --jobs=999998,999999 --format='{SQUEUE_FIELDS}'")
    recorder.record("squeue-none", f"squeue --noheader --name=no-such-job --format='{SQUEUE_FIELDS}'")
    recorder.sacct("unknown", "999999")
    recorder.record("sacct-unknown-name", sacct_by_name("no-such-job"))
    recorder.record("scontrol-show-job-unknown", "scontrol --oneliner show job 999999")
    recorder.record("scancel-unknown", "scancel --verbose 999999")
    recorder.record("scancel-unknown-name", "scancel --verbose --name=no-such-job --user=divbase")
    theirs = admin(
        "login", "setpriv --reuid=neighbour --regid=neighbour --init-groups sbatch --parsable -D /tmp --wrap='sleep 60'"
    ).strip()
    recorder.record("scancel-not-ours", f"scancel --verbose {theirs}")
    admin("slurmctld", f"scancel {theirs}")


def record_site(recorder: Recorder) -> None:
    """What names the cluster and its limits."""
    recorder.record("sinfo", "sinfo --noheader --format='%P|%a|%l|%D|%t|%c|%m|%N'")
    recorder.record("sinfo-plain", "sinfo")
    recorder.record("sinfo-version", "sinfo --version")
    recorder.record("scontrol-ping", "scontrol ping")
    recorder.record("scontrol-show-config", "scontrol show config")
    recorder.record("scontrol-show-partition", "scontrol --oneliner show partition main")
    recorder.record(
        "sacctmgr-associations",
        "sacctmgr --parsable2 --noheader show associations user=divbase format=cluster,account,user,qos",
    )


def record_absences(recorder: Recorder) -> None:
    """What the commands say while slurmdbd, and then slurmctld, is down."""
    with CLUSTER.without("slurmdbd", "slurmdbd"):
        recorder.sacct("slurmdbd-away", "1")
        job = recorder.sbatch("sbatch-slurmdbd-away", "dbdaway-0a1b2c3d", "true")
        recorder.squeue("slurmdbd-away", job)
    with CLUSTER.without("slurmctld", "slurmctld"):
        recorder.record("squeue-slurmctld-away", f"squeue --noheader --me --format='{SQUEUE_FIELDS}'")
        recorder.sbatch("sbatch-slurmctld-away", "ctldaway-0a1b2c3d", "true")
        recorder.record("scancel-slurmctld-away", f"scancel --verbose {job}")
        recorder.record("scontrol-ping-slurmctld-away", "scontrol ping")
        recorder.record("sinfo-slurmctld-away", "sinfo")


def record_gateway(recorder: Recorder, case: str, *jobs: str) -> None:
    """The queries of the gateway itself, so that its parsers can be run over the answers."""
    recorder.record(f"gateway-squeue-{case}", shlex.join(COMMANDS.squeue()))
    recorder.record(f"gateway-sacct-{case}", shlex.join(COMMANDS.sacct(jobs, 3600)))


def main() -> None:
    folder = HERE / release()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    recorder = Recorder(folder)
    record_site(recorder)
    record_refusals(recorder)
    record_waiting(recorder)
    record_ends(recorder)
    record_absences(recorder)


if __name__ == "__main__":
    main()
