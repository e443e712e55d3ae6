"""Networks written with Linen, NNX, Equinox, Haiku and Keras: every node found, and oracles 1, 4 and 5 of each."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx

import jrlrp

X = np.random.default_rng(0).normal(size=(3, 12, 12, 3))


def randomised(tree, seed=1):
    """Give every array of a model random values, variances positive ones."""
    rng = np.random.default_rng(seed)

    def fresh(path, a):
        name = jax.tree_util.keystr(path)
        noise = rng.normal(size=np.shape(a)) * 0.4
        return jnp.asarray(np.abs(noise) + 0.5 if "var" in name else noise)

    return jax.tree_util.tree_map_with_path(fresh, tree)


class LinenBlock(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(self.features, (3, 3), use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=True)(y))
        y = nn.Conv(self.features, (3, 3), feature_group_count=2)(y)
        y = nn.BatchNorm(use_running_average=True)(y)
        return nn.relu(y + nn.Conv(self.features, (1, 1))(x))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.max_pool(LinenBlock(4)(x), (2, 2), (2, 2))
        x = nn.remat(LinenBlock)(4)(x)
        x = nn.avg_pool(x, (2, 2), (2, 2), padding="SAME", count_include_pad=False)
        x = nn.DenseGeneral(5, axis=(1, 2, 3))(x)
        return nn.Dense(4)(nn.relu(x))


def linen():
    model = LinenNet()
    variables = randomised(model.init(jax.random.key(0), jnp.asarray(X)))
    return lambda x: model.apply(variables, x)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        options = {"rngs": rngs, "param_dtype": jnp.float64}
        self.conv = nnx.Conv(3, 4, (3, 3), strides=2, **options)
        self.norm = nnx.BatchNorm(4, use_running_average=True, **options)
        self.transposed = nnx.ConvTranspose(4, 4, (2, 2), strides=2, **options)
        self.hidden = nnx.Linear(144, 5, **options)
        self.out = nnx.Linear(5, 4, **options)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        x = nnx.max_pool(nnx.relu(self.transposed(x)), (2, 2), (2, 2))
        return self.out(nnx.relu(self.hidden(x.reshape(x.shape[0], -1))))


def nnx_module():
    graph, params, rest = nnx.split(NnxNet(nnx.Rngs(0)), (nnx.Param, nnx.BatchStat), ...)
    params = randomised(params)
    return lambda x: nnx.merge(graph, params, rest)(x)


def equinox():
    eqx = pytest.importorskip("equinox")
    keys = jax.random.split(jax.random.key(0), 4)
    pool = eqx.nn.MaxPool2d(2, 2)
    average = eqx.nn.AvgPool2d(2, 1)
    conv = eqx.nn.Conv2d(3, 4, 3, padding=1, key=keys[0], dtype=jnp.float64)
    depthwise = eqx.nn.Conv2d(4, 4, 3, groups=4, key=keys[1], dtype=jnp.float64)
    mlp = eqx.nn.MLP(36, 4, 6, 2, key=keys[2], dtype=jnp.float64)

    def one(x):
        x = pool(jax.nn.relu(conv(x.transpose(2, 0, 1))))
        return mlp(average(jax.nn.relu(depthwise(x))).ravel())

    return jax.vmap(one)


def haiku():
    hk = pytest.importorskip("haiku")

    def net(x, is_training=False):
        x = hk.Conv2D(4, 3, stride=2)(x)
        x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, is_training=is_training))
        x = hk.AvgPool(2, 2, "SAME")(hk.DepthwiseConv2D(1, 3)(x))
        return hk.nets.MLP([5, 4])(hk.Flatten()(x))

    model = hk.without_apply_rng(hk.transform_with_state(net))
    params, state = model.init(jax.random.key(0), jnp.asarray(X), True)
    params, state = randomised(params), jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), state)
    return lambda x: model.apply(params, state, x)[0]


def keras():
    keras = pytest.importorskip("keras")
    keras.backend.set_floatx("float64")
    layers = keras.layers
    inputs = layers.Input((12, 12, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(inputs)))
    y = layers.DepthwiseConv2D(3, padding="same")(x)
    y = layers.BatchNormalization()(layers.SeparableConv2D(4, 3, padding="same")(layers.ReLU()(y)))
    x = layers.MaxPooling2D()(layers.Add()([x, y]))
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.Flatten()(layers.ZeroPadding2D()(x))])
    model = keras.Model(inputs, layers.Dense(4, activation="softmax")(layers.Dense(5, activation="relu")(x)))
    rng = np.random.default_rng(0)
    for v in model.variables:
        if "seed" not in v.path:
            noise = rng.normal(size=v.shape) * 0.4
            v.assign(np.abs(noise) + 0.5 if "variance" in v.path else noise)
    keras.backend.set_floatx("float32")
    return lambda x: model(x, training=False)


# For each: the network, and how its affine layers, pools and the rest are counted.
NETS = {
    "linen": (
        linen,
        {"conv": 6, "dense": 2, "scale": 1, "activation": 6, "sum": 2, "max_pool": 1, "average_pool": 1, "remat": 1},
    ),
    "nnx": (nnx_module, {"conv": 2, "dense": 2, "activation": 3, "max_pool": 1}),
    "equinox": (equinox, {"conv": 2, "dense": 3, "activation": 4, "max_pool": 1, "average_pool": 1}),
    "haiku": (haiku, {"conv": 2, "dense": 2, "activation": 2, "average_pool": 1}),
    "keras": (keras, {"conv": 4, "dense": 2, "activation": 3, "sum": 1, "max_pool": 1, "average_pool": 1}),
}
TOLERANCE = {"keras": 1e-5}  # Keras normalises in float32


@pytest.fixture(params=NETS, scope="module")
def net(request):
    with jax.enable_x64(True):
        make, counts = NETS[request.param]
        return make(), counts, TOLERANCE.get(request.param, 1e-9)


def test_every_node_is_found(net):
    f, counts, _ = net
    plan = jrlrp.plan(f, X)
    assert plan.unsupported == [] and plan.coverage == 1.0, str(plan)
    found = {kind: sum(node.kind == kind for node in plan.nodes) for kind in counts}
    assert found == counts, str(plan)
    assert {node.kind for node in plan.nodes} <= counts.keys() | {"movement"}, str(plan)


def test_zero_is_gradient_times_input(net):
    f, _, tolerance = net
    zero = jax.jit(jrlrp.relevance(f, rules=jrlrp.Zero()))(X)
    exact = jax.jit(jrlrp.relevance(f, rules=jrlrp.gradient_times_input()))(X)
    np.testing.assert_allclose(zero, exact, rtol=tolerance * 100, atol=tolerance * np.abs(exact).max())


def test_gradient_times_input_is_that_of_the_logits(net):
    f, _, tolerance = net
    if np.allclose(f(jnp.asarray(X)).sum(-1), 1):
        pytest.skip("the network ends in a softmax, and its logits are not to be had")
    exact = jax.jit(jrlrp.relevance(f, rules=jrlrp.gradient_times_input()))(X)
    np.testing.assert_allclose(exact, oracles.gradient_times_input(f, jnp.asarray(X)), rtol=tolerance * 100, atol=1e-12)


@pytest.mark.parametrize(
    "rules",
    [jrlrp.relative_plus(), jrlrp.relative(), jrlrp.epsilon_plus(), jrlrp.AlphaBeta()],
    ids=["relative plus", "relative", "epsilon plus", "alpha beta"],
)
def test_a_batch_is_its_examples_and_maps_are_finite(net, rules):
    f, _, tolerance = net
    explain = jax.jit(jrlrp.relevance(f, rules=rules))
    batch = explain(X)
    assert batch.shape == X.shape and np.isfinite(batch).all() and np.abs(batch).sum() > 0
    single = np.concatenate([explain(X[k : k + 1]) for k in range(3)])
    np.testing.assert_allclose(batch, single, rtol=tolerance * 100, atol=tolerance * np.abs(single).max())
    vmapped = jax.jit(jax.vmap(jrlrp.relevance(lambda x: f(x[None])[0], rules=rules)))(X)
    np.testing.assert_allclose(batch, vmapped, rtol=tolerance * 100, atol=tolerance * np.abs(single).max())


def test_module_paths_are_known(net, request):
    f, _, _ = net
    paths = {node.path for node in jrlrp.plan(f, X).nodes if node.kind in ("conv", "dense")}
    expected = {"linen": "LinenNet/LinenBlock_0/Conv_0", "haiku": "conv2_d", "equinox": "eqx.nn.Conv"}
    wanted = expected.get(request.node.callspec.id)
    assert wanted is None or wanted in paths
