"""Validation jobs: check the images of a crawl job by rules."""
