# A machine with python3 (and its venv module), g++ 11 or newer and make is enough: everything else comes into .venv.
#
#   make demo       train and evaluate the reference multimodal model
#   make test       a sample of every suite, within 15 minutes on 2 cores
#   make test-all   the rest of what CI runs
#   make sass       report the machine code of the CUDA kernels (needs nvcc)
#   make wheel      source archive and wheel into dist/cpu, checked; wheel-cuda: into dist/cuda; test-wheel: tries them
#   make gpu-check  on a machine with a GPU: conformance, sanitizer, benchmarks, one report
#
# Variables: PYTHON, VENV, TORCH_INDEX_URL (an index to take torch from), WORKERS (test processes), PYTEST_ARGS, MAX_JOBS,
# SASS_ARGS (more arguments of tools/machine_code), WHEEL_ARGS (of tools/wheels.py), GPU_ARGS (of tools/gpu_check.py).

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PYTEST_ARGS ?=
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
PYTEST = $(PY) -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)
CPP = $(shell git ls-files --cached --others --exclude-standard 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cuh' 'csrc/*.cu' \
        'tests/*.h' 'tests/*.cpp')
INSTALLED := $(VENV)/installed

.PHONY: help venv build build-cuda build-test-module build-emulator demo test test-all test-nightly gpu-check lint house \
        format sanitize sass sass-check wheel wheel-cuda test-wheel clean

help:
	@sed -n 's/^#  *make/make/p' $(MAKEFILE_LIST)
	@echo "others:         venv build build-cuda build-test-module build-emulator test-nightly lint format"
	@echo "                sanitize sass-check clean"

# ---- environment and build ----

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch
	$(PIP) install -q -c constraints.txt setuptools wheel ninja
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[demo,test,dev,integrations,compression]'
	touch $@

build: venv
	$(PY) tools/native.py library

# Needs nvcc, no GPU and no CUDA torch: docs/building.md
build-cuda: venv
	$(PY) tools/native.py cuda

build-test-module: venv
	$(PY) tools/native.py tests

build-emulator: venv
	$(PY) tools/native.py emulator

# ---- run ----

demo: build
	$(PY) -m mmkernels demo

test: build build-test-module build-emulator
	$(PYTEST) -m "not slow and not nightly"

test-all: build build-test-module build-emulator
	$(PYTEST) -m "slow and not nightly"

test-nightly: build build-test-module build-emulator
	$(PYTEST) -m nightly

# On a machine with a GPU and a CUDA torch; fails where nothing ran on one. It builds the CUDA library for that GPU.
# GPU_ARGS: more arguments (--quick --minutes 9). docs/testing.md
GPU_ARGS ?=

gpu-check: build
	$(PY) -m tools.gpu_check $(GPU_ARGS)

# ---- wheels ----

RELEASE := $(VENV)/installed-release

$(RELEASE): $(INSTALLED)
	$(PIP) install -q -c constraints.txt -e '.[release]' --no-build-isolation
	touch $@

wheel: $(RELEASE)
	$(PY) -m tools.wheels build $(WHEEL_ARGS)

# Needs nvcc, no GPU and no CUDA torch; all architectures take a while.
wheel-cuda: $(RELEASE)
	$(PY) -m tools.wheels build --cuda $(WHEEL_ARGS)

# The wheels of dist/ in clean environments of this Python; more: python -m tools.wheels test --help
test-wheel: venv
	for wheel in dist/*/*.whl; do $(PY) -m tools.wheels test $$wheel --suite $(WHEEL_ARGS) || exit 1; done

# ---- checks ----

lint: venv house
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP)

house: venv
	$(PY) -m pytest -q -p no:cacheprovider --noconftest tests/build/test_house.py

format: venv
	$(PY) -m ruff check --fix-only --select I .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CPP)

# Only the C++ of this project is instrumented; python, torch and numpy are not. docs/testing.md says what that hides.
SANITIZED := build/sanitize
SANITIZED_TESTS ?= tests/core tests/conformance $(wildcard tests/device/test_emulator*.py) \
        $(wildcard tests/device/test_attention_*.py tests/device/test_*_device.py)
RUNTIMES := libasan.so libubsan.so libstdc++.so.6

sanitize: venv
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	cp -r mmkernels tests bench tools csrc pyproject.toml $(SANITIZED)
	rm -f $(SANITIZED)/mmkernels/*.so
	$(PY) tools/native.py library --sanitize --output $(SANITIZED)/mmkernels/_C.abi3.so
	$(PY) tools/native.py tests --sanitize
	$(PY) tools/native.py emulator --sanitize
	cd $(SANITIZED) && MMKERNELS_TEST_MODULE=$(CURDIR)/build/tests-sanitize \
	  MMKERNELS_EMULATOR=$(CURDIR)/build/emulator-sanitize \
	  ASAN_OPTIONS=detect_leaks=0:halt_on_error=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	  PYTHONMALLOC=malloc OMP_NUM_THREADS=2 \
	  LD_PRELOAD="$$(for l in $(RUNTIMES); do printf '%s ' "$$($${CXX:-g++} -print-file-name=$$l)"; done)" \
	  $(abspath $(PY)) -m pytest -p no:cacheprovider -m "not slow and not nightly" $(PYTEST_ARGS) $(SANITIZED_TESTS)

# docs/kernels/machine-code.md says what the figures mean.
MACHINE_CODE := docs/benchmarks/machine_code.json
SASS_ARGS ?=

sass: venv
	$(PY) -m tools.machine_code --json $(MACHINE_CODE) $(SASS_ARGS)

sass-check: venv
	$(PY) -m tools.machine_code --compare $(MACHINE_CODE) $(SASS_ARGS)

clean:
	rm -rf build dist *.egg-info mmkernels/*.so .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
