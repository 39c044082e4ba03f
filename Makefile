# make reproduce    environment, then the default study of params.yaml
# make test         environment, then the tests
# make clean        remove what the pipeline made; asks

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# In a recipe: ends it with one line where python3 is missing or of another version than those of docs/environments.md.
NEEDS = python3 -c 'import sys; sys.exit(not 11 <= sys.version_info.minor <= $(2))' 2>/dev/null || { \
  echo "ofq: error: Python $(1) is needed, and python3 is: $$(python3 --version 2>&1); see docs/environments.md" >&2; exit 2; }

.PHONY: help env reproduce pull test check clean

help: ## show these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

# By default Snakemake weighs all waiting jobs anew every second, which costs a third of a core where hundreds wait. With
# a longer span it ends as much later, which a short run would feel.
reproduce: $(READY) ## set up the environment, then run every experiment, table and figure of the default study
	$(VENV)/bin/snakemake --cores all --max-jobs-per-timespan 1000/10s

pull: $(READY) ## fetch the results of another checkout from the DVC remote, so that nothing has to be run again
	@test -f dvc.lock || { echo "ofq: error: no dvc.lock here, so no results were kept; see docs/dvc.md" >&2; exit 2; }
	@$(BIN)/dvc pull
	@$(BIN)/dvc status --quiet || { echo "ofq: error: code, settings or results are not those of dvc.lock; see: dvc status" >&2; exit 2; }
	@PYTHONPATH=src $(BIN)/python -m ofq track --keep-going
	@$(BIN)/snakemake --touch --forceall --quiet all

test: $(READY) ## set up the environment, then run the tests
	PYTHONPATH="$(CURDIR)/src" $(VENV)/bin/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder tests

check: $(READY) ## lint, format and types, as CI runs them
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	PYTHONPATH="$(CURDIR)/src" $(VENV)/bin/mypy
	$(VENV)/bin/snakefmt --check Snakefile rules
	$(VENV)/bin/snakemake --lint

env: $(READY) ## set up the environment in .venv

# The environment is not needed for it, and is left alone.
clean: ## remove results, logs and caches, but neither results/reference nor runs; asks. YES=1: no question, runs too
	@$(if $(wildcard $(VENV)/bin/python),,$(call NEEDS,3.11 or newer,99))
	@PYTHONPATH=src $(or $(wildcard $(VENV)/bin/python),python3) -m ofq clean $(if $(YES),--yes)

# uv installs in seconds what takes pip minutes; both resolve to the versions of envs/constraints.txt.
$(READY): pyproject.toml envs/constraints.txt
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --python '>=3.11,<3.14' $(VENV) && uv pip install --python $(VENV) --constraint envs/constraints.txt --editable '.[dev,export,pipeline]'; \
	else \
	  $(call NEEDS,3.11 to 3.14,14); \
	  python3 -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "ofq: error: python3 has no venv; on Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 2; }; \
	  python3 -m venv $(VENV) && $(VENV)/bin/python -m pip install --quiet --constraint envs/constraints.txt --editable '.[dev,export,pipeline]'; \
	fi
	@touch $@
