"""The form of API keys and email addresses, and what is stored of a secret."""

from __future__ import annotations

import pytest
from divbase_gateway.domain.errors import InvalidName
from divbase_gateway.domain.users import KeyText, hash_secret, make_key, normalise_email, parse_key, secret_matches

SECRET = "A" * 42 + "0"


def test_a_new_key_has_the_documented_form() -> None:
    """dvb_, 8 base32 characters, a dot, 43 URL-safe base64 characters."""
    prefix, _, secret = str(make_key()).partition(".")

    assert prefix[:4] == "dvb_"
    assert len(prefix) == 12
    assert set(prefix[4:]) <= set("abcdefghijklmnopqrstuvwxyz234567")
    assert len(secret) == 43


def test_two_new_keys_differ() -> None:
    """Keys are random."""
    assert make_key() != make_key()


def test_a_key_is_read_back() -> None:
    """parse_key is the inverse of str."""
    assert parse_key(f"dvb_abcdefg2.{SECRET}") == KeyText("dvb_abcdefg2", SECRET)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dvb_abcdefg2",
        f"dvb_abcdefg2.{SECRET}\n",
        f" dvb_abcdefg2.{SECRET}",
        f"dvb_ABCDEFG2.{SECRET}",
        f"dvb_abcdefg1.{SECRET}",
        f"abc_abcdefg2.{SECRET}",
        f"dvb_abcdefg2.{SECRET}A",
        f"dvb_abcdefg2.{SECRET[:-1]}é",
    ],
)
def test_what_is_no_key_is_none(text: str) -> None:
    """Nothing but the exact form is looked up."""
    assert parse_key(text) is None


def test_only_a_hash_is_stored() -> None:
    """The stored form is SHA-256 of the secret, checked against a value made elsewhere (`printf abc | sha256sum`)."""
    assert hash_secret("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert secret_matches("abc", hash_secret("abc"))
    assert not secret_matches("abd", hash_secret("abc"))


def test_a_secret_is_not_in_the_repr() -> None:
    """A key that ends up in a traceback or log does not tell its secret."""
    assert SECRET not in repr(KeyText("dvb_abcdefg2", SECRET))


def test_addresses_have_one_spelling() -> None:
    """Case and white space around an address do not make another person."""
    assert normalise_email("  Ada@Example.ORG ") == "ada@example.org"


@pytest.mark.parametrize(
    "text", ["", "ada", "@x", "a b@x.org", "a@b@c", "Ada <ada@x.org>", "a@x\n.org", "a@-x", "a" * 250 + "@x.org"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """An address is name@host and nothing else."""
    with pytest.raises(InvalidName):
        normalise_email(text)
