"""RULE: what people type and read. One file per group of commands."""
