"""Metrics with this project's policy on empty masks: undefined values are NaN and counted, never averaged silently."""
