"""`Client`: the API of a DivBase gateway by nouns, for notebooks, scripts and the command line.

It knows no terminal and no configuration file; whoever makes one says where the gateway is and which key to use.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from divbase_client.connection import Connection
from divbase_client.files import Files
from divbase_client.jobs import Jobs
from divbase_client.keys import Keys
from divbase_client.members import Members
from divbase_client.metadata import SampleMetadata
from divbase_client.models import Health, Me
from divbase_client.projects import Projects
from divbase_client.queries import Queries
from divbase_client.snapshots import Snapshots
from divbase_client.users import Users

if TYPE_CHECKING:
    import httpx

    from divbase_client.retry import Retry


class Client:
    """One gateway, one key, one pool of connections; threads may share it.

        with Client("https://divbase.example.org", api_key) as client:
            for file in client.files.list("vole-2024"):
                print(file.key, file.state)
            job = client.jobs.submit("vole-2024", Query(where="Area:North", command="view -r 21:1-5000000"))
            client.jobs.wait("vole-2024", job.id)
            list(client.jobs.download("vole-2024", job.id, to="results"))

    Args:
        url: Address of the gateway, with or without `/api/v1`.
        api_key: None for the public routes only.
        timeout: Seconds without any byte before a request counts as failed.
        transport: Another httpx transport, for tests.
        retry: How often and how long to try again.

    Raises:
        InvalidSettings: `url` or `api_key` cannot be one.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        transport: httpx.BaseTransport | None = None,
        retry: Retry | None = None,
    ) -> None:
        self._connection = Connection(url, api_key, timeout=timeout, transport=transport, retry=retry)
        self.url = self._connection.url
        self.projects = Projects(self._connection)
        self.members = Members(self._connection)
        self.keys = Keys(self._connection)
        self.users = Users(self._connection)
        self.files = Files(self._connection, timeout)
        self.metadata = SampleMetadata(self._connection, self.files)
        self.snapshots = Snapshots(self._connection)
        self.queries = Queries(self._connection)
        self.jobs = Jobs(self._connection, self.files)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def me(self) -> Me:
        """Whose key this is, and what they may do where."""
        return self._connection.get("/me", Me)

    def health(self) -> Health:
        return self._connection.get("/health", Health)
