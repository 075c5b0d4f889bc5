"""What a job asks of the cluster and on whose account: the words that SLURM knows, and the bounds that a project has.
Pure values and rules; standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What one attempt asks for."""

    cores: int
    memory_mb: int
    minutes: int


@dataclass(frozen=True)
class Labels:
    """SLURM's account, partition, QOS and wckey of a job; None leaves it to the cluster's default."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    wckey: str | None = None

    def over(self, site: Labels) -> Labels:
        """These, and the site's where there is none."""
        return Labels(
            account=self.account or site.account,
            partition=self.partition or site.partition,
            qos=self.qos or site.qos,
            wckey=self.wckey or site.wckey,
        )
