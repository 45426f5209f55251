"""The adapters of nerve-wml and kiki-flow, with stand-ins of the two packages: they cannot be installed from PyPI.

The stand-ins have the signatures and return types of the packages' own classes.
"""

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents.advisors import flow, nerve
from agents.advisors.agent import AdvisorAgent
from agents.advisors.settings import KikiFlowSettings, NerveWmlSettings
from agents.router.advice import AdvisorSettings
from agents.services.stacks import load_stacks
from agents.shared.domains import load_taxonomy
from bus.connection import Bus
from bus.testing import run_agents
from runtime import advisors, composition
from runtime.settings import Settings
from schemas.advisors import AdviseReply, AdviseRequest
from schemas.calls import ADVISE, STATUS
from schemas.errors import SetupError

DOMAINS = load_taxonomy().niches
DOMAINS_OF, SPREAD = load_stacks().domains, load_stacks().spread

NERVE = """
    import torch

    class NerveWmlAdvisor:
        def __init__(self, *, enabled=None, checkpoint_path=None, n_domains=35):
            self.n_domains = n_domains

        def advise(self, query_tokens, current_route=None):
            if query_tokens.shape != (1, 16) or torch.isnan(query_tokens).any():
                return None
            weights = torch.softmax(torch.arange(self.n_domains).float() * float(query_tokens[0, 0]), dim=-1)
            return {index: float(weight) for index, weight in enumerate(weights)}
"""

FLOW = """
    import os
    import numpy as np

    class KikiFlowBridge:
        def __init__(self, weights_path, state_dim=128, embed_dim=384, hidden=256, n_stacks=32, use_stub_encoder=True):
            self.enabled = os.environ.get("KIKI_FLOW_ENABLED", "0") == "1"
            self.steps = 0

        def route_advisory(self, query):
            self.steps += 1
            if query == "quiet":
                return None
            weights = np.zeros(32, dtype=np.float32)
            if query == "nothing":
                return weights
            weights[self.steps % 32] = 0.75
            weights[0] = 0.25
            return weights
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, code in ((nerve.MODULE, NERVE), (flow.MODULE, FLOW)):
        path = tmp_path.joinpath("packages", *name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True)
        path.write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("bridge", "kiki_flow_core")]:
        del sys.modules[name]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "v0.safetensors"
    path.write_bytes(b"")
    return path


def make_request(turn_id: str = "t", *, text: str = "hello", width: int = 768) -> AdviseRequest:
    return AdviseRequest(turn_id=turn_id, text=text, embedding=(width**-0.5,) * width, scores={"rust": 0.5})


def test_nerve_gives_probabilities_by_niche(packages: None, tmp_path: Path) -> None:
    advise = nerve.load(NerveWmlSettings(domains=DOMAINS, checkpoint=tmp_path, trust_pickle=True))
    reply = advise(make_request())
    assert set(reply.domains) == set(DOMAINS)
    assert sum(reply.domains.values()) == pytest.approx(1.0)
    assert max(reply.domains, key=lambda name: reply.domains[name]) == DOMAINS[-1]
    assert advise(make_request(width=8)) == AdviseReply()


def test_tokens_are_sixteen_numbers_of_size_one() -> None:
    alternating = tuple((-1.0) ** (at // 48) * 768**-0.5 for at in range(768))
    assert nerve.tokens(alternating) == pytest.approx([48**0.5 * (-1.0) ** at for at in range(16)])


def test_flow_is_recorded_by_stack_and_advises_by_domain(
    packages: None, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIKI_FLOW_ENABLED", "1")
    advise = flow.load(KikiFlowSettings(weights=weights), spread=SPREAD)
    reply = advise(make_request())
    assert reply.domains == {DOMAINS_OF[0][0]: 0.25, DOMAINS_OF[1][0]: 0.75}
    assert (len(reply.payload), reply.payload["stack_01"]) == (32, 0.75)
    assert advise(make_request(text="quiet")) == AdviseReply()
    zero = advise(make_request(text="nothing"))
    assert (zero.domains, zero.payload["stack_01"]) == ({}, 0.0)


def test_missing_or_untrusted_weights_are_refused(packages: None, tmp_path: Path, weights: Path) -> None:
    pickle_file = tmp_path / "weights.pt"
    pickle_file.write_bytes(b"")
    cases: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: nerve.load(NerveWmlSettings(domains=DOMAINS)), "NERVE_WML_CHECKPOINT_PATH"),
        (lambda: nerve.load(NerveWmlSettings(domains=DOMAINS, checkpoint=tmp_path)), "NERVE_WML_TRUST_PICKLE"),
        (lambda: flow.load(KikiFlowSettings(), spread=SPREAD), "KIKI_FLOW_WEIGHTS_PATH"),
        (lambda: flow.load(KikiFlowSettings(weights=pickle_file), spread=SPREAD), "KIKI_FLOW_TRUST_PICKLE"),
        (lambda: flow.load(KikiFlowSettings(weights=weights), spread=SPREAD), "KIKI_FLOW_ENABLED"),
    )
    for load, why in cases:
        with pytest.raises(SetupError, match=why):
            load()


def test_a_package_that_is_not_installed_is_named(tmp_path: Path, weights: Path) -> None:
    loads: tuple[Callable[[], object], ...] = (
        lambda: nerve.load(NerveWmlSettings(domains=DOMAINS, checkpoint=tmp_path, trust_pickle=True)),
        lambda: flow.load(KikiFlowSettings(weights=weights), spread=SPREAD),
    )
    for load in loads:
        with pytest.raises(SetupError, match="is not installed"):
            load()


def test_advisors_are_turned_on_by_the_environment_or_the_file(packages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (advisors.find_enabled(Settings()), advisors.find_runnable(Settings())) == ({}, ())
    monkeypatch.setenv("NERVE_WML_ENABLED", "1")
    monkeypatch.setenv("NERVE_WML_ALPHA", "0.4")
    settings = Settings(agents={"router": {"advisors": {"kiki-flow": {"timeout": 0.2}}}})
    assert advisors.find_enabled(settings) == {
        "nerve-wml": AdvisorSettings(alpha=0.4),
        "kiki-flow": AdvisorSettings(timeout=0.2),
    }
    assert advisors.find_runnable(settings) == ("nerve-wml", "kiki-flow")
    monkeypatch.setenv("NERVE_WML_ALPHA", "2")
    with pytest.raises(SetupError, match="NERVE_WML_ALPHA is '2'"):
        advisors.find_enabled(Settings())
    monkeypatch.delenv("NERVE_WML_ENABLED")
    foreign = Settings(agents={"router": {"advisors": {"oracle": {"alpha": 0.3}}}})
    assert advisors.find_enabled(foreign) == {"oracle": AdvisorSettings(alpha=0.3)}
    assert advisors.find_runnable(foreign) == ()
    with pytest.raises(SetupError, match="advisor 'oracle'"):
        advisors.find_enabled(Settings(agents={"router": {"advisors": {"oracle": {"alpha": 2}}}}))


def test_an_advisor_that_is_on_and_not_installed_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NERVE_WML_ENABLED", "1")
    assert (list(advisors.find_enabled(Settings())), advisors.find_runnable(Settings())) == (["nerve-wml"], ())


@pytest.mark.anyio
async def test_the_agent_steps_a_turn_once(
    packages: None, weights: Path, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIKI_FLOW_ENABLED", "1")
    monkeypatch.setenv("KIKI_FLOW_WEIGHTS_PATH", str(weights))
    agent = composition.build_agent("kiki-flow", Settings())
    assert isinstance(agent, AdvisorAgent)
    async with run_agents(bus, agent):
        replies = [
            await bus.request(ADVISE.at("kiki-flow"), make_request(turn), timeout=10) for turn in ("a", "a", "b")
        ]
        status = await bus.request(STATUS.at("kiki-flow"), None, timeout=10)
    assert replies[0] == replies[1] != replies[2]
    assert (status.ready, status.gauges) == (True, {"asked": 2.0, "silent": 0.0})
