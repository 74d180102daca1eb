# make demo   the main job on generated data: about ten minutes on two cores
# make test   checks and tests, at most eight minutes on two cores;  make test-slow  the long ones
# Everything is installed into .venv, from the pinned and hashed files in requirements/.

PYTHON ?= python3
BIN := .venv/bin
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header

# Bytecode of all that is installed, and of src at every start: where Python may not write any, each process would
# otherwise compile torch and the rest anew, seconds each time.
INSTALL := $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode

.PHONY: demo test test-slow check bench bytecode lock clean

demo: .venv/demo bytecode
	$(BIN)/anyres demo --out demo

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --durations 10

test-slow: .venv/dev bytecode
	$(BIN)/python -m pytest -m slow --durations 10

check: .venv/dev bytecode
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev bytecode
	for name in forward training mae mixed stream largest preprocessing plots dense_costs dense_huge dense shape upgrade deploy startup; do $(BIN)/python benchmarks/$$name.py || exit 1; done

bytecode: .venv/demo
	$(BIN)/python -m compileall -q src

.venv/uv: requirements/uv.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	touch $@

.venv/demo: .venv/uv requirements/demo.txt pyproject.toml
	$(INSTALL) --require-hashes -r requirements/demo.txt
	$(INSTALL) --no-build-isolation --no-deps -e .
	touch $@

.venv/dev: .venv/demo requirements/dev.txt
	$(INSTALL) --require-hashes -r requirements/dev.txt
	touch $@

# Resolve again, after a change of dependencies. The result holds versions and hashes, no addresses.
lock: .venv/uv
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) pyproject.toml --extra all --extra dev requirements/pins.in requirements/build.in -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra train --extra report requirements/pins.in requirements/build.in -c requirements/dev.txt -o requirements/demo.txt

clean:
	rm -rf .venv demo build dist
