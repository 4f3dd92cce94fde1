# make demo       register a real brain, write a scene and a picture:  make demo [FIXED=a.nii.gz MOVING=b.nii.gz]
# make test       everything that is checked: style, types, documentation, tests
# make test-fast  the same without documentation and without the slow ring of tests (whole registrations, trainings)
# make docs       the documentation site in build/site
# make benchmark  the table of Testing/Benchmarks, its peers included:  make benchmark [BENCHMARK='--fixed a --moving b']
# make benchmark-gpu  everything that is to be measured on a GPU:  make benchmark-gpu [GPU='--pairs folder']
# make train      the default model, in several runs: repeat until it is written:  make train [MINUTES=30]
# make setup      only the environment in .venv
# PYTHON=python3.12 chooses the interpreter (3.11 to 3.13).

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
OUTPUT ?= demo-output
MINUTES ?= 30
PRESET ?= Balanced
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-fast check docs benchmark benchmark-gpu train clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml Testing/constraints.txt Testing/setup.sh
	@PYTHON="$(PYTHON)" bash Testing/setup.sh $(VENV)
	@touch $@

demo: setup
	$(BIN)/wavemorph demo --output "$(OUTPUT)" --preset $(PRESET) \
	    $(if $(FIXED),--fixed "$(FIXED)") $(if $(MOVING),--moving "$(MOVING)")

# two workers of one thread each; a file's tests run in one worker, so that its fixtures are made once
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: check docs
	$(PYTEST)

test-fast: check
	$(PYTEST) Testing/Unit Testing/Scene Testing/Panel

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet -f Documentation/mkdocs.yml

benchmark: setup
	$(BIN)/python -m pip install -q -c Testing/constraints.txt -e '.[benchmark]'
	$(BIN)/python Testing/Benchmarks/benchmark.py $(BENCHMARK)

# FireANTs asks for another SimpleITK than ours, but works with it; the environment must hold a torch with CUDA
benchmark-gpu: setup
	$(BIN)/python -m pip install -q -c Testing/constraints.txt -e '.[benchmark-gpu]'
	$(BIN)/python -m pip install -q --no-deps fireants==1.5.0
	$(BIN)/python Testing/Benchmarks/gpu.py --output gpu.md --plot gpu.png $(GPU)

train: setup
	$(BIN)/python -m pip install -q -c Testing/constraints.txt -e '.[train]'
	$(BIN)/wavemorph train --recipe wavemorph --output training --minutes $(MINUTES)

clean:
	rm -rf $(VENV) "$(OUTPUT)" build
