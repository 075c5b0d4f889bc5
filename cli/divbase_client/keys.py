"""API keys through the API. It knows the routes and wire models of this noun and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from divbase_client.connection import Connection, path_of
from divbase_client.models import ApiKey, CreatedApiKey, NewApiKey


class Keys:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, *, user: str | None = None) -> Iterator[ApiKey]:
        """Your own keys. `user`: the email address of someone else, for site admins."""
        return self._connection.pages("/keys", ApiKey, {"user": user})

    def create(self, name: str, *, expires_in_days: int | None = 90, user: str | None = None) -> CreatedApiKey:
        """The answer is the only place where the secret is ever shown. None of `expires_in_days` means never."""
        body = NewApiKey(name=name, expires_in_days=expires_in_days, user=user)
        return self._connection.post("/keys", CreatedApiKey, body, creates=True)

    def revoke(self, key: str) -> ApiKey:
        """`key` is an id or a prefix. Its next use is refused."""
        return self._connection.delete(path_of("keys", key), ApiKey)
