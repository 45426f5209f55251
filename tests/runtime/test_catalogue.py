"""The models that clients see, and the names under which they ask for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.router.aliases import load_aliases
from runtime.catalogue import MAX_NAME, Catalogue, ServedModel, load_catalogue
from schemas.errors import SetupError, UnknownModel

FAST = ServedModel(description="fast", level="fast")
FULL = ServedModel(description="full", level="full")
MODELS = {"Kiki-Full": FULL, "kiki-fast": FAST}


def test_the_catalogue_lists_every_alias_in_its_order_with_what_concerns_a_client() -> None:
    catalogue, aliases = load_catalogue(), load_aliases()
    assert list(catalogue) == list(aliases)
    for model_id, served in catalogue.items():
        alias = aliases[model_id]
        assert (served.description, served.level, served.thinking) == (alias.description, alias.level, alias.thinking)
        assert (served.max_tokens, served.temperature) == (alias.max_tokens, alias.temperature)
        assert catalogue.resolve(model_id) == (model_id, served)
    assert catalogue.default == "micro-kiki"


@pytest.mark.parametrize("name", [None, "", "  "])
def test_a_request_that_names_no_model_gets_the_default_one(name: str | None) -> None:
    assert Catalogue(MODELS).resolve(name) == ("Kiki-Full", FULL)
    assert Catalogue(MODELS, default="kiki-fast").resolve(name) == ("kiki-fast", FAST)


@pytest.mark.parametrize(
    "name",
    [
        "kiki-fast",
        "KIKI-FAST",
        " kiki-fast ",
        "openai/kiki-fast",
        "ollama_chat/Kiki-Fast",
        "openrouter/openai/kiki-fast",
    ],
)
def test_letter_case_and_a_providers_prefix_are_passed_over(name: str) -> None:
    assert Catalogue(MODELS).resolve(name) == ("kiki-fast", FAST)


def test_other_names_stand_for_models() -> None:
    catalogue = Catalogue(MODELS, names={"gpt-4o": "kiki-fast", "meta/llama-3": "Kiki-Full"})
    for name in ("gpt-4o", "GPT-4o", "openai/gpt-4o"):
        assert catalogue.resolve(name) == ("kiki-fast", FAST)
    for name in ("meta/llama-3", "litellm/Meta/Llama-3"):
        assert catalogue.resolve(name) == ("Kiki-Full", FULL)
    for name in ("llama-3", "gpt-4o-mini", "gpt-4o/x", "openai/"):
        with pytest.raises(UnknownModel):
            catalogue.resolve(name)
    assert list(catalogue) == list(MODELS)
    assert catalogue.names == {"gpt-4o": "kiki-fast", "meta/llama-3": "Kiki-Full"}


@given(st.text(min_size=1))
def test_any_other_name_is_refused_shortly(name: str) -> None:
    catalogue = Catalogue(MODELS)
    for sent in (name + "?", "/" * 100_000 + name, "x" * MAX_NAME + "/kiki-fast"):
        with pytest.raises(UnknownModel) as refusal:
            catalogue.resolve(sent)
        assert (refusal.value.param, len(refusal.value.message) < 2 * MAX_NAME) == ("model", True)


@pytest.mark.parametrize(
    ("settings", "param", "words"),
    [
        ({"names": {"gpt-4o": "kiki-slow"}}, "models", "'kiki-slow'"),
        ({"names": {"gpt-4o": "gpt-4"}}, "models", "'gpt-4'"),
        ({"names": {"KIKI-FAST": "Kiki-Full"}}, "models", "'KIKI-FAST'"),
        ({"names": {"a": "kiki-fast", "A": "Kiki-Full"}}, "models", "'A'"),
        ({"names": {" ": "kiki-fast"}}, "models", "' '"),
        ({"default": "kiki-slow"}, "default_model", "'kiki-slow'"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_by_name(settings: dict[str, object], param: str, words: str) -> None:
    with pytest.raises(SetupError) as refusal:
        Catalogue(MODELS, **settings)  # type: ignore[arg-type]
    assert refusal.value.param == param
    assert words in refusal.value.message
