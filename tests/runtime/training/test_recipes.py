"""Recipes: read as mlx-lm reads them, and refused with the field's name."""

import types
from importlib.resources import files
from pathlib import Path

import msgspec
import pytest
import yaml

from runtime.training.curriculum import load_curriculum, order_of
from runtime.training.generation import make_curriculum, render_files, write_files
from runtime.training.recipes import KEYS, SMALL_BASE, SMALL_KEYS, find_recipe, read_recipe, recipes_folder
from schemas.errors import SetupError
from tests.agents.inference.hybrid import KINDS

LAB_ORDER = (
    "chat-fr reasoning python typescript cpp rust html-css shell sql yaml-json docker kicad-dsl spice lua-upy embedded "
    "stm32 iot freecad platformio power emc dsp spice-sim electronics kicad-pcb web-frontend web-backend music-audio "
    "devops llm-orch math security components llm-ops ml-training"
)
"""The curriculum of the lab's configs/micro_kiki/brainstacks.yaml."""


def write_recipe(folder: Path, **changes: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"model": "m", "data": "d", "lora_parameters": {"rank": 4, "scale": 1.0}} | changes))
    return path


def test_the_shipped_files_are_those_that_the_domains_make(tmp_path: Path) -> None:
    write_files(tmp_path)
    shipped = {path.name: path.read_text() for path in recipes_folder().glob("*.yaml")}
    assert shipped == {path.name: path.read_text() for path in tmp_path.iterdir()} == render_files()
    assert len(shipped) == 36
    assert load_curriculum() == make_curriculum()
    assert order_of(load_curriculum()) == tuple(LAB_ORDER.split())


def test_every_recipe_is_one_that_mlx_lm_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through mlx-lm's own command line: its parser, its YAML, its defaults."""
    from mlx_lm import lora

    seen: list[types.SimpleNamespace] = []
    monkeypatch.setattr(lora, "run", seen.append)
    paths = sorted(path for path in recipes_folder().glob("*.yaml") if path.name != "curriculum.yaml")
    for path in paths:
        monkeypatch.setattr("sys.argv", ["mlx_lm.lora", "--config", str(path)])
        lora.main()
    assert len(seen) == 35
    for path, arguments in zip(paths, seen, strict=True):
        recipe = msgspec.to_builtins(read_recipe(path))
        assert set(recipe) <= set(vars(arguments))
        for name in set(recipe) - {"lora_parameters", "optimizer_config"}:
            assert getattr(arguments, name) == recipe[name], name
        assert arguments.learning_rate == 1e-5
        assert arguments.lora_parameters == {"rank": 16, "scale": 1.0, "dropout": 0.0, "keys": list(KEYS)}
        assert arguments.num_layers == 32
        assert arguments.data == f"data/merged/{path.stem}"


def test_the_17_kinds_are_those_of_the_architecture() -> None:
    assert sorted(KEYS) == sorted(KINDS)
    assert len(SMALL_KEYS) == 7


@pytest.mark.parametrize("path", sorted((recipes_folder() / "small").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_of_the_small_fleet_is_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert (recipe.model, recipe.lora_parameters.rank, recipe.lora_parameters.scale) == (SMALL_BASE, 16, 1.0)
    assert recipe.lora_parameters.keys == SMALL_KEYS


def test_a_recipe_is_found_by_domain_and_base() -> None:
    assert find_recipe("sql") == recipes_folder() / "sql.yaml"
    assert find_recipe("sql", model="Qwen/Qwen3.6-35B-A3B") == recipes_folder() / "sql.yaml"
    with pytest.raises(SetupError, match=r"no shipped recipe of 'sql' is for the base 'other'.*--recipe"):
        find_recipe("sql", model="other")
    with pytest.raises(SetupError, match="no recipe for 'cooking'"):
        find_recipe("cooking")


def test_numbers_are_read_as_mlx_lm_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    for text, value in (("1e-5", 1e-5), ("1.0e-05", 1e-5), ("2E-4", 2e-4), (".5e-3", 5e-4)):
        path.write_text(f"model: m\ndata: d\nlearning_rate: {text}\n")
        assert read_recipe(path).learning_rate == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": 1e-5}, "unknown field `learning_rat`"),
        ({"iters": 0}, r"`int` >= 1 - at `\$\.iters`"),
        ({"iters": "many"}, r"Expected `int`, got `str` - at `\$\.iters`"),
        ({"learning_rate": 0.0}, r"at `\$\.learning_rate`"),
        ({"optimizer": "sgdd"}, r"at `\$\.optimizer`"),
        ({"lora_parameters": {"rank": 16, "alpha": 16}}, "alpha is ignored by mlx-lm: write scale"),
        ({"fine_tune_type": "dora"}, "fine_tune_type 'dora' is refused.*SwitchLinear"),
        ({"fine_tune_type": "full"}, "only 'lora' makes an adapter"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"save_every": 15}, "save_every 15 is no multiple of steps_per_report 10"),
    ],
)
def test_a_wrong_recipe_is_refused_by_file_and_field(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = write_recipe(tmp_path, **changes)
    with pytest.raises(SetupError, match=message) as refusal:
        read_recipe(path)
    assert str(path) in refusal.value.message
    assert "\n" not in refusal.value.message


def test_a_file_that_is_no_yaml_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: [\n")
    for path in (tmp_path / "r.yaml", tmp_path / "absent.yaml"):
        with pytest.raises(SetupError, match="cannot be read") as refusal:
            read_recipe(path)
        assert "\n" not in refusal.value.message


def test_the_digest_changes_with_what_is_learnt_and_not_with_where_it_lies(tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(tmp_path))
    assert read_recipe(write_recipe(tmp_path, data="elsewhere", adapter_path="there")).sha256 == recipe.sha256
    assert read_recipe(write_recipe(tmp_path, seed=1)).sha256 != recipe.sha256
    assert read_recipe(write_recipe(tmp_path, iters=7)).sha256 != recipe.sha256


def test_the_recipes_are_shipped() -> None:
    assert files("configs").joinpath("lora", "curriculum.yaml").is_file()
