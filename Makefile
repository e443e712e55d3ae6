# `make demo` explains a photograph, `make test` tests; both make their own virtual environment first.
PYTHON ?= python3
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
RUN := $(VENV)/bin/python
PEERS := $(VENV)-peers
TORCH := $(VENV)-torch
NEWEST := .venv-newest
NEWEST_PYTHON = $(shell pyenv versions --bare 2>/dev/null | grep -E '^3\.1[23]\.' | sort -V | head -n 1)
FAST := tests/trace tests/primitives tests/analyses tests/composites tests/rules/test_attention.py \
    tests/rules/test_structure.py tests/test_api.py tests/test_control.py

.PHONY: demo test test-newest fuzz test-models test-torch notebooks lint bench parity clean

demo: $(VENV)/.demo
	$(RUN) examples/explain_photo.py --rules default,relative,epsilon_plus --output out/photo.png

test: $(VENV)/.test
	JAX_PLATFORMS=cpu $(RUN) -m pytest -n 2 $(ARGS)

# A fast part of the tests with the newest JAX, which needs Python 3.12: where pyenv has it, or 3.13.
test-newest:
	@if test -z "$(NEWEST_PYTHON)"; then \
	    echo "pyenv has no Python 3.12 or 3.13 here: left out the tests with the newest JAX."; \
	else \
	    $(MAKE) --no-print-directory $(NEWEST)/.test && \
	    $(NEWEST)/bin/python -c 'import jax, sys; print("jax", jax.__version__, "on Python", sys.version.split()[0])' && \
	    JAX_PLATFORMS=cpu $(NEWEST)/bin/python -m pytest -n 2 $(FAST) $(ARGS); \
	fi

# Random programs by the thousand: what they held, and the smallest that fails of each kind.
fuzz: $(VENV)/.test
	$(RUN) tests/fuzz/run.py --programs 5000 $(ARGS)

# Explains the models of other people's packages and writes a table of them, tests/models/coverage.md.
test-models: $(VENV)/.models
	JAX_PLATFORMS=cpu $(RUN) tests/models/test_zoo.py $(ARGS)
	JAX_PLATFORMS=cpu $(RUN) -m pytest -n 2 -m slow -k 'recurrent or large' tests/models

# Explains torch modules through torchax, writes a table of them, tests/torch_models/coverage.md, and compares with zennit
# and LXT on the same modules. Of LXT's newer code, which is no package (Qwen3-MoE), with LXT_CODE=FOLDER.
test-torch: $(TORCH)/.torch
	JAX_PLATFORMS=cpu $(TORCH)/bin/python tests/torch_models/test_coverage.py $(ARGS)
	JAX_PLATFORMS=cpu $(TORCH)/bin/python -m pytest -k 'not is_explained and not is_the_peers' tests/torch_models
	JAX_PLATFORMS=cpu $(TORCH)/bin/python tests/torch_models/test_parity.py zennit
	JAX_PLATFORMS=cpu PYTHONPATH=$(TORCH)/lxt $(TORCH)/bin/python tests/torch_models/test_parity.py lxt
	$(if $(LXT_CODE),JAX_PLATFORMS=cpu PYTHONPATH=$(LXT_CODE) $(TORCH)/bin/python tests/torch_models/test_parity.py lxt)
	JAX_PLATFORMS=cpu $(TORCH)/bin/python examples/explain_torch.py

# Runs the notebooks in place: what they show is committed with them.
notebooks: $(VENV)/.test
	$(RUN) tests/test_notebooks.py $(ARGS)

lint: $(VENV)/.test
	$(RUN) -m ruff check jrlrp tests examples notebooks
	$(RUN) -m ruff format --check jrlrp tests examples notebooks
	$(RUN) -m mypy

bench: $(VENV)/.bench $(PEERS)/.peers
	$(RUN) tests/benchmarks/bench_plan.py
	$(RUN) tests/benchmarks/bench_layouts.py
	$(RUN) tests/benchmarks/bench_runs.py
	$(RUN) tests/benchmarks/bench_sequences.py $(ARGS)
	$(RUN) tests/benchmarks/bench_speed.py --peers $(PEERS)/bin/python $(ARGS)
	$(RUN) tests/benchmarks/bench_metrics.py --peers $(PEERS)/bin/python
	$(RUN) tests/benchmarks/bench_concepts.py --peers $(PEERS)/bin/python

# Makes the goldens again with zennit, captum, LXT, quantus and zennit-crp, and prints how far from them jrlrp is; those
# of RAP's authors, whose code is no package, with RAP_CODE=FOLDER (see tests/parity/make_rap.py).
parity: $(VENV)/.bench $(PEERS)/.peers
	$(PEERS)/bin/python tests/parity/make_zennit.py
	$(PEERS)/bin/python tests/parity/make_captum.py
	$(PEERS)/bin/python tests/parity/make_lxt.py
	$(PEERS)/bin/python tests/parity/make_quantus.py
	$(PEERS)/bin/python tests/parity/make_zennit_crp.py
	$(if $(RAP_CODE),$(PEERS)/bin/python tests/parity/make_rap.py $(RAP_CODE))
	$(RUN) tests/parity/test_parity.py
	$(RUN) tests/parity/test_concepts.py
	$(RUN) tests/metrics/test_quantus.py

$(VENV)/.%: pyproject.toml | $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

$(VENV):
	$(PYTHON) -m venv $@

$(NEWEST)/.test: pyproject.toml
	test -x $(NEWEST)/bin/python || PYENV_VERSION=$(NEWEST_PYTHON) python -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager \
	    --editable '.[test]'
	touch $@

$(PEERS)/.peers:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet torch==2.13.0 transformers==4.52.4 accelerate numpy pillow matplotlib \
	    packaging tabulate tqdm scipy scikit-image scikit-learn pandas opencv-python-headless
	$(PEERS)/bin/python -m pip install --quiet --no-deps zennit==0.5.1 captum==0.9.0 lxt==2.1 quantus==0.6.0 \
	    zennit-crp==0.6.0
	touch $@

# LXT's release knows transformers 4.52 alone; that and what it needs lie in a folder that only its comparison sees.
$(TORCH)/.torch: pyproject.toml
	test -x $(TORCH)/bin/python || $(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[torch]'
	$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check requests==2.32.5
	$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps zennit==0.5.1
	$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(TORCH)/lxt \
	    lxt==2.1 transformers==4.52.4 huggingface-hub==0.36.2 tokenizers==0.21.4 tabulate==0.10.0
	touch $@

clean:
	rm -rf .venv* out build *.egg-info
