"""The code of the README and of docs/ runs as it stands there, and what they link to is there."""

import re
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp.primitives import register

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
PAGES += [ROOT / "examples/README.md", ROOT / "examples/evidence/README.md"]
PAGES += [*sorted((ROOT / "tests").glob("*/README.md"))]
BLOCKS = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]
W = np.random.default_rng(0).normal(size=(8, 10))


def model(x):
    if jnp.issubdtype(x.dtype, jnp.integer):
        x = jnp.asarray(W)[x, :8]
    with jax.named_scope("Net/Conv_0"):
        h = x @ W
    h = jax.nn.relu(h) @ W.T
    return (h + jax.nn.softmax(h)) @ W


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_runs(block, monkeypatch, tmp_path):
    monkeypatch.setattr(register, "_REGISTERED", {})
    monkeypatch.chdir(tmp_path)
    x, ids = jnp.ones((3, 8)), jnp.asarray([1, 2])
    given = {"jax": jax, "jnp": jnp, "jrlrp": jrlrp, "dataclass": dataclass, "model": model, "x": x, "token_ids": ids}
    images = np.random.default_rng(0).normal(size=(100, 8))
    exec(block, given | {"cov": jnp.eye(8), "images": images, "examples": list(images), "source": images})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_rule_of_the_docs_is_what_it_says():
    (block,) = [block for block in BLOCKS if "class AbsoluteShare" in block]
    scope = {"jrlrp": jrlrp, "jnp": jnp, "dataclass": dataclass}
    exec(block, scope)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 8)))
    rules = jrlrp.Composite([(jrlrp.match("dense"), scope["AbsoluteShare"]())])
    r = jax.jit(jrlrp.relevance(lambda x: x @ W + 1.0, rules=rules, target="all"))(x)
    sizes = np.abs(x)[:, :, None] * np.abs(W)
    np.testing.assert_allclose(r, (sizes / sizes.sum(1, keepdims=True) * (x @ W + 1.0)[:, None]).sum(-1), rtol=1e-8)
