import os
import re
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from pixcrawler_worker import settings, settings_report
from pixcrawler_worker.client import BROKER_VARIABLES
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.inspection import placeholders
from pixcrawler_worker.settings import Settings

CONTRACT = Path(__file__).parents[1] / "docs" / "contract.md"
FALLBACKS = ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL")

#: Every setting: its text in the environment, and its value.
WRITTEN: dict[str, tuple[str, object]] = {
    "DATABASE_URL": ("postgresql:///pixcrawler", SecretStr("postgresql:///pixcrawler")),
    "BROKER_URL": ("redis://localhost:6379/0", SecretStr("redis://localhost:6379/0")),
    "DATA_DIR": ("/srv/pixcrawler", Path("/srv/pixcrawler")),
    "STORAGE_URL": ("s3://bucket/prefix", SecretStr("s3://bucket/prefix")),
    "USER_AGENT_CONTACT": ("mailto:crawl@example.org", "mailto:crawl@example.org"),
    "ALLOWED_NETWORKS": ("10.0.0.0/8, fd00::/8,", (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
    "EGRESS_PROXY": ("http://proxy:3128", SecretStr("http://proxy:3128")),
    "COMMONS_URL": ("http://mirror.example/w/api.php", "http://mirror.example/w/api.php"),
    "OPENVERSE_URL": ("https://mirror.example/v1/", "https://mirror.example/v1/"),
    "GALLERY_URL": ("http://images.example/gallery", "http://images.example/gallery"),
    "LEASE_SECONDS": ("12.5", 12.5),
    "SWEEP_SECONDS": ("2", 2.0),
    "CHUNK_SIZE": ("50", 50),
    "DISPATCH_WINDOW": ("8", 8),
    "FETCH_CONCURRENCY": ("4", 4),
    "HOST_CONCURRENCY": ("4", 4),
    "HOST_CONNECTIONS": ("Example.org=2, images.example=1,", {"example.org": 2, "images.example": 1}),
    "FETCH_SECONDS": ("5", 5.0),
    "MAX_IMAGE_BYTES": ("4096", 4096),
    "MAX_IMAGE_PIXELS": ("1000", 1000),
    "MAX_IMAGE_FRAMES": ("7", 7),
    "DECODE_SECONDS": ("2.5", 2.5),
    "PLACEHOLDERS": (str(placeholders.SHIPPED), placeholders.SHIPPED),
    "CLIP_MODEL": ("hf://Xenova/clip-vit-base-patch32", "hf://Xenova/clip-vit-base-patch32"),
    "CLASSIFIER_THREADS": ("2", 2),
    "KEPT_FAILURES": ("0", 0),
    "HELD_JOBS": ("crawl:3, export:5", ("crawl:3", "export:5")),
    "START_PENDING": ("true", True),
    "METRICS_PORT": ("9400", 9400),
    "HEALTH_FILE": ("/tmp/health", Path("/tmp/health")),
    "OTLP_ENDPOINT": ("http://localhost:4318", SecretStr("http://localhost:4318")),
    "SENTRY_DSN": ("https://key@sentry.example/1", SecretStr("https://key@sentry.example/1")),
    "LOG_FORMAT": ("json", "json"),
}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty directory, without settings in the environment."""
    for name in os.environ:
        if name.startswith("PIXCRAWLER_") or name in FALLBACKS:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def error_of(**overrides: object) -> str:
    with pytest.raises(PermanentError) as caught:
        settings.load(**overrides)
    return str(caught.value)


def test_every_setting_is_tested_here() -> None:
    assert set(WRITTEN) == {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_setting_is_read_from_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = WRITTEN[name]
    monkeypatch.setenv(f"PIXCRAWLER_{name}", text)
    assert getattr(settings.load(), name.lower()) == value


@pytest.mark.parametrize("name", WRITTEN)
def test_a_setting_is_read_from_the_file_of_the_working_directory(name: str) -> None:
    text, value = WRITTEN[name]
    Path(".env").write_text(f"PIXCRAWLER_{name}='{text}'\n")
    assert getattr(settings.load(), name.lower()) == value


@pytest.mark.parametrize("name", WRITTEN)
def test_an_empty_value_counts_as_not_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default = getattr(settings.load(), name.lower())
    monkeypatch.setenv(f"PIXCRAWLER_{name}", "")
    assert getattr(settings.load(), name.lower()) == default
    monkeypatch.delenv(f"PIXCRAWLER_{name}")
    Path(".env").write_text(f"PIXCRAWLER_{name}=\n")
    assert getattr(settings.load(), name.lower()) == default


def test_the_environment_overrides_the_file_and_a_callers_value_overrides_both(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PIXCRAWLER_LEASE_SECONDS=11\nPIXCRAWLER_DATABASE_URL=postgresql:///file\n")
    assert settings.load().lease == timedelta(seconds=11)
    monkeypatch.setenv("PIXCRAWLER_LEASE_SECONDS", "12")
    monkeypatch.setenv("PIXCRAWLER_DATABASE_URL", "postgresql:///environment")
    assert settings.load().lease == timedelta(seconds=12)
    assert settings.load().require_database() == "postgresql:///environment"
    assert settings.load(lease_seconds=13).lease == timedelta(seconds=13)
    assert settings.load(database_url="postgresql:///caller").require_database() == "postgresql:///caller"


def test_common_names_without_the_prefix_are_fallbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql:///usual")
    assert settings.load().require_database() == "postgresql:///usual"
    monkeypatch.setenv("PIXCRAWLER_DATABASE_URL", "postgresql:///ours")
    assert settings.load().require_database() == "postgresql:///ours"
    for name in reversed(BROKER_VARIABLES):
        monkeypatch.setenv(name, f"redis://{name.lower()}/0")
        assert settings.load().require_broker() == f"redis://{name.lower()}/0", "in the order of the client"
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", "")
    assert settings.load().require_broker() == "redis://celery_broker_url/0", "an empty value, as from a Compose file"


def test_other_names_without_the_prefix_are_not_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASE_SECONDS", "11")
    monkeypatch.setenv("STORAGE_URL", "memory://")
    monkeypatch.setenv("DATA_DIR", "/elsewhere")
    assert settings.load() == settings.load(lease_seconds=60)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEASE_SECONDS", "hunter2"),
        ("LEASE_SECONDS", "nan"),
        ("LEASE_SECONDS", "0"),
        ("SWEEP_SECONDS", "601"),
        ("CHUNK_SIZE", "1.5"),
        ("MAX_IMAGE_BYTES", "20MB"),
        ("ALLOWED_NETWORKS", "10.0.0.0/8,hunter2"),
        ("ALLOWED_NETWORKS", "10.0.0.1/8"),
        ("START_PENDING", "perhaps"),
        ("METRICS_PORT", "0"),
        ("LOG_FORMAT", "xml"),
        ("GALLERY_URL", "images.example"),
        ("COMMONS_URL", "ftp://mirror.example"),
        ("OPENVERSE_URL", "https://"),
    ],
)
def test_an_invalid_value_gives_one_line_that_names_the_setting(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXCRAWLER_DATABASE_URL", "postgresql://user:hunter2@db/pixcrawler")
    monkeypatch.setenv(f"PIXCRAWLER_{name}", value)
    message = error_of()
    assert message.startswith(f"PIXCRAWLER_{name} is invalid: ")
    assert "\n" not in message
    assert "hunter2" not in message


def test_an_invalid_value_of_a_caller_gives_the_same_message() -> None:
    assert error_of(lease_seconds="soon").startswith("PIXCRAWLER_LEASE_SECONDS is invalid: ")


def test_a_file_in_another_encoding_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("PIXCRAWLER_USER_AGENT_CONTACT=Grüße".encode("latin-1"))
    assert error_of() == f"{tmp_path / '.env'} cannot be read: expected a text file in UTF-8"


def test_a_missing_setting_says_how_to_set_it() -> None:
    loaded = settings.load()
    with pytest.raises(PermanentError, match="set PIXCRAWLER_DATABASE_URL, for example postgresql:///pixcrawler"):
        loaded.require_database()
    with pytest.raises(PermanentError, match="set PIXCRAWLER_BROKER_URL, for example redis://localhost:6379/0"):
        loaded.require_broker()


def test_no_text_contains_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "BROKER_URL", "STORAGE_URL", "EGRESS_PROXY"):
        monkeypatch.setenv(f"PIXCRAWLER_{name}", "https://user:hunter2@example.org/")
    loaded = settings.load()
    for text in (repr(loaded), str(loaded), f"{loaded.model_dump()}", loaded.model_dump_json()):
        assert "hunter2" not in text


def test_settings_are_immutable() -> None:
    loaded = settings.load()
    with pytest.raises(ValidationError, match="frozen"):
        loaded.lease_seconds = 5


def test_the_default_storage_is_below_the_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert settings.load().storage() == (tmp_path / ".pixcrawler" / "storage").as_uri()
    monkeypatch.setenv("PIXCRAWLER_DATA_DIR", "with space/100%")
    assert settings.load().storage() == (tmp_path / "with space" / "100%" / "storage").as_uri()
    monkeypatch.setenv("PIXCRAWLER_STORAGE_URL", "memory://")
    assert settings.load().storage() == "memory://"
    assert settings.load(storage_url="").storage() == (tmp_path / "with space" / "100%" / "storage").as_uri()


def test_a_source_of_another_package_has_settings_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXCRAWLER_PUBLIC_DOMAIN_URL", "https://mirror.example/")
    Path(".env").write_text(
        "PIXCRAWLER_PUBLIC_DOMAIN_API_KEY=hunter2\nPIXCRAWLER_PUBLIC_DOMAIN_URL=https://x.example/\n"
    )
    assert settings.of_source("public-domain") == ("https://mirror.example/", "hunter2")
    assert settings.of_source("other") == (None, None)


def test_the_contract_lists_every_setting_with_its_default() -> None:
    listed = dict(re.findall(r"^\| `PIXCRAWLER_(\w+)`[^|]*\| `?([^|`]*?)`? *\|", CONTRACT.read_text(), re.MULTILINE))
    assert listed == {name.upper(): _written(field.default) for name, field in Settings.model_fields.items()}


def _written(default: object) -> str:
    match default:
        case None | ():
            return "none"
        case {**rest} if not rest:
            return "none"
        case bool():
            return str(default).lower()
        case _:
            return str(default)


def test_a_broken_list_of_placeholders_is_named_with_its_line() -> None:
    Path("list.txt").write_text("# mine\nsha256:12\n")
    assert "PIXCRAWLER_PLACEHOLDERS is invalid: list.txt, line 2: a SHA-256 has" in error_of(placeholders="list.txt")


def test_a_secret_can_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "BROKER_URL", "STORAGE_URL", "EGRESS_PROXY"):
        value, expected = WRITTEN[name]
        (tmp_path / name).write_text(f"{value}\n")
        monkeypatch.setenv(f"PIXCRAWLER_{name}_FILE", str(tmp_path / name))
        # A fallback counts less than a name of our own.
        monkeypatch.setenv("DATABASE_URL", "postgresql:///other")
        assert getattr(settings.load(), name.lower()) == expected
        origins = {one.name: one.origin for one in settings_report.report(settings.load())}
        assert origins[f"PIXCRAWLER_{name}"] == "file"
    (tmp_path / "key").write_text("k-1")
    monkeypatch.setenv("PIXCRAWLER_FLICKR_API_KEY_FILE", str(tmp_path / "key"))
    assert settings.of_source("flickr") == (None, "k-1")
    assert settings_report.unknown(["flickr"]) == {}
    # A file with a number is a mistake, which is not passed over.
    monkeypatch.setenv("PIXCRAWLER_LEASE_SECONDS_FILE", str(tmp_path / "key"))
    assert list(settings_report.unknown(["flickr"])) == ["PIXCRAWLER_LEASE_SECONDS_FILE"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be read: No such file"), (b" \n", "is empty"), (b"\xff", "is not a text in UTF-8")],
)
def test_a_file_without_a_secret_gives_one_line_that_names_it(
    content: bytes | None, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL_FILE", str(path))
    with pytest.raises(PermanentError, match=f"^PIXCRAWLER_BROKER_URL_FILE: {path} {reason}"):
        settings.load()


def test_a_secret_that_is_given_twice_gives_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("redis://a")
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", "redis://b")
    with pytest.raises(PermanentError, match=r"^PIXCRAWLER_BROKER_URL and PIXCRAWLER_BROKER_URL_FILE are both set"):
        settings.load()
