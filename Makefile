# Two commands matter: `make run` shows the whole system at work, `make test` proves it.
# What is longer than a line or two stands in tools/.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
export VENV
ROUNDS ?= 200
FAULTS ?= 5
CUTS ?= 40
FUZZ ?= --seconds 600

.PHONY: help run test check torture soak peers fuzz bench box docs clean

help: ## what can be made
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile

run: ## prepare what is needed and show a letter going in and out (DEMO="--keep DIR" passes options)
	@sh tools/prepare.sh run
	@$(BIN)/posthouse demo $(DEMO)

test: ## run all tests (APT=1 as root also installs the programs they use; TESTS="tests/unit -k x" chooses)
	@sh tools/prepare.sh dev
	@sh tools/packages.sh
	@sh tools/unpack.sh
	@$(BIN)/python -m pytest $(TESTS)

check: ## ruff, mypy --strict, the floors of the architecture, the generated pages
	@sh tools/prepare.sh dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tools.docs --check

torture: ## kill the server 200 times under load, also while it carries letters on, the outbox, the reader and backups; fail its disk, clock and memory; damage its store; time failed logins (ROUNDS=n, FAULTS=n, TORTURE="--power")
	@sh tools/prepare.sh dev
	@$(BIN)/python -m tests.torture.kill --rounds $(ROUNDS) $(TORTURE)
	@$(BIN)/python -m tests.torture.queue --rounds $(ROUNDS)
	@$(BIN)/python -m tests.torture.outbox --rounds $(ROUNDS)
	@$(BIN)/python -m tests.torture.collector --rounds $$(( ($(ROUNDS) + 4) / 5 ))
	@$(BIN)/python -m tests.torture.backup --rounds $$(( ($(ROUNDS) + 4) / 5 ))
	@$(BIN)/python -m tests.torture.backup_power --rounds $$(( ($(ROUNDS) + 3) / 4 )) || test $$? -eq 69
	@$(BIN)/python -m tests.torture.machine --rounds $(FAULTS)
	@$(BIN)/python -m tests.torture.upgrade
	@$(BIN)/python -m tests.torture.damage --rounds $(ROUNDS)
	@$(BIN)/python -m tests.torture.timing
	@$(BIN)/python -m tests.lab.power --rounds $(ROUNDS)

peers: ## cut the power of Posthouse, Postfix and Dovecot side by side, as root (CUTS=n)
	@sh tools/prepare.sh dev
	@$(BIN)/python -m tests.torture.peers --cuts $(CUTS)

soak: ## an hour of everything at once: nothing is lost, and neither memory nor the store grows (SOAK="--minutes 10")
	@sh tools/prepare.sh dev
	@$(BIN)/python -m tests.torture.soak $(SOAK)

fuzz: ## random octets against every core and parser for ten minutes (FUZZ="--seconds 60 --only smtp-server")
	@sh tools/prepare.sh dev
	@$(BIN)/python -m tests.fuzz.run $(FUZZ)

bench: ## measure beside Postfix and Dovecot (BENCH="--only W1,P1 --short" passes options; root for the peers)
	@sh tools/prepare.sh dev
	@$(BIN)/python -m bench.run $(BENCH)

box: ## the internet in a box at full size: 1,000 hosts, 100,000 letters (BOX="--hosts 100 --letters 5000")
	@sh tools/prepare.sh dev
	@$(BIN)/python -m bench.box $(BOX)

docs: ## write the generated pages of docs/reference anew
	@sh tools/prepare.sh dev
	@$(BIN)/python -m tools.docs

clean: ## remove the environment and everything that was made
	rm -rf $(VENV) .cache build dist bench/build src/*.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests tools bench -name __pycache__ -type d -prune -exec rm -rf {} +
