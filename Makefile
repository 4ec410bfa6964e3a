# make demo    align the embedded model and measure what it brings        make demo SEED=1
# make test    the tests
# Both set up everything they need in .venv, from the package index pip is set up with. PYTHON and VENV can be given.

PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
OUT ?= runs/demo
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint clean sdxl-step

demo: $(READY)
	$(BIN)/python -m diffalign demo --seed $(SEED) --output-dir $(OUT)

test: $(READY)
	$(BIN)/python -m pytest -q

lint: $(READY)
	$(BIN)/ruff check .

# One LoRA step of the real SDXL architecture with random weights on this machine: time and peak memory.
sdxl-step: $(READY)
	$(BIN)/python -m bench.sdxl_step

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 10) else "diffalign needs Python 3.10 or newer; this is %d.%d. Give another one: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info
