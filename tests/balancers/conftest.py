"""Every test that takes ``recording`` runs on the recordings and on generated twins."""

import pytest

from tests.conftest import generated, recorded


@pytest.fixture(params=["recorded", "generated"])
def recording(request):
    return recorded if request.param == "recorded" else generated
