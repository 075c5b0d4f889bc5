"""A wire model as the answer itself, for routes that are asked often or say much. They declare it as `response_model`,
for the documentation; FastAPI would check the model a second time and go through it twice more to write it."""

from __future__ import annotations

from fastapi import Response
from pydantic import BaseModel


def answer(model: BaseModel) -> Response:
    """The answer of a route that was carried out (200)."""
    return Response(model.model_dump_json(), media_type="application/json")
