"""Expectations: what an experiment's metrics must satisfy, read, checked and judged."""
