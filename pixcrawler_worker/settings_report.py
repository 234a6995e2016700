"""The settings for people: values with masked secrets, their origins, and names that are not a setting."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import AliasChoices, SecretStr
from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from pixcrawler_worker.domain.naming import nearest
from pixcrawler_worker.masking import mask, mask_url
from pixcrawler_worker.settings import (
    ENV_FILE,
    PREFIX,
    Settings,
    environment,
    file_variable,
    secret_files,
    source_variables,
)


@dataclass(frozen=True, slots=True)
class ReportedSetting:
    """A setting for people: `value` has no secrets, `origin` is where it was set, `meaning` describes the setting."""

    name: str
    value: str | float | None
    origin: str
    meaning: str


def report(settings: Settings) -> list[ReportedSetting]:
    """Return every setting with its effective value and the origin of that."""
    files = secret_files()
    sources = [
        ("file", files),
        ("environment", EnvSettingsSource(Settings).env_vars),
        (ENV_FILE, DotEnvSettingsSource(Settings).env_vars),
    ]
    return [
        ReportedSetting(
            PREFIX + name.upper(),
            _masked(name, getattr(settings, name)),
            _origin(name, sources),
            f"{field.description}",
        )
        for name, field in Settings.model_fields.items()
    ]


def unknown(sources: Iterable[str] = ()) -> dict[str, str | None]:
    """Return the names in the environment and in `.env` that have the prefix of settings and are not a setting.

    Each comes with the setting that was probably meant, or None if no setting has a similar name: such a name may
    belong to another program.

    Args:
        sources: names of installed sources, each of which has settings of its own.
    """
    fields = {field.upper(): PREFIX + field.upper() for field in Settings.model_fields}
    of_sources = {variable.removeprefix(PREFIX): variable for name in sources for variable in source_variables(name)}
    known = of_sources | fields
    files = (file_variable(variable) for variable in known.values())
    known |= {name.removeprefix(PREFIX): name for name in files if name}
    names = {name.upper() for name in environment() if name.upper().startswith(PREFIX)}
    # Compared without the prefix, which would make any two names similar.
    return {
        name: known.get(nearest(name.removeprefix(PREFIX), known) or "")
        for name in sorted(names.difference(known.values()))
    }


def _origin(name: str, sources: Sequence[tuple[str, Mapping[str, str | None]]]) -> str:
    alias = Settings.model_fields[name].validation_alias
    names = alias.choices if isinstance(alias, AliasChoices) else [PREFIX + name]
    for place, variables in sources:
        for variable in map(str, names):
            if variables.get(variable.lower()):
                return place if variable.startswith(PREFIX) else f"{variable} in {place}"
    return "default"


def _masked(name: str, value: object) -> str | float | None:
    if value is None or isinstance(value, float | int):
        return value
    if isinstance(value, SecretStr):
        return mask_url(value.get_secret_value())
    if isinstance(value, tuple):
        return mask(",".join(map(str, value)))
    # The base URL of a source may have a key in its query, and user information.
    return mask_url(str(value)) if name.endswith("_url") else mask(str(value))
