"""The models that clients see."""

from agents.router.aliases import load_aliases
from runtime.catalogue import load_catalogue


def test_the_catalogue_lists_every_alias_in_its_order_with_what_concerns_a_client() -> None:
    catalogue, aliases = load_catalogue(), load_aliases()
    assert list(catalogue) == list(aliases)
    for model_id, served in catalogue.items():
        alias = aliases[model_id]
        assert (served.description, served.level, served.thinking) == (alias.description, alias.level, alias.thinking)
        assert (served.max_tokens, served.temperature) == (alias.max_tokens, alias.temperature)
