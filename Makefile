# `make` alone says what there is.
.PHONY: help serve install test lint completions reference docs fuzz soak

JOBS = 3
N = 10000
MINUTES = 30
BIN = $(HOME)/.local/bin

help:
	@echo 'make serve   answer at http://localhost:8181/v1 with a small model; options in ARGS="..."'
	@echo 'make install the command dynamo-llm in ~/.local/bin; BIN=/usr/local/bin puts it elsewhere'
	@echo 'make test    style, types and tests, three files at a time; JOBS=2 for fewer'
	@echo 'make lint    style and types only'
	@echo 'make fuzz    N=10000 requests that nobody should send; make soak: load and kills, MINUTES=30'
	@echo 'make completions   write completions/ anew, after a change of the command line'
	@echo 'make reference     write docs/reference-*.md anew, after a change of options, metrics or fields'
	@echo 'make docs          build the pages as a site in build/site'
	@echo
	@echo 'The first run makes .venv and takes minutes. ENGINE=cpu|cuda chooses the engine,'
	@echo 'PYTHON=/path/to/python the Python; without them both are found. VLLM=0.33.0 chooses the'
	@echo 'release of vLLM for GPUs.'

# Ctrl-C reaches the server itself; the shell waits for it, and its exit 130 is a normal end.
serve:
	@.ci/setup
	@trap : INT; .venv/bin/dynamo-llm --model demo $(ARGS) || [ $$? -eq 130 ]

# A link: the program stays in this clone, and an update of the clone updates it.
install:
	@.ci/setup
	@mkdir -p "$(BIN)"
	@ln -sfn "$(CURDIR)/.venv/bin/dynamo-llm" "$(BIN)/dynamo-llm"
	@echo "$(BIN)/dynamo-llm is installed; try: dynamo-llm demo"
	@case ":$$PATH:" in *":$(BIN):"*) ;; *) \
	    echo "$(BIN) is not on your PATH yet: export PATH=\"$(BIN):\$$PATH\"" ;; esac

# Three files at a time on two cores: tests often wait for a process or a time. Hundreds of Python
# processes begin in it: they shall not compile the package each, whatever the environment says.
test: lint
	@env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

lint:
	@.ci/setup dev
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy

# Shapes, seeds and engines: python -m tests.fuzz --help, python -m tests.soak --help.
fuzz:
	@.ci/setup dev
	@.venv/bin/python -m tests.fuzz --requests $(N)

soak:
	@.ci/setup dev
	@.venv/bin/python -m tests.soak --minutes $(MINUTES)

completions:
	@.venv/bin/python -m dynamo_cli.cli.completions completions

reference:
	@.venv/bin/python -m tests.reference

docs:
	@.ci/setup docs
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --quiet --strict --config-file .ci/mkdocs.yml
	@echo 'open build/site/index.html'
