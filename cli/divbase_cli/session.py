"""What one run of a command works with: the resolved profile, project and key, a client, and the output.

Options win over environment variables, and those over the profile. It knows no single command.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from divbase_cli.config import Config, Profile, config_path, load_config, load_key
from divbase_cli.failure import UsageError
from divbase_cli.output import Output

if TYPE_CHECKING:
    from divbase_client.client import Client


@dataclass(frozen=True)
class Options:
    """The options that every command has; None where not given."""

    profile: str | None = None
    url: str | None = None
    project: str | None = None
    json: bool = False


class Session:
    """Made once for each command. Everything is looked up on first use, so that offline commands need no profile."""

    def __init__(self, options: Options, environment: Mapping[str, str] | None = None) -> None:
        self.options = options
        self._environment = os.environ if environment is None else environment
        self.output = Output(options.json)
        self.interrupted = "Nothing is broken; run the same again."

    @cached_property
    def config(self) -> Config:
        return load_config(config_path(self._environment))

    @property
    def profile_name(self) -> str:
        return self.options.profile or self._environment.get("DIVBASE_PROFILE") or self.config.current

    @property
    def profile(self) -> Profile:
        return self.config.profile(self.profile_name)

    @property
    def url(self) -> str:
        found = self.options.url or self._environment.get("DIVBASE_URL") or self.profile.url
        if not found:
            raise UsageError("No gateway is set.", hint="Log in first: divbase login URL")
        return found

    @property
    def project(self) -> str:
        found = self.options.project or self._environment.get("DIVBASE_PROJECT") or self.profile.project
        if not found:
            raise UsageError(
                "No project is set.", hint="Name it with -p PROJECT, or once: divbase projects use PROJECT"
            )
        return found

    @property
    def key(self) -> str:
        """DIVBASE_API_KEY, or the profile's key: but that one only for the profile's own gateway."""
        given = self._environment.get("DIVBASE_API_KEY")
        if given:
            return given
        if self.profile.url and _origin(self.url) != _origin(self.profile.url):
            raise UsageError(
                f"The key of profile {self.profile_name!r} is for {self.profile.url}, not for {self.url}.",
                hint="Set DIVBASE_API_KEY, or log in there with another --profile.",
            )
        stored = load_key(self.config, self.profile_name)
        if not stored:
            raise UsageError("No API key is stored.", hint=f"Log in first: divbase login {self.url}")
        return stored

    @cached_property
    def client(self) -> Client:
        return self.client_for(self.url, self.key)

    def client_for(self, url: str, key: str | None, **extra: Any) -> Client:
        """A client; says so when the key would travel unprotected."""
        from divbase_client.client import Client

        client = Client(url, key, **extra)
        if key and is_unprotected(client.url):
            self.output.warn(f"the API key is sent unencrypted to {client.url}; use https if the gateway has it")
        return client

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()


def is_unprotected(url: str) -> bool:
    """True for http to anything but this machine."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url.strip())
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default
