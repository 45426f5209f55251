"""The cache of models: fetched, converted, checked, rebuilt; the hub through a stand-in server."""

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runtime.models import CATALOG, digest, list_models, prepare, pull, remove, store, verify
from runtime.models.convert import extract_archive, unpermuted
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
        ("nonsense", "expected one of qwen2.5-coder-0.5b-instruct"),
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
    ready = {line.name for line in list_models() if line.state == "ready"}
    assert ready >= {"smollm2-135m-instruct", "all-mpnet-base-v2"}
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


def test_an_archive_that_is_none_says_so(tmp_path: Path) -> None:
    archive = tmp_path / "model.zip"
    archive.write_bytes(b"no zip")
    with pytest.raises(SetupError, match="is not a zip archive"):
        extract_archive(archive, tmp_path / "target", report_nothing)


def test_a_removed_model_is_gone_with_what_its_downloads_left(hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    directory = prepare("org/tiny", cache_dir=cache)
    size = store.bytes_under(directory)
    left = store.download_folder(directory)
    left.mkdir()
    (left / "half.incomplete").write_bytes(b"x" * 1000)
    assert [(line.name, line.size) for line in remove(["org/tiny"], cache_dir=cache)] == [("org/tiny", size + 1000)]
    assert [path.name for path in directory.parent.iterdir()] == [".org--tiny.lock"]


@pytest.mark.parametrize("name", ["org/tiny", "smollm2-135m-instruct", "nonsense", "..", "../source", "/etc"])
def test_a_model_that_is_not_in_the_cache_is_not_removed(hub: Hub, tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    with pytest.raises(SetupError, match=r"is not in the cache .* lists what is"):
        remove([name], cache_dir=tmp_path / "cache")
    assert (source / "config.json").is_file()


def test_nothing_is_removed_when_one_of_several_names_is_wrong(hub: Hub, tmp_path: Path) -> None:
    directory = prepare("org/tiny", cache_dir=tmp_path / "cache")
    with pytest.raises(SetupError, match="'typo' is not in the cache"):
        remove(["org/tiny", "typo"], cache_dir=tmp_path / "cache")
    assert store.find_faults(directory) == []


def test_a_model_whose_manifest_is_lost_is_removed_by_its_folder(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "lost")
    assert [line.name for line in remove(["lost"], cache_dir=tmp_path)] == ["lost"]
    assert not (tmp_path / "models" / "lost").exists()


def test_an_absent_model_is_listed_with_what_is_to_be_fetched(tmp_path: Path) -> None:
    lines = {line.name: line for line in list_models(cache_dir=tmp_path)}
    assert {line.state for line in lines.values()} == {"absent"}
    assert {name: line.size for name, line in lines.items()} == {name: model.size for name, model in CATALOG.items()}


def test_a_repository_is_fetched_with_its_bytes_as_progress_and_goes_on_where_it_ended(
    hub: Hub, tmp_path: Path
) -> None:
    weights = hub.files["model.safetensors"]
    partial = tmp_path / "cache" / "models" / ".org--tiny.partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors.incomplete").write_bytes(weights[:100])
    steps: list[tuple[str, int, int]] = []
    directory = prepare("org/tiny", cache_dir=tmp_path / "cache", progress=lambda *step: steps.append(step))
    assert (directory / "model.safetensors").read_bytes() == weights
    total = sum(len(content) for name, content in hub.files.items() if not name.endswith(".py"))
    assert hub.served == total - 100
    assert [step for step in steps if "hub" in step[0]][-1] == ("org/tiny: from the hub", total, total)


def test_leftovers_of_another_commit_are_fetched_again(hub: Hub, tmp_path: Path) -> None:
    partial = tmp_path / "cache" / "models" / ".org--tiny.partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors.incomplete").write_bytes(b"x" * 100)
    directory = prepare("org/tiny", cache_dir=tmp_path / "cache")
    assert (directory / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_a_repository_that_names_files_outside_of_it_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files["../../evil.json"] = b"{}"
    with pytest.raises(SetupError, match="names a file outside the repository"):
        prepare("org/tiny", cache_dir=tmp_path / "cache")
    assert not list(tmp_path.rglob("evil.json"))


def test_a_page_in_place_of_the_hub_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.answer = (200, "text/html", b"<html>log in</html>")
    with pytest.raises(SetupError, match=r"something else answers in place of the hub at .* \(text/html of 19 bytes\)"):
        prepare("org/tiny", cache_dir=tmp_path / "cache")
