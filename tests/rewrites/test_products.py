"""Products entry by entry, and look-ups by a code of ids, in any spelling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp

RNG = np.random.default_rng(0)
X, G, H = RNG.normal(size=(3, 4)), RNG.normal(size=4), RNG.normal(size=(3, 4))
PRODUCTS = {
    "scale": (lambda x: x * G, lambda x: jnp.einsum("ij,j->ij", x, G)),
    "scale of each entry": (lambda x: x * H, lambda x: jnp.einsum("ij,ij->ij", H, x)),
    "moved": (lambda x: (x * G).T, lambda x: jnp.einsum("ij,j->ji", x, G)),
    "spread": (lambda x: x[:, :, None] * G, lambda x: jnp.einsum("ij,k->ijk", x, G)),
    "outer": (lambda x: x[:, :, None] * x[:, None], lambda x: jnp.einsum("ij,ik->ijk", x, x)),
    "three": (lambda x: x * jnp.tanh(x) * x[::-1], lambda x: jnp.einsum("ij,ij,ij->ij", x, jnp.tanh(x), x[::-1])),
    "gate": (lambda x: x * jax.nn.sigmoid(x[::-1]), lambda x: jnp.einsum("ij,ij->ij", x, jax.nn.sigmoid(x[::-1]))),
    "number": (lambda x: x * jnp.tanh(x.sum()), lambda x: jnp.einsum("ij,->ij", x, jnp.tanh(x.sum()))),
}
RULES = {
    "default": None,
    **{name: getattr(jrlrp, name)() for name in ("epsilon", "attn_lrp", "deep_taylor", "gradient_times_input")},
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_matrix_product_that_sums_over_nothing(name, rules):
    head = lambda f: lambda x: jnp.tanh(f(x)).sum()
    plain, spelled = (jrlrp.relevance(head(f), rules=RULES[rules])(X) for f in PRODUCTS[name])
    np.testing.assert_allclose(spelled, plain, rtol=1e-9, atol=1e-9)


E, W = RNG.normal(size=(7, 4)), RNG.normal(size=(4, 3))
IDS = np.array([[2, 5, 5, 0], [6, 1, 2, 3]])
code = lambda i: jax.nn.one_hot(i, 7, dtype=E.dtype)
LOOK_UPS = {
    "moved": lambda i: (E.T @ code(i).mT).mT,
    "rows of a matrix": lambda i: (code(i).reshape(-1, 7) @ E).reshape(*i.shape, 4),
    "in float32": lambda i: code(i).astype(np.float32).astype(float) @ E,
    "remapped": lambda i: code(jnp.arange(7)[::-1][i]) @ E[::-1],
    "in a scan": lambda i: jax.lax.map(lambda i: code(i) @ E, i),
    "vmapped": jax.vmap(lambda i: code(i) @ E),
    "under jit": jax.jit(lambda i: code(i) @ E),
}


@pytest.mark.parametrize("rules", ["default", "epsilon", "gradient_times_input"])
@pytest.mark.parametrize("name", LOOK_UPS)
def test_a_code_times_a_matrix_is_a_look_up(name, rules):
    head = lambda v: jnp.tanh(v @ W).mean(-2) @ np.array([[1.0, -1.0], [0.5, 2.0], [-2.0, 0.3]])
    explain = lambda f: jrlrp.relevance(lambda i: head(f(i)), rules=RULES[rules])(IDS)
    np.testing.assert_allclose(explain(LOOK_UPS[name]), explain(lambda i: jnp.asarray(E)[i]), rtol=1e-5, atol=1e-7)


def test_what_is_no_code_stays_a_layer():
    """Numbers that a table of weights makes of ids, and sums over ids, are inputs of the layers that read them."""
    kinds = lambda f: [node.kind for node in jrlrp.plan(f, IDS).nodes]
    assert kinds(lambda i: jnp.asarray(E)[i] @ W).count("dense") == 1
    assert kinds(lambda i: code(i).sum(1) @ E).count("dense") == 1
    assert kinds(lambda i: i.astype(float) @ np.ones((4, 3))).count("dense") == 1
    assert kinds(lambda i: code(i) @ E).count("dense") == 0
