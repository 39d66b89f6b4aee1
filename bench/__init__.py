"""Benchmarks: the named problems (shared with the tests), what other libraries do with them, and the report."""
