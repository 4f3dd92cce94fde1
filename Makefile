# make demo       register a real brain and look at the result:  make demo [FIXED=a.nii.gz MOVING=b.nii.gz]
# make test       everything that is tested
# make benchmark  the table of Testing/Benchmarks, its peers included:  make benchmark [BENCHMARK='--fixed a --moving b']
# make train      the default model, in slices: repeat until it is written:  make train [MINUTES=30]
# make setup      only the environment in .venv
# PYTHON=python3.12 chooses the interpreter (3.11 to 3.13).

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
OUTPUT ?= demo-output
MINUTES ?= 30
PRESET ?= Balanced
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test benchmark train clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml Testing/constraints.txt Testing/setup.sh
	@PYTHON="$(PYTHON)" bash Testing/setup.sh $(VENV)
	@touch $@

demo: setup
	$(BIN)/wavemorph demo --output "$(OUTPUT)" --preset $(PRESET) \
	    $(if $(FIXED),--fixed "$(FIXED)") $(if $(MOVING),--moving "$(MOVING)")

test: setup
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

benchmark: setup
	$(BIN)/python -m pip install -q -c Testing/constraints.txt -e '.[benchmark]'
	$(BIN)/python Testing/Benchmarks/benchmark.py $(BENCHMARK)

train: setup
	$(BIN)/python -m pip install -q -c Testing/constraints.txt -e '.[train]'
	$(BIN)/wavemorph train --recipe wavemorph --output training --minutes $(MINUTES)

clean:
	rm -rf $(VENV) "$(OUTPUT)" build
