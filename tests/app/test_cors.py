"""Web pages of other origins, what they may cache, and path prefixes."""

import httpx
import pytest

from tests.app.api.asgi import service_of
from tests.app.types import CheckProblem, Connect, Grey, MakeApp

pytestmark = pytest.mark.anyio

ORIGIN = "https://shop.example"


async def test_other_origins_cannot_use_the_service_by_default(connect: Connect, grey: Grey) -> None:
    async with connect() as client:
        response = await client.post("/predict", files={"file": grey(1)}, headers={"Origin": ORIGIN})
    assert "access-control-allow-origin" not in response.headers


async def test_a_listed_origin_may_read_predictions_and_rejections(
    connect: Connect, grey: Grey, problem: CheckProblem
) -> None:
    async with connect(cors_origins={ORIGIN}, api_keys={"secret"}) as client:
        headers = {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "X-API-Key",
        }
        preflight = await client.options("/predict", headers=headers)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, ORIGIN)
        rejected = await client.post("/predict", files={"file": grey(1)}, headers={"Origin": ORIGIN})
        problem(rejected, 401, "unauthorized")
        assert rejected.headers["access-control-allow-origin"] == ORIGIN
        assert "Retry-After" in rejected.headers["access-control-expose-headers"]
        other = await client.post("/predict", files={"file": grey(1)}, headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    "headers",
    [
        "authorization",
        "content-type,x-api-key,x-request-id",
        "traceparent,tracestate,baggage",
        "x-requested-with",
        "cache-control",
        "if-none-match,if-match,if-modified-since,if-unmodified-since",
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/model/labels", "/v2/models/fake/infer"])
async def test_a_preflight_allows_what_libraries_add(connect: Connect, headers: str, path: str) -> None:
    async with connect(cors_origins={ORIGIN}, protocols="open_inference") as client:
        asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
        preflight = await client.options(path, headers=asked)
        rejected = await client.options(path, headers=asked | {"Access-Control-Request-Headers": "x-unknown"})
    assert preflight.status_code == 200
    allowed = {name.strip() for name in preflight.headers["access-control-allow-headers"].lower().split(",")}
    assert set(headers.split(",")) <= allowed
    assert rejected.status_code == 400


async def test_a_listed_origin_may_read_what_no_route_has_answered(
    connect: Connect, grey: Grey, make_app: MakeApp, problem: CheckProblem
) -> None:
    app = make_app(cors_origins={ORIGIN})
    async with connect(app) as client:
        service_of(app).close()
        response = await client.post("/predict", files={"file": grey(1)}, headers={"Origin": ORIGIN})
    problem(response, 503, "unavailable")
    assert response.headers["retry-after"]
    assert response.headers["access-control-allow-origin"] == ORIGIN


async def test_links_contain_the_path_prefix(make_app: MakeApp, problem: CheckProblem) -> None:
    app = make_app()
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, root_path="/prefix")
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            description = (await client.get("/prefix/openapi.json")).json()
            wrong = await client.get("/prefix/predict")
    assert description["servers"] == [{"url": "/prefix"}]
    assert "/prefix/docs" in problem(wrong, 405, "about:blank")


async def test_labels_are_sent_again_only_if_they_have_changed(connect: Connect) -> None:
    async with connect() as client:
        first = await client.get("/model/labels")
        etag = first.headers["etag"]
        again = await client.get("/model/labels", headers={"If-None-Match": f'"x", W/{etag}'})
        other = await client.get("/model/labels", headers={"If-None-Match": '"x"'})
    assert len(first.json()["labels"]) == 256
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert other.status_code == 200
