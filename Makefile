# `make demo` and `make test` work on a fresh machine; both create .venv first.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-cluster test-gate interop lint format train-emoji clean

demo: $(READY)
	$(BIN)/python examples/demo.py

# Tests that this machine cannot run are counted at the end, by reason; tests/support/not_run.py says which have to run where.
test: $(READY)
	$(BIN)/pytest

test-cluster: $(READY)
	$(BIN)/pytest -m cluster

# Whole gates, the seeded faults with their table, and clean runs that must not raise an alarm.
test-gate: $(READY)
	$(BIN)/pytest -m gate
	$(BIN)/python -m tests.faults --check
	$(BIN)/python -m tests.faults --clean 24

# Real consumers, each in an environment of its own, and the table of what they proved.
interop: $(READY)
	$(BIN)/python tests/interop/environments.py
	$(BIN)/pytest tests/interop
	$(BIN)/python tests/interop/table.py --check

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# mypy knows nothing of the folders' mapping in pyproject.toml, so it gets the package as it is installed.
	rm -rf build/types && mkdir -p build/types
	cp -r siglip_onnx build/types/ && cp -r exporter quantize runtime validate build/types/siglip_onnx/
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p siglip_onnx

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train-emoji: $(READY)
	$(BIN)/python examples/emoji/train.py build/emoji-checkpoint

# torch first and by its exact version, so that nothing else decides which build is fetched. Where pip finds no CPU
# build by itself, point it at one: make demo TORCH="torch==2.13.0 --index-url …".
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[cpu,openvino,ray,export,dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build
