"""Experiments: laid out, run in either world, measured, stored, and held side by side."""
