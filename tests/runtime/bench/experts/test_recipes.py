"""The recipes of the small experts: what they share, and that each stays within its tokens."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer

from runtime.bench.experts.examples import examples_folder, list_domains, read_examples
from runtime.models import prepare
from runtime.settings import DEFAULT_MODEL

FOLDER = examples_folder().parent / "lora" / "small"
MAX_TRAINED_TOKENS = 12_000
END_TOKENS = 2
"""What the template puts behind an answer, and what is learnt with it: the end of the message and a line break."""


def read_recipe(domain: str) -> dict[str, Any]:
    content = yaml.safe_load((FOLDER / f"{domain}.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_every_domain_with_examples_has_a_recipe_and_a_seed_of_its_own() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == list(list_domains())
    seeds = [read_recipe(domain)["seed"] for domain in list_domains()]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("domain", list_domains())
def test_recipes_share_rank_scale_modules_and_base(domain: str) -> None:
    recipe = read_recipe(domain)
    assert recipe["model"] == DEFAULT_MODEL
    assert (recipe["lora_parameters"]["rank"], recipe["lora_parameters"]["scale"]) == (16, 1.0)
    leaves = {key.rsplit(".", 1)[-1] for key in recipe["lora_parameters"]["keys"]}
    assert leaves == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert (recipe["num_layers"], recipe["mask_prompt"]) == (-1, True)
    assert (FOLDER.parents[2] / recipe["data"] / "train.jsonl").is_file()
    assert Path(recipe["adapter_path"]).name == domain
    assert recipe["save_every"] % recipe["steps_per_report"] == 0
    rate, steps, end = recipe["lr_schedule"]["arguments"]
    assert (rate, steps) == (recipe["learning_rate"], recipe["iters"] - recipe["lr_schedule"]["warmup"])
    assert 0 < end < rate


@pytest.mark.parametrize("domain", list_domains())
def test_an_expert_learns_from_at_most_twelve_thousand_tokens(domain: str) -> None:
    """Tokens of the answers, which alone count in the loss; whole rounds over the data are counted."""
    recipe = read_recipe(domain)
    tokenizer = Tokenizer.from_file(str(prepare(DEFAULT_MODEL) / "tokenizer.json"))
    answers = [example.answer for example in read_examples(domain, "train")]
    tokens = sum(len(tokenizer.encode(answer, add_special_tokens=False).ids) + END_TOKENS for answer in answers)
    rounds = math.ceil(recipe["iters"] * recipe["batch_size"] / len(answers))
    assert rounds * tokens <= MAX_TRAINED_TOKENS
