"""The Python client of DivBase: `Client` and its errors, loaded when they are first used.

Importing the package alone costs next to nothing, because the gateway imports only its wire models from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from divbase_client.client import Client
    from divbase_client.downloads import Downloaded
    from divbase_client.errors import (
        ApiError,
        BadInput,
        ChecksumMismatch,
        ClientError,
        Conflict,
        GatewayUnreachable,
        NotAllowed,
        NotFound,
        ServerFault,
        TargetExists,
        TransferInterrupted,
        Unauthenticated,
        UnexpectedAnswer,
    )
    from divbase_client.retry import Retry
    from divbase_client.transfers import Failed, Moved
    from divbase_client.uploads import Source, Uploaded

_HOMES = {
    "Client": "client",
    "Downloaded": "downloads",
    "ApiError": "errors",
    "BadInput": "errors",
    "ChecksumMismatch": "errors",
    "ClientError": "errors",
    "Conflict": "errors",
    "GatewayUnreachable": "errors",
    "NotAllowed": "errors",
    "NotFound": "errors",
    "ServerFault": "errors",
    "TargetExists": "errors",
    "TransferInterrupted": "errors",
    "Unauthenticated": "errors",
    "UnexpectedAnswer": "errors",
    "Retry": "retry",
    "Failed": "transfers",
    "Moved": "transfers",
    "Source": "uploads",
    "Uploaded": "uploads",
}

__all__ = [
    "ApiError",
    "BadInput",
    "ChecksumMismatch",
    "Client",
    "ClientError",
    "Conflict",
    "Downloaded",
    "Failed",
    "GatewayUnreachable",
    "Moved",
    "NotAllowed",
    "NotFound",
    "Retry",
    "ServerFault",
    "Source",
    "TargetExists",
    "TransferInterrupted",
    "Unauthenticated",
    "UnexpectedAnswer",
    "Uploaded",
]


def __getattr__(name: str) -> Any:
    """Load the module of a public name on first use (PEP 562)."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'divbase_client' has no attribute {name!r}")
    return getattr(import_module(f"divbase_client.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
