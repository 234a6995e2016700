"""RULE: the only package that speaks HTTP.

`downloader` sends requests, `addresses` and `connect` check where to, `http` is the client that sources get.
"""
