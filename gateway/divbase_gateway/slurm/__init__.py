"""SLURM by its own commands: the `Scheduler` port over sbatch, squeue, sacct and scancel, run here or over SSH.

It must not know what the jobs do, nor any database; paramiko is imported in `ssh.py` and nowhere else.
"""
