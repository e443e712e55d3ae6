"""Each affine rule, entry by entry, against an explicit matrix, on every kind of affine layer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import jrlrp

RULES = {
    "zero": (jrlrp.Zero(), oracles.zero),
    "zero, bias ignored": (jrlrp.Zero(bias="ignore"), partial(oracles.zero, bias="ignore")),
    "epsilon": (jrlrp.Epsilon(), oracles.epsilon_rule),
    "epsilon 0.3": (jrlrp.Epsilon(0.3), partial(oracles.epsilon_rule, epsilon=0.3)),
    "epsilon, bias ignored": (jrlrp.Epsilon(0.1, "ignore"), partial(oracles.epsilon_rule, epsilon=0.1, bias="ignore")),
    "epsilon, bias distributed": (jrlrp.Epsilon(bias="distribute"), partial(oracles.epsilon_rule, bias="distribute")),
    "epsilon, relative": (jrlrp.Epsilon(0.2, relative=True), partial(oracles.epsilon_rule, epsilon=0.2, relative=True)),
    "alpha 2 beta -1": (jrlrp.AlphaBeta(), oracles.alphabeta),
    "alpha 1.5 beta -0.5": (jrlrp.AlphaBeta(1.5, -0.5), partial(oracles.alphabeta, alpha=1.5, beta=-0.5)),
    "alpha beta, bias ignored": (jrlrp.AlphaBeta(bias="ignore"), partial(oracles.alphabeta, bias="ignore")),
    "alpha beta, bias distributed": (jrlrp.AlphaBeta(bias="distribute"), partial(oracles.alphabeta, bias="distribute")),
    "alpha beta, bias whole": (jrlrp.AlphaBeta(bias="whole"), partial(oracles.alphabeta, bias="whole")),
    "zplus": (jrlrp.ZPlus(), oracles.zplus),
    "gamma": (jrlrp.Gamma(), oracles.gamma_rule),
    "gamma 2, bias ignored": (jrlrp.Gamma(2.0, bias="ignore"), partial(oracles.gamma_rule, gamma=2.0, bias="ignore")),
    "gamma, bias distributed": (jrlrp.Gamma(bias="distribute"), partial(oracles.gamma_rule, bias="distribute")),
    "gamma, bias whole": (jrlrp.Gamma(bias="whole"), partial(oracles.gamma_rule, bias="whole")),
    "classic gamma": (jrlrp.Gamma(variant="classic"), oracles.gamma_classic),
    "classic gamma, bias whole": (
        jrlrp.Gamma(0.5, bias="whole", variant="classic"),
        partial(oracles.gamma_classic, gamma=0.5, bias="whole"),
    ),
    "flat": (jrlrp.Flat(), oracles.flat),
    "wsquare": (jrlrp.WSquare(), oracles.wsquare),
    "wsquare, bias absorbed": (jrlrp.WSquare(bias="absorb"), partial(oracles.wsquare, bias="absorb")),
    "zbox": (jrlrp.ZBox(-3.0, 2.5), partial(oracles.zbox, low=-3.0, high=2.5)),
    "relative": (jrlrp.Relative(), oracles.relative),
    "relative plus": (jrlrp.RelativePlus(), partial(oracles.relative, plus=True)),
}
WITHOUT_WEIGHTS = [name for name in RULES if name.startswith(("zero", "epsilon")) or name == "relative"]


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)  # NumPy keeps float64 when the module is imported


def conv(x, w, **options):
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options}
    return jax.lax.conv_general_dilated(x, w, **options)


W, B, S = normal(1, 5, 4), normal(2, 4), normal(3, 4)
K, C = normal(4, 3, 3, 2, 4), normal(5, 4)
IMAGE = (1, 6, 6, 2)

# Every layer has an active input of the shape given and is one node of the plan.
LAYERS = {
    "dense": (lambda x: x @ W, (5,)),
    "dense and bias": (lambda x: x @ W + B, (5,)),
    "dense, weights on the left": (lambda x: jnp.dot(W.T, x) + B, (5,)),
    "dense, transposed output": (lambda x: (x @ W).T + B[:, None], (1, 5)),
    "dense, scale then bias": (lambda x: (x @ W) * S + B, (5,)),
    "dense, bias then scale then bias": (lambda x: ((x @ W) - B) / S + C, (5,)),
    "dense, constant minus": (lambda x: C - (x @ W + B) * S, (5,)),
    "dense, negated": (lambda x: -(x @ W + B), (5,)),
    "dense, scalar factor and offset": (lambda x: (x @ W + B) * -3.0 + 0.5, (5,)),
    "dense, reshaped before its bias": (lambda x: (x @ W).reshape(2, 2) + B.reshape(2, 2), (5,)),
    "dense, squeezed before batch norm": (lambda x: (jnp.squeeze(x @ W, 0) - B) * S + C, (1, 5)),
    "einsum": (lambda x: jnp.einsum("ijk,jlk->il", x, normal(6, 3, 4, 2)) + B, (1, 3, 2)),
    "batched dot_general": (lambda x: jnp.einsum("bij,bjk->bik", x, normal(7, 2, 3, 4)) + B, (2, 2, 3)),
    "dense on the right, of the middle axis": (
        lambda x: (jnp.einsum("ojk,bkil->ojbil", normal(7, 2, 3, 4), x) * S[:2, None, None, None, None] + B[1]).reshape(
            2, 9, 2
        ),
        (1, 4, 3, 2),
    ),
    "conv": (lambda x: conv(x, K), IMAGE),
    "conv, bias": (lambda x: conv(x, K) + C, IMAGE),
    "conv, strided": (lambda x: conv(x, K, window_strides=(2, 1), padding="VALID") + C, IMAGE),
    "conv, dilated": (lambda x: conv(x, K, rhs_dilation=(2, 2)) + C, IMAGE),
    "conv, transposed": (lambda x: conv(x, K, lhs_dilation=(2, 2), padding=((1, 2), (1, 2))) + C, IMAGE),
    "conv, grouped": (lambda x: conv(x, normal(8, 3, 3, 1, 4), feature_group_count=2) + C, IMAGE),
    "conv, depthwise": (
        lambda x: conv(x, normal(8, 3, 2, 1, 2), feature_group_count=2, window_strides=(2, 1)) * C[:2] + B[:2],
        IMAGE,
    ),
    "conv, NCHW": (
        lambda x: conv(x, K.transpose(3, 2, 0, 1), dimension_numbers=("NCHW", "OIHW", "NCHW")) * C[:, None, None],
        (1, 2, 6, 6),
    ),
    "conv, batch norm": (lambda x: (conv(x, K) + B - C) / jnp.sqrt(B**2 + 1e-3) * S + B, IMAGE),
    "conv, batch norm after transposing": (
        lambda x: (conv(x, K).transpose(0, 3, 1, 2) + B[:, None, None])[0] * 1.0,
        IMAGE,
    ),
    "scale": (lambda x: x * normal(9, 5), (5,)),
    "scale and shift": (lambda x: x * normal(9, 5) + normal(10, 5), (5,)),
    "batch norm alone": (lambda x: (x - normal(9, 5)) * normal(10, 5) / normal(11, 5) + 0.3, (5,)),
    "shift": (lambda x: x + normal(9, 5), (5,)),
    "constant minus": (lambda x: normal(9, 5) - x, (5,)),
    "mean": (lambda x: x.mean((1, 2)), IMAGE),
    "average pool": (
        lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4.0,
        IMAGE,
    ),
    "running sum": (lambda x: jnp.cumsum(x), (5,)),
}

# Linear maps that no rule can split by sign.
LINEAR_MAPS = {
    "solve": (lambda x: jnp.linalg.solve(normal(11, 5, 5) + 4 * np.eye(5), x), (5,)),
    "triangular solve": (
        lambda x: jax.scipy.linalg.solve_triangular(np.tril(normal(12, 4, 4)) + 3 * np.eye(4), x, lower=True),
        (4, 2),
    ),
}


# A rule in another setting is tested on some of the layers.
VARIANTS = [name for name in RULES if "," in name or any(c.isdigit() for c in name.replace("alpha 2 beta -1", ""))]
SOME = ("dense, bias then scale then bias", "conv, bias", "conv, strided", "conv, batch norm", "average pool", "shift")
CASES = [(rule, layer) for rule in RULES for layer in (SOME if rule in VARIANTS else LAYERS)]
# These map several vectors, each of which has a factor of its own in R-LRP; windows side by side are such.
VECTORS = ("batched dot_general", "dense on the right, of the middle axis", "mean", "average pool")


@pytest.mark.parametrize(("rule", "layer"), CASES)
def test_equals_the_explicit_matrix(layer, rule):
    f, shape = LAYERS[layer]
    applied, oracle = RULES[rule]
    x = jnp.asarray(normal(20, *shape)).at[..., 0].set(0.0)
    rules = jrlrp.Composite([(jrlrp.match(("affine", "average_pool")), applied)])
    nodes = jrlrp.plan(f, x, rules=rules).nodes
    assert [node.rule for node in nodes if node.kind != "movement"] == [applied]

    out = f(x)
    r = normal(21, *out.shape)
    w, b = oracles.affine(f, x)
    options = {"apart": True} if rule.startswith("relative") and layer in VECTORS else {}
    expected = oracle(w, b, np.asarray(x).ravel(), np.asarray(r).ravel(), **options).reshape(x.shape)
    # One example, so that Relative's factor is that of the whole array, or of each vector.
    actual = jrlrp.relevance(lambda x: f(x[0]), rules=rules, target=lambda out: r)(x[None])[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", WITHOUT_WEIGHTS)
@pytest.mark.parametrize("layer", LINEAR_MAPS)
def test_maps_without_weights(layer, rule):
    f, shape = LINEAR_MAPS[layer]
    applied, oracle = RULES[rule]
    x = jnp.asarray(normal(20, *shape))
    r = normal(21, *f(x).shape)
    w, b = oracles.affine(f, x)
    expected = oracle(w, b, np.asarray(x).ravel(), r.ravel()).reshape(shape)
    actual = jrlrp.relevance(lambda x: f(x[0]), rules=applied, target=lambda out: r)(x[None])[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", ["alpha 2 beta -1", "zplus", "gamma", "flat", "wsquare", "zbox", "relative plus"])
def test_weights_of_a_map_without_weights_are_an_error(rule):
    f, shape = LINEAR_MAPS["solve"]
    with pytest.raises(jrlrp.RuleError, match="looks at single weights, and this map has none"):
        jrlrp.relevance(f, rules=RULES[rule][0])(jnp.asarray(normal(20, *shape)))


@pytest.mark.parametrize(
    "rule", ["zero", "epsilon", "alpha 2 beta -1", "zplus", "gamma", "zbox", "relative", "relative plus"]
)
def test_a_known_sign_of_the_input_changes_nothing(rule):
    applied, oracle = RULES[rule]
    x, r = jnp.asarray(normal(1, 5)), normal(2, 4)
    w, b = np.asarray(W), np.asarray(B)
    for sign, known in ((1, jnp.maximum), (-1, jnp.minimum)):
        inner = np.asarray(known(x, 0.0))
        expected = oracle(w, b, inner, np.asarray(r))  # the activation hands its relevance on
        actual = jrlrp.relevance(lambda x, known=known: known(x, 0.0) @ W + B, rules=applied, target=lambda out: r)(x)
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12, err_msg=str(sign))


@pytest.mark.optimised
@pytest.mark.parametrize(
    "rule", [jrlrp.Epsilon(1e-9, "ignore"), jrlrp.Gamma(bias="ignore"), jrlrp.AlphaBeta(bias="ignore")]
)
def test_a_large_bias_that_is_ignored_leaves_no_rounding(rule):
    x, w = jnp.asarray(normal(1, 5), jnp.bfloat16), jnp.asarray(0.03 * W, jnp.bfloat16)
    r = jrlrp.relevance(lambda x: x @ w + jnp.asarray(10 * B, jnp.bfloat16), rules=rule, target="all")(x)
    exact = jrlrp.relevance(lambda x: x @ w.astype(float) + 10 * B, rules=rule, target="all")(x.astype(float))
    np.testing.assert_allclose(np.asarray(r, float), exact, rtol=0.03, atol=0.03 * np.abs(exact).max())


@pytest.mark.parametrize("bias", ["absorb", "distribute"])
def test_gamma_passes_nothing_on_where_the_output_is_zero(bias):
    f = lambda x: x @ jnp.ones((2, 1)) - jnp.asarray([3.0])
    x = jnp.asarray([1.0, 2.0])
    options = {"rules": jrlrp.Gamma(bias=bias), "target": lambda out: jnp.ones(1)}
    np.testing.assert_allclose(jrlrp.relevance(f, **options)(x), 0.0)
    audit = jrlrp.audit(f, x, **options)
    np.testing.assert_allclose((audit.bias, audit.other + audit.stabilizer), [[0.0], [1.0]])


def test_units_that_are_zero_pass_nothing_on():
    x, w = jnp.asarray([1.0, 1.0]), jnp.asarray([[1.0, 2.0], [-1.0, 3.0]])
    actual = jrlrp.relevance(lambda x: x @ w, rules=jrlrp.Zero(), target=lambda out: jnp.ones(2))(x)
    np.testing.assert_allclose(actual, [0.4, 0.6])


def test_published_closed_forms():
    """Two layers of three units with weights 2 and 3: the numbers in captum's tests of LRP."""
    x = jnp.asarray([[1.0, 2.0, 3.0]])
    w1, w2 = jnp.full((3, 3), 2.0), jnp.full((3, 1), 3.0)
    f = lambda w1: lambda x: jnp.maximum(x @ w1, 0) @ w2
    np.testing.assert_allclose(jrlrp.relevance(f(w1), rules=jrlrp.Epsilon(1e-9))(x), [[18.0, 36.0, 54.0]])
    signed = w1.at[0, 0].set(-2.0)
    np.testing.assert_allclose(jrlrp.relevance(f(signed), rules=jrlrp.ZPlus(1e-9))(x), [[12.0, 33.6, 50.4]])
    for gamma in (jrlrp.Gamma(1.0, 1e-9), jrlrp.Gamma(1.0, 1e-9, variant="classic")):
        np.testing.assert_allclose(jrlrp.relevance(f(signed), rules=gamma)(x), [[28 / 3, 104 / 3, 52.0]])
    passed = jrlrp.Composite([(jrlrp.match("dense", first=True), jrlrp.Pass())], base=jrlrp.epsilon(1e-9))
    np.testing.assert_allclose(jrlrp.relevance(f(signed), rules=passed)(x), [[24.0, 36.0, 36.0]])
    skip = lambda x: x @ jnp.full((2, 2), 5.0) + x
    explained = jrlrp.relevance(skip, rules=jrlrp.Epsilon(1e-9), target=1)
    np.testing.assert_allclose(explained(jnp.asarray([[2.0, 3.0]])), [[10.0, 18.0]], rtol=1e-6)


def test_bounds_of_the_box_may_be_arrays():
    f, shape = LAYERS["conv, bias"]
    x = jnp.asarray(normal(20, *shape))
    low, high = -3.0 - np.abs(normal(22, 6, 6, 2)), 3.0 + np.abs(normal(23, 2))
    w, b = oracles.affine(f, x)
    r = normal(21, *f(x).shape)
    expected = oracles.zbox(w, b, np.asarray(x).ravel(), r.ravel(), low.ravel(), np.broadcast_to(high, shape).ravel())
    for rule in (jrlrp.ZBox(low, high), jrlrp.ZBox(jnp.asarray(low), jnp.asarray(high))):
        actual = jax.jit(jrlrp.relevance(f, rules=rule, target=lambda out: r))(x)
        np.testing.assert_allclose(actual.ravel(), expected, rtol=1e-9, atol=1e-12)
    maps = jax.vmap(lambda h: jrlrp.relevance(f, rules=jrlrp.ZBox(low, h), target=lambda out: r)(x))(
        jnp.stack([high, 2 * high])
    )
    np.testing.assert_allclose(maps[0].ravel(), expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(jrlrp.RuleError, match=r"low has shape \(7,\), which does not broadcast"):
        jrlrp.relevance(f, rules=jrlrp.ZBox(np.zeros(7), 1.0))(x)


def test_relative_keeps_total_magnitude_and_the_per_unit_identity():
    x, r = jnp.asarray(normal(1, 5)), normal(2, 4)
    actual = jrlrp.relevance(lambda x: x @ W + B, rules=jrlrp.Relative(), target=lambda out: r)(x)
    np.testing.assert_allclose(np.abs(actual).sum(), np.abs(r).sum())
    z = x @ W + B
    unit = jnp.zeros(4).at[2].set(1.0)
    message = jrlrp.relevance(lambda x: x @ W + B, rules=jrlrp.Relative(), target=lambda out: unit * r)(x)
    exact = jnp.abs(z[2]) * r[2] - jnp.sign(z[2]) * B[2] * r[2]
    np.testing.assert_allclose(jnp.sign(message.sum()), jnp.sign(exact))
    np.testing.assert_allclose(message / message.sum(), W[:, 2] * x / (W[:, 2] * x).sum())


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x @ W + B,
        lambda x: jnp.einsum("dh,btd->bth", W, x) + B,
        lambda x: jnp.einsum("btd,dh->hbt", x, W).transpose(1, 2, 0) + B,
        lambda x: (x.reshape(-1, 5) @ W).reshape(*x.shape[:2], 4) + B,
        lambda x: jax.vmap(jax.vmap(lambda v: v @ W + B))(x),
        lambda x: jax.lax.map(lambda v: v @ W + B, x.reshape(-1, 5)).reshape(*x.shape[:2], 4),
    ],
)
def test_each_position_keeps_its_magnitude_in_any_spelling(f):
    x, r = jnp.asarray(normal(1, 2, 3, 5)), normal(2, 2, 3, 4)
    one = lambda v, r: jrlrp.relevance(lambda v: v @ W + B, target=lambda out: r)(v)
    expected = jnp.stack([jnp.stack([one(*row) for row in zip(*rows, strict=True)]) for rows in zip(x, r, strict=True)])
    explain = jrlrp.relevance(f, target=lambda out: r)
    for run in (explain, jax.jit(explain)):
        np.testing.assert_allclose(run(x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("epsilon", [1e-6, 0.25])
def test_parameters_may_be_arrays(epsilon):
    x = jnp.asarray(normal(1, 5))
    f = lambda x: x @ W + B
    for number, array in (
        (jrlrp.Epsilon(epsilon), jrlrp.Epsilon(jnp.asarray(epsilon))),
        (jrlrp.AlphaBeta(1 + epsilon, -epsilon), jrlrp.AlphaBeta(jnp.asarray(1 + epsilon), jnp.asarray(-epsilon))),
    ):
        expected = jrlrp.relevance(f, rules=number)(x)
        np.testing.assert_allclose(jax.jit(jrlrp.relevance(f, rules=array))(x), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jrlrp.Epsilon(-1e-6), "Epsilon(epsilon=-1e-06): expected a finite epsilon ≥ 0"),
        (lambda: jrlrp.Epsilon("1"), "expected a finite epsilon ≥ 0"),
        (lambda: jrlrp.Epsilon(True), "expected a finite epsilon ≥ 0"),
        (lambda: jrlrp.Epsilon(float("nan")), "expected a finite epsilon ≥ 0"),
        (lambda: jrlrp.Epsilon(np.ones(5)), "expected a finite epsilon ≥ 0"),
        (lambda: jrlrp.Epsilon([1.0, 2.0]), "expected a finite epsilon ≥ 0"),
        (lambda: jrlrp.ZPlus(-1.0), "expected a finite epsilon ≥ 0"),
        (lambda: jrlrp.AlphaBeta(1.0, 1.0), "expected alpha + beta = 1"),
        (lambda: jrlrp.AlphaBeta(2.0, -1.0, -1.0), "expected a finite epsilon ≥ 0"),
        (lambda: jrlrp.Epsilon(1e-6, bias="spread"), "expected one of 'absorb', 'ignore', 'distribute'"),
        (lambda: jrlrp.Zero(bias="whole"), "expected one of 'absorb', 'ignore', 'distribute'"),
        (lambda: jrlrp.Gamma(-0.25), "Gamma(gamma=-0.25): expected a finite gamma ≥ 0"),
        (lambda: jrlrp.Gamma(variant="old"), "expected one of 'generalised', 'classic'"),
        (lambda: jrlrp.Gamma(bias="both"), "expected one of 'absorb', 'ignore', 'distribute', 'whole'"),
        (lambda: jrlrp.ZBox(1.0, -1.0), "expected low ≤ high"),
        (lambda: jrlrp.ZBox("0", 1.0), "expected a number or an array of numbers"),
        (lambda: jrlrp.ZBox([[0, 1], [2]], 3.0), "expected a number or an array of numbers"),
        (lambda: jrlrp.ZBox(np.zeros(6), np.ones(5)), "expected shapes that go together"),
        (lambda: jrlrp.Epsilon(relative="yes"), "expected True or False"),
        (lambda: jrlrp.ZBox(0.0, float("inf")), "expected finite bounds"),
        (lambda: jrlrp.Flat(-1.0), "expected a finite epsilon ≥ 0"),
        (lambda: jrlrp.WSquare(None), "expected a finite epsilon ≥ 0"),
        (lambda: jrlrp.Proportional(-1.0), "expected a finite epsilon ≥ 0"),
        (lambda: jrlrp.Uniform(jrlrp.Block), "expected a rule of linear layers"),
        (lambda: jrlrp.deep_taylor(low=0.0), "expected both bounds or none"),
        (lambda: jrlrp.epsilon_gamma_box(2.0, 1.0), "expected low ≤ high"),
        (lambda: jrlrp.ShareRatio(-1.0), "expected a finite epsilon ≥ 0"),
        (lambda: jrlrp.Gradient(-1.0), "expected a finite epsilon ≥ 0"),
        (lambda: jrlrp.SignalTakesAll(jrlrp.ShareEqual()), "expected a rule of linear layers"),
        (lambda: jrlrp.epsilon(-1.0), "expected a finite epsilon ≥ 0"),
        (lambda: jrlrp.relative(skip=[]), "expected one of 'absolute', 'ratio', 'symmetric'"),
        (lambda: jrlrp.relative_plus(skip="half"), "skip='half': expected one of 'absolute', 'ratio', 'symmetric'"),
    ],
)
def test_a_parameter_outside_its_domain_is_an_error(make, message):
    with pytest.raises(jrlrp.RuleError) as caught:
        make()
    assert message in str(caught.value)
