"""Which folder is which adapter: names, keys, stacks, rivals, strangers."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from agents.shared.adapters.folders import STAGED, AdapterSurvey, find_weights, survey_adapters
from schemas.errors import SetupError

TENSORS = {"model.layers.0.mlp.up_proj.lora_a": np.ones((4, 2)), "model.layers.0.mlp.up_proj.lora_b": np.ones((2, 4))}


def make(root: Path, folder: str, *, weights: str = "adapters.safetensors", **config: Any) -> Path:
    (root / folder).mkdir(parents=True)
    save_file(TENSORS, root / folder / weights)
    (root / folder / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora"} | config))
    return root / folder


def reasons(survey: AdapterSurvey) -> dict[str, str]:
    return {stranger.path.name: stranger.reason for stranger in survey.strangers}


def test_a_domain_is_found_by_name_by_stack_and_by_key(tmp_path: Path) -> None:
    paths = {
        "rust": make(tmp_path, "rust"),
        "chat-fr": make(tmp_path, "stack-01-chat-fr"),
        "security": make(tmp_path, "stack-0032-security", weights="adapter_model.safetensors"),
        "sql": make(tmp_path, "night-run-7", domain="sql"),
    }
    survey = survey_adapters(tmp_path)
    assert dict(survey.paths) == paths
    assert list(survey.paths) == sorted(paths)
    assert not survey.strangers


def test_a_folder_that_means_no_domain_keeps_its_name_and_is_named(tmp_path: Path) -> None:
    make(tmp_path, "cooking")
    make(tmp_path, "stack-36-cooking")
    make(tmp_path, "electronics-hw")  # an output of the router, but no niche domain
    survey = survey_adapters(tmp_path)
    assert {name: path.name for name, path in survey.paths.items()} == {
        "cooking": "cooking",
        "electronics-hw": "electronics-hw",
        "stack-36-cooking": "stack-36-cooking",
    }
    assert set(reasons(survey)) == set(survey.paths)
    assert all("the router never asks for it" in reason for reason in reasons(survey).values())
    assert "stack-NN-<domain>" in reasons(survey)["cooking"]


def test_a_name_that_no_request_can_have_is_a_stranger_unless_a_key_names_the_domain(tmp_path: Path) -> None:
    make(tmp_path, "my adapter")
    make(tmp_path, "my other adapter", domain="sql")
    survey = survey_adapters(tmp_path)
    assert {name: path.name for name, path in survey.paths.items()} == {"sql": "my other adapter"}
    assert "cannot be asked for" in reasons(survey)["my adapter"]


@pytest.mark.parametrize("missing", ["everything", "adapter_config.json", "adapters.safetensors"])
def test_a_folder_without_an_adapter_is_named(tmp_path: Path, missing: str) -> None:
    folder = make(tmp_path, "rust")
    for path in folder.iterdir():
        if missing in ("everything", path.name):
            path.unlink()
    survey = survey_adapters(tmp_path)
    assert not survey.paths
    assert "it is no adapter: that is adapter_config.json with adapters.safetensors" in reasons(survey)["rust"]
    assert find_weights(folder) is None


def test_files_and_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, ".staging")
    (tmp_path / "README.md").write_text("notes")
    survey = survey_adapters(tmp_path)
    assert (dict(survey.paths), survey.strangers) == ({}, ())


def test_of_rivals_the_exact_name_wins_then_the_key_then_the_highest_stack(tmp_path: Path) -> None:
    rivals = ["stack-9-rust", "stack-10-rust", "night-run-7", "rust"]
    for position, folder in enumerate(rivals):
        make(tmp_path, folder, **({"domain": "rust"} if folder == "night-run-7" else {}))
        survey = survey_adapters(tmp_path)
        assert {name: path.name for name, path in survey.paths.items()} == {"rust": folder}
        assert reasons(survey) == dict.fromkeys(
            rivals[:position], f"{folder} is served as 'rust': remove one of the two"
        )


def test_a_key_beats_the_name_of_a_stack(tmp_path: Path) -> None:
    make(tmp_path, "stack-03-rust", domain="python")
    assert {name: path.name for name, path in survey_adapters(tmp_path).paths.items()} == {"python": "stack-03-rust"}


def test_a_key_that_contradicts_or_is_no_domain_is_named(tmp_path: Path) -> None:
    make(tmp_path, "rust", domain="python")
    make(tmp_path, "stack-01-sql", domain="cooking")
    make(tmp_path, "night-run-7", domain=["sql"])
    survey = survey_adapters(tmp_path)
    assert set(survey.paths) == {"rust", "sql", "night-run-7"}
    assert "says 'python', but the folder's name counts" in reasons(survey)["rust"]
    assert "says 'cooking', which is no domain" in reasons(survey)["stack-01-sql"]
    assert "says ['sql'], which is no domain" in reasons(survey)["night-run-7"]


def test_moe_lora_is_a_stranger_whose_reason_names_the_format(tmp_path: Path) -> None:
    old = {f"layers.0.self_attn.q_proj_moe_lora.experts.{expert}.lora_a": np.ones((2, 2)) for expert in range(4)}
    for folder in ("python", "stack-03-rust"):
        (tmp_path / folder).mkdir()
        save_file(old, tmp_path / folder / "adapters.safetensors")
        (tmp_path / folder / "stack_meta.json").write_text(json.dumps({"domain": "python", "steps": 500}))
    make(tmp_path, "sql")
    save_file(old, tmp_path / "sql" / "adapters.safetensors")
    plain = make(tmp_path, "shell")
    (plain / "stack_meta.json").write_text("{}")  # left beside a plain LoRA that was made from it
    survey = survey_adapters(tmp_path)
    assert dict(survey.paths) == {"shell": plain}
    assert set(reasons(survey)) == {"python", "stack-03-rust", "sql"}
    assert all("MoE-LoRA of KIKI-Mac_tunner" in reason for reason in reasons(survey).values())
    assert "'kiki train rust'" in reasons(survey)["stack-03-rust"]


def test_a_staged_adapter_claims_no_domain(tmp_path: Path) -> None:
    make(tmp_path, "night-run-7", domain="rust")
    make(tmp_path, f"night-run-7{STAGED}0123456789ab", domain="rust")
    survey = survey_adapters(tmp_path)
    assert {name: path.name for name, path in survey.paths.items()} == {
        "rust": "night-run-7",
        f"night-run-7{STAGED}0123456789ab": f"night-run-7{STAGED}0123456789ab",
    }
    assert not survey.strangers


def test_a_broken_configuration_leaves_the_folder_its_name(tmp_path: Path) -> None:
    for folder, text in (("rust", "{"), ("stack-02-sql", "[1]")):
        make(tmp_path, folder)
        (tmp_path / folder / "adapter_config.json").write_text(text)
    assert set(survey_adapters(tmp_path).paths) == {"rust", "sql"}


def test_a_survey_is_kept_until_something_changes(tmp_path: Path) -> None:
    folder = make(tmp_path, "night-run-7")
    first = survey_adapters(tmp_path)
    assert survey_adapters(tmp_path) is first
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({"domain": "sql"}))
    os.utime(config, ns=(1, 1))
    assert set(survey_adapters(tmp_path).paths) == {"sql"}
    (folder / "adapters.safetensors").unlink()
    os.utime(folder, ns=(1, 1))
    assert not survey_adapters(tmp_path).paths
    make(tmp_path, "rust")
    assert set(survey_adapters(tmp_path).paths) == {"rust"}


def test_a_folder_that_is_away_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=f"no adapters folder at {tmp_path / 'away'}"):
        survey_adapters(tmp_path / "away")
