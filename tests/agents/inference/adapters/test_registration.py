"""Names of adapters, the folders behind them, and the subfolders that mean nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import structlog

from agents.inference.adapters.bank import AdapterBank
from agents.inference.adapters.files import WEIGHTS
from agents.inference.adapters.registration import RegisteredAdapters
from agents.inference.training.exchange import exchange, stage
from schemas.errors import SetupError, StageFailed
from schemas.findings import AdapterUse
from tests.agents.inference import hybrid


@pytest.fixture(scope="module")
def model() -> Any:
    return hybrid.build(quantized=False)


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    options: dict[str, Any] = {"kinds": ("q_proj",), "rank": 2, "size": 0.5}
    hybrid.write(tmp_path, model, "stack-01-chat-fr", seed=1, **options)
    hybrid.write(tmp_path, model, "stack-32-security", seed=2, **options)
    hybrid.write(tmp_path, model, "night-run", seed=3, **options)
    config = tmp_path / "night-run" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"domain": "sql"}))
    (tmp_path / "notes").mkdir()
    (tmp_path / "stack-03-rust").mkdir()
    (tmp_path / "stack-03-rust" / "stack_meta.json").write_text("{}")
    return tmp_path


def test_domains_are_found_and_strangers_named_once_at_start(folder: Path) -> None:
    registered = RegisteredAdapters(folder)
    assert registered.names == ("chat-fr", "security", "sql")
    assert "chat-fr" in registered
    assert "stack-01-chat-fr" not in registered
    with structlog.testing.capture_logs() as lines:
        registered.log_strangers()
    assert [(line["folder"], line["log_level"]) for line in lines] == [
        ("notes", "warning"),
        ("stack-03-rust", "warning"),
    ]


@pytest.mark.parametrize("name", ["rust", "stack-03-rust"])
def test_moe_lora_is_refused_by_its_format(folder: Path, name: str) -> None:
    with pytest.raises(StageFailed, match=r"MoE-LoRA of KIKI-Mac_tunner.*not served") as refusal:
        RegisteredAdapters(folder).find_folder(name)
    assert refusal.value.code == "adapter_failed"


@pytest.mark.parametrize("name", ["notes", "nobody", "../chat-fr", ""])
def test_other_names_are_not_registered(folder: Path, name: str) -> None:
    with pytest.raises(StageFailed) as refusal:
        RegisteredAdapters(folder).find_folder(name)
    assert refusal.value.code == "adapter_not_found"


def test_without_a_folder_there_are_no_names(tmp_path: Path) -> None:
    assert RegisteredAdapters(None).names == ()
    with pytest.raises(SetupError, match="no adapters folder"):
        RegisteredAdapters(tmp_path / "none")


@pytest.mark.parametrize("name", ["chat-fr", "sql"])
def test_an_adapter_in_a_folder_of_another_name_is_served_and_exchanged(model: Any, folder: Path, name: str) -> None:
    bank = AdapterBank(model, folder, budget=2**20)
    (use,) = bank.activate((AdapterUse(name=name),))
    new = bank.registration.find_file("security").read_bytes()
    staged = stage(folder, name, new)
    assert name in bank.registration.names
    assert bank.registration.find_folder(name).name != staged, "the staged one does not take its place"
    assert [stranger.path.name for stranger in bank.registration.strangers] == ["notes", "stack-03-rust"]
    exchange(bank, name, staged, use.sha256, busy_slots=(), is_used=False)
    assert (bank.registration.find_folder(name) / WEIGHTS).read_bytes() == new
    bank.activate(())
