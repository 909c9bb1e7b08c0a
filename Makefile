# `make demo` distils a teacher on tweets, `make test` runs the tests of a working day, `make test-long` all others. They
# make .venv first where it is missing.
PYTHON ?= python3
BIN = .venv/bin
WORKERS ?= 2
# For a machine whose default torch is the CUDA build: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
PIP = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
TORCH = $(PIP) torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

PYTEST = HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
LONG = notebooks or long or faults or processes or served or cheapest
# What a version can break: tests of examples, apps and speed have dependencies or subjects of their own.
LOWEST = $(addprefix tests/,test_losses.py test_problems.py data matching recipes soft_targets students teachers training)

.PHONY: demo test test-long test-lowest lint format audit bench docs wheel address clean

demo: .venv/demo
	$(BIN)/hf-distill run examples/recipes/tweet-sentiment.yaml

# Five minutes on two quiet cores.
test: .venv/demo .venv/dev
	$(PYTEST)

# Fifteen minutes: tutorials, whole runs, kills, several processes; tests/conftest.py says how long each part may take.
test-long: .venv/demo .venv/dev
	$(PYTEST) -m "$(LONG)"

# The lowest versions that setup.cfg admits, which may warn of more than the pinned ones do; once, some gigabytes come.
test-lowest: .venv-lowest/base
	HF_HUB_OFFLINE=1 .venv-lowest/bin/python -m pytest -n $(WORKERS) --dist worksteal -W default $(LOWEST)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Known vulnerabilities of the versions in constraints.txt; asks the network.
audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

# After `make demo`, whose models it times.
bench: .venv/demo
	$(BIN)/python benchmarks/lstm_step.py --output benchmarks/results/lstm_step.json
	$(BIN)/python benchmarks/trainer_overhead.py --rounds 5 --output benchmarks/results/trainer_overhead.json
	$(BIN)/python benchmarks/latency.py --student outputs/demo/student --teacher outputs/demo/teacher \
	  --recipe examples/recipes/tweet-sentiment.yaml --output benchmarks/results/latency.json

# The site, in site/; a broken link, an unknown name or a page without a place is an error.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: .venv/base
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

# Once, when the repository has a public address, or moves: make address URL=https://github.com/owner/name
address:
	$(PYTHON) docs/address.py $(URL)

clean:
	rm -rf .venv .venv-audit .venv-lowest outputs site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

.venv/base: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(TORCH)
	$(PIP) -e .
	touch $@

.venv/demo: .venv/base requirements-demo.txt
	$(PIP) -e ".[onnx]"
	$(PIP) --no-deps -r requirements-demo.txt
	touch $@

.venv/dev: .venv/base
	$(PIP) -e ".[dev,tagging,generation,onnx,space]"
	touch $@

.venv/docs: .venv/base
	$(PIP) -e ".[docs]"
	touch $@

.venv-lowest/base: setup.cfg
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
	  $(if $(TORCH_INDEX),--torch-backend cpu) -e ".[tagging,generation,onnx,served]"
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python optuna pytest pytest-timeout pytest-xdist
	touch $@
