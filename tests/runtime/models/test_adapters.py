"""Pulling adapters from a stand-in of the hub into a folder, with the gate on the way."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from agents.shared.adapters.folders import survey_adapters
from agents.shared.adapters.verdicts import VerdictFolder, read_digest
from runtime.models import adapters as remote
from runtime.models.progress import report_nothing
from schemas.errors import SetupError
from tests.runtime.models.standin import Hub, serve_files

KINDS = ("mlp.up_proj", "self_attn.q_proj")


def weights(seed: int, *, dead: bool = False) -> bytes:
    """An adapter of two layers, rank 4, on modules 48 wide."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(2):
        for kind in KINDS:
            path = f"model.layers.{layer}.{kind}"
            tensors[f"{path}.lora_a"] = rng.normal(size=(48, 8)).astype(np.float32)
            tensors[f"{path}.lora_b"] = rng.normal(size=(8, 48)).astype(np.float32) * (0 if dead else 1)
    data: bytes = save(tensors)
    return data


def config(**fields: Any) -> bytes:
    return json.dumps({"fine_tune_type": "lora", "lora_parameters": {"rank": 8, "scale": 1.0}} | fields).encode()


def adapter_files(folder: str, seed: int, *, dead: bool = False, **fields: Any) -> dict[str, bytes]:
    return {
        f"{folder}/adapters.safetensors": weights(seed, dead=dead),
        f"{folder}/adapter_config.json": config(**fields),
        f"{folder}/0000100_adapters.safetensors": b"a checkpoint that nobody needs",
    }


FLEET = {
    **adapter_files("stacks/stack-01-chat-fr", 1),
    **adapter_files("stacks/stack-04-rust", 2),
    **adapter_files("stacks/night-run", 3, domain="sql"),
    "README.md": b"adapters",
}


def pull(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, folder: Path, *wanted: str, replace: bool = False
) -> dict[str, str]:
    """The verdicts by name; the lines that were said are in :data:`SAID`."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    SAID.clear()
    pulled = remote.pull_adapters("org/tiny", wanted, folder, replace=replace, say=SAID.append, report=report_nothing)
    return {adapter.name: verdict.state for adapter, verdict in pulled}


SAID: list[str] = []


def test_adapters_are_pulled_under_their_domains_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "adapters"
    with serve_files(FLEET) as hub:
        assert pull(hub, monkeypatch, folder) == {"chat-fr": "passed", "sql": "passed", "rust": "passed"}
        assert not [name for name in hub.requests if "0000100" in name]
    assert [line.split(":")[0].strip() for line in SAID[1:-1]] == ["sql", "chat-fr", "rust"]
    survey = survey_adapters(folder)
    assert {name: path.name for name, path in survey.paths.items()} == {n: n for n in ("chat-fr", "rust", "sql")}
    assert {path.name for path in folder.iterdir()} == {"chat-fr", "rust", "sql", ".verdicts"}
    verdicts = VerdictFolder(folder)
    verdicts.begin({})
    for path in survey.paths.values():
        verdict = verdicts.find(read_digest(path / "adapters.safetensors"))
        assert verdict is not None
        assert verdict.is_served


def test_a_present_adapter_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_files(FLEET) as hub:
        pull(hub, monkeypatch, tmp_path, "rust")
        served = hub.served
        assert pull(hub, monkeypatch, tmp_path, "rust") == {}
        assert hub.served - served < 1000, "only the configurations"
    assert "already" in SAID[0]


def test_a_pull_that_broke_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(FLEET["stacks/stack-04-rust/adapters.safetensors"])
    with serve_files(FLEET) as hub:
        small = len(config())
        hub.cuts = [small, small, small + 100, small, size // 2, 0, 0, 0]  # the configurations, then the weights
        with pytest.raises(SetupError, match="cannot fetch org/tiny"):
            pull(hub, monkeypatch, tmp_path, "rust")
        assert "rust" not in survey_adapters(tmp_path).paths
        hub.cuts, before = [], hub.served
        assert pull(hub, monkeypatch, tmp_path, "rust") == {"rust": "passed"}
        assert hub.served - before < size


def test_unhealthy_weights_are_refused_and_take_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_files(adapter_files("rust", 1, dead=True)) as hub:
        assert pull(hub, monkeypatch, tmp_path) == {"rust": "refused"}
    assert {path.name for path in tmp_path.iterdir()} == {".verdicts"}


def test_weights_along_another_adapter_wait_for_the_gates_of_a_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_files({**adapter_files("rust", 1), **adapter_files("cpp", 1)}) as hub:
        assert pull(hub, monkeypatch, tmp_path) == {"cpp": "passed", "rust": "waiting"}
    assert set(survey_adapters(tmp_path).paths) == {"cpp", "rust"}


def test_other_weights_are_replaced_only_when_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_files(adapter_files("rust", 1)) as hub:
        pull(hub, monkeypatch, tmp_path)
    with serve_files(adapter_files("stack-07-rust", 2)) as hub:
        with pytest.raises(SetupError, match="--replace"):
            pull(hub, monkeypatch, tmp_path)
        assert pull(hub, monkeypatch, tmp_path, replace=True) == {"rust": "passed"}
    assert (tmp_path / "rust" / "adapters.safetensors").read_bytes() == weights(2)
    assert [path.name[:15] for path in tmp_path.glob(".replaced-*")] == [".replaced-rust-"]


def test_a_repository_that_is_one_adapter_is_named_by_its_domain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"adapters.safetensors": weights(1), "adapter_config.json": config(domain="docker")}
    with serve_files(files) as hub:
        assert pull(hub, monkeypatch, tmp_path) == {"docker": "passed"}
    assert (tmp_path / "docker" / "adapters.safetensors").is_file()


@pytest.mark.parametrize(
    ("files", "wanted", "reason"),
    [
        ({"README.md": b""}, (), "holds no adapter"),
        (FLEET, ("cobol",), "no adapter 'cobol'"),
        ({**adapter_files("a/rust", 1), **adapter_files("b/rust", 2)}, (), "a/rust and b/rust are both 'rust'"),
    ],
)
def test_a_pull_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], wanted: tuple[str, ...], reason: str
) -> None:
    with serve_files(files) as hub, pytest.raises(SetupError, match=reason):
        pull(hub, monkeypatch, tmp_path, *wanted)


def test_one_of_two_rivals_can_be_named_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_files({**adapter_files("a/rust", 1), **adapter_files("b/rust", 2)}) as hub:
        assert pull(hub, monkeypatch, tmp_path, "b/rust") == {"rust": "passed"}
    assert (tmp_path / "rust" / "adapters.safetensors").read_bytes() == weights(2)


def test_a_disk_that_is_too_small_is_said_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "free_bytes", lambda _: 1000)
    with serve_files(FLEET) as hub, pytest.raises(SetupError, match="are to be fetched"):
        pull(hub, monkeypatch, tmp_path)
