"""Where a study ran: versions, machine, commit."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
from importlib.metadata import distributions, version

PACKAGES = ("sparsestudy", "torch", "torchvision", "ray", "optuna", "mlflow", "numpy", "scikit-learn")


def environment_tags() -> dict[str, str]:
    """Tags of the parent run: package versions, machine, and the git commit of the current folder if it has one."""
    tags = {f"sparsestudy.version.{name}": version(name) for name in PACKAGES}
    tags["sparsestudy.version.python"] = platform.python_version()
    tags["sparsestudy.machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit
        tags["mlflow.source.git.branch"] = _git("rev-parse", "--abbrev-ref", "HEAD")
        tags["sparsestudy.git.dirty"] = str(bool(_git("status", "--porcelain"))).lower()
    tags["mlflow.source.name"] = "sparsestudy"
    tags["mlflow.user"] = _user()
    return tags


def installed() -> str:
    """Every installed distribution with its version, one a line, sorted."""
    return "\n".join(sorted({f"{d.name}=={d.version}" for d in distributions()}, key=str.lower)) + "\n"


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user on this machine, as in many containers
        return "unknown"
