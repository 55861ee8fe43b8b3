"""What several test modules start from."""

from collections.abc import Iterator

import pytest
import torch

from gem3d.simulate import Simulation, simulate
from gem3d.structures import packaged_structure
from gem3d.threads import set_threads


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """300 images of 32 px of 6.6 A, bright; a test that changes them works on a copy."""
    return simulate(packaged_structure(), tmp_path_factory.mktemp("set"), 300, 32, 6.6, 5.0, seed=1)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On a busy machine many short steps wait for the slower of two."""
    before = torch.get_num_threads()
    set_threads(1)
    yield
    set_threads(before)
