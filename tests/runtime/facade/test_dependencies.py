"""Whose request it is, by the key that it sends, in whichever header its client has."""

import httpx
import pytest

from runtime.facade import FacadeSettings

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, api_keys={"key-a": "ann", "key-b": "bob"}, admin_key="admin")


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer key-a"},
        {"authorization": "bearer  key-b"},
        {"x-api-key": "key-a"},
        {"api-key": "key-b"},
        {"authorization": "Bearer sk-placeholder", "x-api-key": "key-a"},
        {"authorization": "Basic key-x", "api-key": "key-a"},
    ],
)
async def test_a_key_counts_in_each_header(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await http.get("/v1/models", headers=headers)).status_code == 200
    assert (await http.get("/models/", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "key-a"},
        {"authorization": "Basic key-a"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer key-ab"},
        {"x-api-key": ""},
        {"x-api-key": "Bearer key-a"},
        {"api-key": "clé"},
        {"x-user-id": "key-a"},
    ],
)
async def test_without_a_key_of_the_facade_nothing_is_served(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    encoded = {name.encode(): value.encode() for name, value in headers.items()}
    reply = await http.get("/v1/models", headers=encoded)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (401, "authentication_error", "Authorization")
    assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["x-api-key", "api-key"])
async def test_the_admin_key_counts_in_each_header(http: httpx.AsyncClient, header: str) -> None:
    assert (await http.get("/status", headers={header: "admin"})).status_code == 200
    assert (await http.get("/status", headers={header: "key-a"})).status_code == 401
