#!/bin/bash
#SBATCH --job-name=divbase-lynx-k3v9-7f3a
#SBATCH --comment=k3v9,lynx,user7
#SBATCH --account=p2024-17
#SBATCH --partition=core
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=1500M
#SBATCH --time=30
#SBATCH --export=NONE
#SBATCH --no-requeue
#SBATCH --signal=B:USR2@120
#SBATCH --output=job.log
#SBATCH --open-mode=append

# A job of DivBase. It says what is done, in the order in which it is done; divbase_node.py beside it moves the files
# and runs the processes. No password, token or URL is in this file.
# shellcheck disable=SC2016  # $ in single quotes belongs to bcftools' expressions, not to bash

umask 077

set -euo pipefail

# divbase_node.py is imported and not run, so that Python compiles it once a job.
helper=(python3 -IS -c 'import sys; sys.path.insert(0, ""); import divbase_node; divbase_node.start()')

# node COMMAND...: notes one step of the node helper down; `work` does all of them, in one process.
node() { printf '%s\0' "$#" "$@" >>"$DIVBASE_SCRATCH/steps"; }

# work: the steps that were noted down, up to one that fails; after the last one the job's end is reported, too. In the
# background, so that a signal is noticed at once.
work() {
  "${helper[@]}" work &
  wait "$!"
}

# stop SIGNAL REASON STATUS: the helper ends its processes and itself, then `finish` reports.
stop() {
  trap '' TERM INT USR2
  local pid
  for pid in $(jobs -p); do
    kill -s "$1" "$pid" 2>/dev/null || true
    wait "$pid" || true
  done
  reason=$2
  exit "$3"
}

# finish: the last act of every end. It sends the log and reports to the gateway (unless that is done, or another copy
# of this job has the attempt), removes the private folder and keeps the script's own exit status. 0 means that the
# report was taken; 74, 75 or 76 that nobody could be told how it ended (S3 away, gateway away, URLs expired).
finish() {
  local status=$?
  trap - EXIT
  trap '' TERM INT USR2
  if [[ -n $DIVBASE_SCRATCH && -s $DIVBASE_SCRATCH/ended ]]; then
    status=$(<"$DIVBASE_SCRATCH/ended")
  elif [[ -n $DIVBASE_SCRATCH ]]; then
    local unsent=0
    "${helper[@]}" finish "$status" ${reason:+"$reason"} || unsent=$?
    if [[ $unsent == 7[456] && -z $reason ]]; then
      status=$unsent
    elif [[ $unsent != 0 && $status == 0 ]]; then
      status=1
    fi
  fi
  if [[ -n $DIVBASE_SCRATCH ]]; then
    rm -rf -- "$DIVBASE_SCRATCH"
  fi
  exit "$status"
}

reason=
DIVBASE_SCRATCH=
trap finish EXIT
trap 'stop USR2 timed_out 140' USR2 # SLURM sends it two minutes before the time limit
trap 'stop TERM cancelled 143' TERM # scancel
trap 'stop TERM cancelled 130' INT

# Everything happens in a private folder on the node, which is removed however the job ends.
DIVBASE_SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/divbase.XXXXXXXXXX")
export DIVBASE_SCRATCH TMPDIR="$DIVBASE_SCRATCH"

# Only one copy of a job may do its work: exit 3 here means that another one has it.
node claim

# The file, checked, as in/1.vcf.gz:
#   1  "north.vcf.gz"
node stage

# bcftools view -Ob1 and bcftools index --csi; then bcftools view of both, whose texts must be the same to the byte.
node sidecar out/copy.bcf

# The copy, its index and the record of how it was made go to the project, out of sight.
node push out/copy.bcf

work
