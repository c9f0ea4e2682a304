"""The public names are there, and importing the package is cheap."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sparsestudy


@pytest.mark.parametrize("name", sparsestudy.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(sparsestudy, name).__module__.startswith("sparsestudy.")


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = sparsestudy.nothing


@pytest.mark.parametrize("module", ["sparsestudy", "sparsestudy.cli", "sparsestudy.specfile"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    program = (
        f"import sys, {module}; print(*sorted({{'torch', 'ray', 'mlflow', 'optuna', 'pandas'}} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
