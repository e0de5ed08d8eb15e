"""Benchmarks, which are run by hand."""
