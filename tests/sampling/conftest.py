"""Fixtures of tests that sample."""

from model_fixtures import make, query, slides, small_parts, trained  # noqa: F401
