"""RULE: pure functions and types, without I/O, clock or third-party imports."""
