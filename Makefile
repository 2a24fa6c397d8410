# `make demo` and `make test` work on a fresh machine; both create .venv first.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-cluster test-gate interop layers lint format train-emoji clean

demo: $(READY)
	$(BIN)/python examples/demo.py

# Processes of pytest, each with one thread of PyTorch; more threads would wait for each other. A process needs 3 GB.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile

# Tests that cannot run on this machine are counted at the end, by reason; tests/support/not_run.py says which tests
# must run where.
test: $(READY)
	$(PYTEST)

test-cluster: $(READY)
	$(BIN)/pytest -m cluster

# Slow tests: whole gates, the slow commands of the docs, the table of seeded faults, and runs without a fault, which
# must not fail.
test-gate: $(READY)
	$(PYTEST) -m gate
	$(BIN)/python -m tests.faults --check
	$(BIN)/python -m tests.faults --clean 24

# Real consumers, each in its own environment, and the table of what they proved.
interop: $(READY)
	$(BIN)/python tests/interop/environments.py
	$(PYTEST) tests/interop
	$(BIN)/python tests/interop/table.py --check

# Floors, circles and layers of the import graph.
layers: $(READY)
	$(BIN)/python -m tests.layers

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# mypy does not read the mapping of folders in pyproject.toml, so it checks a copy in the installed form.
	rm -rf build/types && mkdir -p build/types
	cp -r siglip_onnx build/types/ && cp -r exporter quantize runtime validate build/types/siglip_onnx/
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p siglip_onnx

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train-emoji: $(READY)
	$(BIN)/python examples/emoji/train.py build/emoji-checkpoint

# PyTorch first and by its exact version, so that no other package decides which build pip installs. If pip does not find
# a CPU build, name an index: make demo TORCH="torch==2.13.0 --index-url …".
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[cpu,openvino,ray,export,dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build
