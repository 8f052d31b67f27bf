# make setup    .venv with everything that pip brings; as root on Debian also the system packages
# make demo     the quickstart experiment in both worlds
# make test     the tests
# make check    formatting, lint, types, import rules, tests
# make lint     make check without the tests
# make gallery  every experiment that has a page: expectations, pictures (SIZE=full for docs/experiments)

VENV := .venv
BIN := $(VENV)/bin
OUT := out
JOBS := 2
# The newest interpreter that is there and new enough; override with make PYTHON=...
PYTHON := $(shell for p in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
DEBIAN := python3-venv iproute2 util-linux strongswan-swanctl strongswan-charon \
	libcharon-extra-plugins libcharon-extauth-plugins libstrongswan-standard-plugins \
	libstrongswan-extra-plugins openvpn wireguard-go tshark chromium chromium-driver

.PHONY: setup system demo test check lint gallery clean

setup: $(VENV)/.installed

# Where we are root on a Debian, install what is missing; anywhere else go on with what is there.
system:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  missing=""; \
	  for package in $(DEBIAN); do \
	    dpkg-query -W -f '$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' \
	      || missing="$$missing $$package"; \
	  done; \
	  if [ -n "$$missing" ]; then \
	    echo "installing$$missing"; \
	    { apt-get update -q && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -q -y --no-install-recommends $$missing; } >/dev/null \
	      || echo "apt-get could not install$$missing: going on with what is there (ipseclab doctor says what it means)"; \
	  fi; \
	fi

$(VENV)/.installed: pyproject.toml constraints.txt | system
	@if [ -z "$(PYTHON)" ]; then \
	  echo "no Python 3.11 or later found: install one (Debian: apt-get install python3 python3-venv)" >&2; exit 3; fi
	@if [ ! -x $(BIN)/pip ]; then \
	  rm -rf $(VENV); \
	  $(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m virtualenv -q $(VENV) 2>/dev/null; } || { \
	    rm -rf $(VENV); \
	    echo "$(PYTHON) cannot make a virtual environment: as root, apt-get install python3-venv" >&2; exit 3; }; fi
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# The namespaces only where the machine has them; where not, `doctor` says why and what to do.
demo: setup
	@rm -rf $(OUT)/demo-sim $(OUT)/demo-netns
	@$(BIN)/ipseclab run quickstart --world sim --out $(OUT)/demo-sim
	@if $(BIN)/ipseclab doctor --world netns >$(OUT)/doctor.txt 2>&1; then \
	  $(BIN)/ipseclab run quickstart --world netns --out $(OUT)/demo-netns || exit $$?; \
	  $(BIN)/ipseclab agree $(OUT)/demo-sim $(OUT)/demo-netns || true; \
	else \
	  cat $(OUT)/doctor.txt; \
	  echo "No world netns on this machine: what is missing, and the remedy, stands above."; \
	fi
	@echo; echo "Figures:"; ls -1 $(OUT)/demo-*/figures/*.png

# What runs in namespaces measures real time, and mostly waits: a file of it on each core, and nothing
# beside.
test: setup
	$(BIN)/pytest -q -n $(JOBS) -m "not netns"
	$(BIN)/pytest -q -n $(JOBS) --dist loadfile -m netns

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/conformance.py --check

check: lint test

# The coarser grids, pictures in out/gallery/pictures; SIZE=full replaces those of docs/experiments.
gallery: setup
	$(BIN)/python benchmarks/gallery.py $(if $(filter full,$(SIZE)),,--quick) --out $(OUT)/gallery

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info
