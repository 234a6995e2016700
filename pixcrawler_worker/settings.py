"""What an operator may change: one frozen class, read from the environment with the prefix `PIXCRAWLER_`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, NoDecode, SettingsConfigDict

from pixcrawler_worker.domain.naming import nearest
from pixcrawler_worker.errors import PermanentError

_PREFIX = "PIXCRAWLER_"
_FILE = ".env"
#: What stands for a secret, and where one stands in an address: behind a user's name, or in the query.
_MASK = "****"
_USER, _QUERY = re.compile(r"(://[^:/@]*):.*@"), re.compile(r"((?:password|sslpassword)=)[^&]*")
#: How the address of a web server begins.
_WEB = r"^https?://."


def _also(name: str, *fallbacks: str) -> AliasChoices:
    return AliasChoices(_PREFIX + name, *fallbacks)


class Settings(BaseSettings):
    """All settings, with their defaults. `.env` in the working directory is read too, below the environment.

    An empty value counts as none, since that is what `${NAME:-}` in a Compose file leaves.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_file=_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    database_url: SecretStr | None = Field(
        None, validation_alias=_also("DATABASE_URL", "DATABASE_URL"), description="PostgreSQL, as libpq writes it"
    )
    broker_url: SecretStr | None = Field(
        None, validation_alias=_also("BROKER_URL", "CELERY_BROKER_URL", "REDIS_URL"), description="Redis for messages"
    )
    data_dir: Path = Field(Path(".pixcrawler"), description="embedded services, and the default storage")
    storage_url: SecretStr | None = Field(None, description="file:///..., s3://bucket/prefix or memory://")
    user_agent_contact: str = Field(
        "https://github.com/pixcrawler", description="a page or address that hosts can complain to"
    )
    allowed_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        (), description="private networks that may be fetched from, comma-separated; for development"
    )
    egress_proxy: SecretStr | None = Field(None, description="proxy for everything that is fetched")
    commons_url: str | None = Field(None, pattern=_WEB, description="a mirror in place of Wikimedia Commons' API")
    openverse_url: str | None = Field(None, pattern=_WEB, description="a mirror in place of Openverse's API")
    gallery_url: str | None = Field(None, pattern=_WEB, description="base URL of the gallery source")
    lease_seconds: float = Field(60, ge=1, le=600, description="silence after which a chunk is taken from its worker")
    sweep_seconds: float = Field(10, ge=0.2, le=600, description="time between two sweeps of a worker")
    chunk_size: int = Field(100, ge=1, le=1000, description="candidates per chunk, unless a job says otherwise")
    dispatch_window: int = Field(32, ge=1, le=10_000, description="chunks of a job announced to workers at a time")
    fetch_concurrency: int = Field(32, ge=1, le=256, description="downloads at a time in one worker process")
    fetch_seconds: float = Field(30, ge=1, le=300, description="total time for one download")
    max_image_bytes: int = Field(20 * 1024 * 1024, ge=1024, description="largest body that is taken")
    max_image_pixels: int = Field(50_000_000, ge=1, description="largest picture that is opened")
    start_pending: bool = Field(False, description="start pending rows without a message")
    log_format: Literal["console", "json"] = Field("console", description="how log lines look")

    @field_validator("allowed_networks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @property
    def lease(self) -> timedelta:
        """Silence after which a chunk is taken from its worker."""
        return timedelta(seconds=self.lease_seconds)

    def require_database(self) -> str:
        """Return the database's address.

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
        """Return the broker's address.

        Raises:
            PermanentError: when none is configured.
        """
        if not self.broker_url:
            raise PermanentError(
                "no broker is configured: set PIXCRAWLER_BROKER_URL, for example redis://localhost:6379/0, "
                "or start the embedded services with `pixcrawler up`"
            )
        return self.broker_url.get_secret_value()

    def storage(self) -> str:
        """Return the storage's address: the configured one, or a folder below `data_dir`."""
        if self.storage_url:
            return self.storage_url.get_secret_value()
        return (self.data_dir.resolve() / "storage").as_uri()


def load(**overrides: object) -> Settings:
    """Return the settings of this process.

    Args:
        overrides: settings by field name that stand above the environment.

    Raises:
        PermanentError: on a wrong value, with one line that names the setting and never shows the value of a secret.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them, that is the point
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        name = str(problem["loc"][0]).upper()
        name = name if name.startswith(_PREFIX) else _PREFIX + name
        raise PermanentError(f"{name} is wrong: {problem['msg']}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(f"{Path(_FILE).resolve()} cannot be read: it must be a text file in UTF-8") from error


@dataclass(frozen=True, slots=True)
class Told:
    """One setting, for people: a secret's value is masked; `origin` is where it comes from."""

    name: str
    value: str | float | None
    origin: str
    meaning: str


def explain(settings: Settings) -> list[Told]:
    """Return every setting as it is in force, and where its value comes from."""
    sources = [("environment", EnvSettingsSource(Settings).env_vars), (_FILE, DotEnvSettingsSource(Settings).env_vars)]
    return [
        Told(_PREFIX + name.upper(), _masked(getattr(settings, name)), _origin(name, sources), f"{field.description}")
        for name, field in Settings.model_fields.items()
    ]


def _origin(name: str, sources: Sequence[tuple[str, Mapping[str, str | None]]]) -> str:
    alias = Settings.model_fields[name].validation_alias
    names = alias.choices if isinstance(alias, AliasChoices) else [_PREFIX + name]
    for place, given in sources:
        for variable in map(str, names):
            if given.get(variable.lower()):
                return place if variable.startswith(_PREFIX) else f"{variable} in {place}"
    return "default"


def _masked(value: object) -> str | float | None:
    if isinstance(value, SecretStr):
        # The password of an address is its secret; the rest is what somebody looks for. A key is a secret as a whole.
        text = value.get_secret_value()
        return _QUERY.sub(rf"\1{_MASK}", _USER.sub(rf"\1:{_MASK}@", text)) if "://" in text else _MASK
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value if value is None or isinstance(value, float | int | str) else str(value)


def of_source(name: str) -> tuple[str | None, str | None]:
    """Return base URL and API key of a source that came with a package of its own: no field of ours is for them."""
    url, key = (_given().get(variable.lower()) or None for variable in _source_names(name))
    return url, key


def _source_names(name: str) -> tuple[str, str]:
    stem = _PREFIX + name.upper().replace("-", "_")
    return f"{stem}_URL", f"{stem}_API_KEY"


def _given() -> Mapping[str, str | None]:
    """Return what is set in the environment or, below it, in `.env`, by names in small letters."""
    return {**DotEnvSettingsSource(Settings).env_vars, **EnvSettingsSource(Settings).env_vars}


def unknown(sources: Iterable[str] = ()) -> dict[str, str | None]:
    """Return the names with our prefix, in the environment and in `.env`, that no setting has and no source reads.

    Each comes with the setting that was probably meant, or None when nothing is like it: those may be somebody else's.
    """
    fields = {field.upper(): _PREFIX + field.upper() for field in Settings.model_fields}
    read = {variable.removeprefix(_PREFIX): variable for name in sources for variable in _source_names(name)}
    known = read | fields
    names = {name.upper() for name in _given() if name.upper().startswith(_PREFIX)}
    # The prefix is left out of the comparison: it would make any two names alike.
    return {
        name: known.get(nearest(name.removeprefix(_PREFIX), known) or "")
        for name in sorted(names.difference(known.values()))
    }
