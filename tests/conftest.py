"""What several test modules start from."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gem3d.kernels.backend import interprets_triton
from gem3d.simulate import Simulation, simulate
from gem3d.structures import packaged_structure
from gem3d.threads import set_threads


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--error-for-skips", action="store_true", help="a test that is skipped fails")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--error-for-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where that is an error: {report.longrepr}"


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """Where the Triton kernels run: a GPU, or the CPU where they are interpreted."""
    if interprets_triton():
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no GPU, and Triton's kernels are not interpreted (TRITON_INTERPRET=1)")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """300 images of 32 px of 6.6 A, bright; a test that changes them works on a copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "TRITON_INTERPRET", "0"
        )  # by the CPU's kernels, whatever is tested: interpreted, it takes minutes
        return simulate(packaged_structure(), tmp_path_factory.mktemp("set"), 300, 32, 6.6, 5.0, seed=1)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On a busy machine many short steps wait for the slower of two."""
    before = torch.get_num_threads()
    set_threads(1)
    yield
    set_threads(before)
