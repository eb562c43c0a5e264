"""Metrics with intervals, and the simple baselines that every result stands beside."""
