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


# Whole searches, processes of their own, wheels and Ray are heavy wherever they stand; single tests
# and files elsewhere say it with `pytest.mark.heavy`.
HEAVY = {"end_to_end", "packaging", "test_readme.py", "workers"}


def pytest_collection_modifyitems(items):
    """Heavy ones begin first: files are shared out whole, and a long one at the end would leave all
    workers but one idle."""
    for item in items:
        if not HEAVY.isdisjoint(item.path.parts):
            item.add_marker(pytest.mark.heavy)
    items.sort(key=lambda item: item.get_closest_marker("heavy") is None)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """No test reads or fills the user's cache, unless it asks for the network. For the whole
    session, since fixtures of modules are made before those of a test."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("OPTISHEAR_TEST_NETWORK") != "1":
            patch.setenv("OPTISHEAR_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="session")
def searches_draw_nothing():
    """A third of a small search is drawing figures. For whole modules of searches; who promises
    something of figures puts the real `draw_figures` back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optishear.runs.search.draw_figures", lambda directory: [])
        yield
