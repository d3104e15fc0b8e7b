"""The imitation of the Hub in the place of the real one, for this process and for others."""

from types import SimpleNamespace

import pytest
from hub_imitation import Hub
from huggingface_hub import close_session

from optishear.assets import hub as names
from optishear.models import hub as models


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hub that huggingface_hub and datasets talk to; both caches are empty, and what was
    remembered of another one is forgotten."""
    server = Hub()
    home = tmp_path / "hf"
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    point_at(monkeypatch, server.url, home)
    forget()
    yield server
    forget()
    server.close()


def point_at(patch, url, home):
    """What both libraries read of the environment when they are imported."""
    from huggingface_hub import HfFileSystem

    constants = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DOWNLOAD_TIMEOUT": 1,
        "HF_HUB_ETAG_TIMEOUT": 1,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "DOWNLOAD_CHUNK_SIZE": 50_000,
    }
    for name, value in constants.items():
        patch.setattr(f"huggingface_hub.constants.{name}", value)
    configured = {
        "HF_ENDPOINT": url,
        "HUB_DATASETS_URL": url + "/datasets/{repo_id}/resolve/{revision}/{path}",
        "HF_HUB_OFFLINE": False,
        "HF_DATASETS_CACHE": home / "datasets",
        "STREAMING_READ_MAX_RETRIES": 2,
        "STREAMING_READ_RETRY_INTERVAL": 0,
        "HF_UPDATE_DOWNLOAD_COUNTS": False,
    }
    for name, value in configured.items():
        patch.setattr(f"datasets.config.{name}", value)
    patch.setattr(models, "PAUSE", 0.0)
    waiting = SimpleNamespace(sleep=lambda seconds: None)
    patch.setattr("huggingface_hub.utils._http.time", waiting)
    patch.setattr("huggingface_hub.file_download.time", waiting)
    HfFileSystem.clear_instance_cache()


def forget():
    """As if the process were a new one."""
    close_session()
    names._asked.cache_clear()
    models.fetched.cache_clear()


@pytest.fixture
def another_process():
    """Called, it forgets what a process remembers of the Hub."""
    return forget
