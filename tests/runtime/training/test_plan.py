"""What is settled before the first step, and how a finished adapter takes its place."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from agents.inference.finetuning.messages import TrainingJob
from runtime.settings import Settings
from runtime.training.plan import TrainingOptions, TrainingPlan, is_finished, make_plan, output_folder
from runtime.training.publication import assemble, put_in_place
from runtime.training.trainer import run_trainer
from runtime.training.workspace import Workspace, training_lock
from schemas.errors import SetupError, StageFailed
from tests.runtime.models.standin import serve_hub
from tests.runtime.training.test_train import RECIPE, write_set


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A directory that looks like a model; nothing is loaded from it."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    save_file({"x": np.zeros(2, np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "kiki")


@pytest.fixture
def options(tmp_path: Path, base: Path) -> TrainingOptions:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(RECIPE | {"model": str(base), "data": str(write_set(tmp_path / "data"))}))
    return TrainingOptions(recipe=recipe)


def stage(plan: TrainingPlan, value: float) -> Workspace:
    workspace = Workspace(plan.output, plan.domain, plan.provenance)
    workspace.open()
    weights = workspace.folder / "weights.safetensors"
    save_file({"x": np.full(4, value, np.float32)}, weights)
    assemble(plan, workspace, weights, [{"set": "train", "iteration": 1, "loss": 1.0}])
    return workspace


def test_a_plan_has_the_digests_of_all_that_it_is_made_from(
    options: TrainingOptions, settings: Settings, tmp_path: Path
) -> None:
    plan = make_plan("sql", options, settings)
    assert plan.output == output_folder(options, settings) == settings.data_dir / "adapters"
    assert output_folder(options, Settings(adapters=tmp_path)) == tmp_path
    assert set(plan.provenance) == {"domain", "base_model", "base_sha256", "data_sha256", "recipe_sha256"}
    write_set(tmp_path / "data", count=5)
    other = make_plan("sql", options, settings)
    changed = {key for key, value in plan.provenance.items() if other.provenance[key] != value}
    assert changed == {"data_sha256"}


def test_an_adapter_takes_the_place_of_an_older_one_and_is_finished(
    options: TrainingOptions, settings: Settings, tmp_path: Path
) -> None:
    plan = make_plan("sql", options, settings)
    assert not is_finished(plan)
    put_in_place(plan, stage(plan, 1.0))
    assert is_finished(plan)
    write_set(tmp_path / "data", count=5)
    plan = make_plan("sql", options, settings)
    assert not is_finished(plan)
    before = (plan.place / "adapters.safetensors").read_bytes()
    put_in_place(plan, stage(plan, 2.0))
    assert is_finished(plan)
    assert (plan.place / "adapters.safetensors").read_bytes() != before
    assert [path.name for path in plan.output.iterdir()] == ["sql"]
    for broken in ("", "[]", "{"):
        (plan.place / "adapter_config.json").write_text(broken)
        assert not is_finished(plan)


def test_a_folder_with_adapters_of_another_base_is_refused_before_anything_is_trained(
    options: TrainingOptions, settings: Settings, base: Path
) -> None:
    plan = make_plan("sql", options, settings)
    put_in_place(plan, stage(plan, 1.0))
    (base / "config.json").write_text('{"hidden_size": 8}')
    assert make_plan("sql", options, settings).base_sha256 != plan.base_sha256  # its own place may be taken over
    with pytest.raises(SetupError, match=r"holds 'sql', an adapter of another base .*--output"):
        make_plan("rust", options, settings)


@pytest.mark.parametrize("holder", ["quantization", "quantization_config"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_quantised_base_is_refused(
    options: TrainingOptions, settings: Settings, base: Path, holder: str, nested: bool
) -> None:
    config: dict[str, Any] = {holder: {"bits": 4, "group_size": 64}}
    (base / "config.json").write_text(json.dumps({"text_config": config} if nested else config))
    with pytest.raises(SetupError, match=r"is quantised to 4 bits .*give the float weights"):
        make_plan("sql", options, settings)


def test_a_base_of_the_hub_that_no_device_here_holds_is_refused_before_it_is_fetched(
    options: TrainingOptions, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"x": np.zeros(20_000_000 // 4, np.float32)}, base / "model.safetensors")
    settings = Settings(data_dir=tmp_path / "kiki", agents={"inference": {"memory_limit": 10_000_000}})
    with serve_hub(base) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        numbers = r"org/tiny has 0\.02 GB of weights, and \w+ may hold 0\.01 GB here"
        with pytest.raises(SetupError, match=numbers) as refusal:
            make_plan("sql", replace(options, model="org/tiny"), settings)
        assert (refusal.value.param, hub.served) == ("model", 0)


def test_a_base_that_cannot_be_read_is_named(options: TrainingOptions, settings: Settings, base: Path) -> None:
    (base / "config.json").write_text("{")
    with pytest.raises(SetupError, match=r"config.json cannot be read"):
        make_plan("sql", options, settings)


def test_a_trainer_that_ends_without_a_word_is_told_with_the_last_line_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'something broke' >&2\nexit 7\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    job = TrainingJob(model="m", data="d", folder="f", recipe={})
    with training_lock(tmp_path, title="test") as lock, pytest.raises(StageFailed) as failure:
        run_trainer(job, tmp_path, lock=lock, on_message=lambda _: None)
    assert "ended with code 7 (something broke)" in failure.value.message
    assert str(tmp_path / "trainer.log") in failure.value.message


def test_a_trainer_ends_when_its_messages_cannot_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text(
        '#!/bin/sh\necho \'{"type": "TrainingNote", "text": "hello"}\'\nread line\necho ended > "$0.end"\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))

    def refuse(message: object) -> None:
        raise OSError(28, "No space left on device")

    job = TrainingJob(model="m", data="d", folder="f", recipe={})
    with training_lock(tmp_path, title="test") as lock, pytest.raises(OSError, match="No space left"):
        run_trainer(job, tmp_path, lock=lock, on_message=refuse)
    assert (tmp_path / "python.end").read_text() == "ended\n"  # its standard input was closed, and it was waited for
