"""Layouts of datasets: how the images of an export lie in its archives."""
