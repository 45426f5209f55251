"""The runtime's settings: from ``kiki.toml``, over it the environment (``KIKI_*``), over both the command line.

The agents have settings of their own, documented beside them; ``[agents.<name>]`` in the file overrides them.
"""

import difflib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from bus.access.login import default_data_dir
from bus.storage.disk import RESERVE
from schemas.errors import SetupError

DEFAULT_MODEL = "qwen2.5-coder-0.5b-instruct"
LAST_RESORT_MODEL = "smollm2-135m-instruct"
"""Taken in place of the default model where that cannot be had; never in place of a model that somebody named."""
DEFAULT_EMBEDDER = "all-mpnet-base-v2"


OTHER_VARIABLES = {
    "KIKI_CONFIG": "the settings' file",
    "KIKI_CACHE_DIR": "where models are kept",
    "KIKI_SUPERVISED": "set by a supervisor for its children",
    "KIKI_HEARTBEAT": "set by a supervisor for its children",
    "KIKI_HANGS": "set by a supervisor for its children",
    "KIKI_FAILPOINTS": "the folder of a test that makes processes fail (bus.failpoints)",
}
"""Variables of this runtime that are no settings."""

OTHER_PREFIXES = {
    "KIKI_FLOW_": "the advisor kiki-flow's own, read by it and by runtime.advisors",
    "KIKI_SOAK_": "of the endurance tests",
}
"""How variables begin that belong to others."""


class Settings(BaseSettings):
    """The composition's settings. Unknown names are errors, so that a typo is not a default."""

    model_config = SettingsConfigDict(env_prefix="KIKI_", env_nested_delimiter="__", extra="forbid", frozen=True)

    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Broker store, vectors, graph and logs of this runtime.",
    )
    disk_reserve: int = Field(
        default=RESERVE,
        ge=0,
        description="Bytes of the data directory's disk that stay free (at most a tenth of it), or turns are refused.",
    )
    nats: str | None = Field(
        default=None, repr=False, description="URL of a NATS server; none starts the embedded one."
    )
    nats_nkey: Path | None = Field(default=None, description="File with the seed of the nkey to show to that server.")
    nats_creds: Path | None = Field(default=None, description="Credentials file (JWT and seed) for that server.")
    nats_ca: Path | None = Field(default=None, description="Certificates (PEM) by which that server's is checked.")
    nats_cert: Path | None = Field(default=None, description="Certificate (PEM) to show to that server.")
    nats_key: Path | None = Field(default=None, description="Key of nats_cert; none: it is in the same file.")
    nats_port: int = Field(default=4222, ge=0, le=65535, description="Port of the embedded server; 0 takes a free one.")
    prefix: str = Field(default="kiki", pattern=r"^[a-z0-9_-]+$", description="First token of every subject.")
    replicas: int = Field(default=1, ge=1, le=5, description="Replicas of the streams on a NATS cluster.")

    model: str = Field(default=DEFAULT_MODEL, description="Name, Hugging Face id, directory or GGUF file.")
    embedder: str = Field(default=DEFAULT_EMBEDDER, description="Name, Hugging Face id or path of the embedder.")
    adapters: Path | None = Field(
        default=None,
        description="Folder of LoRA adapters, one subfolder each; with the default model <data_dir>/adapters if there.",
    )

    host: str = Field(default="127.0.0.1", description="Address that the HTTP facade listens on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port of the HTTP facade.")
    api_keys: dict[str, str] = Field(default_factory=dict, description="Key to tenant; empty asks for no key.")
    one_memory: bool = Field(
        default=False, description="Requests over HTTP that name no user share one person's memory; only without keys."
    )
    admin_key: str | None = Field(default=None, description="Bearer key of the administrator's endpoints.")
    tenant_turns: int = Field(
        default=192, ge=1, description="Turns that an agent holds of one tenant alone; of several each has less."
    )
    tenant_bytes: int = Field(
        default=32 * 1024**2, ge=1, description="Bytes of the turns that one tenant alone has in flight."
    )
    tenant_letters: int = Field(default=128, ge=1, description="Dead letters of a tenant that a consumer keeps.")
    turn_timeout: float = Field(default=120.0, gt=0, le=900, description="Seconds that a turn may take.")

    hang_timeout: float = Field(
        default=30.0, ge=5, le=3600, description="Seconds without a sign of life after which a process is restarted."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important line that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="'auto' is console on a terminal and JSON elsewhere."
    )
    otlp_endpoint: str | None = Field(default=None, description="OTLP/HTTP endpoint that gets one trace a turn.")

    without: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Agents that 'kiki up' does not start, with commas between them in the variable."
    )
    debug: bool = Field(
        default=False,
        description="A handler may stand at a breakpoint: for an hour nothing is delivered again.",
    )

    agents: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Overrides of the agents' settings.")

    @field_validator("without", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library names them
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line over environment over file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=config_file())

    @property
    def is_model_chosen(self) -> bool:
        """Whether file, environment or command line name the chat model."""
        return "model" in self.model_fields_set

    @property
    def default_adapters(self) -> Path:
        """Where 'make adapters' puts the small fleet. The default model uses it where no other folder is named."""
        return self.data_dir / "adapters"

    @property
    def broker_dir(self) -> Path | None:
        """Where the embedded server stores; None with a server of somebody else."""
        return self.data_dir / "nats" if self.nats is None else None


_TABLES = {name for name, field in Settings.model_fields.items() if str(field.annotation).startswith("dict")}
"""Settings that are tables, whose entries have variables of their own."""


def config_file() -> Path:
    """``KIKI_CONFIG``, or ``kiki.toml`` in the working directory (it need not exist)."""
    return Path(os.environ.get("KIKI_CONFIG", "kiki.toml"))


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; ``overrides`` that are not None win.

    Without an adapters folder the default model gets :attr:`Settings.default_adapters`, where that is there: what lies
    there was trained for it, and another model could not load it.

    Raises:
        SetupError: a value is wrong or a name is unknown; the message names it.
    """
    _refuse_unknown_variables()
    try:
        settings = Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise SetupError(
            f"setting '{field}': {first['msg']} (from {config_file()}, a KIKI_ variable or an option).", param=field
        ) from error
    except ValueError as error:  # a TOML file that is not TOML
        raise SetupError(f"{config_file()} cannot be read: {error}.") from error
    if settings.adapters is None and settings.model == DEFAULT_MODEL and settings.default_adapters.is_dir():
        return settings.model_copy(update={"adapters": settings.default_adapters})
    return settings


def is_known_variable(name: str) -> bool:
    """Whether a ``KIKI_`` variable is a setting, belongs to one that is a table, or is one of the others."""
    if name in OTHER_VARIABLES or name.startswith(tuple(OTHER_PREFIXES)):
        return True
    field, nested, _ = name.removeprefix("KIKI_").lower().partition("__")
    return field in Settings.model_fields and (not nested or field in _TABLES)


def _refuse_unknown_variables() -> None:
    """Refuse a misspelt variable, which pydantic passes over: it reads only the names that it looks for."""
    for name in sorted(os.environ):
        if not name.upper().startswith("KIKI_") or is_known_variable(name.upper()):
            continue
        known = [*(f"KIKI_{field.upper()}" for field in Settings.model_fields), *OTHER_VARIABLES]
        close = difflib.get_close_matches(name.upper().partition("__")[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else "'kiki settings' lists those that are."
        raise SetupError(f"variable '{name}' is no setting: {hint}", param=name)


def environment(settings: Settings) -> dict[str, str]:
    """All settings as environment variables, so that a child process reads the same values."""
    variables = {}
    for name, value in settings.model_dump(mode="json", exclude_none=True).items():
        variables[f"KIKI_{name.upper()}"] = _as_variable(value)
    return variables


def _as_variable(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return ",".join(value) if isinstance(value, list) else str(value)
