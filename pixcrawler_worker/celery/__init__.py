"""The Celery app and the worker around it: `celery -A pixcrawler_worker worker` finds `app` here."""

from pixcrawler_worker.celery import children, startup
from pixcrawler_worker.celery.application import app
from pixcrawler_worker.celery.broker_watch import Reconnection
from pixcrawler_worker.celery.health_file import HealthFile
from pixcrawler_worker.celery.metrics_server import MetricsServer
from pixcrawler_worker.celery.sweeping import Sweeper

__all__ = ["app", "children", "startup"]

app.steps["worker"].add(Sweeper)
app.steps["consumer"].add(Reconnection)
app.steps["consumer"].add(HealthFile)
app.steps["worker"].add(MetricsServer)
