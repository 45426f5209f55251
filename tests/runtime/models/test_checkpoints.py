"""Router checkpoints by path and from a stand-in of the hub, in the monolith's format."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from agents.router.checkpoint import load_checkpoint
from agents.router.domains import load_taxonomy
from runtime import composition
from runtime.models import router_checkpoint
from runtime.settings import Settings
from schemas.errors import SetupError
from tests.runtime.models.standin import serving


def write_checkpoint(folder: Path) -> Path:
    """The monolith's: four tensors of its MLP, labels and sizes, no threshold."""
    folder.mkdir()
    labels = list(load_taxonomy().niches)
    shapes = {"0.weight": (512, 768), "0.bias": (512,), "3.weight": (35, 512), "3.bias": (35,)}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / "router.safetensors")
    (folder / "meta.json").write_text(json.dumps({"labels": labels, "input_dim": 768, "hidden_dim": 512}))
    return folder


def test_a_checkpoint_of_the_hub_is_fetched_once_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "source")
    (source / "router.py").write_text("raise SystemExit")
    with serving(source) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        folder = router_checkpoint("org/tiny", cache_dir=tmp_path / "cache")
        seen = len(hub.requests)
        assert router_checkpoint("org/tiny", cache_dir=tmp_path / "cache") == folder
        assert len(hub.requests) == seen, "a ready checkpoint touches no network"
        assert not (folder / "router.py").exists()
    found = load_checkpoint(folder)
    assert (found.meta.threshold, len(found.meta.labels)) == (0.12, 35)
    assert found.scores([""], np.zeros((1, 768), np.float32)) == pytest.approx(0.5)


def test_the_router_takes_it_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedder_path: Path) -> None:
    monkeypatch.setenv("KIKI_CACHE_DIR", str(tmp_path / "cache"))
    with serving(write_checkpoint(tmp_path / "source")) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        settings = Settings(embedder=str(embedder_path), agents={"router": {"checkpoint": "org/tiny"}})
        composition.agent("router", settings)
    assert (tmp_path / "cache" / "models" / "org--tiny" / "router.safetensors").is_file()


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    torch.save({"0.weight": torch.zeros(1)}, pickled / "router.pt")
    (pickled / "meta.json").write_text("{}")
    with serving(pickled) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for name, why in (
            (str(tmp_path / "none"), "no router checkpoint"),
            (str(pickled), "pickles are not read"),
            ("org/tiny", "pickles are not read"),
            ("nonsense", "neither a folder nor a hub id"),
        ):
            with pytest.raises(SetupError, match=why):
                router_checkpoint(name, cache_dir=tmp_path / "cache")
