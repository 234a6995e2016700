"""Classifiers that come with the package: what a model says of images."""
