# Every verb sets up what it needs, once: a virtual environment in .venv with everything in requirements.lock.
PYTHON ?= python3
UV_VERSION := 0.13.8
BIN := .venv/bin
STUDY ?= studies/quickstart.yaml
FAULTS ?= 40

.PHONY: study test test-faults check bench bench-gpu ui clean lock

study: .venv/ready
	$(BIN)/sparsestudy run $(STUDY)

test: .venv/ready
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

test-faults: .venv/ready
	SPARSESTUDY_FAULTS=$(FAULTS) $(BIN)/python -m pytest -m faults

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sparsestudy schema | cmp - studies/schema.json
	$(BIN)/sparsestudy schema relation | cmp - studies/relation.schema.json

bench: .venv/ready
	$(BIN)/python -m tests.benchmarks.throughput
	$(BIN)/python -m tests.benchmarks.cost
	$(BIN)/python -m tests.benchmarks.coverage
	$(BIN)/python -m tests.benchmarks.winner
	$(BIN)/python -m tests.benchmarks.scale
	$(BIN)/python -m tests.benchmarks.checkpoints
	$(BIN)/python -m tests.benchmarks.load

bench-gpu: .venv/ready
	$(BIN)/python -m tests.benchmarks.cost --device cuda

ui: .venv/ready
	$(BIN)/sparsestudy ui $(basename $(notdir $(STUDY)))

clean:
	rm -rf .venv

lock: .venv/uv
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade --generate-hashes \
	  --no-header --no-annotate --quiet --output-file requirements.lock

.venv/uv:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	touch $@

.venv/ready: .venv/uv requirements.lock pyproject.toml
	$(BIN)/uv pip install --python $(BIN)/python --quiet --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	touch $@
