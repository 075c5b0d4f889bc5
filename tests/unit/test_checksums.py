"""The arithmetic of ETags, against values that S3 gave."""

from __future__ import annotations

import pytest
from divbase_gateway.domain.checksums import content_md5, etag_of_object, etag_of_parts, md5_of, md5_of_etag


def test_the_etag_of_one_piece_is_its_md5() -> None:
    """Known value: the MD5 of "hello"."""
    assert etag_of_object(md5_of(b"hello")) == "5d41402abc4b2a76b9719d911017c592"
    assert etag_of_parts([md5_of(b"hello")], multipart=False) == "5d41402abc4b2a76b9719d911017c592"


def test_the_etag_of_parts_is_the_md5_of_md5s_with_their_number() -> None:
    """A single part counts as multipart, too; the values are of coreutils' md5sum."""
    assert etag_of_parts([md5_of(b"hello")]) == "62109206880d38a4010a98e11243924a-1"
    assert etag_of_parts([md5_of(b"hello"), md5_of(b"world")]) == "065947336a2f2a95ba8899f3675c3be6-2"


def test_content_md5_is_base64_of_the_digest() -> None:
    """As in the header of RFC 1864."""
    assert content_md5(md5_of(b"hello")) == "XUFAKrxLKna5cZ2REBfFkg=="


def test_md5_of_etag_takes_quotes_off() -> None:
    """S3 puts ETags in quotes."""
    assert md5_of_etag('"5d41402abc4b2a76b9719d911017c592"') == md5_of(b"hello")


@pytest.mark.parametrize("etag", ["", "5d41402abc4b2a76b9719d911017c592-1", "xyz", "5D41402ABC4B2A76B9719D911017C592"])
def test_an_etag_that_is_no_md5_is_refused(etag: str) -> None:
    """The ETag of a joined object states no MD5 of its bytes."""
    with pytest.raises(ValueError):
        md5_of_etag(etag)


def test_no_parts_or_several_in_one_piece_have_no_etag() -> None:
    """Such a call is a mistake of the caller."""
    with pytest.raises(ValueError):
        etag_of_parts([])
    with pytest.raises(ValueError):
        etag_of_parts([md5_of(b"a"), md5_of(b"b")], multipart=False)
