"""What `deploy/monitoring` has: each metric, label and section that it names exists, and each alert fires."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import factories
import promql
import pytest
import yaml
from prometheus_client import REGISTRY

from pixcrawler_worker import settings
from pixcrawler_worker.monitored_state import MonitoredState

ROOT = Path(__file__).parent.parent
MONITORING = ROOT / "deploy" / "monitoring"
RULES: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
EXPRESSIONS = [
    *((rule["alert"], rule["expr"]) for rule in RULES),
    *((panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])),
]
_SELECTOR = re.compile(r"(pixcrawler_\w+)(\{[^}]*\})?")
_BY = re.compile(r"by \(([^)]*)\)\s*\(")


@pytest.fixture(scope="module")
def served(services: Any, database_url: str) -> Mapping[str, frozenset[str]]:
    """The labels of each metric of both endpoints, by the name of the sample."""
    loaded = settings.load(database_url=database_url, broker_url=services.broker_url)
    readings = MonitoredState(loaded, factories.TABLES).readings()
    found = {f"pixcrawler_{one.name}": frozenset(one.labels) for one in readings}
    for family in REGISTRY.collect():
        if family.name.startswith("pixcrawler_"):
            counter = REGISTRY._names_to_collectors[family.name]  # noqa: SLF001 - its only index by name
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = frozenset(getattr(counter, "_labelnames", ()))
    return found


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_an_expression_names_metrics_and_labels_that_are_served(
    served: Mapping[str, frozenset[str]], where: str, expression: str
) -> None:
    selectors = _SELECTOR.findall(expression)
    assert selectors, where
    names = {name for name, _ in selectors}
    assert names <= served.keys()
    for name, matchers in selectors:
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= served[name]
    for group in _BY.findall(expression):
        assert set(re.split(r",\s*", group)) <= set.union(*(set(served[name]) for name in names))


def test_every_metric_is_in_the_dashboard_or_in_an_alert(served: Mapping[str, frozenset[str]]) -> None:
    shown = {name for _, expression in EXPRESSIONS for name, _ in _SELECTOR.findall(expression)}
    assert served.keys() - shown == {"pixcrawler_sweeps_total"}


def test_every_alert_has_a_section_in_the_runbook_that_documents_it() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    anchors = {
        f"docs/operations.md#{title.lower()}" for title in re.findall(r"^#+ (Pixcrawler\w+)$", text, re.MULTILINE)
    }
    assert {rule["annotations"]["runbook"] for rule in RULES} == anchors
    assert [rule["alert"].lower() for rule in RULES] == [
        rule["annotations"]["runbook"].partition("#")[2] for rule in RULES
    ]


def test_every_metric_is_documented(served: Mapping[str, frozenset[str]]) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    assert {name for name in served if f"`{name}" not in text} == set()


#: Series of a service without trouble, in the notation of promtool, and what is different in one with the trouble of an
#: alert; `labels` are those of the alert.
HEALTHY = {
    'pixcrawler_state_read_failed{part="jobs"}': "0x60",
    'pixcrawler_state_read_failed{part="redis"}': "0x60",
    'pixcrawler_queue_consumers{queue="crawl"}': "2x60",
    'pixcrawler_oldest_pending_job_seconds{kind="crawl"}': "10x60",
    "pixcrawler_last_sweep_timestamp_seconds": "0+60x60",
    "pixcrawler_oldest_expired_lease_seconds": "0x60",
    'pixcrawler_sweep_errors_total{kind="crawl",step="reap"}': "0x60",
    'pixcrawler_chunks_reaped_total{kind="crawl"}': "1x60",
    'pixcrawler_decoder_deaths_total{cause="crash"}': "4x60",
    'pixcrawler_decoder_deaths_total{cause="timeout"}': "0+5x60",
    'pixcrawler_database_errors_total{cause="connection"}': "2x60",
    'pixcrawler_database_errors_total{cause="conflict"}': "0+10x60",
    "pixcrawler_storage_errors_total": "0x60",
    'pixcrawler_messages_quarantined_total{reason="not_json"}': "3x60",
    "pixcrawler_quarantined_messages": "3x60",
    "pixcrawler_quarantine_max_messages": "10000x60",
    "pixcrawler_redis_memory_bytes": "1000x60",
    "pixcrawler_redis_max_memory_bytes": "100000x60",
    'pixcrawler_ids_used_ratio{column="images.id"}': "0.5x60",
    'pixcrawler_internal_errors_total{kind="crawl"}': "7x60",
    'pixcrawler_requests_limited_total{source="urls",host="other"}': "0+1x60",
}
TROUBLE: Mapping[str, Mapping[str, str]] = {
    "PixcrawlerStateUnreadable": {'pixcrawler_state_read_failed{part="redis"}': "1x60"},
    "PixcrawlerNoWorker": {'pixcrawler_queue_consumers{queue="crawl"}': "0x60"},
    "PixcrawlerPendingJobWaits": {'pixcrawler_oldest_pending_job_seconds{kind="crawl"}': "0+60x60"},
    "PixcrawlerSweepNotRunning": {"pixcrawler_last_sweep_timestamp_seconds": "60x60"},
    "PixcrawlerSweepErrors": {'pixcrawler_sweep_errors_total{kind="crawl",step="reap"}': "0+1x60"},
    "PixcrawlerLeasesExpire": {'pixcrawler_chunks_reaped_total{kind="crawl"}': "0+1x60"},
    "PixcrawlerDecoderDies": {'pixcrawler_decoder_deaths_total{cause="crash"}': "0+2x60"},
    "PixcrawlerDatabaseErrors": {'pixcrawler_database_errors_total{cause="connection"}': "0+5x60"},
    "PixcrawlerStorageErrors": {"pixcrawler_storage_errors_total": "0+3x60"},
    "PixcrawlerQuarantineFills": {"pixcrawler_quarantined_messages": "6000x60"},
    "PixcrawlerRedisFull": {"pixcrawler_redis_memory_bytes": "95000x60"},
    "PixcrawlerIdsRunOut": {'pixcrawler_ids_used_ratio{column="images.id"}': "0.81x60"},
    "PixcrawlerInternalErrors": {'pixcrawler_internal_errors_total{kind="crawl"}': "7x30 8x30"},
    "PixcrawlerSourceLimits": {'pixcrawler_requests_limited_total{source="urls",host="other"}': "0+20x60"},
}
#: The other condition of an alert that has two.
OTHER_TROUBLE: Mapping[str, Mapping[str, str]] = {
    "PixcrawlerSweepNotRunning": {"pixcrawler_oldest_expired_lease_seconds": "0+60x60"},
    "PixcrawlerQuarantineFills": {'pixcrawler_messages_quarantined_total{reason="not_json"}': "0+2x60"},
}
CASES = [
    ("none", HEALTHY),
    ("PixcrawlerMetricsMissing", {}),
    *((alert, {**HEALTHY, **planted}) for alert, planted in [*TROUBLE.items(), *OTHER_TROUBLE.items()]),
]
#: When the alerts are looked at.
_MINUTE = 40


def firing(rule: Mapping[str, Any], series: Mapping[str, str]) -> set[promql.Labels]:
    """The labels with which a rule fires: those that it has had for long enough."""
    since = _MINUTE - int(promql.minutes(rule.get("for", "0m")))
    assert since >= 0
    return set.intersection(
        *(set(promql.evaluate(rule["expr"], series, minute=minute)) for minute in range(since, _MINUTE + 1))
    )


@pytest.mark.parametrize(("alert", "series"), CASES)
def test_each_alert_fires_at_its_own_trouble_and_at_no_other(alert: str, series: Mapping[str, str]) -> None:
    assert {rule["alert"] for rule in RULES if firing(rule, series)} == {alert} - {"none"}


def test_there_is_trouble_for_each_alert() -> None:
    assert {alert for alert, _ in CASES} == {"none", *(rule["alert"] for rule in RULES)}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed; the evaluator above is")
def test_promtool_finds_the_same(tmp_path: Path) -> None:
    # Annotations would have to be repeated in the expectations.
    rules = [{key: value for key, value in rule.items() if key != "annotations"} for rule in RULES]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    tests = [
        {
            "name": alert,
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [
                {
                    "alertname": rule["alert"],
                    "eval_time": f"{_MINUTE}m",
                    "exp_alerts": [{"exp_labels": {**rule["labels"], **dict(one)}} for one in firing(rule, series)],
                }
                for rule in RULES
            ],
        }
        for alert, series in CASES
    ]
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": tests}))
    for command in (["check", "rules", str(MONITORING / "alerts.yml")], ["test", "rules", str(tmp_path / "tests.yml")]):
        subprocess.run(["promtool", *command], check=True, capture_output=True, text=True)


def panels() -> Iterator[dict[str, Any]]:
    yield from DASHBOARD["panels"]


def test_the_dashboard_is_complete_and_its_panels_do_not_overlap() -> None:
    assert {panel["id"] for panel in panels()} == set(range(1, len(DASHBOARD["panels"]) + 1))
    places: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        covered = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not covered & places
        assert at["x"] + at["w"] <= 24
        places |= covered
        assert panel["type"] == "row" or panel["targets"]
