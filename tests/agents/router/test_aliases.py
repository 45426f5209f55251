"""The 45 model ids, and that the seven meta aliases differ."""

import pytest

from agents.router.aliases import Alias, alias_of, load_aliases
from agents.shared.domains import load_taxonomy
from schemas.errors import UnknownModel

META = ("agentic", "coding", "creative", "quick-reply", "reasoning", "research", "tool-use")


def test_there_are_45_models() -> None:
    aliases = load_aliases()
    assert len(aliases) == 45
    assert {f"kiki-niche-{name}" for name in load_taxonomy().niches} < set(aliases)
    assert {f"kiki-meta-{name}" for name in META} < set(aliases)


def test_meta_aliases_all_behave_differently() -> None:
    def behaviour(alias: Alias) -> tuple[object, ...]:
        return (
            alias.level,
            alias.deepen,
            alias.candidates,
            alias.recall,
            alias.domains,
            alias.thinking,
            alias.max_tokens,
        )

    assert len({behaviour(alias_of(f"kiki-meta-{name}")) for name in META}) == len(META)


def test_a_niche_alias_forces_its_domain() -> None:
    alias = alias_of("kiki-niche-python")
    assert alias.niche == "python"
    assert "python" in alias.description


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(UnknownModel, match="no model 'gpt-4'") as refusal:
        alias_of("gpt-4")
    assert (refusal.value.param, refusal.value.status) == ("model", 404)
