# make demo   segment the sample images with the shipped checkpoint, into demo/
# make test   run the tests
# make docs   build the documentation into build/docs/; any warning is an error
# make web    build the page with the zoo's checkpoints and serve it on this machine: make web PORT=8000; needs Node.js
# make test-web  test the page in Chromium
# make wheel  build the package with the page in it, into dist/
# make docs-test   run every block of code of README.md and docs/; minutes
# make lint   check style and types
# make fuzz   run thousands of commands on odd input, and kill others on their way; an hour
# make clean  remove what the above made, the environment in .venv/ included

PYTHON ?= python3
PORT ?= 8000
INSTALLED := .venv/installed
NODE_MODULES := web/node_modules/.package-lock.json

.PHONY: demo test web test-web site page wheel docs docs-test lint fuzz clean .venv

demo: .venv
	.venv/bin/python examples/demo.py

test: .venv
	.venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

docs: .venv
	.venv/bin/python -m docs.site

web: site
	.venv/bin/segzoo web --output web/site --serve $(PORT)

test-web:
	.ci/test-web

# Checkpoints that it holds already are not exported again. web/models is where the page in development has its models.
site: .venv page
	.venv/bin/segzoo web $(wildcard model_cards/*/) --output web/site
	@[ -L web/models ] || rm -rf web/models
	ln -sfn site/models web/models

page: $(NODE_MODULES)
	cd web && npm run build

$(NODE_MODULES): web/package-lock.json web/package.json web/.npmrc
	cd web && npm ci
	touch $@

wheel: .venv page
	rm -rf dist
	.venv/bin/python -m build --no-isolation
	.venv/bin/python -m zipfile --list dist/*.whl | grep segzoo/page/index.html

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
	rm -rf web/node_modules web/dist web/site web/models web/expected web/test-results
	rm -rf .venv .cache build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
