"""Tests on a real SLURM are collected only where DIVBASE_CLUSTER=1 asks for them (`make test-cluster`)."""

import os

collect_ignore_glob = [] if os.environ.get("DIVBASE_CLUSTER") == "1" else ["test_*.py"]
