"""These tests need torch, which `make test` has not: `make test-torch` runs them in an environment of their own, and
fails if torch is not there, where `make test` passes by.
"""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torchax") else ["test_*.py"]
