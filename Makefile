# The same commands as in scripts/, for those who type make.
.DEFAULT_GOAL := help
.PHONY: help setup demo quick test check matrix bench docs clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## Make .venv with everything in it (quick when nothing has changed)
	@scripts/setup

demo: setup ## Run the example application; TASKCORE_URL=sqlite:///jobs.db: durable, in three processes; ARGS="…"
	@scripts/demo $(ARGS)

quick: setup ## Run the tests of the inner loop: memory only, no servers, under a minute
	@scripts/test --quick

test: setup check ## Set up, check, and run the whole suite: what a change has to pass
	@scripts/test

check: setup ## Format, lint, imports between rooms, types
	@scripts/check

matrix: setup ## Test the built wheel on every Python here, and with the lowest versions
	@scripts/matrix

bench: setup ## Measure this machine
	@scripts/bench

docs: setup ## Build the documentation into site/
	@scripts/docs

clean: ## Remove what can be made again
	rm -rf .venv .servers .ci-envs build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
