"""RULE: a family of plug-ins, reached by entry point and never by import."""
