# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Needs make, git and Python 3.11 or newer; every target makes what else it needs, inside this folder.
# `make PYTHON=/path/to/python3 ...` chooses the interpreter.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

SCENARIO ?= default
KILLS ?= 60
FAULTS ?= all
MUTATIONS ?= 2000
BIN := tests/bin
ifdef PYTHON
export PYTHON
endif
# git may look at this checkout whoever owns it: root runs the tests of a user's clone.
export GIT_CONFIG_COUNT := 1
export GIT_CONFIG_KEY_0 := safe.directory
export GIT_CONFIG_VALUE_0 := $(CURDIR)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: quickstart
quickstart: ## A homeserver here, all of it under .quickstart/ (ARGS="-e synapse_quickstart_port=8208": another port)
	@$(BIN)/quickstart.sh present $(ARGS)

.PHONY: quickstart-status
quickstart-status: ## What the quickstart homeserver is doing
	@$(BIN)/quickstart.sh status $(ARGS)

.PHONY: quickstart-down
quickstart-down: ## Stop the quickstart homeserver
	@$(BIN)/quickstart.sh absent $(ARGS)

.PHONY: test
test: ## Everything that guards the project, molecule in Docker included
	@$(BIN)/test.sh

.PHONY: setup
setup: ## The environment of the checks and tests, .venv
	@$(BIN)/setup.sh dev

.PHONY: unit
unit: setup ## Unit tests (ARGS="-k name" is handed to pytest)
	@.venv/bin/python -m pytest -q tests/unit $(ARGS)

.PHONY: lint
lint: setup ## ruff, mypy, yamllint, shellcheck, reuse, antsibull, ansible-lint
	@$(BIN)/lint.sh $(ARGS)

.PHONY: sanity
sanity: setup ## ansible-test sanity, on every Python from 3.8 to 3.14 that this machine has
	@$(BIN)/ansible-test.sh .venv sanity --local $(ARGS)

.PHONY: newest
newest: ## Unit tests, sanity and a syntax check under the newest ansible-core
	@$(BIN)/newest.sh

.PHONY: build
build: setup ## Build the collection, install the artifact, read every module's documentation out of it
	@$(BIN)/build.sh

.PHONY: builder
builder: build ## Have ansible-builder accept the execution environment
	@$(BIN)/builder.sh

.PHONY: integration
integration: setup ## Tests against a real Synapse on this machine
	@$(BIN)/integration.sh $(ARGS)

.PHONY: browser
browser: setup ## The page of a fleet in a headless Chromium; pictures of it are left in .cache/browser
	@$(BIN)/browser.sh $(ARGS)

.PHONY: rules
rules: setup ## Write docs/rules.md anew, from the rules of the doctor
	@.venv/bin/python $(BIN)/make_rules_page.py $(ARGS)

.PHONY: test-quickstart
test-quickstart: setup ## The quickstart as a stranger meets it: a fresh clone, no root, a home of their own
	@.venv/bin/python -m pytest -q tests/quickstart $(ARGS)

.PHONY: molecule
molecule: setup ## One molecule scenario: make molecule SCENARIO=default (ARGS="--destroy=never" is handed on)
	@$(BIN)/molecule.sh $(SCENARIO) $(ARGS)

.PHONY: test-kills
test-kills: setup ## An upgrade killed at many random instants (KILLS=60), each followed by one that has to finish
	@MATRIX_FLEET_UPGRADE_KILLS=$(KILLS) $(BIN)/molecule.sh upgrade $(ARGS)

.PHONY: faults
faults: setup ## Every fault of tests/faults, injected into a server of its own, named and repaired (FAULTS=K01,C1*)
	@MATRIX_FLEET_FAULTS=$(FAULTS) $(BIN)/molecule.sh repair $(ARGS)

.PHONY: fuzz
fuzz: setup ## The doctor on files that were damaged at random (MUTATIONS=2000)
	@MATRIX_FLEET_MUTATIONS=$(MUTATIONS) $(BIN)/integration.sh tests/integration/test_doctor_fuzz.py $(ARGS)

.PHONY: images
images: ## The Docker images that molecule's hosts are made from
	@$(BIN)/docker.sh
	@tests/images/build.sh

.PHONY: bench
bench: setup ## Print the project's figures, as ratios
	@$(BIN)/bench.sh $(ARGS)

.PHONY: lock-dev
lock-dev: setup ## Resolve requirements-*.in again
	@$(BIN)/lock-dev.sh

.PHONY: clean
clean: ## Remove what the checks and tests made (not .quickstart)
	@rm -rf .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .venv .venv-newest .venv-oldest .venv-quickstart
