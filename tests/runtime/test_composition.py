"""Who shares a process with whom."""

from runtime.composition import AGENTS, BESIDE, FACADE, processes


def test_agents_that_own_nothing_share_a_process() -> None:
    found = processes((*AGENTS, *BESIDE, FACADE))
    assert found == {
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


def test_one_of_them_without_the_others_has_its_own_name() -> None:
    assert processes(("negotiator", "router")) == {"negotiator": ("negotiator",), "router": ("router",)}
