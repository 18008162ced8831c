# Two commands do all of their own set-up: `make demo` and `make test`.
# Everything is installed into .venv here; llama-cpp-python is compiled once and kept in
# ~/.cache/tollway (see .ci/install).

.PHONY: demo test install clean

install: .venv/.installed

.venv/.installed: .ci/install pyproject.toml requirements.lock requirements-llama.lock requirements-model.lock
	@.ci/install

demo: .venv/.installed
	@.venv/bin/python .ci/demo.py

test: .venv/.installed
	@.venv/bin/python -m coverage erase
	.venv/bin/python -m coverage run -m pytest -n auto --dist worksteal $(ARGS)

clean:
	rm -rf .venv .demo .types build dist *.egg-info
