# make demo   segment the sample images with the shipped checkpoint, into demo/
# make test   run the tests
# make docs   build the documentation into build/docs/; any warning is an error
# make docs-test   run every block of code of README.md and docs/; minutes
# make lint   check style and types
# make fuzz   run thousands of commands on odd input, and kill others on their way; an hour
# make clean  remove what the above made, the environment in .venv/ included

PYTHON ?= python3
INSTALLED := .venv/installed

.PHONY: demo test docs docs-test lint fuzz clean .venv

demo: .venv
	.venv/bin/python examples/demo.py

test: .venv
	.venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

docs: .venv
	.venv/bin/python -m docs.site

docs-test: .venv
	.venv/bin/python -m pytest tests/docs --all-blocks

lint: .venv
	.venv/bin/lint-imports
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

fuzz: .venv
	.venv/bin/python -m tests.fuzz
	.venv/bin/python -m tests.fuzz.kills

.venv: $(INSTALLED)

# Stamped by a file, so that it is done again only where the requirements have changed.
$(INSTALLED): pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --require-hashes --requirement requirements.txt
	.venv/bin/python -m pip install --no-deps --no-build-isolation --no-index --editable .
	touch $@

clean:
	rm -rf .venv .cache build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
