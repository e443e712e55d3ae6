# `make demo` explains a photograph, `make test` tests; both make their own virtual environment first.
PYTHON ?= python3
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
RUN := $(VENV)/bin/python

.PHONY: demo test lint bench clean

demo: $(VENV)/.demo
	$(RUN) examples/explain_photo.py --rules relative,epsilon_plus --output out/photo.png

test: $(VENV)/.test
	JAX_PLATFORMS=cpu $(RUN) -m pytest -n 2 $(ARGS)

lint: $(VENV)/.test
	$(RUN) -m ruff check jrlrp tests examples
	$(RUN) -m ruff format --check jrlrp tests examples
	$(RUN) -m mypy

bench: $(VENV)/.bench
	$(RUN) tests/benchmarks/bench_speed.py $(ARGS)

$(VENV)/.%: pyproject.toml | $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

$(VENV):
	$(PYTHON) -m venv $@

clean:
	rm -rf .venv* out build *.egg-info
