"""Which agents share a process."""

from runtime.composition import AGENTS, BESIDE, FACADE, processes


def test_agents_that_own_nothing_share_a_process() -> None:
    groups = processes((*AGENTS, *BESIDE, FACADE))
    assert groups == {
        "router": ("router",),
        "memory": ("memory",),
        "inference": ("inference",),
        "cognition": ("catfish", "negotiator", "antibias"),
        "services": ("services",),
        "dream": ("dream",),
        "facade": ("facade",),
    }
    assert processes(("negotiator", "router", "antibias")) == {
        "cognition": ("negotiator", "antibias"),
        "router": ("router",),
    }


def test_a_sharing_agent_that_runs_alone_keeps_its_own_name() -> None:
    assert processes(("negotiator", "router")) == {"negotiator": ("negotiator",), "router": ("router",)}
