"""transformers, imported once for the tests that compare with it."""

import sys
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def transformers() -> ModuleType:
    """It looks for a package named `kernels` and would find the folder of the repository's root."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "kernels", None)
        patch.setenv("HF_HUB_OFFLINE", "1")
        import transformers
        from transformers.models.mamba import modeling_mamba  # noqa: F401 - decides on kernels when imported

        return transformers
