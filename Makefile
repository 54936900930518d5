# `make demo` and `make test` each do all of their own set-up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test browser lint attack clean

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo

test: lint $(STAMP)
	$(BIN)/python -m search.evaluation.guard  # once a machine; else tests with deadlines wait for it
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore=tests/browser

# What pages in a real browser can do; needs chromium (Debian: apt-get install chromium).
browser: $(STAMP)
	$(BIN)/python -m pytest tests/browser

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

attack: $(STAMP)
	$(BIN)/python -m benchmarks.attack

# torch is named first and together with the rest, so that one resolution decides its build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt torch==2.13.0 -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) var build *.egg-info
