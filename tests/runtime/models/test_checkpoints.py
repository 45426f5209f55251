"""Router checkpoints by path and from a stand-in of the hub, in the format of the first micro-kiki."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from agents.router.checkpoint import load_checkpoint
from agents.shared.domains import load_taxonomy
from runtime import composition
from runtime.models import router_checkpoint
from runtime.settings import Settings
from schemas.errors import SetupError
from tests.runtime.models.standin import serve_hub


def write_checkpoint(folder: Path) -> Path:
    """Write a checkpoint as the first micro-kiki did: four tensors of an MLP, labels and sizes, no threshold."""
    folder.mkdir()
    labels = list(load_taxonomy().niches)
    shapes = {"0.weight": (512, 768), "0.bias": (512,), "3.weight": (35, 512), "3.bias": (35,)}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / "router.safetensors")
    (folder / "meta.json").write_text(json.dumps({"labels": labels, "input_dim": 768, "hidden_dim": 512}))
    return folder


def test_a_checkpoint_of_the_hub_is_fetched_once_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "source")
    (source / "router.py").write_text("raise SystemExit")
    with serve_hub(source) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        folder = router_checkpoint("org/tiny", cache_dir=tmp_path / "cache")
        request_count = len(hub.requests)
        assert router_checkpoint("org/tiny", cache_dir=tmp_path / "cache") == folder
        assert len(hub.requests) == request_count, "a ready checkpoint touches no network"
        assert not (folder / "router.py").exists()
    checkpoint = load_checkpoint(folder)
    assert (checkpoint.meta.threshold, len(checkpoint.meta.labels)) == (0.12, 35)
    assert checkpoint.scores([""], np.zeros((1, 768), np.float32)) == pytest.approx(0.5)


def test_the_router_takes_a_checkpoint_by_its_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedder_path: Path
) -> None:
    monkeypatch.setenv("KIKI_CACHE_DIR", str(tmp_path / "cache"))
    with serve_hub(write_checkpoint(tmp_path / "source")) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        settings = Settings(embedder=str(embedder_path), agents={"router": {"checkpoint": "org/tiny"}})
        composition.build_agent("router", settings)
    assert (tmp_path / "cache" / "models" / "org--tiny" / "router.safetensors").is_file()


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    torch.save({"0.weight": torch.zeros(1)}, folder / "router.pt")
    (folder / "meta.json").write_text("{}")
    with serve_hub(folder) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for name, why in (
            (str(tmp_path / "none"), "no router checkpoint"),
            (str(folder), "pickles are not read"),
            ("org/tiny", "pickles are not read"),
            ("nonsense", "neither a folder nor a hub id"),
        ):
            with pytest.raises(SetupError, match=why):
                router_checkpoint(name, cache_dir=tmp_path / "cache")
