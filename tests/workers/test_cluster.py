"""Which Ray is taken."""

import pytest

from optishear.workers.cluster import Workers, _options


pytest.importorskip("ray", reason="Ray is an extra: pip install optishear[ray]")


def test_without_an_address_ray_is_one_of_our_own():
    """A process that was killed leaves an address in Ray's folder, which ray.init would join."""
    assert _options(Workers(2, 3))["address"] == "local"
    assert _options(Workers(2, 3))["num_cpus"] == 6


def test_with_an_address_it_is_joined_as_it_is():
    options = _options(Workers(2, 3, address="host:6379"))
    assert options["address"] == "host:6379"
    assert "num_cpus" not in options
