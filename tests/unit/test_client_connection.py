"""Retries, idempotency, pages and errors of the client, over real HTTP."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterator

import pytest
from divbase_client import (
    BadInput,
    Client,
    Conflict,
    GatewayUnreachable,
    NotAllowed,
    NotFound,
    Retry,
    ServerFault,
    Unauthenticated,
    UnexpectedAnswer,
)
from divbase_client.connection import _certificates
from divbase_client.errors import ApiError, InvalidSettings, TooManyRequests
from divbase_client.models import Query
from divbase_client.retry import seconds_of_retry_after

from tests.fakes.gateway_server import FakeGateway, Fault, Refusal, running_gateway

QUICK = Retry(attempts=3, first=0.001, longest=0.002, patience=60)


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with running_gateway() as one:
        yield one


@pytest.fixture
def client(gateway: FakeGateway) -> Iterator[Client]:
    with Client(gateway.url, gateway.key, retry=QUICK, timeout=2.0) as one:
        yield one


@pytest.mark.parametrize("action", ["drop", 502, 503, 504])
def test_reading_is_repeated(client: Client, gateway: FakeGateway, action: str | int) -> None:
    """A GET survives passing faults."""
    gateway.faults.append(Fault("GET /api/v1/me", action, times=2))
    assert client.me().user.email == "ada@example.org"


def test_creating_twice_under_one_key(client: Client, gateway: FakeGateway) -> None:
    """A repeated POST carries the same Idempotency-Key, so that a lost answer makes no second job."""
    gateway.faults.append(Fault("POST /api/v1/projects/vole/jobs", "drop", times=1))
    client.jobs.submit("vole", Query(all_samples=True))
    keys = [one.headers["idempotency-key"] for one in gateway.requests("POST /api/v1/projects/vole/jobs")]
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_two_calls_have_two_keys(client: Client, gateway: FakeGateway) -> None:
    """Two logical calls are two jobs, though their bodies are equal."""
    jobs = {client.jobs.submit("vole", Query(all_samples=True)).id for _ in range(2)}
    assert jobs == {"job1", "job2"}


def test_deleting_is_not_repeated_blind(client: Client, gateway: FakeGateway) -> None:
    """A DELETE whose answer was lost is left to the caller."""
    gateway.store("a", b"x")
    gateway.faults.append(Fault("DELETE", "drop", times=1))
    with pytest.raises(GatewayUnreachable):
        client.files.remove("vole", "a")
    assert len(gateway.requests("DELETE")) == 1


def test_retries_end(client: Client, gateway: FakeGateway) -> None:
    """A gateway that stays away is said to be, after the bounded number of tries."""
    gateway.faults.append(Fault("GET", "drop", times=99))
    with pytest.raises(GatewayUnreachable) as error:
        client.me()
    assert gateway.url in str(error.value)
    assert len(gateway.requests("GET")) == 3


def test_retry_after_is_kept_to(gateway: FakeGateway) -> None:
    """The server's own pause is longer than ours and wins."""
    gateway.faults.append(Fault("GET", 503, retry_after="7"))
    slept: list[float] = []
    retry = Retry(attempts=2, first=0.001, longest=0.002, sleep=slept.append)
    with Client(gateway.url, gateway.key, retry=retry) as client:
        client.me()
    assert slept == [7.0]


def test_retry_after_has_a_bound() -> None:
    """A server cannot put the client to sleep for a day."""
    assert Retry(patience=60).pause(1, retry_after=86400) == 60


def test_retry_after_as_a_date() -> None:
    """The header may hold an HTTP date instead of seconds."""
    assert seconds_of_retry_after("Thu, 01 Jan 1970 00:02:00 GMT", now=lambda: 90.0) == 30.0
    assert seconds_of_retry_after("soon") is None


def test_pauses_grow_and_are_bounded() -> None:
    """Pauses double up to the longest, each with up to half of it taken off."""
    retry = Retry(first=1, longest=8)
    for attempt, most in enumerate([1, 2, 4, 8, 8], start=1):
        assert most / 2 <= retry.pause(attempt) <= most


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadInput),
        (422, BadInput),
        (401, Unauthenticated),
        (403, NotAllowed),
        (404, NotFound),
        (409, Conflict),
        (429, TooManyRequests),
        (500, ServerFault),
        (503, ServerFault),
    ],
)
def test_status_becomes_its_class(client: Client, gateway: FakeGateway, status: int, kind: type[ApiError]) -> None:
    """Callers can catch by kind, and get the problem's fields."""
    gateway.answers["GET /me"] = Refusal(status, "some_code", "It is so.", "Do this.")
    with pytest.raises(ApiError) as error:
        client.me()
    assert type(error.value) is kind
    assert (error.value.code, error.value.message, error.value.hint) == ("some_code", "It is so.", "Do this.")
    assert error.value.request_id == "req-1"


def test_error_page_of_a_proxy(client: Client, gateway: FakeGateway) -> None:
    """An error that is not DivBase's form is still an ApiError that says where it came from."""
    gateway.faults.append(Fault("GET", 418, times=9))
    with pytest.raises(BadInput) as error:
        client.me()
    assert error.value.code == "foreign_answer"


def test_answer_of_something_else(client: Client, gateway: FakeGateway) -> None:
    """A 200 that is not DivBase's is not taken for an answer."""
    gateway.answers["GET /me"] = {"welcome": "to the captive portal"}
    with pytest.raises(UnexpectedAnswer):
        client.me()


def test_all_pages_are_read(client: Client, gateway: FakeGateway) -> None:
    """A listing longer than a page comes whole and in order."""
    keys = [f"f{number:04}" for number in range(1201)]
    for key in keys:
        gateway.store(key, b"")
    assert [one.key for one in client.files.list("vole")] == keys
    assert len(gateway.requests("GET /api/v1/projects/vole/files")) == 3


def test_hostile_names_stay_in_their_place(client: Client, gateway: FakeGateway) -> None:
    """A project's name cannot become another path."""
    with pytest.raises(NotFound):
        client.jobs.get("../../me?x=1#", "j")
    assert gateway.seen[-1].path == "/api/v1/projects/..%2F..%2Fme%3Fx%3D1%23/jobs/j"
    with pytest.raises(NotFound):
        client.snapshots.get("vole", "..")
    assert gateway.seen[-1].path == "/api/v1/projects/vole/snapshots/%2E%2E"


@pytest.mark.parametrize("url", ["divbase.example.org", "ftp://x", "https://", "https://u:p@x", "https://x/?a=1"])
def test_address_that_cannot_be_one(url: str) -> None:
    """A wrong address is refused before anything is sent."""
    with pytest.raises(InvalidSettings):
        Client(url, "k")


def test_address_with_api_path() -> None:
    """An address that was copied with the API's path works."""
    with Client("https://x.example/divbase/api/v1/") as client:
        assert client.url == "https://x.example/divbase"


@pytest.mark.parametrize("key", ["", "a\nb", "a b", "schlüssel"])
def test_key_that_cannot_be_one(key: str) -> None:
    """A key that would break the header is refused before anything is sent."""
    with pytest.raises(InvalidSettings):
        Client("https://x", key)


def test_whom_to_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards: authorities are left out only where there is no TLS, to gateway or proxy; and then none counts."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert _certificates("https://divbase.example.org") is True
    nobody = _certificates("http://127.0.0.1:8000")
    assert isinstance(nobody, ssl.SSLContext)
    assert (nobody.verify_mode, nobody.check_hostname, nobody.get_ca_certs()) == (ssl.CERT_REQUIRED, True, [])
    monkeypatch.setenv("http_proxy", "https://proxy.example.org:3128")
    assert _certificates("http://divbase.example.org") is True


def test_job_is_awaited_over_an_absent_gateway(client: Client, gateway: FakeGateway) -> None:
    """`wait` looks until the end and reports when the gateway does not answer."""
    job = client.jobs.submit("vole", Query(all_samples=True))
    gateway.job_states[job.id] = ["SUCCEEDED"]
    gateway.faults.append(Fault(f"GET /api/v1/projects/vole/jobs/{job.id}", "drop", times=3))
    looks: list[str | None] = []
    client.jobs.wait("vole", job.id, on_look=lambda seen: looks.append(seen.state if seen else None))
    assert looks == [None, "SUCCEEDED"]


def test_importing_the_package_is_light() -> None:
    """The gateway imports models only; the HTTP client is loaded by those who use it."""
    code = "import sys, divbase_client.models; print('httpx' in sys.modules, 'divbase_client.client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
