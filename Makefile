# Each target makes its own .venv when there is none. Another Python: make PYTHON=python3.12 test
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install -qq -c constraints.txt
TUTORIAL := nbs/tutorials/01_explore_motifs_of_oxides.ipynb

.DEFAULT_GOAL := help
.PHONY: help demo test lab docs clean

help:  ## say what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: $(VENV)/installed  ## real oxides in, demo/atlas.html out (a few minutes)
	$(BIN)/motiflab demo -o demo

test: export PATH := $(CURDIR)/$(BIN):$(PATH)
test: export OMP_NUM_THREADS = 1
test: $(VENV)/installed-docs  ## notebooks in step and clean, types, site, notebooks run, tests pass
	$(BIN)/python tests/check_notebooks.py
	$(BIN)/python -m mypy
	$(BIN)/python docs/build.py
	$(BIN)/nbdev_test --n_workers 2 --timing --skip_folder_re '^[_.]|^tutorials$$' # JupyterLab runs the lessons in tests/browser
	$(BIN)/python -m pytest tests -n 2

lab: $(VENV)/installed  ## JupyterLab at the tutorial "Explore the motifs of oxides"
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(TUTORIAL)

docs: $(VENV)/installed-docs  ## the site, from the notebooks, in _docs/
	$(BIN)/python docs/build.py

clean:  ## remove what was built, the environment too
	rm -rf $(VENV) _docs _proc build dist demo .pytest_cache .mypy_cache .hypothesis *.egg-info
	find motiflab -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("motiflab needs Python 3.11 or newer, this is %s: make PYTHON=/path/to/python3.11 ..." % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: settings.ini setup.py constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) -e '.[dev,docs]'
	@touch $@
