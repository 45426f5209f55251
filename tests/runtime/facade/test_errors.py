"""Refusals in the shape of the API that they answer."""

import httpx
import pytest

from runtime.facade import FacadeSettings
from runtime.facade.errors import HttpRefusal, describe_error_for, refuse
from schemas.errors import InvalidInput, KikiError, Refused, Unavailable

anyio_test = pytest.mark.anyio


@pytest.fixture(scope="module")
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, api_keys={"key": "ann"})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/health", "/v1/messages-of-mine", "/"])
def test_openais_clients_get_message_type_param_and_code(path: str) -> None:
    error = InvalidInput("'n' is 0: send 1 or more.", param="n")
    assert describe_error_for(path, error, request_id="r-1") == {
        "error": {
            "message": "'n' is 0: send 1 or more.",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_request",
        }
    }


@pytest.mark.parametrize("path", ["/v1/messages", "/messages", "/v1/messages/", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidInput("no"), "invalid_request_error"),
        (InvalidInput("no", code="context_length_exceeded"), "invalid_request_error"),
        (InvalidInput("no", code="unauthorized"), "authentication_error"),
        (HttpRefusal("no", status=403, code="forbidden"), "permission_error"),
        (InvalidInput("no", code="model_not_found"), "not_found_error"),
        (HttpRefusal("no", status=405, code="method_not_allowed"), "invalid_request_error"),
        (InvalidInput("no", code="body_too_large"), "request_too_large"),
        (HttpRefusal("no", status=415, code="unsupported_media_type"), "invalid_request_error"),
        (Refused("no"), "rate_limit_error"),
        (Unavailable("no"), "overloaded_error"),
        (KikiError("no"), "api_error"),
        (KikiError("no", code="upstream_refused"), "api_error"),
        (KikiError("no", code="deadline_exceeded"), "timeout_error"),
    ],
)
def test_anthropics_clients_get_their_own_shape(path: str, error: KikiError, kind: str) -> None:
    assert describe_error_for(path, error, request_id="r-1") == {
        "type": "error",
        "error": {"type": kind, "message": "no"},
        "request_id": "r-1",
    }


@pytest.mark.parametrize(("error", "when"), [(Refused("no"), "7"), (Unavailable("no"), "7"), (KikiError("no"), None)])
def test_a_busy_facade_says_when_to_try_again(error: KikiError, when: str | None) -> None:
    reply = refuse({"type": "http", "path": "/v1/models"}, error, retry_after=7)
    assert reply.headers.get("retry-after") == when


@anyio_test
@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "kind"),
    [
        ("GET", "/v1/messages/nothing/there", {}, 404, "not_found_error"),
        ("POST", "/messages/nothing/there/", {"content-type": "text/plain"}, 404, "not_found_error"),
    ],
)
async def test_a_refusal_of_the_door_has_the_shape_of_its_path(
    http: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], status: int, kind: str
) -> None:
    reply = await http.request(method, path, headers={"x-request-id": "r-7", **headers})
    body = reply.json()
    assert (reply.status_code, body["type"], body["error"]["type"]) == (status, "error", kind)
    assert body["request_id"] == reply.headers["request-id"] == reply.headers["x-request-id"] == "r-7"


@anyio_test
@pytest.mark.parametrize(
    ("method", "path", "status", "param"),
    [
        ("GET", "/v1/episodes?query=x&limit=many", 400, "limit"),
        ("GET", "/v1/episodes?query=x&limit=0", 400, "limit"),
        ("GET", "/v1/episodes?query=x&as_of=abc", 400, "as_of"),
        ("GET", "/v1/models/no-such-model", 404, "model"),
        ("GET", "/v1/turns/%00", 404, "turn_id"),
        ("GET", "/v1/turns/%FF%FE", 404, "turn_id"),
        ("POST", "/v1/chat/completions", 400, None),
    ],
)
async def test_each_route_refuses_in_openais_shape(
    http: httpx.AsyncClient, method: str, path: str, status: int, param: str | None
) -> None:
    reply = await http.request(method, path, headers={"authorization": "Bearer key", "x-user-id": "ann"})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, param)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
