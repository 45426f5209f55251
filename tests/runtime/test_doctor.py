"""What ``kiki doctor`` says of memory, models and adapters."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from agents.shared.adapters.folders import survey_adapters
from agents.shared.adapters.verdicts import KeptVerdict, VerdictFolder, read_digest
from runtime import doctor
from runtime.settings import DEFAULT_MODEL, LAST_RESORT_MODEL, Settings, load_settings
from schemas.status import StatusReply


@pytest.mark.parametrize(("gigabytes", "state"), [(4, "note"), (16, "ok")])
def test_a_machine_with_little_memory_is_advised_the_small_model(
    monkeypatch: pytest.MonkeyPatch, gigabytes: int, state: str
) -> None:
    memory = SimpleNamespace(total=gigabytes * 1e9, available=2e9)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    finding = doctor._check_memory(load_settings(model=DEFAULT_MODEL))
    assert finding.state == state
    assert finding.detail == (
        f"{gigabytes}.0 GB, 2.0 GB of it available; with {DEFAULT_MODEL} the runtime takes 3.5 GB at rest"
    )
    assert finding.mend == f"below 5 GB set KIKI_MODEL={LAST_RESORT_MODEL}"
    assert doctor._check_memory(load_settings(model=LAST_RESORT_MODEL)).state == "ok"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("agent", "table", "detail"),
    [
        ("router", {"threshhold": 0.5}, "setting 'agents.router.threshhold' does not exist: choose from advisors,"),
        ("inference", {"context_tokens": "many"}, "settings of 'inference': Expected `int | null`"),
        ("facade", {"cors_origins": ["nowhere"]}, "the origin 'nowhere' is none"),
    ],
)
async def test_wrong_settings_are_named_and_end_the_examination(
    tmp_path: Path, agent: str, table: dict[str, Any], detail: str
) -> None:
    assert doctor._check_settings(load_settings()).state == "ok"
    *before, finding = await doctor.examine(load_settings(data_dir=tmp_path, agents={agent: table}))
    assert (finding.name, finding.state) == ("settings", "wrong")
    assert finding.detail.startswith(detail)
    assert "disk" in {other.name for other in before}


def write_adapter(folder: Path, name: str, size: int) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "adapter_config.json").write_text("{}")
    save_file({"x": np.zeros(size, np.uint8)}, folder / name / "adapters.safetensors")


def make_fleet(folder: Path) -> Settings:
    write_adapter(folder, "stack-01-chat-fr", 1000)
    write_adapter(folder, "rust", 3000)
    (folder / "notes").mkdir()
    return load_settings(adapters=folder, model=str(folder / "no-model"))


def test_the_fleet_is_counted_by_domain_and_strangers_are_named(tmp_path: Path) -> None:
    settings = make_fleet(tmp_path)
    finding = doctor._check_adapters(settings)
    assert (finding.state, finding.detail[:28]) == ("ok", "2 of 35 domains; missing: co")
    (stranger,) = doctor._check_strangers(settings)
    assert (stranger.name, stranger.state) == ("folder notes", "note")


def test_verdicts_are_shown_and_a_refusal_says_why(tmp_path: Path) -> None:
    settings = make_fleet(tmp_path)
    (finding,) = doctor._check_verdicts(settings)
    assert (finding.state, finding.detail[:9]) == ("note", "not asked")
    assert not (tmp_path / ".verdicts").exists(), "looking is no start"
    verdicts = VerdictFolder(tmp_path)
    verdicts.begin(dict(survey_adapters(tmp_path).paths))
    for size, name in enumerate(("sql", "docker", "cpp"), start=100):
        write_adapter(tmp_path, name, size)
    digests = {name: read_digest(tmp_path / name / "adapters.safetensors") for name in ("sql", "docker")}
    verdicts.record(KeptVerdict(sha256=digests["sql"], state="passed"))
    verdicts.record(KeptVerdict(sha256=digests["docker"], state="refused", message="lora_b is all zeros"))
    gates, refusal = doctor._check_verdicts(settings)
    assert (gates.state, gates.detail) == ("note", "1 passed; ungated: chat-fr, rust; waiting: cpp")
    assert (refusal.name, refusal.state, refusal.detail) == ("adapter docker", "wrong", "refused: lora_b is all zeros")


@pytest.mark.parametrize(
    ("limit", "state", "words"),
    [
        (10_000, "ok", "2 of 2 fit"),
        (3_200, "ok", "1 of 2 fit"),
        (2_000, "wrong", "1 of 2 fit at the same time; too large: rust"),
    ],
)
def test_the_budget_is_the_workers_own(tmp_path: Path, limit: int, state: str, words: str) -> None:
    status = StatusReply(agent="inference", ready=True, gauges={"adapter_bytes_limit": float(limit)})
    (finding,) = doctor._check_budget(make_fleet(tmp_path), status)
    assert finding.state == state
    assert words in finding.detail
    assert "as the worker says" in finding.detail


def test_the_budget_is_computed_without_a_worker(tmp_path: Path, small_model: Path) -> None:
    settings = load_settings(adapters=make_fleet(tmp_path).adapters, model=str(small_model))
    (finding,) = doctor._check_budget(settings, None)
    assert "2 of 2 fit at the same time, computed for cpu" in finding.detail
    limited = settings.model_copy(update={"agents": {"inference": {"adapter_bytes": 1500}}})
    (finding,) = doctor._check_budget(limited, None)
    assert (finding.state, "too large: rust" in finding.detail) == ("wrong", True)


def test_a_narrow_qwen36_is_a_note(tmp_path: Path) -> None:
    from tests.agents.inference import hybrid

    model = hybrid.build(quantized=True)
    path = hybrid.save(tmp_path / "model", model, tokenizer=tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "tokenizer.json").write_text("{}")
    assert doctor._check_bits(load_settings(model=str(path))) == []
    config["quantization"] |= {"bits": 3}
    (path / "config.json").write_text(json.dumps(config))
    (finding,) = doctor._check_bits(load_settings(model=str(path)))
    assert "3 bits a weight" in finding.detail


def test_a_limit_below_the_models_context_is_named_with_its_mend() -> None:
    status = StatusReply(agent="inference", ready=True, gauges={"context_tokens": 262144.0})
    (fine,) = doctor._check_limits(load_settings(), status, 8 * 2**20)
    assert fine.state == "ok"
    settings = load_settings(agents={"facade": {"body_limit": 2**20}})
    body, *others = doctor._check_limits(settings, status, 8 * 2**20)
    assert (body.state, others) == ("wrong", [])
    assert body.detail == "262144 tokens need body_limit 2097152, and it is 1048576"
    assert "leave agents.facade.body_limit out" in body.mend
    (payload,) = doctor._check_limits(load_settings(), status, 2**20)
    assert "max_payload" in payload.detail
    assert doctor._check_limits(load_settings(model="/nowhere"), None, None) == []
