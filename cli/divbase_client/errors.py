"""Everything that can go wrong on the client's side of the API, as one tree.

It knows neither HTTP library nor terminal.

ClientError
  InvalidSettings        a URL, key or path that cannot be used
  GatewayUnreachable     no answer after all retries
    UnexpectedAnswer     something answered, but it is not DivBase
  ApiError               the gateway's answer, with the fields of its problem document
    BadInput             400, 413, 415, 422
    Unauthenticated      401
    NotAllowed           403
    NotFound             404, 410
    Conflict             409
    TooManyRequests      429, after all retries
    ServerFault          5xx
  TargetExists           a download would overwrite a different file
  TransferInterrupted    S3 gave up or refused; run the same again to go on
  ChecksumMismatch       the bytes are not those that were promised
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from divbase_client.models import Problem


class ClientError(Exception):
    """Root of the tree. `hint` says what to do, where anything can be done."""

    code: str = "client_error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def as_problem(self) -> dict[str, Any]:
        """The same fields as a problem document of the gateway, for machine readers."""
        return {
            "type": "about:blank",
            "title": type(self).__name__,
            "status": None,
            "detail": self.message,
            "code": self.code,
            "hint": self.hint,
            "request_id": None,
            "details": {},
        }


class InvalidSettings(ClientError):
    code = "invalid_settings"


class GatewayUnreachable(ClientError):
    code = "gateway_unreachable"


class UnexpectedAnswer(GatewayUnreachable):
    code = "unexpected_answer"


class TargetExists(ClientError):
    code = "target_exists"


class TransferInterrupted(ClientError):
    code = "transfer_interrupted"


class ChecksumMismatch(ClientError):
    code = "checksum_mismatch"


class ApiError(ClientError):
    """The gateway said no. `problem` is its answer; `details` carries data such as the known names."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail or problem.title, hint=problem.hint)
        self.problem = problem
        self.status = problem.status
        self.code = problem.code
        self.title = problem.title
        self.request_id = problem.request_id
        self.details = problem.details

    def as_problem(self) -> dict[str, Any]:
        return self.problem.model_dump(mode="json")


class BadInput(ApiError):
    pass


class Unauthenticated(ApiError):
    pass


class NotAllowed(ApiError):
    pass


class NotFound(ApiError):
    pass


class Conflict(ApiError):
    pass


class TooManyRequests(ApiError):
    pass


class ServerFault(ApiError):
    pass


_BY_STATUS: dict[int, type[ApiError]] = {
    401: Unauthenticated,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    410: NotFound,
    429: TooManyRequests,
}


def api_error(problem: Problem) -> ApiError:
    """The class that belongs to the problem's status."""
    if problem.status >= 500:
        return ServerFault(problem)
    return _BY_STATUS.get(problem.status, BadInput)(problem)
