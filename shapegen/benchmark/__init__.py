"""Benchmarks of shape generation: judge on the mesh, tasks, published numbers."""
