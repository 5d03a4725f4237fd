# Every target does the set-up it needs by itself, in a fresh clone on a bare Debian 12, as root or
# with sudo. The builds themselves are CMake's (CMakePresets.json); this file only strings them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
BENCH_PRESETS ?= tiny small

.PHONY: help deps build quickstart test test-sanitize bench bench-ops bench-torch format tidy install clean

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)$$/  make \1\t\2/p' Makefile | expand -t 24

deps: ## Install the Debian packages that building, testing and the quickstart need
	@scripts/deps.sh build test quickstart

build: ## Build the program (Release) into build/
	@scripts/deps.sh build
	@scripts/build.sh release megabyte_cli

quickstart: ## Show the model in the box, train two minutes (on DATA=FOLDER), score and write with both
	@scripts/deps.sh build quickstart
	@scripts/build.sh release megabyte_cli
	@scripts/quickstart.sh

test: ## Build and run all tests
	@scripts/deps.sh build test
	@scripts/build.sh release
	@ctest --preset release -j $(JOBS)

test-sanitize: ## Run the tests under ASan and UBSan, the threads of data, training and compression under TSan
	@scripts/deps.sh build test
	@scripts/build.sh asan
	@scripts/build.sh tsan megabyte_tests
	@ctest --preset tsan -j $(JOBS)
	@ctest --preset asan -j $(JOBS)

bench: ## Measure training and generation beside this machine's ceilings
	@scripts/deps.sh build
	@scripts/build.sh release megabyte_cli
	@for preset in $(BENCH_PRESETS); do build/megabyte bench --preset $$preset; done

bench-ops: ## Measure single operations (Google Benchmark)
	@scripts/deps.sh build bench
	@cmake --preset release -DMEGABYTE_BENCH=ON >/dev/null
	@cmake --build build --parallel $(JOBS) --target ops_bench
	@build/bench/ops_bench

bench-torch: ## The same as bench beside PyTorch (Debian's python3-torch), with ratios
	@scripts/deps.sh build peer
	@scripts/build.sh release megabyte_cli
	@for preset in $(BENCH_PRESETS); do /usr/bin/python3 bench/torch_peer.py --preset $$preset --beside build/megabyte; done

format: ## Format all C++ sources (clang-format)
	@scripts/deps.sh format
	@git ls-files '*.h' '*.cpp' | xargs clang-format -i

tidy: ## Run clang-tidy over src/
	@scripts/deps.sh build tidy
	@cmake --preset release -B build-tidy -DMEGABYTE_BATCHES=OFF >/dev/null
	@git ls-files 'src/*.cpp' | xargs -P $(JOBS) -n 4 clang-tidy -p build-tidy --quiet

install: build ## Install program, library and CMake package under PREFIX (/usr/local)
	@cmake --install build --prefix $(PREFIX)

clean: ## Remove all builds
	@rm -rf build build-asan build-tsan build-tidy
