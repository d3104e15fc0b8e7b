"""Provenance of a run: configuration, code, versions and machine."""

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from optishear.errors import ConfigError


GIT_SECONDS = 600  # a guard against hanging: beside other work it may take minutes
PACKAGES = (
    "torch",
    "transformers",
    "pymoo",
    "optuna",
    "datasets",
    "numpy",
    "pandas",
    "safetensors",
)


def provenance() -> dict[str, Any]:
    """Commit, versions and machine of this very process."""
    return {"code": _code(), "versions": _versions(), "machine": _machine()}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "optishear": version("optishear")}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, Any]:
    return {
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _code() -> Mapping[str, Any]:
    """The commit of the checkout that this package runs from; empty for an installed wheel.

    Changes under results/ do not make a tree dirty: a search writes there. A tree of which git will
    not tell is as good as a dirty one, and `unknown` says why; without git it is a `ConfigError`.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {}

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["git", "-C", str(root), *words],
                capture_output=True,
                text=True,
                timeout=GIT_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(
                f"{root}: is a git checkout, whose commit a result is recorded with, but git does "
                f"not answer ({error}). Install git, or install optishear from a wheel."
            ) from None

    head = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--", ".", ":(exclude)results")
    for asked in (head, status):
        if asked.returncode:
            why = next(iter(asked.stderr.strip().splitlines()), "no reason given")
            return {"commit": "", "dirty": True, "unknown": why}
    return {"commit": head.stdout.strip(), "dirty": bool(status.stdout.strip())}
