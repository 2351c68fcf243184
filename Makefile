# make demo   installs what is missing, builds, compiles a trained model and recommends films with it
# make test   installs what is missing, builds, and runs every check there is
# make quality   measures what lower precision and rewrites cost two trained models, and writes docs/quality.md
# make flop   counts the work of published shapes, and writes docs/flop.md
# make compare-pytorch   measures stacks against PyTorch eager, which it installs (several gigabytes)

# One configuration for the demo and the tests, so that everything is built once. Optimized: the tests lean on the
# interpreter, which is many times slower without.
SWIFT_FLAGS := -c release -Xswiftc -enable-testing
PRODUCTS = $(shell swift build $(SWIFT_FLAGS) --show-bin-path)
SOURCES := Package.swift ir passes Sources Tests

# Kinds of golden cases whose operations code is made for; the interpreter runs all.
COMPILED_KINDS := attention,attention_key_prefix,stu_stack,stu_l2,stu_truncating,research_hstu

.PHONY: demo test build lint packages python quality flop compare-pytorch

demo: build python
	.venv/bin/python examples/movielens-100k/recommend.py --ultrac $(PRODUCTS)/ultrac

build: packages
	swift build $(SWIFT_FLAGS) --product ultrac

# The Swift tests come last, so that a run ends with their count.
test: packages python lint
	swift build $(SWIFT_FLAGS) --build-tests
	$(PRODUCTS)/golden-runner Tests/Golden --kinds $(COMPILED_KINDS)
	$(PRODUCTS)/golden-runner Tests/Golden --interpret
	PYTHON=$(CURDIR)/.venv/bin/python examples/run-examples $(PRODUCTS)/ultrac
	swift test $(SWIFT_FLAGS) --skip-build --disable-xctest

lint:
	swift format lint --strict --recursive $(SOURCES)
	scripts/check-imports --self-test
	scripts/check-imports

packages:
	scripts/install-packages

python: packages
	scripts/python-environment .venv examples/requirements.txt

quality: build python
	.venv/bin/python benchmarks/movielens_quality.py --ultrac $(PRODUCTS)/ultrac --write docs/quality.md

flop: build python
	.venv/bin/python benchmarks/paper_flop.py --ultrac $(PRODUCTS)/ultrac --write docs/flop.md

compare-pytorch: build
	scripts/python-environment .venv-pytorch benchmarks/requirements.txt
	.venv-pytorch/bin/python benchmarks/compare_pytorch.py --ultrac $(PRODUCTS)/ultrac
