"""Every test is offline, keeps to a cache of its own and leaves no threads spinning."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray keeps the mode of a process's first session: a second one of another mode loses its workers.
# It also writes no token into the home of who runs the tests.
os.environ["RAY_AUTH_MODE"] = "disabled"
if os.environ.get("OPTISHEAR_TEST_DEVICE") != "cuda":
    os.environ["TRITON_INTERPRET"] = "1"  # before anybody imports Triton: kernels run on the CPU

import pytest
import type_checks
from hypothesis import HealthCheck, settings


type_checks.install()

# How long an example takes, or making it up, depends on what else the machine does.
SLOW = [HealthCheck.too_slow]
settings.register_profile("any machine", deadline=None, suppress_health_check=SLOW)
settings.load_profile("any machine")


# Folders and files that `make test` leaves to `make heavy`: whole searches, processes of their own,
# wheels, Ray, the compiler, all figures of a dozen runs. Measured; one that takes more than ten
# seconds in all and whose folder has faster tests of the same promise belongs here.
HEAVY = {
    "end_to_end", "packaging", "workers",
    "test_readme.py", "test_api.py", "test_docs.py", "test_results.py",
    "test_commands.py", "test_evaluate.py", "test_plan_page.py", "test_preconditions.py",
    "test_prune_stream.py", "test_recorded_options.py", "test_unfinished.py", "test_watch.py",
    "test_verify_command.py", "test_report_command.py",
    "test_bench_gpu.py", "test_bench_gpu_solvers.py", "test_compiles.py", "test_selection.py",
    "test_sweep_kernel.py",
    "test_damaged_files.py", "test_figures.py", "test_optuna_mirror.py", "test_page.py",
    "test_page_in_browser.py",
    "test_block_loop.py", "test_old_code.py", "test_pack.py", "test_plan.py",
    "test_prune_streamed.py", "test_rewritten.py", "test_verify.py",
    "test_streamed_gradients.py", "test_zero_shot.py", "test_metric_forms.py",
    "test_search_loop.py", "test_evopress_driver.py", "test_drivers.py", "test_operators.py",
    "test_prefix.py", "test_alps.py", "test_hub_commands.py", "test_hub_push.py",
    "test_hub_models.py", "test_hub_datasets.py",
}  # fmt: skip


def pytest_runtest_setup():
    type_checks.begin_test()


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
