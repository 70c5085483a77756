# One command each; `make` alone lists them. Everything lives in .venv and artifacts/.

PYTHON ?= python3
RUN := .venv/bin/python
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=900 \
	--nbval-sanitize-with=tests/nbval_sanitize.cfg

.PHONY: help lab test course notebooks export bench chat serve mutants release grade nbgrader speedrun
.DEFAULT_GOAL := help

help: ## what each command does
	@echo "Build a GPT from nothing. Usage: make COMMAND"
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | \
		while IFS="$$(printf '\t')" read -r name what; do printf '  %-10s %s\n' "$$name" "$$what"; done

# The stamps are as new as the last complete installation: nothing is done twice.
.venv/course: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || { \
		found=$$($(PYTHON) -V 2>/dev/null || echo missing); \
		echo "This course needs Python 3.11 or 3.12; '$(PYTHON)' is $$found."; \
		echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up .venv with $$($(PYTHON) -V): once, some minutes, mostly PyTorch's download."
	@test -x $(RUN) || $(PYTHON) -m venv .venv
	@$(RUN) -m pip install --disable-pip-version-check --quiet --progress-bar on -r requirements.txt
	@touch $@

.venv/tests: .venv/course tests/requirements.txt shared/classroom/requirements.txt
	@echo "Adding to .venv what only the tests need."
	@$(RUN) -m pip install --disable-pip-version-check --quiet --progress-bar on \
		-r requirements.txt -r tests/requirements.txt
	@touch $@

.venv/classroom: .venv/course shared/classroom/requirements.txt
	@echo "Adding to .venv what only teachers need."
	@$(RUN) -m pip install --disable-pip-version-check --quiet --progress-bar on \
		-r requirements.txt -r shared/classroom/requirements.txt
	@touch $@

lab: .venv/course ## set up .venv if needed and open JupyterLab on the course
	@echo "Opening JupyterLab on chapter 1. Stop it with Ctrl-C."
	@.venv/bin/jupyter lab --ServerApp.root_dir="$(CURDIR)" $(wildcard ch01_intro/ch01_intro.ipynb) \
		$$(test "$$(id -u)" != 0 || echo --allow-root)

# Chapters run one after another, with all cores: each needs what the one before has trained. All
# else runs a file at a time on JOBS processes of one thread, which two cores finish sooner.
JOBS ?= 2
TOGETHER := OMP_NUM_THREADS=1 tests/offline.sh $(RUN) -m pytest -q -n $(JOBS) --dist loadfile \
	--no-loadscope-reorder
LISTED = $$($(RUN) -c 'from shared.notebooks import *; c = chapter_notebooks(); print(*$(1))')

test: .venv/tests ## every unit test, then every notebook, with the network cut (JOBS=2)
	@echo "1 of 4: unit tests"
	@$(TOGETHER) tests
	@echo "2 of 4: the chapters, from top to bottom, their outputs compared"
	@tests/offline.sh $(RUN) -m pytest -q $(NBVAL) $(call LISTED,c)
	@echo "3 of 4: exercises, solutions and appendices likewise"
	@$(TOGETHER) $(NBVAL) $(call LISTED,(p for p in all_notebooks() if p not in c))
	@echo "4 of 4: are the modules what the notebooks export, and the exercises what their solutions say?"
	@$(RUN) -m shared.export --check
	@$(RUN) -m shared.exercises --check
	@$(RUN) -m tests.mutants

chat: .venv/course ## talk to the assistant of chapter 7 in this terminal (made first, if missing)
	@$(RUN) ch07_instruction_finetune/chat.py

serve: .venv/course ## the assistant behind a chat page and an API on this machine (PORT=8000)
	@$(RUN) appendix/g_user_interface/serve.py --port $(or $(PORT),8000)

course: .venv/course ## run all chapters in order without changing them; show what the model writes
	@$(RUN) -m shared.notebooks course

notebooks: .venv/course ## run the notebooks that changed and save their outputs (FORCE=1: all)
	@$(RUN) -m shared.notebooks run all

export: .venv/course ## write the modules from the notebooks' exported cells, and the exercises
	@$(RUN) -m shared.export
	@$(RUN) -m shared.exercises

mutants: .venv/tests ## wrong and right answers to the exercises, and what their checks say
	@$(RUN) -m tests.mutants

bench: .venv/tests ## measure what the course promises and write tests/benchmarks/results.md
	@$(RUN) -m tests.benchmarks

speedrun: .venv/course ## measure an entry of the laptop speedrun (ENTRY=09; appendix D has the rules)
	@test -n "$(ENTRY)" || { echo "Which entry? make speedrun ENTRY=09"; exit 1; }
	@$(RUN) -m appendix.d_training_tricks.speedrun "$(ENTRY)" --seeds $(or $(SEEDS),3)

release: .venv/course ## for teachers: the students' copy of a chapter (CH=3)
	@test -n "$(CH)" || { echo "Which chapter? make release CH=3"; exit 1; }
	@$(RUN) -m shared.classroom release $(CH)

grade: .venv/course ## for teachers: grade what was handed in (CH=3 CLASS=folder)
	@test -n "$(CH)" -a -n "$(CLASS)" || { echo "make grade CH=3 CLASS=folder"; exit 1; }
	@$(RUN) -m shared.classroom grade $(CH) "$(CLASS)"

nbgrader: .venv/classroom ## for teachers: a chapter as nbgrader wants it (CH=3 CLASS=folder)
	@test -n "$(CH)" -a -n "$(CLASS)" || { echo "make nbgrader CH=3 CLASS=folder"; exit 1; }
	@$(RUN) -m shared.classroom nbgrader $(CH) --to "$(CLASS)"
