"""Users, API keys, projects and members over HTTP, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
from divbase_gateway.db.models import ApiKeyRow
from divbase_gateway.domain.projects import Role
from sqlalchemy import select

from tests.api import Api, Caller
from tests.fakes.clock import FakeClock
from tests.integration.conftest import Buckets
from tests.statements import statements_of


@pytest.fixture
def admin(api: Api) -> Caller:
    return api.add_caller("root@example.org", admin=True)


@pytest.fixture
def ada(api: Api) -> Caller:
    return api.add_caller("ada@example.org")


# --- keys ---------------------------------------------------------------------------------------------------------


def test_me_tells_who_the_key_belongs_to(api: Api, ada: Caller) -> None:
    """User, key without its secret, and memberships."""
    api.add_member(api.add_project("finches"), ada.user, Role.EDIT)

    me = ada.get("/me").json()
    assert me["user"]["email"] == "ada@example.org"
    assert me["key"]["prefix"] == ada.key.partition(".")[0]
    assert "secret" not in me["key"]
    assert [(each["project"], each["role"]) for each in me["memberships"]] == [("finches", "EDIT")]


def test_a_new_key_works_and_its_secret_is_not_listed(ada: Caller) -> None:
    """The secret is in the first answer, and in no other."""
    created = ada.post("/keys", {"name": "laptop"})
    assert created.status_code == 201
    secret = created.json()["secret"]

    assert Caller(ada.api, ada.user, secret).get("/me").status_code == 200
    listed = ada.get("/keys")
    assert [key["name"] for key in listed.json()["items"]] == ["laptop", "test"]
    assert secret.partition(".")[2] not in listed.text


def test_a_repeat_of_a_key_request_does_not_tell_the_secret_again(api: Api, ada: Caller) -> None:
    """A secret is not kept, so a repeat is refused in words and makes no second key."""
    assert ada.post("/keys", {"name": "laptop"}, once="k").status_code == 201

    again = ada.post("/keys", {"name": "laptop"}, once="k")
    assert again.status_code == 409
    assert "shown once" in again.json()["detail"]
    assert len(ada.get("/keys").json()["items"]) == 2


def test_the_database_holds_no_secret(api: Api, ada: Caller) -> None:
    """Who reads the database cannot sign in: no column of any stored key or answer holds the secret."""
    secret = ada.post("/keys", {"name": "laptop"}).json()["secret"].partition(".")[2]

    with api.gateway.sessions.read() as session:
        for table in ("api_keys", "idempotency_keys"):
            rows = session.connection().exec_driver_sql(f"SELECT * FROM {table}").all()  # noqa: S608 - two literals
            assert rows
            assert all(secret not in str(row) for row in rows)


def test_an_expired_key_is_told_when_it_expired(ada: Caller, clock: FakeClock) -> None:
    """401 that says when, and how to get another one."""
    clock.advance(timedelta(days=90))

    answer = ada.get("/me")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "expired on 2025-08-30 at 12:00 UTC" in answer.json()["detail"]
    assert "divbase keys create" in answer.json()["hint"]


def test_a_key_works_until_the_moment_it_expires(ada: Caller, clock: FakeClock) -> None:
    """The boundary: a second before is fine."""
    clock.advance(timedelta(days=90) - timedelta(seconds=1))

    assert ada.get("/me").status_code == 200


def test_a_revoked_key_is_told_so(ada: Caller) -> None:
    """A key can revoke itself, and is then refused with its own words."""
    prefix = ada.key.partition(".")[0]
    assert ada.request("DELETE", f"/keys/{prefix}").json()["revoked_at"] == "2025-06-01T12:00:00Z"

    answer = ada.get("/me")
    assert answer.status_code == 401
    assert f"{prefix} was revoked on 2025-06-01" in answer.json()["detail"]


def test_a_deactivated_user_is_told_so(admin: Caller, ada: Caller) -> None:
    """Deactivating a user takes all their keys out of use at once."""
    assert admin.request("PATCH", "/users/ada@example.org", json={"active": False}).status_code == 200

    answer = ada.get("/me")
    assert answer.status_code == 401
    assert "deactivated" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (None, "carries no API key"),
        ("Basic YTpi", "carries no API key"),
        ("Bearer nonsense", "does not have the form"),
        ("Bearer dvb_aaaaaaaa." + "A" * 43, "no such API key"),
    ],
)
def test_what_is_no_key_gets_its_own_words(api: Api, header: str | None, words: str) -> None:
    """Missing, malformed and unknown keys are told apart."""
    answer = api.client.get("/api/v1/me", headers={"Authorization": header} if header else {})

    assert answer.status_code == 401
    assert words in answer.json()["detail"]


def test_the_right_prefix_with_a_wrong_secret_is_unknown(ada: Caller) -> None:
    """The prefix is no secret and opens nothing; the answer is that of an unknown key."""
    answer = Caller(ada.api, ada.user, ada.key[:-3] + "AAA").get("/me")

    assert answer.status_code == 401
    assert answer.json()["detail"] == "There is no such API key."


def test_last_use_is_noted_once_a_minute(api: Api, ada: Caller, clock: FakeClock) -> None:
    """Reads do not become writes: the second use within a minute leaves the row alone."""

    def last_used() -> str:
        with api.gateway.sessions.read() as session:
            return str(session.scalar(select(ApiKeyRow.last_used_at).where(ApiKeyRow.user_id == ada.user.id)))

    ada.get("/me")
    assert last_used() == "2025-06-01 12:00:00+00:00"
    clock.advance(timedelta(seconds=59))
    ada.get("/me")
    assert last_used() == "2025-06-01 12:00:00+00:00"
    clock.advance(timedelta(seconds=1))
    ada.get("/me")
    assert last_used() == "2025-06-01 12:01:00+00:00"


def test_other_peoples_keys_are_not_there(admin: Caller, ada: Caller) -> None:
    """Revoking a stranger's key is 404; listing or making keys for others is 403; site admins may all three."""
    prefix = admin.key.partition(".")[0]
    assert ada.request("DELETE", f"/keys/{prefix}").status_code == 404
    assert ada.get("/keys", user="root@example.org").status_code == 403
    assert ada.post("/keys", {"name": "x", "user": "root@example.org"}).status_code == 403

    assert admin.post("/keys", {"name": "x", "user": "ada@example.org"}).status_code == 201
    assert len(admin.get("/keys", user="ada@example.org").json()["items"]) == 2
    assert admin.request("DELETE", f"/keys/{ada.key.partition('.')[0]}").status_code == 200


# --- users --------------------------------------------------------------------------------------------------------


def test_a_user_is_added_once(admin: Caller) -> None:
    """The same address in another spelling is a conflict."""
    assert admin.post("/users", {"email": "Bo@Example.org", "name": "Bo"}).json()["email"] == "bo@example.org"

    again = admin.post("/users", {"email": "bo@example.org"})
    assert again.status_code == 409
    assert "bo@example.org" in again.json()["detail"]


def test_the_last_admin_cannot_be_taken_away(admin: Caller) -> None:
    """A site always has an active admin."""
    for change in ({"is_admin": False}, {"active": False}):
        assert admin.request("PATCH", "/users/root@example.org", json=change).status_code == 409

    admin.post("/users", {"email": "two@example.org", "is_admin": True})
    assert admin.request("PATCH", "/users/root@example.org", json={"is_admin": False}).status_code == 200


def test_users_are_paged_by_address(admin: Caller) -> None:
    """Following the cursors gives everybody once, in order."""
    for name in ("c", "a", "b"):
        admin.post("/users", {"email": f"{name}@example.org"})

    first = admin.get("/users", limit=3).json()
    assert [user["email"] for user in first["items"]] == ["a@example.org", "b@example.org", "c@example.org"]
    second = admin.get("/users", limit=3, cursor=first["next_cursor"]).json()
    assert [user["email"] for user in second["items"]] == ["root@example.org"]
    assert second["next_cursor"] is None


@pytest.mark.parametrize("cursor", ["???", "bm90IGpzb24", "WzFd", "W10"])
def test_a_cursor_that_was_not_given_out_is_refused(admin: Caller, cursor: str) -> None:
    """Garbage in a cursor is the caller's fault, not ours."""
    answer = admin.get("/users", cursor=cursor)

    assert answer.status_code == 422
    assert "cursor" in answer.json()["detail"]


def test_a_cursor_of_another_listing_is_refused(admin: Caller, ada: Caller) -> None:
    """Keys are paged by number; an address is no position among them."""
    cursor = admin.get("/users", limit=1).json()["next_cursor"]

    assert admin.get("/keys", cursor=cursor).status_code == 422


# --- projects -----------------------------------------------------------------------------------------------------


def test_a_project_comes_with_a_bucket(admin: Caller, buckets: Buckets) -> None:
    """The bucket is made and named after the site's prefix and the project; its maker manages it."""
    made = admin.post("/projects", {"name": "finches", "description": "Beaks"})

    assert made.status_code == 201
    assert {key: made.json()[key] for key in ("name", "bucket", "role", "files", "bytes")} == {
        "name": "finches",
        "bucket": "divbase-finches",
        "role": "MANAGE",
        "files": 0,
        "bytes": 0,
    }
    assert buckets.names == {"divbase-finches"}
    assert [member["user"] for member in admin.get("/projects/finches/members").json()["items"]] == ["root@example.org"]


def test_a_bucket_that_is_there_is_adopted(admin: Caller, buckets: Buckets) -> None:
    """An existing bucket keeps its name; a misspelt one is not made."""
    buckets.names.add("old-data")

    assert admin.post("/projects", {"name": "finches", "bucket": "old-data"}).json()["bucket"] == "old-data"
    assert admin.post("/projects", {"name": "owls", "bucket": "old-dtaa"}).status_code == 404
    assert buckets.names == {"old-data"}
    assert admin.get("/projects/owls").status_code == 404


def test_name_and_bucket_belong_to_one_project(admin: Caller, buckets: Buckets) -> None:
    """The conflict says which of the two it is."""
    admin.post("/projects", {"name": "finches"})

    assert "project 'finches'" in admin.post("/projects", {"name": "finches"}).json()["detail"]
    taken = admin.post("/projects", {"name": "owls", "bucket": "divbase-finches"})
    assert taken.status_code == 409
    assert "bucket 'divbase-finches'" in taken.json()["detail"]


def test_nothing_is_made_while_s3_is_away(admin: Caller, buckets: Buckets) -> None:
    """503, no project, and the same request succeeds later with the same Idempotency-Key."""
    buckets.down = True
    assert admin.post("/projects", {"name": "finches"}, once="p").status_code == 503
    assert admin.get("/projects").json()["items"] == []

    buckets.down = False
    assert admin.post("/projects", {"name": "finches"}, once="p").status_code == 201


@pytest.mark.parametrize("name", ["", "F", "-x", "a b", "../x", "a" * 41, "ä"])
def test_a_bad_project_name_says_what_would_be_right(admin: Caller, name: str) -> None:
    """Names become bucket and job names."""
    answer = admin.post("/projects", {"name": name})

    assert answer.status_code == 422
    assert "lower-case letters" in answer.json()["hint"]


def test_one_sees_ones_own_projects_and_an_admin_all(api: Api, admin: Caller, ada: Caller) -> None:
    """Lists differ by caller; the role is the caller's own."""
    for name in ("owls", "finches"):
        api.add_project(name)
    api.add_member(api.add_project("terns"), ada.user, Role.QUERY)

    assert [(each["name"], each["role"]) for each in ada.get("/projects").json()["items"]] == [("terns", "QUERY")]
    assert [each["name"] for each in admin.get("/projects").json()["items"]] == ["finches", "owls", "terns"]


def test_members_come_change_and_go(api: Api, admin: Caller, ada: Caller) -> None:
    """PUT sets the role, again changes it, DELETE ends it, and twice is 404."""
    api.add_project("owls")
    path = "/projects/owls/members/ada@example.org"

    assert admin.request("PUT", path, json={"role": "READ"}).json()["role"] == "READ"
    assert ada.get("/projects/owls").json()["role"] == "READ"
    admin.request("PUT", path, json={"role": "EDIT"})
    assert ada.get("/projects/owls").json()["role"] == "EDIT"
    assert admin.request("DELETE", path).status_code == 204
    assert ada.get("/projects/owls").status_code == 404
    assert admin.request("DELETE", path).status_code == 404


def test_only_who_is_a_user_becomes_a_member(api: Api, admin: Caller) -> None:
    """An unknown address is told, with who can add it."""
    api.add_project("owls")

    answer = admin.request("PUT", "/projects/owls/members/nobody@example.org", json={"role": "READ"})
    assert answer.status_code == 404
    assert "divbase users add" in answer.json()["hint"]


def test_a_project_read_takes_two_queries(api: Api, ada: Caller) -> None:
    """One for key, user, project and role; one for the answer. More would slow every request down."""
    api.add_member(api.add_project("owls"), ada.user, Role.READ)
    ada.get("/projects/owls")  # notes the key's use

    with statements_of(api.gateway.sessions) as statements:
        assert ada.get("/projects/owls").status_code == 200
    assert len([each for each in statements if each.startswith("SELECT")]) == 2
