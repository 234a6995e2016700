"""Layouts: how the images and metadata of a dataset are arranged in archives."""
