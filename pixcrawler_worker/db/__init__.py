"""RULE: the only place that knows SQL. Every function takes a session; none commits."""
