"""POST /embed: an image in, its feature vector out, for search and deduplication."""

import base64
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app.api.body import BodyReader, admitted_body
from app.api.dependencies import ServiceDep
from app.api.openapi import IMAGE_BODY
from app.api.problems import PREDICTION_ERRORS, openapi_responses
from app.api.schemas import EmbedResponse, StrictQuery, server_timing

router = APIRouter(tags=["predict"])


class EmbedQuery(StrictQuery):
    """The query parameters; an unknown one is an error."""

    encoding: Literal["float", "base64"] = Field(
        "float", description="`float`: a list of numbers; `base64`: little-endian float32, a quarter of the size."
    )


@router.post(
    "/embed",
    summary="Compute the embedding of an image",
    response_model=EmbedResponse,
    responses=openapi_responses(*PREDICTION_ERRORS),
    openapi_extra={"requestBody": IMAGE_BODY},
)
async def embed(request: Request, service: ServiceDep, query: Annotated[EmbedQuery, Query()]) -> Response:
    """Returns the pooled features of one image, with an L2 norm of 1.

    The dot product of two embeddings is their cosine similarity.
    """
    async with admitted_body(request, service, BodyReader.image) as image:
        result = await service.embed(image)
    vector = result.vector
    as_text = query.encoding == "base64"
    encoded = base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_text else vector.tolist()
    content = {
        "model": service.engine.model.name,
        "dimensions": len(vector),
        "encoding": query.encoding,
        "embedding": encoded,
    }
    return JSONResponse(content, headers=server_timing(result.timings))
