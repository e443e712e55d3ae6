"""Recurrent networks and state-space models, as libraries and people write them: gates, loops, a thousand steps."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

import jrlrp

D, H, CLASSES = 3, 4, 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 6, D)).astype(np.float32)
LONG = RNG.normal(size=(1, 1000, D)).astype(np.float32)
HEAD = (0.5 * RNG.normal(size=(H, CLASSES))).astype(np.float32)


def classify(h):
    return h @ HEAD.astype(h.dtype)


def linen(cell, bidirectional=False):
    def make(dtype):
        options = {"dtype": dtype, "param_dtype": dtype, "recurrent_kernel_init": nn.initializers.lecun_normal()}
        one = lambda: nn.RNN(cell(H, **options))
        model = nn.Bidirectional(one(), one()) if bidirectional else one()
        parameters = model.init(jax.random.key(0), X.astype(dtype))
        pick = (lambda h: h[:, -1, :H] + h[:, 0, H:]) if bidirectional else (lambda h: h[:, -1])
        return lambda x: classify(pick(model.apply(parameters, x)))

    return make


def of_nnx(cell):
    def make(dtype):
        graph, state = nnx.split(nnx.RNN(cell(D, H, dtype=dtype, rngs=nnx.Rngs(0))))
        state = jax.tree.map(lambda v: v.astype(dtype) if jnp.issubdtype(v.dtype, jnp.floating) else v, state)

        @jax.jit  # modules may not be older than the trace that they run in
        def run(state, x):
            zeros = jnp.zeros((x.shape[0], H), dtype)
            start = (zeros, zeros) if cell is nnx.LSTMCell else zeros
            return classify(nnx.merge(graph, state)(x, initial_carry=start)[:, -1])

        return lambda x: run(state, x)

    return make


def equinox(cell):
    def make(dtype):
        own = cell(D, H, dtype=dtype, key=jax.random.key(0))
        start = jnp.zeros(H, dtype)
        lstm = cell is eqx.nn.LSTMCell

        def one(x):
            step = lambda h, v: (own(v, h), None)
            h, _ = jax.lax.scan(step, (start, start) if lstm else start, x)
            return classify(h[0] if lstm else h)

        return jax.vmap(one)

    return make


def haiku(make_core):
    def make(dtype):
        def f(x):
            core = make_core()
            hs, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[0]), time_major=False)
            return classify(hs[:, -1])

        transformed = hk.without_apply_rng(hk.transform(f))
        parameters = jax.tree.map(lambda v: v.astype(dtype), transformed.init(jax.random.key(0), X))
        return lambda x: transformed.apply(parameters, x).astype(dtype)

    return make


def of_keras(make_layer):
    def make(dtype):
        layer = make_layer(jnp.dtype(dtype).name)
        layer(X.astype(dtype))  # which makes its weights
        return lambda x: classify(layer(x))

    return make


def by_hand(dtype):
    """An LSTM with one matrix for all gates and the states side by side."""
    w = jnp.asarray(RNG.normal(size=(D + H, 4 * H)) / 2, dtype)

    def step(state, x):
        h, c = state
        i, f, o, g = jnp.split(jnp.concatenate([x, h], -1) @ w, 4, -1)
        c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = 1 / (1 + jnp.exp(-o)) * jnp.tanh(c)
        return (h, c), h

    def f(x):
        zeros = jnp.zeros((x.shape[0], H), dtype)
        return classify(jax.lax.scan(step, (zeros, zeros), jnp.swapaxes(x, 0, 1))[0][0])

    return f


def by_index(dtype):
    """A gated recurrence that reads its input by a counter and writes its states into an array."""
    wz, wh = (jnp.asarray(RNG.normal(size=(D, H)) / 2, dtype) for _ in range(2))

    def f(x):
        def turn(t, states):
            v = jax.lax.dynamic_index_in_dim(x, t, 1, keepdims=False)
            z = jnp.clip(0.2 * (v @ wz) + 0.5, 0, 1)
            return states.at[:, t + 1].set((1 - z) * states[:, t] + z * jnp.tanh(v @ wh))

        states = jnp.zeros((x.shape[0], x.shape[1] + 1, H), dtype)
        return classify(jax.lax.fori_loop(0, x.shape[1], turn, states)[:, -1])

    return f


def selective_scan(combine):
    """A minimal Mamba block: a short causal convolution, and a state space whose step sizes depend on the input."""

    def make(dtype):
        weights = {
            name: jnp.asarray(RNG.normal(size=shape) / 2, dtype)
            for name, shape in {"in": (D, 2 * H), "conv": (3, 1, H), "delta": (H, H), "b": (H, 5), "c": (H, 5)}.items()
        }
        log_decay = jnp.asarray(RNG.normal(size=(H, 5)), dtype)

        def f(x):
            u, gate = jnp.split(x @ weights["in"], 2, -1)
            u = jax.lax.conv_general_dilated(
                u, weights["conv"], (1,), [(2, 0)], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=H
            )
            u = jax.nn.silu(u)
            delta = jax.nn.softplus(u @ weights["delta"])
            a = jnp.exp(delta[..., None] * -jnp.exp(log_decay))
            b = (delta * u)[..., None] * (u @ weights["b"])[..., None, :]
            states = combine(a, b)
            y = jnp.einsum("bths,bts->bth", states, u @ weights["c"]) + u
            return classify((y * jax.nn.silu(gate)).mean(1))

        return f

    return make


def by_scan(a, b):
    step = lambda h, ab: (ab[0] * h + ab[1],) * 2
    slices = jnp.swapaxes(a, 0, 1), jnp.swapaxes(b, 0, 1)
    return jnp.swapaxes(jax.lax.scan(step, jnp.zeros_like(b[:, 0]), slices)[1], 0, 1)


def by_associative_scan(a, b):
    join = lambda left, right: (left[0] * right[0], right[0] * left[1] + right[1])
    return jax.lax.associative_scan(join, (a, b), axis=1)[1]


def linear_attention(dtype):
    w = [jnp.asarray(RNG.normal(size=(D, H)) / 2, dtype) for _ in range(3)]

    def f(x):
        q, k, v = (x @ m for m in w)
        q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1

        def step(state, slices):
            q, k, v = slices
            s, z = state[0] + k[:, :, None] * v[:, None], state[1] + k
            return (s, z), jnp.einsum("bh,bhv->bv", q, s) / (q * z).sum(-1, keepdims=True)

        start = jnp.zeros((x.shape[0], H, H), dtype), jnp.zeros((x.shape[0], H), dtype)
        out = jax.lax.scan(step, start, tuple(jnp.swapaxes(a, 0, 1) for a in (q, k, v)))[1]
        return classify(out[-1])

    return f


LAYERS, INIT = keras.layers, {"recurrent_initializer": "glorot_uniform"}
# For each: how it is made for a dtype, and how many products with a gate it has in each of its loops.
NETS = {
    "linen LSTM": (linen(nn.LSTMCell), 3),
    "linen optimised LSTM": (linen(nn.OptimizedLSTMCell), 3),
    "linen GRU": (linen(nn.GRUCell), 3),
    "linen minimal gated unit": (linen(nn.MGUCell), 3),
    "linen simple": (linen(nn.SimpleCell), 0),
    "linen bidirectional": (linen(nn.LSTMCell, bidirectional=True), 6),
    "nnx LSTM": (of_nnx(nnx.LSTMCell), 3),
    "nnx GRU": (of_nnx(nnx.GRUCell), 3),
    "nnx simple": (of_nnx(nnx.SimpleCell), 0),
    "equinox LSTM": (equinox(eqx.nn.LSTMCell), 3),
    "equinox GRU": (equinox(eqx.nn.GRUCell), 3),
    "haiku LSTM": (haiku(lambda: hk.LSTM(H)), 3),
    "haiku GRU": (haiku(lambda: hk.GRU(H)), 3),
    "haiku vanilla": (haiku(lambda: hk.VanillaRNN(H)), 0),
    "haiku deep": (haiku(lambda: hk.DeepRNN([hk.LSTM(H), jax.nn.relu, hk.LSTM(H)])), 6),
    "keras LSTM": (of_keras(lambda dtype: LAYERS.LSTM(H, dtype=dtype, **INIT)), 3),
    "keras GRU": (of_keras(lambda dtype: LAYERS.GRU(H, dtype=dtype, **INIT)), 3),
    "keras simple": (of_keras(lambda dtype: LAYERS.SimpleRNN(H, dtype=dtype, **INIT)), 0),
    "keras bidirectional": (
        of_keras(
            lambda dtype: LAYERS.Bidirectional(LAYERS.LSTM(H, dtype=dtype, **INIT), merge_mode="sum", dtype=dtype)
        ),
        6,
    ),
    "by hand": (by_hand, 3),
    "by index": (by_index, 2),
    "selective scan": (selective_scan(by_scan), 1),
    "associative scan": (selective_scan(by_associative_scan), None),
    "linear attention": (linear_attention, 0),
}
FAST = ("linen LSTM", "selective scan")
RULES = {
    "relative": jrlrp.relative(),
    "epsilon": jrlrp.epsilon(),
    "alpha2_beta1": jrlrp.epsilon_alpha2_beta1(),
    "attn_lrp": jrlrp.attn_lrp(),
}


@pytest.fixture(
    params=[name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NETS], scope="module"
)
def net(request):
    make, gates = NETS[request.param]
    return make(jnp.float32), make(jnp.bfloat16), gates


def test_everything_is_found_and_gates_are_gates(net):
    f, _, gates = net
    plan = jrlrp.plan(f, X)
    assert plan.unsupported == [] and plan.coverage == 1.0, str(plan)
    from jrlrp.transform import options, trace_function

    graph = trace_function(f, (X,), {}, options(f)).graph
    products = [node for node in graph.nodes if node.kind == "product" and any(node.gates)]
    if gates is not None:
        assert len(products) == gates, str(plan)
    assert len([node for node in graph.nodes if node.kind == "scan"]) <= 2


@pytest.mark.parametrize("rules", RULES)
def test_maps_are_finite_conserving_and_those_of_each_example(net, rules):
    f, _, _ = net
    explain = jax.jit(jrlrp.relevance(f, rules=RULES[rules]))
    r = explain(X)
    assert r.shape == X.shape and np.isfinite(r).all() and (np.abs(r).sum((1, 2)) > 0).all()
    np.testing.assert_allclose(r[:1], explain(X[:1]), rtol=1e-3, atol=1e-4 * np.abs(r).max())
    audit = jax.jit(lambda x: jrlrp.audit(f, x, rules=RULES[rules]))(X)
    assert abs(audit.gap) <= 1e-4 * np.sum(np.abs(audit.size_received))


def test_gradient_times_input_is_that(net):
    f, _, _ = net
    score = lambda x: jnp.max(f(x), -1).sum()
    actual = jax.jit(jrlrp.relevance(f, rules=jrlrp.gradient_times_input()))(X)
    np.testing.assert_allclose(actual, X * jax.grad(score)(X), rtol=1e-4, atol=1e-6)


@pytest.mark.optimised
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rules", ["relative", "epsilon", "attn_lrp"])
def test_a_thousand_steps_stay_finite(net, rules, dtype):
    f = net[0] if dtype == jnp.float32 else net[1]
    x = jnp.asarray(LONG, dtype)
    r = np.asarray(jax.jit(jrlrp.relevance(f, rules=RULES[rules]))(x), np.float32)
    assert np.isfinite(r).all() and np.abs(r).sum() > 0
