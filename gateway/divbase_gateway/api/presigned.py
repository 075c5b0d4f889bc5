"""The wire form of presigned requests, for every route that hands one out."""

from __future__ import annotations

from divbase_client import models

from divbase_gateway.ports import PresignedRequest


def presigned_of(request: PresignedRequest) -> models.Presigned:
    return models.Presigned.model_validate(request)
