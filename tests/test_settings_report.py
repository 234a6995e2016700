import os
from pathlib import Path

import pytest

from pixcrawler_worker import settings, settings_report


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty directory, without settings in the environment."""
    for name in os.environ:
        if name.startswith("PIXCRAWLER_") or name in {"DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL"}:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("value", "reported"),
    [
        ("postgresql://ada:hunter2@db/pixcrawler", "postgresql://ada:****@db/pixcrawler"),
        ("postgresql://ada:hun@ter2@db/pixcrawler", "postgresql://ada:****@db/pixcrawler"),
        (
            "postgresql:///pixcrawler?host=/run&password=hunter2&user=ada",
            "postgresql:///pixcrawler?host=/run&password=****&user=ada",
        ),
        ("redis://:hunter2@host:6379/0", "redis://:****@host:6379/0"),
        ("hunter2", "****"),
        ("postgresql:///pixcrawler", "postgresql:///pixcrawler"),
    ],
)
def test_the_password_of_a_url_is_masked_and_any_other_secret_as_a_whole(value: str, reported: str) -> None:
    (setting,) = [
        setting
        for setting in settings_report.report(settings.load(database_url=value))
        if setting.name == "PIXCRAWLER_DATABASE_URL"
    ]
    assert setting.value == reported


def test_values_without_secrets_are_reported_as_they_are_set() -> None:
    loaded = settings.load(allowed_networks="10.0.0.0/8, fd00::/8", chunk_size=7, data_dir="data", storage_url=None)
    values = {setting.name: setting.value for setting in settings_report.report(loaded)}
    assert values["PIXCRAWLER_ALLOWED_NETWORKS"] == "10.0.0.0/8,fd00::/8"
    assert values["PIXCRAWLER_CHUNK_SIZE"] == 7
    assert values["PIXCRAWLER_DATA_DIR"] == "data"
    assert values["PIXCRAWLER_STORAGE_URL"] is None


def test_an_unknown_name_comes_with_the_setting_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXCRAWLER_LEASE_SECOND", "5")
    monkeypatch.setenv("PIXCRAWLER_BROKER", "redis://localhost")
    monkeypatch.setenv("PIXCRAWLER_API_HOST", "0.0.0.0")
    monkeypatch.setenv("PIXCRAWLER_LEASE_SECONDS", "5")
    Path(".env").write_text("PIXCRAWLER_DATABSE_URL=postgresql:///x\nCHUNK_SIZES=3\n")
    assert settings_report.unknown() == {
        "PIXCRAWLER_API_HOST": None,
        "PIXCRAWLER_BROKER": "PIXCRAWLER_BROKER_URL",
        "PIXCRAWLER_DATABSE_URL": "PIXCRAWLER_DATABASE_URL",
        "PIXCRAWLER_LEASE_SECOND": "PIXCRAWLER_LEASE_SECONDS",
    }


def test_names_without_the_prefix_are_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASE_SECONDS", "11")
    monkeypatch.setenv("STORAGE_URL", "memory://")
    monkeypatch.setenv("DATA_DIR", "/elsewhere")
    assert settings_report.unknown() == {}


def test_the_settings_of_a_source_of_another_package_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXCRAWLER_PUBLIC_DOMAIN_URL", "https://mirror.example/")
    Path(".env").write_text("PIXCRAWLER_PUBLIC_DOMAIN_API_KEY=hunter2\n")
    assert settings_report.unknown(["public-domain"]) == {}
    monkeypatch.setenv("PIXCRAWLER_PUBLIC_DOMAIN_KEY", "hunter2")
    assert settings_report.unknown(["public-domain"]) == {
        "PIXCRAWLER_PUBLIC_DOMAIN_KEY": "PIXCRAWLER_PUBLIC_DOMAIN_API_KEY"
    }
