"""Which agents share a process."""

from runtime.agents import FACADE, default_agents
from runtime.composition import group_by_process


def test_agents_that_serve_one_another_share_a_process() -> None:
    groups = group_by_process((*default_agents(), FACADE))
    assert groups == {
        "router": ("router", "embedder"),
        "memory": ("memory",),
        "inference": ("inference",),
        "cognition": ("catfish", "negotiator", "antibias"),
        "services": ("services",),
        "dream": ("dream",),
        "facade": ("facade",),
    }
    assert group_by_process(("negotiator", "router", "antibias")) == {
        "cognition": ("negotiator", "antibias"),
        "router": ("router",),
    }


def test_a_sharing_agent_that_runs_alone_keeps_its_own_name() -> None:
    assert group_by_process(("negotiator", "router")) == {"negotiator": ("negotiator",), "router": ("router",)}
    assert group_by_process(("embedder", "memory")) == {"embedder": ("embedder",), "memory": ("memory",)}
