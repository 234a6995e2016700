"""The settings of the service: one frozen class, read from the environment with the prefix `PIXCRAWLER_`."""

from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from pixcrawler_worker.domain import broker_urls
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.inspection import placeholders

PREFIX = "PIXCRAWLER_"
ENV_FILE = ".env"
_HTTP_URL = r"^https?://."
#: Characters that are read of a file with a secret.
_MAX_SECRET = 10_000


def _aliases(name: str, *fallbacks: str) -> AliasChoices:
    return AliasChoices(PREFIX + name, *fallbacks)


class Settings(BaseSettings):
    """All settings with their defaults. The environment overrides `.env` in the working directory.

    A secret may be in a file instead, which a variable with `_FILE` names: `PIXCRAWLER_DATABASE_URL_FILE`.

    An empty value counts as not set, because `${NAME:-}` in a Compose file becomes one.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    database_url: SecretStr | None = Field(
        None, validation_alias=_aliases("DATABASE_URL", "DATABASE_URL"), description="PostgreSQL, as libpq writes it"
    )
    broker_url: SecretStr | None = Field(
        None,
        validation_alias=_aliases("BROKER_URL", "CELERY_BROKER_URL", "REDIS_URL"),
        description="Redis for messages",
    )
    data_dir: Path = Field(Path(".pixcrawler"), description="embedded services, and the default storage")
    storage_url: SecretStr | None = Field(None, description="file:///..., s3://bucket/prefix or memory://")
    user_agent_contact: str = Field(
        "https://github.com/pixcrawler", description="URL or e-mail address for complaints of hosts"
    )
    allowed_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        (), description="private networks that may be fetched from, comma-separated; for development"
    )
    egress_proxy: SecretStr | None = Field(None, description="proxy for all downloads")
    commons_url: str | None = Field(None, pattern=_HTTP_URL, description="a mirror in place of Wikimedia Commons' API")
    openverse_url: str | None = Field(None, pattern=_HTTP_URL, description="a mirror in place of Openverse's API")
    gallery_url: str | None = Field(None, pattern=_HTTP_URL, description="base URL of the gallery source")
    lease_seconds: float = Field(60, ge=1, le=600, description="a chunk without a heartbeat for this long is requeued")
    sweep_seconds: float = Field(10, ge=0.2, le=600, description="time between two sweeps of a worker")
    chunk_size: int = Field(100, ge=1, le=1000, description="candidates per chunk, unless a job says otherwise")
    dispatch_window: int = Field(32, ge=1, le=10_000, description="chunks of a job that are dispatched at a time")
    fetch_concurrency: int = Field(128, ge=1, le=256, description="downloads at a time in one worker process")
    host_concurrency: int = Field(8, ge=1, le=64, description="downloads at a time from one host in one worker process")
    host_connections: Annotated[Mapping[str, Annotated[int, Field(ge=1, le=1000)]], NoDecode] = Field(
        {}, description="connections that all workers share, by host: example.org=2, comma-separated"
    )
    fetch_seconds: float = Field(30, ge=1, le=300, description="total time for one download")
    max_image_bytes: int = Field(20 * 1024 * 1024, ge=1024, description="largest response body that is downloaded")
    max_image_pixels: int = Field(50_000_000, ge=1, description="largest image that is decoded")
    max_image_frames: int = Field(500, ge=1, description="largest number of frames of an image that is decoded")
    decode_seconds: float = Field(20, ge=1, le=120, description="total time for decoding one image")
    placeholders: Path | None = Field(None, description="a list of further placeholder images, which are rejected")
    clip_model: str | None = Field(
        None, description="a CLIP model for the check relevance: a directory with ONNX files, or hf://owner/name"
    )
    classifier_threads: int = Field(1, ge=1, le=64, description="threads of a model that scores images")
    kept_failures: int = Field(
        100_000, ge=0, le=10_000_000, description="rejected candidates of a job that are kept with URL and details"
    )
    held_jobs: Annotated[tuple[Annotated[str, Field(pattern=r"^[a-z]+:[0-9]+$")], ...], NoDecode] = Field(
        (), description="jobs that the worker leaves alone: crawl:3,export:5, comma-separated"
    )
    start_pending: bool = Field(False, description="start pending rows without a message")
    metrics_port: int | None = Field(
        None, ge=1, le=65_535, description="port on which a worker serves Prometheus metrics; by default it does not"
    )
    health_file: Path | None = Field(
        None, description="a file that a worker writes every 5 seconds, for `pixcrawler health`; by default it does not"
    )
    otlp_endpoint: SecretStr | None = Field(
        None, description="base URL of a collector that takes OTLP by HTTP: traces of jobs; by default there are none"
    )
    sentry_dsn: SecretStr | None = Field(
        None, description="DSN of a Sentry project for errors with tracebacks; by default they are in the log alone"
    )
    log_format: Literal["console", "json"] = Field("console", description="form of log lines")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where values come from, the first of them first."""
        del file_secret_settings
        return init_settings, _SecretFiles(settings_cls), env_settings, dotenv_settings

    @field_validator("host_connections", mode="before")
    @classmethod
    def _split_pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if not all(host.strip() and number.strip() for host, _, number in pairs):
            raise ValueError("expected pairs such as upload.wikimedia.org=2, separated by commas")
        return {host.strip().lower(): number.strip() for host, _, number in pairs}

    @field_validator("allowed_networks", "held_jobs", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("placeholders")
    @classmethod
    def _parse(cls, value: Path | None) -> Path | None:
        try:
            placeholders.load(value)
        except PermanentError as error:
            raise PydanticCustomError("placeholders", "{error}", {"error": str(error)}) from None
        return value

    @property
    def lease(self) -> timedelta:
        """A chunk without a heartbeat for this long is requeued."""
        return timedelta(seconds=self.lease_seconds)

    def held(self, kind: str) -> frozenset[int]:
        """Return the ids of the jobs of a kind that the worker leaves alone."""
        pairs = (name.split(":") for name in self.held_jobs)
        return frozenset(int(number) for name, number in pairs if name == kind)

    def require_database(self) -> str:
        """Return the URL of the database.

        Raises:
            PermanentError: when none is configured.
        """
        if not self.database_url:
            raise PermanentError(
                "no database is configured: set PIXCRAWLER_DATABASE_URL, for example postgresql:///pixcrawler, "
                "or start the embedded services with `pixcrawler up`"
            )
        return self.database_url.get_secret_value()

    def require_broker(self) -> str:
        """Return the URL of the broker, as kombu has it.

        Raises:
            PermanentError: when none is configured, or it is invalid; the message has no part of it.
        """
        if not self.broker_url:
            raise PermanentError(
                "no broker is configured: set PIXCRAWLER_BROKER_URL, for example redis://localhost:6379/0, "
                "or start the embedded services with `pixcrawler up`"
            )
        try:
            return broker_urls.for_kombu(self.broker_url.get_secret_value())
        except PermanentError as error:
            raise PermanentError(f"{PREFIX}BROKER_URL: {error}") from None

    def secret(self, name: str) -> str | None:
        """Return the value of a setting that is a secret; None where it is not set."""
        value: SecretStr | None = getattr(self, name)
        return value.get_secret_value() if value else None

    def storage(self) -> str:
        """Return the URL of the storage: the configured one, or a folder below `data_dir`."""
        if self.storage_url:
            return self.storage_url.get_secret_value()
        return (self.data_dir.resolve() / "storage").as_uri()


class _SecretFiles(EnvSettingsSource):
    """The settings that are in files of their own."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return secret_files()


def load(**overrides: object) -> Settings:
    """Return the settings of this process.

    Args:
        overrides: settings by field name; they take precedence over the environment.

    Raises:
        PermanentError: on an invalid value; the message is one line that names the setting and never contains a secret.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic validates the types
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        name = str(problem["loc"][0]).upper()
        name = name if name.startswith(PREFIX) else PREFIX + name
        raise PermanentError(f"{name} is invalid: {problem['msg'].removeprefix('Value error, ')}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(f"{Path(ENV_FILE).resolve()} cannot be read: expected a text file in UTF-8") from error


def of_source(name: str) -> tuple[str | None, str | None]:
    """Return base URL and API key of a source from another package, for which `Settings` has no field."""
    url, key = (environment().get(variable.lower()) or None for variable in source_variables(name))
    return url, key


def source_variables(name: str) -> tuple[str, str]:
    """Return the names of the variables with base URL and API key of a source."""
    stem = PREFIX + name.upper().replace("-", "_")
    return f"{stem}_URL", f"{stem}_API_KEY"


def environment() -> Mapping[str, str | None]:
    """Return the variables of the environment and of `.env`, which the environment overrides, by lower-case name."""
    return _variables() | secret_files()


def file_variable(name: str) -> str | None:
    """Return the variable that names a file with the value of a setting; None where the setting is no secret."""
    field = Settings.model_fields.get(name.removeprefix(PREFIX).lower())
    is_secret = name.endswith("_API_KEY") or (field is not None and SecretStr in get_args(field.annotation))
    return f"{name}_FILE" if is_secret else None


def secret_files() -> dict[str, str | None]:
    """Return the values of the secrets whose variable with `_FILE` names a file, by the name of the variable without.

    Raises:
        PermanentError: when a file cannot be read or is empty, or the value is given as well.
    """
    given = _variables()
    found: dict[str, str | None] = {}
    for name, path in given.items():
        variable = name.upper().removesuffix("_FILE")
        if not path or not variable.startswith(PREFIX) or name.upper() != file_variable(variable):
            continue
        if given.get(variable.lower()):
            raise PermanentError(f"{variable} and {variable}_FILE are both set: expected one of them")
        try:
            with Path(path).open(encoding="utf-8") as file:
                value = file.read(_MAX_SECRET).strip()
        except OSError as error:
            raise PermanentError(f"{variable}_FILE: {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise PermanentError(f"{variable}_FILE: {path} is not a text in UTF-8") from None
        if not value:
            raise PermanentError(f"{variable}_FILE: {path} is empty")
        found[variable.lower()] = value
    return found


def _variables() -> dict[str, str | None]:
    return {**DotEnvSettingsSource(Settings).env_vars, **EnvSettingsSource(Settings).env_vars}
