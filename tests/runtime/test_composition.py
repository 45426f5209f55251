"""Which agents share a process, and what the broker is started with."""

import json
from pathlib import Path

from bus.broker import MAX_PAYLOAD
from runtime.agents import FACADE, default_agents
from runtime.composition import choose_payload, group_by_process
from runtime.limits import derive_limits
from runtime.settings import load_settings


def test_agents_that_serve_one_another_share_a_process() -> None:
    groups = group_by_process((*default_agents(), FACADE))
    assert groups == {
        "router": ("router", "embedder"),
        "memory": ("memory",),
        "inference": ("inference",),
        "cognition": ("catfish", "negotiator", "antibias"),
        "services": ("services", "tenants"),
        "dream": ("dream", "gates"),
        "facade": ("facade",),
    }
    assert group_by_process(("negotiator", "router", "antibias")) == {
        "cognition": ("negotiator", "antibias"),
        "router": ("router",),
    }


def test_a_sharing_agent_that_runs_alone_keeps_its_own_name() -> None:
    assert group_by_process(("negotiator", "router")) == {"negotiator": ("negotiator",), "router": ("router",)}
    assert group_by_process(("embedder", "memory")) == {"embedder": ("embedder",), "memory": ("memory",)}


def test_the_brokers_messages_grow_with_the_models_context(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name, text in (("tokenizer.json", "{}"), ("model.safetensors", "")):
        (model / name).write_text(text)

    def choose(**config: int) -> int:
        (model / "config.json").write_text(json.dumps(config))
        return choose_payload(load_settings(model=str(model)))

    assert choose() == MAX_PAYLOAD
    assert choose(max_position_embeddings=262_144) == MAX_PAYLOAD
    assert choose(max_position_embeddings=2**20) == derive_limits(2**20).payload > MAX_PAYLOAD
    limited = load_settings(model=str(model), agents={"inference": {"context_tokens": 4096}})
    assert choose_payload(limited) == MAX_PAYLOAD
