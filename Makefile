# Two commands do everything on a machine that has Python (3.11 or newer) and make:
#   make demo    simulate a small particle set, reconstruct it, say how close the map is to the truth
#   make test    lint, types and tests; those of the GPU kernels in Triton's interpreter
# and on a machine with a GPU and a CUDA build of torch in the environment
#   make gpu-tests
#   make gpu-sanitizer    the kernels alone, every access to memory watched (needs compute-sanitizer, of the CUDA toolkit)
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# A process a core; more than four would want more memory than a laptop has.
IN_PARALLEL = -n auto --maxprocesses=4
KERNEL_TESTS = $(addprefix tests/gpu/test_gpu_, project.py voxelize.py insert_slices.py)

.PHONY: demo test lint types tests interpreted-tests gpu-tests gpu-sanitizer format clean

demo: $(VENV)/installed
	$(BIN)/gem3d demo --out gem3d_demo --overwrite

test: lint types tests interpreted-tests

lint: $(VENV)/installed
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks

types: $(VENV)/installed
	$(BIN)/mypy

tests: $(VENV)/installed
	$(BIN)/python -m pytest $(IN_PARALLEL)

interpreted-tests: $(VENV)/installed
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -m gpu --error-for-skips $(IN_PARALLEL)

gpu-tests:
	python -m pytest -m gpu --error-for-skips

# With torch's cache of memory a kernel could leave its tensors unseen.
gpu-sanitizer:
	for tool in memcheck initcheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 \
	    python -m pytest -m gpu --error-for-skips $(KERNEL_TESTS) || exit 1; \
	done

format: $(VENV)/installed
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

# The marker file is newer than what it was made from once the installation has succeeded.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) gem3d_demo build dist
