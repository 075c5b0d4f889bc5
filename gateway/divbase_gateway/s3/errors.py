"""Turns what botocore and urllib3 raise into DivBase's errors, once, at the edge. It makes no requests.

A code that it does not know is StoreUnavailable: asking again is right more often than giving up.
"""

from __future__ import annotations

from botocore.exceptions import ClientError, ParamValidationError

from divbase_gateway.domain.errors import Conflict, DivBaseError, InvalidRequest, NotFound, StoreUnavailable

_MISSING = {"NoSuchBucket", "NoSuchKey", "NoSuchVersion", "NoSuchUpload", "NotFound"}
_CONFLICT = {
    "BadDigest",
    "BucketAlreadyExists",
    "EntityTooSmall",
    "InvalidPart",
    "InvalidPartOrder",
    "OperationAborted",
    "PreconditionFailed",
}
_KEYS_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "Forbidden"}
_MISSING_STATUS = 404
_IS_DELETE_MARKER_STATUS = 405
"""S3 answers so when a version is asked for that is a delete marker: there is no object to give."""


def code_of(exc: ClientError) -> str:
    """S3's word for the error; the HTTP status as a string where the answer had no body (HEAD)."""
    return str(exc.response.get("Error", {}).get("Code", ""))


def translate(exc: Exception, what: str, endpoint: str) -> DivBaseError:
    """The error to raise `from exc`.

    Args:
        what: what was being done, to what: `reading key 'a.vcf.gz' of bucket 'b'`.
        endpoint: the URL that was asked, for the operator.
    """
    if isinstance(exc, ParamValidationError):
        return InvalidRequest(f"S3 cannot be asked for this ({what}): {exc}")
    if not isinstance(exc, ClientError):
        return StoreUnavailable(
            f"The object store at {endpoint} did not answer ({what}): {type(exc).__name__}.",
            hint="Check that it runs and that this machine reaches it (`divbase-gateway doctor`), then try again.",
            details={"endpoint": endpoint},
        )
    return _translate_answer(exc, what, endpoint)


def _translate_answer(exc: ClientError, what: str, endpoint: str) -> DivBaseError:
    code, status = code_of(exc), exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    words = str(exc.response.get("Error", {}).get("Message", ""))
    details: dict[str, object] = {"endpoint": endpoint, "code": code}
    if code in _MISSING or status in (_MISSING_STATUS, _IS_DELETE_MARKER_STATUS) or _malformed_version(code, words):
        return NotFound(f"The object store has no such thing ({what}): {code}.", details=details)
    if code in _CONFLICT:
        return Conflict(f"The object store refused ({what}): {code}, {words}", details=details)
    if code in _KEYS_REFUSED:
        return StoreUnavailable(
            f"The object store at {endpoint} refused the gateway's credentials ({what}): {code}.",
            hint="Check s3.access_key and s3.secret_key, their rights on the bucket, and this machine's clock.",
            details=details,
        )
    return StoreUnavailable(
        f"The object store at {endpoint} failed ({what}): {code} {words}",
        hint="Try again; if it lasts, look at the store's own log.",
        details=details,
    )


def _malformed_version(code: str, words: str) -> bool:
    """S3 says `InvalidArgument: Invalid version id specified` of an id that it could not have given out."""
    return code == "InvalidArgument" and "version" in words.lower()
