import pytest

from pixcrawler_worker.broker.app import BrokerApp


def test_variables_of_celery_do_not_change_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "redis://elsewhere:1/5")
    app = BrokerApp("a", broker="redis://here:2/0", set_as_current=False)
    for connection in (app.connection_for_read(), app.connection_for_write()):
        assert (connection.hostname, connection.port) == ("here", 2)
