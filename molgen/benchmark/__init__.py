"""Benchmarks of molecule generation: methods, judge, EDM's six-property protocol, published numbers."""
