"""Routes about sample metadata and samples. They know the wire models; tables and filters are the services' matter."""

from __future__ import annotations

from divbase_client import models

from divbase_gateway.api.auth import Reader
from divbase_gateway.api.deps import ReadSession, ReadSessionBesideS3, TheGateway
from divbase_gateway.api.routes import new_router
from divbase_gateway.services import metadata

router = new_router("metadata")


@router.get("/projects/{project}/metadata")
def get_metadata(caller: Reader, session: ReadSessionBesideS3, gateway: TheGateway) -> models.Metadata:
    """What columns the project's sample table has."""
    return models.Metadata.model_validate(metadata.summarize(gateway.store, session, caller.project))


@router.post("/projects/{project}/metadata/query")
def query_metadata(
    body: models.MetadataQuery, caller: Reader, session: ReadSessionBesideS3, gateway: TheGateway
) -> models.MetadataAnswer:
    """The samples that a filter leaves, and the files that they are in."""
    return models.MetadataAnswer.model_validate(metadata.query(gateway.store, session, caller.project, body.where))


@router.get("/projects/{project}/samples")
def list_samples(caller: Reader, session: ReadSession) -> models.SampleList:
    """Every sample of the project's usable variant files."""
    found = metadata.list_samples(session, caller.project)
    return models.SampleList(samples=[models.MatchedSample.model_validate(sample) for sample in found])
