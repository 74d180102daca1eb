# make demo   the main job on generated data: about ten minutes on two cores
# make test   checks and tests, at most ten minutes on two cores;  make test-slow  the long ones
# Everything is installed into .venv, from the pinned and hashed files in requirements/.

PYTHON ?= python3
BIN := .venv/bin
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header

.PHONY: demo test test-slow check bench lock clean

demo: .venv/demo
	$(BIN)/anyres demo --out demo

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --durations 10

test-slow: .venv/dev
	$(BIN)/python -m pytest -m slow --durations 10

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev
	for name in forward training mae mixed stream largest preprocessing plots dense_costs dense_huge dense; do $(BIN)/python benchmarks/$$name.py || exit 1; done

.venv/uv: requirements/uv.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	touch $@

.venv/demo: .venv/uv requirements/demo.txt pyproject.toml
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements/demo.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-build-isolation --no-deps -e .
	touch $@

.venv/dev: .venv/demo requirements/dev.txt
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements/dev.txt
	touch $@

# Resolve again, after a change of dependencies. The result holds versions and hashes, no addresses.
lock: .venv/uv
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) pyproject.toml --extra all --extra dev requirements/pins.in requirements/build.in -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra train --extra report requirements/pins.in requirements/build.in -c requirements/dev.txt -o requirements/demo.txt

clean:
	rm -rf .venv demo build dist
