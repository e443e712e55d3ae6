"""The interface: argnums, pytrees, targets, aux, pullback, plan, ids, and what is an error."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import jrlrp
from jrlrp import Composite, match
from jrlrp.target import as_target

RNG = np.random.default_rng(0)
W, V, B = RNG.normal(size=(5, 6)), RNG.normal(size=(6, 4)), RNG.normal(size=6)
X = RNG.normal(size=(3, 5))


def net(x):
    return jax.nn.relu(x @ W + B) @ V


@pytest.mark.optimised
def test_relevance_has_structure_shape_and_dtype_of_the_argument():
    tree = {"a": jnp.asarray(X), "b": [np.float32(2.0), None], "c": (1.5,)}
    r = jrlrp.relevance(lambda t: net(t["a"]) * t["b"][0] + t["c"][0])(tree)
    assert jax.tree.structure(r) == jax.tree.structure(tree)
    assert jax.tree.map(jnp.shape, r) == jax.tree.map(jnp.shape, tree)
    assert r["b"][0].dtype == jnp.float32


def test_argnums_as_in_grad():
    f = lambda a, b, c: net(a) + net(b) * c
    args = (X, 2 * X, np.float64(3.0))
    alone = jrlrp.relevance(f, argnums=1)(*args)
    assert isinstance(jrlrp.relevance(f, argnums=(1,))(*args), tuple)
    np.testing.assert_allclose(jrlrp.relevance(f, argnums=-2)(*args), alone)
    a, b = jrlrp.relevance(f, argnums=(0, 1), rules=jrlrp.Zero())(*args)
    c, d = jrlrp.relevance(f, argnums=(1, 0), rules=jrlrp.Zero())(*args)
    np.testing.assert_allclose((a, b), (d, c))


def test_argnums_may_be_a_numpy_integer():
    np.testing.assert_allclose(jrlrp.relevance(net, argnums=np.int64(0))(X), jrlrp.relevance(net)(X))


def test_other_arguments_are_as_they_are():
    def f(x, mode, *, scale):
        assert mode == "double" and isinstance(scale, int)
        return net(x) * scale

    assert jrlrp.relevance(f)(X, "double", scale=2).shape == X.shape


def test_value_and_aux():
    f = lambda x: (net(x), {"hidden": x @ W})
    r, aux = jrlrp.relevance(f, has_aux=True)(X)
    np.testing.assert_allclose(r, jrlrp.relevance(net)(X))
    (value, aux2), r2 = jrlrp.value_and_relevance(f, has_aux=True)(X)
    np.testing.assert_allclose(value, net(X))
    np.testing.assert_allclose(r2, r)
    np.testing.assert_allclose(aux["hidden"], aux2["hidden"])
    value, r3 = jrlrp.value_and_relevance(net)(X)
    np.testing.assert_allclose(r3, r)


def test_every_form_of_target():
    explain = lambda target: np.asarray(jrlrp.relevance(net, rules=jrlrp.Zero(), target=target)(X))
    top = np.asarray(net(X)).argmax(-1)
    single = np.stack([explain(k) for k in range(4)])
    np.testing.assert_allclose(explain("max"), single[top, np.arange(3)])
    np.testing.assert_allclose(explain(top), explain("max"))
    np.testing.assert_allclose(explain(list(top)), explain("max"))
    np.testing.assert_allclose(explain(jnp.asarray(top, jnp.uint8)), explain("max"))
    np.testing.assert_allclose(explain(-1), single[3])
    np.testing.assert_allclose(explain(top - 4), explain("max"))
    np.testing.assert_allclose(explain("all"), single.sum(0))
    np.testing.assert_allclose(explain(lambda out: out), single.sum(0))
    np.testing.assert_allclose(explain(lambda out: out.at[:, 1:].set(0)), single[0])
    traced = jax.jit(lambda t: jrlrp.relevance(net, rules=jrlrp.Zero(), target=t)(X))
    np.testing.assert_allclose(traced(2), single[2])
    np.testing.assert_allclose(traced(-4), single[0])
    np.testing.assert_allclose(traced(4), 0.0)
    np.testing.assert_allclose(traced(-5), 0.0)


def test_known_arrays_stay_known_under_jit():
    top, epsilon, wrong = jnp.asarray(net(X)).argmax(-1), jnp.asarray(0.1), jnp.asarray(-0.1)
    explain = lambda x: jrlrp.relevance(net, rules=jrlrp.Epsilon(epsilon), target=top)(x)
    np.testing.assert_allclose(jax.jit(explain)(X), explain(X))
    with pytest.raises(jrlrp.TargetError, match="target=9 is out of range"):
        jax.jit(jrlrp.relevance(net, target=top.at[0].set(9)))(X)
    with pytest.raises(jrlrp.RuleError, match="epsilon ≥ 0"):
        jax.jit(lambda x: jrlrp.relevance(net, rules=jrlrp.Epsilon(wrong))(x))(X)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64])
def test_narrow_targets_count_beyond_their_dtype(dtype):
    w = RNG.normal(size=(5, 600))
    f = lambda x: x @ w
    labels = np.asarray([100, 3, 90], dtype)
    expected = X * w[:, labels.astype(int)].T
    np.testing.assert_allclose(jrlrp.relevance(f, rules=jrlrp.Zero(), target=labels)(X), expected)
    traced = jax.jit(lambda t: jrlrp.relevance(f, rules=jrlrp.Zero(), target=t)(X))
    np.testing.assert_allclose(traced(jnp.asarray(labels)), expected)


def test_a_scalar_output_is_explained_as_it_is():
    np.testing.assert_allclose(jrlrp.relevance(lambda x: (x * 2).sum(), rules=jrlrp.Zero())(X), 2 * X)


def test_gradient_times_input_is_exact_on_anything_differentiable():
    def f(x):  # a scan, a division, a dead unit: no rule is asked
        carry, _ = jax.lax.scan(lambda c, y: (jnp.tanh(c @ W[:, :5] + y), c), x[0], x)
        return carry / (1 + (x * x).sum()) * (x[0] > 0)

    np.testing.assert_allclose(
        jrlrp.relevance(f, rules=jrlrp.gradient_times_input())(jnp.asarray(X)), oracles.gradient_times_input(f, X)
    )
    with_callable = jrlrp.relevance(net, rules=jrlrp.gradient_times_input(), target=lambda out: out * 2)(X)
    np.testing.assert_allclose(with_callable, 2 * X * jax.grad(lambda x: net(x).sum())(jnp.asarray(X)))


def test_gradient_times_input_keeps_derivatives_that_functions_bring():
    @jax.custom_vjp
    def straight_through(x):
        return jnp.round(x)

    straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))
    f = lambda x: jax.nn.relu(straight_through(x) @ W - 0.5) @ V  # with units at exactly zero, too
    x = jnp.asarray(X).at[0].set(0.0)
    actual = jrlrp.relevance(f, rules=jrlrp.gradient_times_input())(x)
    np.testing.assert_allclose(actual, oracles.gradient_times_input(f, x))
    assert np.abs(actual).sum() > 0


def test_zero_equals_gradient_times_input_with_biases_pools_and_skips():
    def f(x):
        h = jax.nn.relu(x @ W + B)
        h = h + jax.nn.relu(h @ W.T @ W - B)
        h = jnp.max(h.reshape(3, 3, 2), axis=2)
        return h.mean(1, keepdims=True) * jnp.ones(4) + h @ V[:3]

    actual = jrlrp.relevance(f, rules=jrlrp.Zero())(jnp.asarray(X))
    np.testing.assert_allclose(actual, oracles.gradient_times_input(f, X), rtol=1e-9)


@pytest.mark.parametrize("rules", [jrlrp.Zero(), jrlrp.Epsilon(1e-12), jrlrp.ZPlus(1e-12), jrlrp.epsilon_plus()])
def test_bias_free_networks_conserve(rules):
    f = lambda x: jax.nn.relu(jax.nn.relu(x @ W) @ V)
    out, r = jrlrp.value_and_relevance(f, rules=rules)(jnp.abs(X))
    np.testing.assert_allclose(r.sum(-1), out.max(-1), rtol=1e-4)


def test_relative_is_homogeneous_in_a_bias_free_network():
    f = lambda x: jax.nn.relu(jax.nn.relu(x @ W) @ V)
    np.testing.assert_allclose(jrlrp.relevance(f)(3 * X), 3 * jrlrp.relevance(f)(X), rtol=1e-10)


def test_pullback_is_like_vjp():
    out, propagate = jrlrp.pullback(lambda x, w: jax.nn.relu(x @ w), X, W, rules=jrlrp.Zero())
    np.testing.assert_allclose(out, jax.nn.relu(X @ W))
    rx, rw = propagate(out)
    assert rx.shape == X.shape and rw.shape == W.shape
    np.testing.assert_allclose(rx.sum() + rw.sum(), out.sum())
    with pytest.raises(jrlrp.TargetError, match=r"expected \(3, 6\)"):
        propagate(out[0])
    _, gradient = jrlrp.pullback(net, X, rules=jrlrp.gradient_times_input())
    np.testing.assert_allclose(gradient(net(X))[0], X * jax.grad(lambda x: net(x).sum())(jnp.asarray(X)))


def test_skip_rules_of_relative():
    f = lambda x: x - jax.nn.relu(x @ (W @ W.T))
    maps = [
        jrlrp.relevance(f, rules=jrlrp.relative(skip), target="all")(X) for skip in ("absolute", "ratio", "symmetric")
    ]
    assert not np.allclose(maps[0], maps[1]) and not np.allclose(maps[0], maps[2])
    np.testing.assert_allclose(maps[0], jrlrp.relevance(f, rules=jrlrp.relative(), target="all")(X))


TABLE = RNG.normal(size=(11, 5))
IDS = np.array([[1, 2, 3], [10, -1, 0]])
LOOKUPS = {
    "indexing": lambda ids: jnp.asarray(TABLE)[ids],
    "take": lambda ids: jnp.take(TABLE, ids, axis=0),
    "take, clip": lambda ids: jnp.take(TABLE, ids % 11, axis=0, mode="clip"),
    "take along axis": lambda ids: jnp.take_along_axis(TABLE, (ids % 11).reshape(-1, 1), axis=0).reshape(2, 3, 5),
    "vmapped": lambda ids: jax.vmap(jax.vmap(lambda i: jnp.asarray(TABLE)[i]))(ids),
    "one hot": lambda ids: jax.nn.one_hot(ids % 11, 11, dtype=TABLE.dtype) @ TABLE,
    "one at a time": lambda ids: jnp.stack([jnp.stack([jnp.asarray(TABLE)[i] for i in row]) for row in ids]),
    "remapped": lambda ids: jnp.asarray(TABLE)[jnp.asarray(np.arange(11))[ids]],
    "index arithmetic": lambda ids: jnp.asarray(TABLE)[((ids % 11) * 2 + 1) // 2],
    "one hot by where": lambda ids: jnp.where((ids % 11)[..., None] == jnp.arange(11), 1.0, 0.0) @ TABLE,
    "narrow ids": lambda ids: jnp.asarray(TABLE)[ids.astype(jnp.int8)],
}


@pytest.mark.optimised
@pytest.mark.parametrize("lookup", LOOKUPS)
def test_ids_carry_the_relevance_of_their_embedding(lookup):
    rest = lambda e: jax.nn.relu(e @ W).mean(1) @ V
    f = lambda ids: rest(LOOKUPS[lookup](ids))
    ids = jnp.asarray(IDS)
    for rules in (jrlrp.Zero(), jrlrp.gradient_times_input()):
        r = jrlrp.relevance(f, rules=rules)(ids)
        assert r.shape == ids.shape and r.dtype == jnp.float32
        expected = jrlrp.relevance(rest, rules=rules)(jnp.asarray(TABLE)[ids]).sum(-1)
        np.testing.assert_allclose(r, expected, rtol=1e-5, atol=1e-6)
    assert jrlrp.plan(f, ids).coverage == 1.0


@pytest.mark.parametrize("lookup", [name for name in LOOKUPS if "hot" not in name and name != "one at a time"])
def test_each_row_of_ids_is_an_example(lookup):
    f = lambda ids: jax.nn.relu(LOOKUPS[lookup](ids) @ W).mean(1) @ V
    ids = jnp.asarray(IDS)
    plain = lambda e: jax.nn.relu(e @ W).mean(1) @ V
    expected = jrlrp.relevance(plain)(jnp.asarray(TABLE)[ids]).sum(-1)
    np.testing.assert_allclose(jrlrp.relevance(f)(ids), expected, rtol=1e-5, atol=1e-6)


def test_counts_in_a_matrix_product_have_relevance():
    counts = jnp.asarray([[3, 0, 1], [0, 2, 5]])
    f = lambda x: jax.nn.relu(x @ TABLE[:3]) @ TABLE[:4].T
    for rules in (jrlrp.epsilon(), jrlrp.gradient_times_input()):
        expected = jrlrp.relevance(f, rules=rules)(counts.astype(float))
        np.testing.assert_allclose(jrlrp.relevance(f, rules=rules)(counts), expected, rtol=1e-5)


def test_plan_says_where_ids_are_lost():
    f = lambda ids: jnp.asarray(TABLE)[jnp.sort(ids)] @ W
    assert any(place.startswith("sort") for place in jrlrp.plan(f, jnp.asarray([2, 1])).ended)
    assert jrlrp.plan(lambda ids: jnp.asarray(TABLE)[ids] @ W, jnp.asarray([2, 1])).ended == ()


def test_two_ids_of_one_index_share_alike():
    f = lambda i, j: jnp.asarray(TABLE)[i, j]
    i, j = jnp.asarray([1, 2]), jnp.asarray([0, 4])
    ri, rj = jrlrp.relevance(f, (0, 1), target="all")(i, j)
    np.testing.assert_allclose(ri, TABLE[[1, 2], [0, 4]] / 2, rtol=1e-6)
    np.testing.assert_allclose(rj, ri)
    np.testing.assert_allclose(jrlrp.relevance(f, target="all")(i, j), TABLE[[1, 2], [0, 4]], rtol=1e-6)


@pytest.mark.parametrize(
    "index",
    [
        lambda i: (jnp.arange(5), i),
        lambda i: (jnp.arange(5), jnp.roll(i, 1)),
        lambda i: (jnp.arange(5), jnp.concatenate([i[:2], i[2:]])),
        lambda i: (i, jnp.roll(i, 1)),
        lambda i: (jnp.arange(5), (i + jnp.roll(i, -1) + jnp.roll(i, 1)) % 7),
        lambda i: tuple(jnp.stack([jnp.arange(5), i], 1).T),
    ],
)
def test_no_relevance_is_lost_in_indices_of_several_components(index):
    table = jnp.asarray(RNG.normal(size=(7, 7, 5)))
    rest = lambda e: (jax.nn.relu(e @ W) @ V).sum(0)
    ids = jnp.asarray([3, 1, 6, 0, 2])
    r = jrlrp.relevance(lambda i: rest(table[index(i)]), rules=jrlrp.Zero())(ids)
    expected = jrlrp.relevance(rest, rules=jrlrp.Zero())(table[index(ids)])
    np.testing.assert_allclose(r.sum(), expected.sum(), rtol=1e-5)


def test_integer_pixels_carry_relevance_as_numbers():
    x = np.array([[1, 200, 3, 40, 5]], np.uint8)
    f = lambda x: net(x / 255.0)
    np.testing.assert_allclose(
        jrlrp.relevance(f, rules=jrlrp.Zero())(x), jrlrp.relevance(f, rules=jrlrp.Zero())(x.astype(float)), rtol=1e-5
    )


def test_printing_within_the_function_is_left_alone(capfd):
    def f(ids):
        jax.debug.print("ids {}", ids)
        e = jnp.asarray(TABLE)[ids]
        jax.debug.print("sum {}", e.sum())
        return jax.nn.relu(e @ W) @ V

    ids = jnp.asarray([1, 2])
    r = jrlrp.relevance(f)(ids)
    jax.effects_barrier()
    assert "ids [1 2]" in capfd.readouterr().out
    np.testing.assert_allclose(r, jrlrp.relevance(lambda i: jax.nn.relu(jnp.asarray(TABLE)[i] @ W) @ V)(ids))


def test_a_comparison_of_ids_is_a_mask_and_carries_nothing():
    def f(ids):
        keep = (ids != 0)[..., None].astype(TABLE.dtype)
        return (jnp.asarray(TABLE)[ids] * keep).sum(1)

    r = jrlrp.relevance(f, rules=jrlrp.Zero())(jnp.asarray([[1, 0, 2]]))
    assert r[0, 1] == 0 and (r[0, [0, 2]] != 0).all()


@pytest.mark.optimised
def test_plan_says_what_it_made_of_the_function():
    plan = jrlrp.plan(net, jax.ShapeDtypeStruct((3, 5), jnp.float32), rules=jrlrp.epsilon_plus())
    assert [node.kind for node in plan.nodes] == ["dense", "activation", "dense"]
    assert [node.first for node in plan.nodes] == [True, False, False]
    assert [node.last for node in plan.nodes] == [False, False, True]
    assert plan.nodes[0].equations == ("dot_general", "add")
    assert plan.nodes[0].shape == (3, 6)
    assert "test_api.py" in plan.nodes[0].source and "(net)" in plan.nodes[0].source
    assert plan.unsupported == [] and plan.coverage == 1.0
    text = str(plan)
    assert "Epsilon()" in text and "3 nodes (2 dense, 1 activation), 0 unsupported" in text


def test_plan_shows_where_relevance_ends():
    f = lambda x: net(jax.lax.stop_gradient(x[:, ::-1]) + x)
    assert any("stop_gradient" in place for place in jrlrp.plan(f, X).ended)
    assert jrlrp.plan(net, X).ended == ()


def test_plan_and_the_error_list_all_that_is_unsupported():
    def f(x):
        with jax.named_scope("Net/Block_0"):
            y = jnp.linalg.cholesky(x.T @ x + jnp.eye(5))
        return jnp.cumprod(y[0])

    plan = jrlrp.plan(f, X)
    assert [node.equations[-1] for node in plan.unsupported] == ["cholesky", "cumprod"]
    assert 0 < plan.coverage < 1
    with pytest.raises(jrlrp.UnsupportedError) as caught:
        jrlrp.relevance(f)(X)
    text = str(caught.value)
    for part in ("cholesky in Net/Block_0, at ", "cumprod, at ", "test_api.py", 'unknown="gradient"', "register_kind"):
        assert part in text
    r = jrlrp.relevance(f, unknown="gradient")(X)
    assert np.isfinite(r).all() and np.abs(r).sum() > 0


def test_complex_numbers_are_an_error_but_in_a_function_with_a_rule():
    power = lambda x: jnp.abs(jnp.fft.rfft(x)) ** 2
    for unknown in ("error", "gradient"):
        with pytest.raises(jrlrp.UnsupportedError, match="one function, real ones in and out") as caught:
            jrlrp.relevance(power, unknown=unknown)(X)
        assert any("fft, at" in line for line in str(caught.value).split("\n"))
    r = jrlrp.relevance(power, rules=jrlrp.gradient_times_input(), target="all")(X)
    np.testing.assert_allclose(r, X * jax.grad(lambda x: power(x).sum())(X))
    shared = jrlrp.custom_relevance(power).defrule(lambda inputs, out, r: (inputs[0] * r.sum() / inputs[0].sum(),))
    np.testing.assert_allclose(jrlrp.relevance(shared, target="all")(X).sum(), power(X).sum())


def loud(x):
    """A function that fails the test if it is run rather than traced."""

    def ran(x):
        raise AssertionError("the function ran")

    jax.debug.callback(ran, x)
    return net(x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: jrlrp.relevance(f, target=4)(X), jrlrp.TargetError, "target=4 is out of range: .* 4 entries"),
        (lambda f: jrlrp.relevance(f, target=-5)(X), jrlrp.TargetError, "target=-5 is out of range"),
        (lambda f: jrlrp.relevance(f, target=[0, 1])(X), jrlrp.TargetError, r"shape \(2,\); expected \(\) or \(3,\)"),
        (lambda f: jrlrp.relevance(f, target=[0, 1, 9])(X), jrlrp.TargetError, "target=9 is out of range"),
        (lambda f: jrlrp.relevance(f, target=1.0)(X), jrlrp.TargetError, 'expected "max", "all", a class index'),
        (lambda f: jrlrp.relevance(f, target=True)(X), jrlrp.TargetError, "a class index"),
        (lambda f: jrlrp.relevance(f, target="top")(X), jrlrp.TargetError, "a class index"),
        (lambda f: jrlrp.relevance(f, target=None)(X), jrlrp.TargetError, "a class index"),
        (lambda f: jrlrp.relevance(lambda x: f(x).sum(), target=0)(X), jrlrp.TargetError, "the output is a scalar"),
        (lambda f: jrlrp.relevance(lambda x: (f(x), f(x)))(X), jrlrp.TargetError, "needs a single output array"),
        (lambda f: jrlrp.relevance(lambda x: None)(X), jrlrp.TargetError, "returns no array"),
        (lambda f: jrlrp.relevance(lambda x: f(x).argmax(-1))(X), jrlrp.TargetError, r"returns int\d\d\[3\]"),
        (lambda f: jrlrp.relevance(lambda x: f(x) > 0)(X), jrlrp.TargetError, r"returns bool\[3,4\]|bool\[3, 4\]"),
        (lambda f: jrlrp.relevance(lambda x: f(x) + 0j)(X), jrlrp.TargetError, "complex"),
        (lambda f: jrlrp.relevance(f, argnums=1)(X), jrlrp.ArgumentError, r"argnums=1 is out of range.* 1 argument"),
        (lambda f: jrlrp.relevance(f, argnums=())(X), jrlrp.ArgumentError, "at least one argument"),
        (lambda f: jrlrp.relevance(f, argnums=(0, 0))(X), jrlrp.ArgumentError, "each once"),
        (lambda f: jrlrp.relevance(f, argnums="x")(X), jrlrp.ArgumentError, "an int or a tuple of ints"),
        (lambda f: jrlrp.relevance(f)("picture.png"), jrlrp.ArgumentError, "argument 0 is 'picture.png' of type str"),
        (lambda f: jrlrp.relevance(f)({"a": object()}), jrlrp.ArgumentError, r"argument 0\['a'\].* JAX cannot trace"),
        (lambda f: jrlrp.relevance(f)(X > 0), jrlrp.ArgumentError, "argument 0 has dtype bool"),
        (lambda f: jrlrp.relevance(f)(X + 0j), jrlrp.ArgumentError, "has dtype complex128"),
        (lambda f: jrlrp.relevance(f)(jax.random.key(0)), jrlrp.ArgumentError, "has dtype key"),
        (lambda f: jrlrp.relevance("model")(X), jrlrp.ArgumentError, "expected a function"),
        (lambda f: jrlrp.relevance(f, rules="epsilon")(X), jrlrp.ArgumentError, "expected a composite"),
        (lambda f: jrlrp.relevance(f, rules=jrlrp.epsilon)(X), jrlrp.ArgumentError, "call it"),
        (lambda f: jrlrp.relevance(f, rules=jrlrp.ShareEqual())(X), jrlrp.ArgumentError, "Composite with a base"),
        (lambda f: jrlrp.relevance(f, rules=jrlrp.WinnerTakesAll())(X), jrlrp.ArgumentError, "Composite with a base"),
        (lambda f: jrlrp.relevance(f, unknown="ignore")(X), jrlrp.ArgumentError, "'error', 'gradient'"),
        (lambda f: jrlrp.relevance(f, has_aux=True)(X), jrlrp.ArgumentError, r"to return \(out, aux\)"),
        (
            lambda f: jrlrp.relevance(f, rules=Composite([(match("conv"), jrlrp.Zero())]))(X),
            jrlrp.RuleError,
            "no rule for 2 node",
        ),
        (
            lambda f: jrlrp.relevance(lambda x: jnp.fft.fft(f(x)).real, rules=jrlrp.ZPlus())(X),
            jrlrp.UnsupportedError,
            "convert_element_type|fft",
        ),
        (lambda f: jrlrp.relevance(f, argnums=0.0)(X), jrlrp.ArgumentError, "an int or a tuple of ints"),
        (lambda f: jrlrp.relevance(f, target=[[0, 1], [2]])(X), jrlrp.TargetError, "a class index"),
        (lambda f: jrlrp.relevance(lambda x: "scores")(X), jrlrp.ArgumentError, "returns 'scores'"),
        (lambda f: jrlrp.relevance(lambda x: jnp.fft.irfft(jnp.fft.rfft(f(x))))(X), jrlrp.UnsupportedError, "fft"),
        (lambda f: match(path=1), jrlrp.ArgumentError, "expected str"),
        (lambda f: match(first=1), jrlrp.ArgumentError, "expected bool"),
        (lambda f: Composite(match("conv"), jrlrp.Zero()), jrlrp.ArgumentError, "expected a list of pairs"),
        (lambda f: jrlrp.register_kind(3, "activation"), jrlrp.ArgumentError, "a JAX primitive or its name"),
        (lambda f: Composite([jrlrp.Zero()]), jrlrp.ArgumentError, r"expected a pair \(match"),
        (lambda f: Composite([], base=jrlrp.Zero()), jrlrp.ArgumentError, "expected a composite"),
        (lambda f: match("convolution"), jrlrp.ArgumentError, "expected one of conv, dense"),
        (lambda f: jrlrp.register_kind("cholesky", "magic"), jrlrp.ArgumentError, "expected one of activation"),
    ],
)
def test_bad_input_is_an_error_before_anything_runs(call, error, message):
    with pytest.raises(error, match=message):
        call(loud)


@pytest.mark.parametrize(
    ("wrong", "given"),
    [
        (X, r"an array of shape \(3, 5\)"),
        (jnp.asarray(X), r"an array of shape \(3, 5\)"),
        (np.asarray([1, 2]), r"an array of shape \(2,\)"),
        (jnp.float32(1.0), r"an array of shape \(\)"),
        ({"a": X}, "a dict"),
        ((X, X), "a tuple"),
        ([1.0, 2.0], "a list"),
        (1.0, r"1\.0"),
        (True, "True"),
        (None, "None"),
    ],
)
def test_an_argument_in_place_of_argnums_says_what_to_write(wrong, given):
    for explain in (
        jrlrp.relevance,
        jrlrp.value_and_relevance,
        jrlrp.baselines.gradient,
        jrlrp.baselines.gradient_times_input,
        jrlrp.baselines.integrated_gradients,
        jrlrp.baselines.smooth_grad,
    ):
        name = explain.__name__
        with pytest.raises(jrlrp.ArgumentError, match=rf"argnums is {given}: .* write {name}\(f\)\(x\)") as caught:
            explain(loud, wrong)
        assert len(str(caught.value)) < 300
    if not isinstance(wrong, (tuple, list)):
        with pytest.raises(jrlrp.ArgumentError, match=r"write occlusion\(f\)\(x\)"):
            jrlrp.baselines.occlusion(loud, wrong, window=1)


def test_one_score_for_each_example_is_explained_whole():
    score = jax.ShapeDtypeStruct((3,), jnp.float32)
    for target in ("max", 0, -1, np.int64(2), jnp.asarray(1)):
        as_target(target).check([score])
        with pytest.raises(jrlrp.TargetError, match=r'one score for each example, .* \(3,\) .* target="all"'):
            as_target(target).check([score], per_example=True)
    for target in ("all", lambda out: out):
        as_target(target).check([score], per_example=True)


def test_warnings_are_the_librarys_own():
    assert issubclass(jrlrp.JrlrpWarning, UserWarning) and "JrlrpWarning" in jrlrp.__all__


def test_a_callable_target_has_to_return_relevance():
    with pytest.raises(jrlrp.TargetError, match="dtype bool"):
        jrlrp.relevance(net, target=lambda out: out > 0)(X)
    with pytest.raises(
        jrlrp.TargetError, match=r"the callable target gave relevance of shape \(4,\); expected \(3, 4\)"
    ):
        jrlrp.relevance(net, target=lambda out: out[0])(X)


def test_a_registered_primitive_has_a_kind():
    from jrlrp.primitives import register

    f = lambda x: jax.lax.linalg.cholesky(x)[..., 0]
    x = jnp.eye(3) + 0.1
    assert jrlrp.plan(f, x).unsupported
    jrlrp.register_kind("cholesky", "movement")
    try:
        assert not jrlrp.plan(f, x).unsupported
        assert np.isfinite(jrlrp.relevance(f)(x)).all()
    finally:
        register._REGISTERED.clear()


def test_measures_and_pictures_are_imported_when_asked_for():
    code = (
        "import sys, jrlrp\n"
        "assert not {'matplotlib', 'tqdm', 'jrlrp.metrics', 'jrlrp.plot', 'jrlrp.baselines'} & set(sys.modules)\n"
        "assert jrlrp.metrics.gini and jrlrp.baselines.gradient\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="module 'jrlrp' has no attribute 'pictures'"):
        jrlrp.pictures  # noqa: B018
