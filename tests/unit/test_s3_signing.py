"""Presigned URLs, compared with those that botocore signs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.config import Config
from divbase_gateway.s3.signing import Credentials, Signer

CASES: list[tuple[Literal["GET", "PUT"], str, dict[str, Any], dict[str, str], dict[str, str]]] = [
    ("GET", "get_object", {"VersionId": "v1"}, {"versionId": "v1"}, {}),
    ("GET", "get_object", {}, {}, {}),
    (
        "PUT",
        "put_object",
        {"ContentMD5": "XUFAKrxLKna5cZ2REBfFkg==", "Metadata": {"sha256": "2c  f2"}},
        {},
        {"Content-MD5": "XUFAKrxLKna5cZ2REBfFkg==", "x-amz-meta-sha256": "2c  f2"},
    ),
    ("PUT", "put_object", {"IfNoneMatch": "*"}, {}, {"If-None-Match": "*"}),
    ("PUT", "upload_part", {"UploadId": "u/1+2", "PartNumber": 7}, {"uploadId": "u/1+2", "partNumber": "7"}, {}),
]


@pytest.mark.parametrize("key", ["a.vcf.gz", "größe/with spaces+&?#%20~.tsv"])
@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:8333", "https://s3.example.org", "https://example.org:443"])
@pytest.mark.parametrize(("method", "operation", "params", "query", "headers"), CASES)
@pytest.mark.parametrize("token", [None, "session/token+="])
def test_the_signature_is_that_of_botocore(
    key: str,
    endpoint: str,
    method: Literal["GET", "PUT"],
    operation: str,
    params: dict[str, Any],
    query: dict[str, str],
    headers: dict[str, str],
    token: str | None,
) -> None:
    """Guards: keys of any spelling, default ports, headers with several spaces, credentials of a role."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="eu-north-1",
        aws_access_key_id="ACCESS",
        aws_secret_access_key="SECRET",
        aws_session_token=token,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
        ),
    )
    theirs = client.generate_presigned_url(operation, Params={"Bucket": "birch", "Key": key, **params}, ExpiresIn=60)
    asked = parse_qs(urlsplit(theirs).query)
    now = datetime.strptime(asked["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    ours = Signer(endpoint, "eu-north-1").sign(
        Credentials("ACCESS", "SECRET", token), method, f"birch/{key}", query, headers, now, 60
    )
    assert parse_qs(urlsplit(ours).query)["X-Amz-SignedHeaders"] == asked["X-Amz-SignedHeaders"]
    assert parse_qs(urlsplit(ours).query)["X-Amz-Signature"] == asked["X-Amz-Signature"]
    assert urlsplit(ours).path == urlsplit(theirs).path
