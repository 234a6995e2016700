"""Turns rows of `crawl_jobs`, `validation_jobs` and `export_jobs` into image datasets."""
