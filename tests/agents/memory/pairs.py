"""Both pairs of stores: on this machine, and on servers."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from qdrant_client import AsyncQdrantClient

from agents.memory.settings import MemorySettings
from agents.memory.stores.qdrant import QdrantAtlas
from tests.agents.memory.conftest import neo4j_settings
from tests.agents.memory.scenes import SIZE

PAIRS = ("embedded", "servers")


def pair_settings(request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch) -> MemorySettings:
    """Settings of the pair that ``request.param`` names: ``servers`` has a real Neo4j and Qdrant's local store."""
    if request.param == "embedded":
        settings = MemorySettings(data_dir=path / "memory", vector_size=SIZE)
    else:
        server = request.getfixturevalue("neo4j_server")
        settings = use_local_qdrant(neo4j_settings(path / "memory", server), monkeypatch)
    return replace(settings, status_interval=0.05, lock_timeout=0.1)


def use_local_qdrant(settings: MemorySettings, monkeypatch: pytest.MonkeyPatch) -> MemorySettings:
    """Atlas in the Qdrant client's own store."""
    monkeypatch.setattr(
        QdrantAtlas, "of", lambda memory_settings: QdrantAtlas(AsyncQdrantClient(":memory:"), memory_settings)
    )
    return replace(settings, atlas="qdrant")
