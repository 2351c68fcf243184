# make demo   installs what is missing, builds, compiles a trained model and recommends films with it
# make test   installs what is missing, builds, and runs every check there is
# make quality   measures what lower precision and rewrites cost two trained models, and writes docs/quality.md
# make flop   counts the work of published shapes, and writes docs/flop.md
# make bench  measures against PyTorch, ONNX Runtime, OpenVINO and JAX, which it installs (several gigabytes), and writes
#             docs/benchmarks.md; on an idle machine, for 40 minutes. make bench BENCH=--quick: whether it works
# make large-table   compiles a table of 10 million rows and looks rows up in it: the figures of docs/tables.md; 12 GB of disk
# make instructions   counts the instructions of small models anew: what `make test` holds later changes to

# One configuration for the demo and the tests, so that everything is built once. Optimized: the tests lean on the
# interpreter, which is many times slower without.
SWIFT_FLAGS := -c release -Xswiftc -enable-testing
PRODUCTS = $(shell swift build $(SWIFT_FLAGS) --show-bin-path)
SOURCES := Package.swift ir passes Sources Tests

.PHONY: demo test build lint packages python ptxas quality flop bench large-table instructions

demo: build python
	.venv/bin/python examples/movielens-100k/recommend.py --ultrac $(PRODUCTS)/ultrac

build: packages
	swift build $(SWIFT_FLAGS) --product ultrac

# The Swift tests come last, so that a run ends with their count.
test: packages python ptxas lint
	swift build $(SWIFT_FLAGS) --build-tests
	$(PRODUCTS)/golden-runner Tests/Golden
	$(PRODUCTS)/golden-runner Tests/Golden --interpret
	$(PRODUCTS)/golden-runner Tests/RankingCases
	PYTHON=$(CURDIR)/.venv/bin/python examples/run-examples $(PRODUCTS)/ultrac
	.venv/bin/python benchmarks/count_instructions.py --ultrac $(PRODUCTS)/ultrac
	PTXAS=$$(.venv-ptxas/bin/python scripts/find-ptxas) swift test $(SWIFT_FLAGS) --skip-build --disable-xctest

lint:
	swift format lint --strict --recursive $(SOURCES)
	scripts/check-imports --self-test
	scripts/check-imports

packages:
	scripts/install-packages

# NVIDIA's assembler, which checks GPU code without a GPU; it is there for some machines only.
ptxas: packages
	scripts/python-environment .venv-ptxas /dev/null tests-gpu/requirements.txt

python: packages
	scripts/python-environment .venv examples/requirements.txt

quality: build python
	.venv/bin/python benchmarks/movielens_quality.py --ultrac $(PRODUCTS)/ultrac --write docs/quality.md

flop: build python
	.venv/bin/python benchmarks/paper_flop.py --ultrac $(PRODUCTS)/ultrac --write docs/flop.md

# Options of benchmarks/run.py; with any, the page stays as it is.
BENCH =
bench: build
	scripts/install-packages g++ python3-dev
	scripts/python-environment .venv-bench benchmarks/requirements.txt benchmarks/requirements-peers.txt
	.venv-bench/bin/python benchmarks/run.py --ultrac $(PRODUCTS)/ultrac $(or $(BENCH),--write docs/benchmarks.md)

# Options of benchmarks/large_table.py.
LARGE =
large-table: build python
	.venv/bin/python benchmarks/large_table.py --ultrac $(PRODUCTS)/ultrac $(LARGE)

instructions: build python
	.venv/bin/python benchmarks/count_instructions.py --ultrac $(PRODUCTS)/ultrac --update
