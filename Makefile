# Everything a developer runs. `make help` lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
KERNEL ?= cloud
LINUX := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/vemu/linux

.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade 'pip>=25.1'
	$(BIN)/pip install -q -e . --group dev
	@touch $@

venv: $(VENV)/ready ## Create .venv with vemu and its development tools

run: $(VENV)/ready ## Boot a bundled guest
	$(BIN)/vemu run hello64 --success-code 33

test: $(VENV)/ready ## Run all tests
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/ready ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

guests: $(VENV)/ready ## Rebuild the bundled guests
	$(BIN)/python -m guests.build

linux: $(VENV)/ready ## Boot Debian's kernel with a busybox shell (KERNEL=cloud, generic or 686)
	$(BIN)/python -m guests.linux --kernel $(KERNEL) -o $(LINUX)/rootfs-$(KERNEL).cpio.gz
	$(BIN)/vemu run $(LINUX)/$(KERNEL)/vmlinuz --initrd $(LINUX)/rootfs-$(KERNEL).cpio.gz --memory 256M \
		--append console=ttyS0

verify: $(VENV)/ready ## Compare interpreter and translator on every bundled guest, memtest86+ and Linux
	$(BIN)/python -m tests.verify_all

trials: $(VENV)/ready ## Boot Linux in every way, twenty times in a row, and kill it fifty times
	$(BIN)/python -m tests.guests.matrix
	$(BIN)/python -m tests.guests.boots
	$(BIN)/python -m tests.guests.kills

bench: $(VENV)/ready ## Compare the engines, plain Unicorn and QEMU
	$(BIN)/python -m benchmarks

bench-linux: $(VENV)/ready ## Compare Linux's boot and work with QEMU (KERNEL=cloud, generic or 686)
	$(BIN)/python -m benchmarks.linux --kernel $(KERNEL)

costs: $(VENV)/ready ## Measure what single events cost, and put the tables into docs/COSTS.md
	$(BIN)/python -m benchmarks.costs --clock cpu --repeats 5

clean: ## Remove what the targets above made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist

.PHONY: help venv run test lint guests linux verify trials bench bench-linux costs clean
