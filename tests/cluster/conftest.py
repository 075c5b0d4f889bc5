"""Tests on a real SLURM run only where DIVBASE_CLUSTER=1 asks for them (`make test-cluster`): they start containers."""

import os

from tests.cluster.containers import cluster

__all__ = ["cluster"]

collect_ignore_glob = [] if os.environ.get("DIVBASE_CLUSTER") == "1" else ["test_*.py"]
