"""AttnLRP and CP-LRP of a whole transformer block, against the papers' propositions written out in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp

T, D, H = 5, 6, 8
RNG = np.random.default_rng(0)
X, R = RNG.normal(size=(T, D)), RNG.normal(size=(T, D))
W = {
    name: RNG.normal(size=shape)
    for name, shape in {
        **dict.fromkeys("qkvo", (D, D)),
        **dict.fromkeys(("gate", "up"), (D, H)),
        "down": (H, D),
        **dict.fromkeys(("gain1", "bias1", "gain2", "bias2"), (D,)),
    }.items()
}
CAUSAL = np.tril(np.ones((T, T), bool))
EPS, NORM_EPS = 1e-3, 1e-5


def layer_norm(x, gain, bias, np=jnp):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + NORM_EPS) * gain + bias


MASKS = {
    "where": lambda s: jnp.where(CAUSAL, s, -jnp.inf),
    "where, finite": lambda s: jnp.where(CAUSAL, s, jnp.finfo(s.dtype).min),
    "added": lambda s: s + jnp.where(CAUSAL, 0.0, -jnp.inf),
    "added, finite": lambda s: s + jnp.where(CAUSAL, 0.0, -1e30),
}


def block(x, mask=MASKS["where"]):
    n = layer_norm(x, W["gain1"], W["bias1"])
    q, k, v = n @ W["q"], n @ W["k"], n @ W["v"]
    y = x + jax.nn.softmax(mask(q @ k.T / np.sqrt(D))) @ v @ W["o"]
    m = layer_norm(y, W["gain2"], W["bias2"])
    return y + (jax.nn.silu(m @ W["gate"]) * (m @ W["up"])) @ W["down"]


def st(z):
    return z + EPS * np.where(z < 0, -1.0, 1.0)


def dense(x, w, r):
    return x * ((r / st(x @ w)) @ w.T)


def shares(a, b, r):
    return a / st(a + b) * r, b / st(a + b) * r


def held_norm(x, gain, bias, r):
    """A layer norm with its deviation held, as the affine layer that it is then: of each row."""
    scale = 1 / np.sqrt(x.var(-1) + NORM_EPS)
    rows = []
    for row, s, received in zip(x, scale, r, strict=True):
        w = (np.eye(D) - 1 / D) * s * gain
        rows.append(row * (w @ (received / st(row @ w + bias))))
    return np.stack(rows)


def oracle(x, r, cp, added):
    """Return the relevance of the block's input: AttnLRP (Propositions 3.1, 3.3; norms as its code has them) or CP-LRP.

    A mask that is `added` is one more sum, with a stabiliser.
    """
    n = layer_norm(x, W["gain1"], W["bias1"], np)
    q, k, v = n @ W["q"], n @ W["k"], n @ W["v"]
    s = q @ k.T
    logits = np.where(CAUSAL, s / np.sqrt(D), -np.inf)
    a = np.exp(logits - logits.max(-1, keepdims=True))
    a /= a.sum(-1, keepdims=True)
    o = a @ v
    p = o @ W["o"]
    y = x + p
    m = layer_norm(y, W["gain2"], W["bias2"], np)
    g, u = m @ W["gate"], m @ W["up"]
    f = g / (1 + np.exp(-g)) * u
    r_y, r_f = shares(y, f @ W["down"], r)
    r_f = dense(f, W["down"], r_f)
    r_m = dense(m, W["up"], r_f) if cp else dense(m, W["gate"], r_f / 2) + dense(m, W["up"], r_f / 2)
    r_x, r_p = shares(x, p, r_y + held_norm(y, W["gain2"], W["bias2"], r_m))
    r_o = dense(o, W["o"], r_p)
    if cp:
        r_n = dense(n, W["v"], v * (a.T @ (r_o / st(o))))
    else:
        half = r_o / 2 / st(o)
        r_a, r_v = a * (half @ v.T), v * (a.T @ half)
        r_s = np.where(CAUSAL, s / np.sqrt(D), 0) * (r_a - a * r_a.sum(-1, keepdims=True))
        half = r_s / 2 / st(s) * (s / np.sqrt(D) / st(s / np.sqrt(D)) if added else 1)
        r_n = dense(n, W["q"], q * (half @ k)) + dense(n, W["k"], k * (half.T @ q)) + dense(n, W["v"], r_v)
    return r_x + held_norm(x, W["gain1"], W["bias1"], r_n)


def rules(preset):
    """Return a preset with one stabiliser in all of its sums too."""
    return jrlrp.Composite(
        [
            (jrlrp.match("sum"), jrlrp.ShareRatio(EPS)),
        ],
        base=preset(EPS),
    )


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("preset", [jrlrp.attn_lrp, jrlrp.cp_lrp])
def test_a_block_follows_the_papers(preset, mask):
    explain = jrlrp.relevance(functools.partial(block, mask=MASKS[mask]), rules=rules(preset), target=lambda out: R)
    expected = oracle(X, R, cp=preset is jrlrp.cp_lrp, added="added" in mask)
    np.testing.assert_allclose(explain(X), expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(jax.jit(jax.vmap(explain))(X[None])[0], expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("spelling", ["einsum", "dot_product_attention"])
def test_heads_that_share_keys(spelling):
    """Grouped-query attention, by repeated keys or by jax.nn: the same maps as one head at a time."""
    rng = np.random.default_rng(0)  # its own, as JAX's attention computes in float32
    q, k, v = (rng.normal(size=(1, T, heads, 4)) for heads in (4, 2, 2))

    def one_at_a_time(q, k, v):
        def head(h):
            s = q[0, :, h] @ k[0, :, h // 2].T * 0.5
            return jax.nn.softmax(jnp.where(CAUSAL, s, -1e30)) @ v[0, :, h // 2]

        return jnp.stack([head(h) for h in range(4)], 1)[None]

    def together(q, k, v):
        if spelling == "dot_product_attention":
            return jax.nn.dot_product_attention(q, k, v, is_causal=True)
        k, v = (jnp.repeat(a, 2, axis=2) for a in (k, v))
        s = jnp.where(CAUSAL, jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2, -jnp.inf)
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(s), v)

    received = rng.normal(size=(1, T, 4, 4))
    for preset in (jrlrp.attn_lrp(), jrlrp.cp_lrp(), jrlrp.epsilon()):
        maps = [
            jrlrp.relevance(f, argnums=(0, 1, 2), rules=preset, target=lambda out: received)(q, k, v)
            for f in (one_at_a_time, together)
        ]
        for expected, actual in zip(*maps, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6 * np.abs(maps[0][2]).max())


def test_rotated_queries_share_as_the_linear_map_does():
    angles = RNG.normal(size=(T, 3))
    cos, sin = np.cos(angles), np.sin(angles)

    def rotate(x):
        a, b = jnp.split(x, 2, -1)
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    def by_halves(x):
        turned = jnp.concatenate([-x[..., 3:], x[..., :3]], -1)
        return x * np.tile(cos, 2) + turned * np.tile(sin, 2)

    matrices = [np.block([[np.diag(c), np.diag(s)], [-np.diag(s), np.diag(c)]]) for c, s in zip(cos, sin, strict=True)]
    expected = np.stack([x * (m @ (r / (x @ m))) for x, m, r in zip(X, matrices, R, strict=True)])
    for f in (rotate, by_halves):
        np.testing.assert_allclose(f(X), np.stack([x @ m for x, m in zip(X, matrices, strict=True)]))
        actual = jrlrp.relevance(f, rules=jrlrp.Zero(), target=lambda out: R)(X)
        np.testing.assert_allclose(actual, expected, rtol=1e-9)


PRESETS = [jrlrp.relative(), jrlrp.epsilon(), jrlrp.attn_lrp(), jrlrp.cp_lrp()]


@pytest.mark.parametrize("preset", PRESETS, ids=["relative", "epsilon", "attn_lrp", "cp_lrp"])
def test_a_row_that_is_masked_out_whole_passes_nothing_on(preset):
    kept = np.asarray([True, True, True, True, False])

    def f(x, mask):
        n = layer_norm(x, W["gain1"], W["bias1"])
        s = jnp.where(mask, n @ W["q"] @ (n @ W["k"]).T, -jnp.inf)
        y = x + jax.nn.softmax(s) @ (n @ W["v"])  # NaN in the last row
        return jnp.where(kept[:, None], layer_norm(y, W["gain2"], W["bias2"]) @ W["o"], 0).sum(0)

    blank = kept[:, None] & kept
    r = jrlrp.relevance(f, rules=preset)(X, blank)
    assert np.isfinite(r).all() and np.abs(r[:4]).sum(1).min() > 0
    np.testing.assert_array_equal(r[4], 0)
    full = jrlrp.relevance(f, rules=preset)(X, kept | ~kept[:, None])  # the same, but for a row that is not read
    np.testing.assert_allclose(r[:4], full[:4], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("preset", PRESETS, ids=["relative", "epsilon", "attn_lrp", "cp_lrp"])
def test_padding_gets_nothing_and_changes_nothing(preset):
    table = RNG.normal(size=(9, D))

    def f(ids):
        x, kept = jnp.asarray(table)[ids], ids > 0
        n = layer_norm(x, W["gain1"], W["bias1"])
        s = jnp.where(kept, n @ W["q"] @ (n @ W["k"]).T, -jnp.inf)
        y = x + jax.nn.softmax(s) @ (n @ W["v"]) @ W["o"]
        return jnp.where(kept[:, None], y, 0).sum(0) / kept.sum()

    ids = np.asarray([3, 1, 8])
    expected = jrlrp.relevance(f, rules=preset)(ids)
    padded = jrlrp.relevance(f, rules=preset)(np.asarray([3, 1, 8, 0, 0]))
    np.testing.assert_allclose(padded[:3], expected, rtol=1e-5)
    np.testing.assert_array_equal(padded[3:], 0)
    assert jrlrp.relevance(f, rules=preset)(np.zeros(0, int)).shape == (0,)


@pytest.mark.parametrize("mode", ["clip", "fill", "promise_in_bounds"])
def test_ids_outside_the_vocabulary(mode):
    """JAX reads the nearest row, or NaN: relevance is that of the row which was read, or NaN too."""
    table = jnp.asarray(RNG.normal(size=(4, D)))
    f = lambda ids: jax.nn.relu(table.at[ids].get(mode=mode) @ W["q"]).sum(0) @ W["o"]
    ids = np.asarray([1, 3, 0])
    inside = jrlrp.relevance(f)(ids)
    if mode == "clip":
        np.testing.assert_allclose(jrlrp.relevance(f)(np.asarray([1, 9, 0])), inside)
    if mode == "fill":
        assert np.isnan(jrlrp.relevance(f)(np.asarray([1, 9, 0]))).all()  # as the whole output
        kept = lambda ids: jax.nn.relu(jnp.nan_to_num(table.at[ids].get(mode=mode)) @ W["q"]).sum(0) @ W["o"]
        r = jrlrp.relevance(kept)(np.asarray([1, 9, 0]))
        assert r[1] == 0 and np.isfinite(r).all() and np.abs(r).sum() > 0
    assert np.isfinite(inside).all()
