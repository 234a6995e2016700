"""Crawl jobs: search sources for candidates, and store images."""
