# Two commands matter: `make demo` and `make test`. Both set themselves up on a machine with Python >= 3.11, git, make.
VENV ?= .venv
export VENV
# The tests start hundreds of Python processes. Without compiled modules each compiles this package anew, and has
# pytest rewrite its assertions: half of what a small run costs.
unexport PYTHONDONTWRITEBYTECODE
PY = $(VENV)/bin/python
PYTEST_ARGS ?=

.PHONY: help demo demo-emulated test lint type arch docs pkg unit labgrid cov bench clean

help:            ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo:            ## the whole way on four virtual boards: build, flash, gate, sign, release, roll out
	@scripts/bootstrap build
	@exec $(PY) demo/run.py

demo-emulated:   ## the suites on two emulated arm64 boards (needs QEMU)
	@for program in qemu-system-aarch64 qemu-img; do command -v $$program >/dev/null || { echo "demo: $$program is not" \
		"installed, and emulated boards need it; run 'apt-get install --no-install-recommends qemu-system-arm qemu-utils'"; \
		exit 1; }; done
	@scripts/bootstrap build
	@exec $(PY) demo/emulated.py

test:            ## every check of this repository
	@scripts/bootstrap build,dev,docs
	@$(MAKE) --no-print-directory -j 2 lint type arch docs pkg
	@$(MAKE) --no-print-directory unit
	@echo "make test: everything passed"

lint:            ## style and likely mistakes
	@scripts/bootstrap build,dev,docs
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

type:            ## types
	@scripts/bootstrap build,dev,docs
	$(PY) -m mypy

arch:            ## who may import whom
	@scripts/bootstrap build,dev,docs
	$(VENV)/bin/lint-imports

docs:            ## the documentation, warnings as errors
	@scripts/bootstrap build,dev,docs
	$(PY) -m sphinx -q -W --keep-going -b html docs docs/_build/html

pkg:             ## the package builds and its description renders
	@scripts/bootstrap build,dev,docs
	rm -rf dist && $(PY) -m build --outdir dist . >/dev/null && $(PY) -m twine check --strict dist/*

unit:            ## all tests: unit, contract, plugin, system
	@scripts/bootstrap build,dev,docs
	$(PY) -m pytest -q -n 4 $(PYTEST_ARGS)

labgrid:         ## an environment of its own with labgrid, for the tests against a real coordinator
	@test -x .venv-labgrid/bin/labgrid-client || { python3 -m venv .venv-labgrid && \
		.venv-labgrid/bin/python -m pip install -q --disable-pip-version-check "labgrid>=25.0"; }

cov:             ## tests with coverage
	@scripts/bootstrap build,dev,docs
	$(PY) -m pytest --cov --cov-report=term-missing:skip-covered $(PYTEST_ARGS)

bench:           ## every benchmark, each beside its peer in the same run
	@scripts/bootstrap build,dev
	$(PY) benchmarks/run_all.py

clean:           ## what the other targets made
	rm -rf $(VENV) .venv-labgrid .tox dist build docs/_build demo-out demo-out-emulated .pytest_cache .mypy_cache .ruff_cache
