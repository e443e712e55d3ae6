"""The rules of `rules=None`: no activation is divided by, whatever the network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp import interpret


class ConvLSTM(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.RNN(nn.ConvLSTMCell(4, kernel_size=(3,)))(x)
        return nn.Dense(3)(h[:, -1].reshape(len(x), -1))


class ResNet(nn.Module):
    """A convolution, batch norm, a skip with a convolution on it, attention over what is left, and dense layers."""

    @nn.compact
    def __call__(self, x):
        norm = lambda y: nn.BatchNorm(use_running_average=True)(y)
        x = nn.max_pool(nn.relu(norm(nn.Conv(8, (3, 3))(x))), (2, 2), (2, 2))
        y = norm(nn.Conv(8, (3, 3))(nn.relu(norm(nn.Conv(8, (3, 3))(x)))))
        x = nn.gelu(x + y).reshape(len(x), -1, 8)
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        x = x + nn.Dense(8)(nn.silu(nn.Dense(16)(nn.RMSNorm()(x))) * nn.Dense(16)(x))
        return nn.Dense(3)(nn.tanh(nn.Dense(16)(x.mean(1))))


class Sequences(nn.Module):
    """A convolution, a GRU and an LSTM."""

    @nn.compact
    def __call__(self, x):
        x = nn.avg_pool(nn.elu(nn.Conv(6, (3,))(x)), (2,), (2,))
        x = nn.RNN(nn.GRUCell(6))(x)
        return nn.Dense(3)(nn.RNN(nn.OptimizedLSTMCell(6))(x)[:, -1])


NETWORKS = {
    "residual": (ResNet(), (2, 8, 8, 3)),
    "sequences": (Sequences(), (2, 6, 4)),
    "convolutional LSTM": (ConvLSTM(), (2, 3, 6, 2)),
}


@pytest.fixture(autouse=True)
def single_precision():  # as users have it, and Flax's cells
    with jax.enable_x64(False):
        yield


@pytest.fixture(params=NETWORKS)
def network(request):
    net, shape = NETWORKS[request.param]
    x = jax.random.normal(jax.random.key(1), shape)
    variables = net.init(jax.random.key(0), x)
    variables = jax.tree.map(lambda v: v + 0.1 * jax.random.normal(jax.random.key(v.size), v.shape), variables)
    return lambda x: net.apply(variables, x), x


def test_it_is_what_is_taken_where_no_rules_are_given(network):
    model, x = network
    np.testing.assert_array_equal(jrlrp.relevance(model)(x), jrlrp.relevance(model, rules=jrlrp.default())(x))


def test_nothing_is_divided_by_an_activation(network, monkeypatch):
    model, x = network
    divided = []
    monkeypatch.setattr(interpret, "over", lambda z, epsilon: divided.append(z) or z)
    jax.make_jaxpr(jrlrp.relevance(model))(x)
    assert not divided
    flat = jrlrp.Composite([(jrlrp.match("dense"), jrlrp.Flat())], base=jrlrp.default())
    jax.make_jaxpr(jrlrp.relevance(model, rules=flat))(x)
    assert divided  # where what a flat layer hands on comes to a ratio


def test_it_is_near_in_narrow_dtypes(network):
    model, x = network
    wide = jrlrp.relevance(model, target=0)(x)
    narrow = jrlrp.relevance(lambda x: model(x.astype(jnp.float32)).astype(x.dtype), target=0)(x.astype(jnp.bfloat16))
    assert narrow.dtype == jnp.bfloat16
    assert np.linalg.norm(narrow - wide) < 0.1 * np.linalg.norm(wide)


def test_it_works_under_jit_and_vmap_as_for_a_batch(network):
    model, x = network
    together = jrlrp.relevance(model)(x)
    np.testing.assert_allclose(jax.jit(jrlrp.relevance(model))(x), together, atol=1e-5)
    alone = jax.vmap(lambda x: jrlrp.relevance(model)(x[None])[0])(x)
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_attention_hears_queries_and_keys_and_gates_get_nothing():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6))
    attention = lambda x: (jax.nn.softmax(x @ x.swapaxes(1, 2)) @ x).mean(1)
    rules = {node.kind: type(node.rule).__name__ for node in jrlrp.plan(attention, x).nodes}
    assert rules["softmax"] == "SoftmaxTaylor"
    products = [type(node.rule).__name__ for node in jrlrp.plan(attention, x).nodes if node.kind == "product"]
    assert products == ["SignalTakesAll", "Uniform"]
    gated = lambda x: jax.nn.sigmoid(x[..., :3]) * x[..., 3:]
    r = jrlrp.relevance(gated, target="all")(x)
    assert not np.any(r[..., :3])
    np.testing.assert_allclose(r[..., 3:], gated(x))


def test_convolutions_but_the_last_give_to_what_agrees():
    net = nn.Sequential([nn.Conv(4, (3,)), nn.relu, nn.Conv(4, (3,)), nn.relu, nn.Conv(2, (3,)), lambda x: x.mean(1)])
    x = jax.random.normal(jax.random.key(0), (2, 8, 3))
    variables = net.init(jax.random.key(1), x)
    plan = jrlrp.plan(lambda x: net.apply(variables, x), x)
    assert [type(n.rule).__name__ for n in plan.nodes if n.kind == "conv"] == ["RelativePlus"] * 2 + ["Relative"]


def layers(model, x):
    """Return the kinds of a model's layers with their rules."""
    return [f"{n.kind} {type(n.rule).__name__}" for n in jrlrp.plan(model, x).nodes if n.kind in ("conv", "dense")]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"kernel_size": (3,)}, "RelativePlus"),
        ({"kernel_size": (3,), "strides": 2}, "RelativePlus"),
        ({"kernel_size": (2,), "kernel_dilation": 2}, "RelativePlus"),
        ({"kernel_size": (4,), "strides": 4}, "Epsilon"),  # patches
        ({"kernel_size": (1,)}, "Epsilon"),
        ({"kernel_size": (8,), "padding": "VALID"}, "Epsilon"),  # one window
    ],
)
def test_convolutions_whose_windows_do_not_overlap_are_dense_layers(options, rule):
    net = nn.Sequential([nn.Conv(4, **options), nn.relu, lambda x: x.mean(1), nn.Dense(3)])
    x = jax.random.normal(jax.random.key(0), (2, 8, 3))
    variables = net.init(jax.random.key(1), x)
    after = "Relative" if rule == "RelativePlus" else "Epsilon"
    assert layers(lambda x: net.apply(variables, x), x) == [f"conv {rule}", f"dense {after}"]


def test_a_transposed_convolution_overlaps_where_a_unit_hears_two():
    for window, rule in ((2, "Epsilon"), (4, "RelativePlus")):
        net = nn.Sequential([nn.ConvTranspose(4, (window,), (2,)), nn.relu, lambda x: x.mean(1), nn.Dense(3)])
        x = jax.random.normal(jax.random.key(0), (2, 8, 3))
        variables = net.init(jax.random.key(1), x)
        assert layers(lambda x, net=net, variables=variables: net.apply(variables, x), x)[0] == f"conv {rule}"


def test_what_comes_after_a_convolution_is_known_in_loops_too():
    kernel, w = jnp.ones((3, 4, 4)), jnp.ones((4, 4))
    conv = lambda x: jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    turn = lambda first: lambda x, _: (first(x), None)
    both = lambda x: jax.lax.scan(turn(lambda x: jax.nn.relu(conv(jnp.tanh(x @ w)))), x, None, length=2)[0].mean(1)
    x = jax.random.normal(jax.random.key(0), (2, 8, 4))
    assert layers(both, x) == ["dense Relative", "conv RelativePlus"]  # from the second turn on, it comes after one


@pytest.mark.parametrize("rules", [jrlrp.default(), jrlrp.relative_plus("ratio"), jrlrp.relative("ratio")])
def test_ratios_that_r_lrp_hands_on_are_its_relevance_in_parts_of_its_inputs(network, rules, monkeypatch):
    model, x = network
    r = jrlrp.relevance(model, rules=rules)(x)
    monkeypatch.setattr(jrlrp.Relative, "has_ratios", False)
    divided = jrlrp.relevance(model, rules=rules)(x)
    np.testing.assert_allclose(r, divided, atol=2e-4 * np.abs(divided).max())
