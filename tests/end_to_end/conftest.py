"""Whole searches draw figures only where a test promises something of them."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _without_figures(searches_draw_nothing):
    """Before the fixtures of modules, some of which are finished runs."""
