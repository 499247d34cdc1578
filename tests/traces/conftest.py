from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of recorded traces beside the checkout, which is no part of it."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "shared" / "traces").is_dir():
            return parent / "shared" / "traces"
    pytest.skip("shared/traces is not beside this checkout")
