"""Tests mirror the package: a module is tested at its own path, or where this file says."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "pixcrawler_worker"

#: Modules without a test file at their own path, and where they are tested instead. It gets longer only with a kind of
#: job, whose modules are tested together.
TESTED_ELSEWHERE = {
    "cli/database.py": "cli/test_connection.py",
    "cli/environment.py": "cli/test_connection.py",
    "cli/job_recipe.py": "cli/test_recipes.py",
    "cli/job_retry.py": "cli/test_jobs.py",
    "cli/jobs_list.py": "cli/test_jobs.py",
    "cli/jobs_run.py": "cli/test_jobs.py",
    "cli/jobs_show.py": "cli/test_jobs.py",
    "cli/lazy.py": "cli/test_main.py",
    "cli/quarantine_note.py": "cli/test_quarantine.py",
    "crawl/retries.py": "crawl/test_late_options.py",
    "db/migrate.py": "migrations/test_history.py",
    "displays.py": "cli/test_jobs.py",
    "export/failure_rows.py": "cli/test_failures.py",
    "validate/finding_counts.py": "validate/test_jobs.py",
    "web/host_limits.py": "web/test_hosts.py",
    "broker/faults.py": "broker/test_reading.py",
    "broker/control.py": "acceptance/test_remote_control.py",
    "broker/rights.py": "acceptance/test_redis_acl.py",
    "cli/build.py": "acceptance/test_build.py",
    "cli/demo.py": "cli/test_delivery.py",
    "cli/export_arguments.py": "cli/test_export.py",
    "cli/local_service.py": "cli/test_delivery.py",
    "cli/downloads.py": "cli/test_delivery.py",
    "cli/new_jobs.py": "cli/test_crawl.py",
    # Not in a folder `celery`, which would hide the library of that name from the tests.
    "celery/application.py": "test_celery.py",
    "celery/broker_watch.py": "test_celery.py",
    "celery/children.py": "test_celery.py",
    "celery/health_file.py": "acceptance/test_health.py",
    "celery/lost_messages.py": "test_lost_messages.py",
    "celery/metrics_server.py": "test_metrics.py",
    "celery/sending.py": "test_celery.py",
    "celery/startup.py": "test_celery.py",
    "celery/sweeping.py": "acceptance/test_chaos.py",
    "classifiers/protocol.py": "validate/test_batches.py",
    "classifiers/sessions.py": "classifiers/test_clip_model.py",
    "crawl/display.py": "cli/test_job_status.py",
    "crawl/lists/compression.py": "crawl/lists/test_reading.py",
    "crawl/lists/failed_rows.py": "cli/test_failures.py",
    "crawl/lists/rows.py": "crawl/lists/test_reading.py",
    "crawl/kind.py": "crawl/test_claims.py",
    "crawl/downloading.py": "crawl/test_closed_hosts.py",
    "crawl/preview.py": "cli/test_dry_runs.py",
    "crawl/progress.py": "crawl/test_chunk.py",
    "crawl/worker.py": "crawl/test_chunk.py",
    "db/activity_log.py": "crawl/test_planner.py",
    "db/backup.py": "cli/test_db_backup.py",
    "db/browsed_images.py": "browse/test_content.py",
    "db/client_programs.py": "cli/test_db_backup.py",
    "db/comparison.py": "cli/test_db_backup.py",
    "db/crawls.py": "crawl/test_rounds.py",
    "db/drill.py": "cli/test_db_backup.py",
    "db/image_comparisons.py": "validate/test_jobs.py",
    "db/exports.py": "export/test_jobs.py",
    "db/image_records.py": "export/test_jobs.py",
    "db/ledger/chunk_results.py": "db/ledger/test_chunks.py",
    "db/ledger/tables.py": "db/ledger/test_jobs.py",
    "db/maintenance.py": "cli/test_db_maintain.py",
    "db/point_in_time.py": "scale/test_point_in_time.py",
    "db/statement_spans.py": "test_tracing.py",
    "db/models.py": "test_models.py",
    "db/private_models.py": "migrations/test_history.py",
    "db/retention.py": "cli/test_db_prune.py",
    "db/server.py": "test_health.py",
    "db/statistics.py": "cli/test_db_report.py",
    "db/validation_results.py": "validate/test_jobs.py",
    "db/validations.py": "validate/test_jobs.py",
    "domain/facts.py": "inspection/test_inspector.py",
    "domain/messages.py": "test_celery.py",
    "embedded/services.py": "embedded/test_launcher.py",
    "embedded/supervisor.py": "embedded/test_launcher.py",
    "errors.py": "cli/test_main.py",
    "export/archive_writer.py": "export/test_archive_formats.py",
    "export/cleanup.py": "export/test_trouble.py",
    "export/display.py": "cli/test_job_status.py",
    "export/failed.py": "cli/test_failures.py",
    "export/image_reader.py": "export/test_jobs.py",
    "export/kind.py": "export/test_jobs.py",
    "export/plan.py": "export/test_jobs.py",
    "export/planner.py": "export/test_jobs.py",
    "export/sidecars.py": "export/test_jobs.py",
    "export/summary.py": "export/test_report.py",
    "export/worker.py": "export/test_trouble.py",
    "exporters/features.py": "exporters/test_contract.py",
    "exporters/folders.py": "exporters/test_contract.py",
    "exporters/imagefolder.py": "exporters/test_contract.py",
    "exporters/one_folder.py": "exporters/test_contract.py",
    "exporters/protocol.py": "exporters/test_plug_in.py",
    "exporters/spool.py": "exporters/test_contract.py",
    "exporters/table.py": "exporters/test_contract.py",
    "html_report.py": "crawl/test_report.py",
    "inspection/containers/bmp.py": "inspection/test_kinds.py",
    "inspection/containers/gif.py": "inspection/test_headers.py",
    "inspection/containers/header.py": "inspection/test_headers.py",
    "inspection/containers/jpeg.py": "inspection/test_headers.py",
    "inspection/containers/png.py": "inspection/test_headers.py",
    "inspection/containers/tiff.py": "inspection/test_kinds.py",
    "inspection/containers/webp.py": "inspection/test_headers.py",
    "inspection/__main__.py": "inspection/test_decoder.py",
    "inspection/kernel.py": "security/test_decoder.py",
    "inspection/landlock.py": "security/test_decoder.py",
    "inspection/process.py": "inspection/test_decoder.py",
    "inspection/sandbox.py": "security/test_decoder.py",
    "jobs/claiming.py": "jobs/test_executor.py",
    "jobs/ended_processes.py": "jobs/test_sweeper.py",
    "jobs/ending.py": "jobs/test_executor.py",
    "jobs/heartbeat.py": "jobs/test_executor.py",
    "jobs/display.py": "jobs/test_submission.py",
    "jobs/kind.py": "jobs/test_submission.py",
    "registry.py": "jobs/test_sweeper.py",
    "storage/failures.py": "storage/test_s3.py",
    "storage/uploads.py": "storage/test_multipart.py",
    "tasks.py": "test_celery.py",
    "validate/classifiers.py": "validate/test_jobs.py",
    "validate/display.py": "cli/test_job_status.py",
    "validate/image_validation.py": "validate/test_isolation.py",
    "validate/kind.py": "validate/test_jobs.py",
    "validate/planner.py": "validate/test_jobs.py",
    "validate/report.py": "cli/test_validate.py",
    "validate/scorer_thread.py": "validate/test_isolation.py",
    "validate/work.py": "validate/test_jobs.py",
    "validate/worker.py": "validate/test_jobs.py",
    "web/exchange.py": "web/test_downloader.py",
    "tracing_sdk.py": "test_tracing.py",
}


def own_test(module: str) -> Path:
    """Return the path of a module's test file."""
    path = Path(module)
    return TESTS / path.parent / f"test_{path.name}"


def test_every_module_has_a_test_file() -> None:
    modules = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    assert {module for module in modules if not own_test(module).exists()} - set(TESTED_ELSEWHERE) == set()


@pytest.mark.parametrize(("module", "test"), TESTED_ELSEWHERE.items())
def test_the_exceptions_are_needed(module: str, test: str) -> None:
    assert (PACKAGE / module).exists()
    assert not own_test(module).exists(), "it has a test file of its own now: remove it from the list"
    assert (TESTS / test).exists()
