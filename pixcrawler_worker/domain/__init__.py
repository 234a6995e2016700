"""RULE: no I/O, no clock, no third-party import. Facts come in, decisions go out."""
