"""Settings: file under environment under options; a typo is an error that names itself."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.inference.agent import InferenceAgent
from runtime import composition
from runtime.cli import up
from runtime.cli.__main__ import app
from runtime.exits import SETUP_EXIT
from runtime.models import CATALOG
from runtime.settings import (
    DEFAULT_EMBEDDER,
    DEFAULT_MODEL,
    LAST_RESORT_MODEL,
    OTHER_PREFIXES,
    Settings,
    environment,
    is_known_variable,
    load_settings,
)
from schemas.errors import SetupError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kiki.toml"
    monkeypatch.setenv("KIKI_CONFIG", str(path))
    for name in ("KIKI_PORT", "KIKI_MODEL", "KIKI_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    return path


def test_options_win_over_the_environment_which_wins_over_the_file(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('port = 1\nmodel = "file"\n[agents.memory]\nmax_hits = 3\n')
    assert (load_settings().port, load_settings().model, load_settings().agents) == (
        1,
        "file",
        {"memory": {"max_hits": 3}},
    )
    monkeypatch.setenv("KIKI_PORT", "2")
    assert load_settings().port == 2
    assert load_settings(port=3).port == 3


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("prot = 1", "prot"),
        ("[agent.memory]\nmax_hits = 3", "agent"),
        ("port = 99999", "port"),
        ('prefix = "a b"', "prefix"),
    ],
)
def test_a_wrong_setting_is_named(config: Path, text: str, field: str) -> None:
    config.write_text(text)
    with pytest.raises(SetupError, match=f"setting '{field}'"):
        load_settings()


@pytest.mark.parametrize(
    "text",
    [
        "relevance_floor = nan", "relevance_floor = inf", "relevance_floor = 1e300", "floor_coverage = -1.0",
        "same_fact = 2.0", "recency_half_life = 0.0", "recall_timeout = nan", "max_hits = -1", "candidates = 0",
        "token_budget = 1e300", "sleep_age = nan", "compared = 0",
    ],
)  # fmt: skip
def test_a_floor_or_a_limit_of_the_memory_that_is_none_is_refused(config: Path, text: str) -> None:
    config.write_text(f"[agents.memory]\n{text}\n")
    with pytest.raises(SetupError, match=text.split(maxsplit=1)[0]):
        composition.build_agent("memory", load_settings())


def test_a_file_that_is_not_toml_is_one_line(config: Path) -> None:
    config.write_text("= =")
    with pytest.raises(SetupError, match="cannot be read"):
        load_settings()


def test_a_child_process_sees_the_same_settings(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('[api_keys]\nkey = "tenant"\n[agents.memory]\nmax_hits = 3\n')
    settings = load_settings(port=7, adapters=config.parent)
    variables = environment(settings)
    config.write_text("")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_an_upstream_is_a_table_of_the_file_with_its_key_in_the_environment(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(
        '[agents.inference]\nengine = "openai"\n[agents.inference.upstream]\nbase_url = "http://x/v1"\nmodel = "big"\n'
        '[agents.inference.upstream.adapters.rust]\npath = "/rust"\n'
    )
    monkeypatch.setenv("KIKI_AGENTS__INFERENCE__UPSTREAM__API_KEY", "secret")
    agent = composition.build_agent("inference", load_settings())
    assert isinstance(agent, InferenceAgent)
    upstream = agent.settings.upstream
    assert upstream is not None
    assert (agent.settings.model, agent.settings.model_name, upstream.api_key) == (None, "big", "secret")
    assert upstream.adapters["rust"].path == "/rust"


@pytest.mark.parametrize(
    ("line", "field"), [("base_url = 3", "base_url"), ('base_url = "x"', "base_url"), ('bass_url = "x"', "bass_url")]
)
def test_a_wrong_upstream_is_named(config: Path, line: str, field: str) -> None:
    config.write_text(f'[agents.inference]\nengine = "openai"\n[agents.inference.upstream]\nmodel = "m"\n{line}\n')
    with pytest.raises(SetupError, match=field):
        composition.build_agent("inference", load_settings())


@pytest.mark.parametrize(("name", "home"), [("embedder", "agents.embedder.model"), ("ahead", "agents.embedder.ahead")])
def test_a_setting_that_moved_says_where_to(config: Path, name: str, home: str) -> None:
    config.write_text(f'[agents.router]\n{name} = "x"\n')
    with pytest.raises(SetupError, match=rf"'agents.router.{name}' does not exist: .*It moved to '{home}'\.") as error:
        composition.build_agent("router", load_settings())
    assert error.value.param == f"agents.router.{name}"


def test_an_unknown_setting_of_an_agent_is_named_with_those_that_exist(config: Path) -> None:
    config.write_text("[agents.router]\nthreshhold = 0.5\n")
    with pytest.raises(SetupError, match=r"'agents.router.threshhold' does not exist: choose from .*threshold\.$"):
        composition.build_agent("router", load_settings())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "[agents.router]\nthreshhold = 0.5",
            r"'agents\.router\.threshhold' does not exist: choose from",
        ),
        ('[agents.router]\nthreshold = "high"', r"settings of 'router': Expected `float \| null`.*`\$\.threshold`"),
        ("[agents.router.advisors.oracle]\nalpha = 7", r"settings of 'router': .*<= 1.*`\$\.advisors"),
        ("[agents.inference]\nmax_batch = 0.5", r"settings of 'inference': Expected `int`.*`\$\.max_batch`"),
        ("[agents.inference]\nmax_batch = 2", r"settings of 'inference': max_batch is 2; one turn may have"),
        ('[agents.inference]\nzone = "Mars"', r"settings of 'inference': zone is 'Mars'; expected"),
        ("[agents.memory]\nhalf_live = 3", r"'agents\.memory\.half_live' does not exist"),
        ('[agents.facade]\ncors_origins = ["nowhere"]', "the origin 'nowhere' is none"),
        ("[agents.memroy]\ntop = 3", r"'agents\.memroy' does not exist"),
        ('[agents.polish]\nexternal = true\nafter = "rooter"', "'polish' comes after no stage"),
        ('without = ["rooter"]', "there is no agent 'rooter' to leave out"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_fetched_or_started(
    config: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    def fetch(_: Settings) -> Settings:
        raise AssertionError("models are fetched")

    monkeypatch.setattr(up, "_fetch_models", fetch)
    config.write_text(text)
    with pytest.raises(SetupError, match=complaint):
        composition.check_settings(load_settings())
    outcome = CliRunner().invoke(app, ["up"])
    assert outcome.exit_code == SETUP_EXIT
    assert len(outcome.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[agents.router]\ncheckpoint = "/somewhere"\n[agents.router.advisors.oracle]\nalpha = 0.5',
        '[agents.memory]\nembedder = "minilm"\n[agents.inference]\nengine = "openai"',
        "[agents.router]\nexternal = true\nwords = 3",  # of the class that takes its place
    ],
)
def test_sound_settings_are_taken(config: Path, text: str) -> None:
    config.write_text(text)
    composition.check_settings(load_settings())


def test_a_model_is_chosen_by_file_environment_or_option(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (load_settings().model, load_settings().is_model_chosen) == (DEFAULT_MODEL, False)
    assert load_settings(model=DEFAULT_MODEL).is_model_chosen
    config.write_text(f'model = "{DEFAULT_MODEL}"')
    assert load_settings().is_model_chosen
    config.write_text("")
    for name, value in environment(load_settings()).items():
        monkeypatch.setenv(name, value)
    assert load_settings().is_model_chosen, "a child does not choose again"


def test_the_defaults_are_in_the_catalog() -> None:
    assert {DEFAULT_MODEL, LAST_RESORT_MODEL, DEFAULT_EMBEDDER} <= set(CATALOG)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("KIKI_NATSS", "did you mean KIKI_NATS?"),
        ("KIKI_NATS__URL", "did you mean KIKI_NATS?"),
        ("KIKI_DATADIR", "did you mean KIKI_DATA_DIR?"),
        ("kiki_prot", "did you mean KIKI_PORT?"),
        ("KIKI_XYZZY", "'kiki settings' lists those that are."),
    ],
)
def test_a_misspelt_variable_is_named(config: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str) -> None:
    monkeypatch.setenv(name, "nats://127.0.0.1:4255")
    with pytest.raises(SetupError, match=f"variable '{name}' is no setting: {re.escape(hint)}") as error:
        load_settings()
    assert error.value.param == name


def test_a_dotenv_file_is_no_source_and_what_it_exports_is_checked(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it (a shell, compose, systemd) puts its lines into the environment, and there a typo is refused."""
    monkeypatch.chdir(tmp_path)
    dotenv = tmp_path / ".env"
    dotenv.write_text("KIKI_PORT=4\nKIKI_PROT=5\n")
    assert load_settings().port == 8000
    for line in dotenv.read_text().splitlines():
        monkeypatch.setenv(*line.split("=", 1))
    with pytest.raises(SetupError, match=r"variable 'KIKI_PROT' is no setting: did you mean KIKI_PORT\?"):
        load_settings()


def test_every_variable_that_the_code_names_is_known() -> None:
    named = {
        name: path
        for room in ("schemas", "bus", "agents", "runtime", "deploy")
        for path in (ROOT / room).rglob("*.py")
        for name in re.findall(r"\bKIKI_[A-Z_]*[A-Z]\b(?!_)", path.read_text(encoding="utf-8"))
    }
    assert named
    unknown = {name: path for name, path in named.items() if not is_known_variable(name)}
    assert {name: path for name, path in unknown.items() if f"{name}_" not in OTHER_PREFIXES} == {}


def test_a_table_of_an_agent_that_does_not_exist_is_named(config: Path) -> None:
    config.write_text("[agents.memroy]\nmax_hits = 3\n")
    with pytest.raises(SetupError, match=r"'agents.memroy' does not exist: choose from .*memory"):
        composition.build_agent("catfish", load_settings())


def test_the_default_model_takes_the_adapters_of_the_data_directory(config: Path, tmp_path: Path) -> None:
    assert load_settings(data_dir=tmp_path).adapters is None
    folder = tmp_path / "adapters"
    folder.mkdir()
    assert load_settings(data_dir=tmp_path).adapters == folder
    assert load_settings(data_dir=tmp_path, adapters=config.parent).adapters == config.parent
    assert load_settings(data_dir=tmp_path, model="smollm2-135m-instruct").adapters is None
