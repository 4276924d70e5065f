# make demo   segment the sample images with the shipped checkpoint, into demo/
# make test   run the tests
# make lint   check style and types
# make clean  remove what the above made, the environment in .venv/ included

PYTHON ?= python3
INSTALLED := .venv/installed

.PHONY: demo test lint clean .venv

demo: .venv
	.venv/bin/python examples/demo.py

test: .venv
	.venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: .venv
	.venv/bin/lint-imports
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

.venv: $(INSTALLED)

# Stamped by a file, so that it is done again only where the requirements have changed.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
