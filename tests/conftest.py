"""Every test is offline, keeps to a cache of its own and leaves no threads spinning."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if os.environ.get("OPTISHEAR_TEST_DEVICE") != "cuda":
    os.environ["TRITON_INTERPRET"] = "1"  # before anybody imports Triton: kernels run on the CPU

import pytest
from hypothesis import HealthCheck, settings


# How long an example takes, or making it up, depends on what else the machine does.
SLOW = [HealthCheck.too_slow]
settings.register_profile("any machine", deadline=None, suppress_health_check=SLOW)
settings.load_profile("any machine")


# What takes minutes, whole searches and processes of their own, begins first: files are shared out
# whole, and one of these at the end would leave all workers but one idle.
LONG = {"end_to_end", "packaging", "test_readme.py", "workers"}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.isdisjoint(item.path.parts))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """No test reads or fills the user's cache, unless it asks for the network. For the whole
    session, since fixtures of modules are made before those of a test."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("OPTISHEAR_TEST_NETWORK") != "1":
            patch.setenv("OPTISHEAR_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield
