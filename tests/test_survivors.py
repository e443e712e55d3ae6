"""What could once be changed in the code without a test noticing it, each by its behaviour, with its right value."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax import lax

import jrlrp


def normal(seed, *shape):
    """Return the same numbers in every test, whichever run before it."""
    return np.random.default_rng(seed).normal(size=shape)


CLASSICAL = {"zero": jrlrp.Zero(), "epsilon": jrlrp.epsilon(), "epsilon_plus": jrlrp.epsilon_plus()}
PRESETS = CLASSICAL | {"relative": jrlrp.relative(), "attn_lrp": jrlrp.attn_lrp(), "cp_lrp": jrlrp.cp_lrp()}
every_preset = pytest.mark.parametrize("rules", PRESETS.values(), ids=PRESETS)


def close(actual, expected, rtol=1e-6):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * max(np.abs(expected).max(), 1e-300))


def equations(jaxpr):
    """Return all equations of a jaxpr, those of inner ones too."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    found = []
    for eqn in jaxpr.eqns:
        found.append(eqn)
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                found += equations(value)
    return found


def traced(explain, x):
    """Return all equations of what a transformed function runs."""
    return equations(jax.make_jaxpr(explain)(x))


SQUARE, HEAD = normal(10, 4, 4), normal(11, 4, 3)


# Brackets.

TERMS, OFFSET = normal(0, 4, 5), normal(1, 5)
SUMS = {
    "a - (b - c)": (lambda a, b, c: a - (b - c), (1, -1, 1)),
    "(a - b) - c": (lambda a, b, c: (a - b) - c, (1, -1, -1)),
    "a - (b + c)": (lambda a, b, c: a - (b + c), (1, -1, -1)),
    "a - (b - (c - d))": (lambda a, b, c, d: a - (b - (c - d)), (1, -1, 1, -1)),
    "(a - b) - (c - d)": (lambda a, b, c, d: (a - b) - (c - d), (1, -1, -1, 1)),
    "a - ((b - c) - d)": (lambda a, b, c, d: a - ((b - c) - d), (1, -1, 1, 1)),
    "-(a - (b - c))": (lambda a, b, c: -(a - (b - c)), (-1, 1, -1)),
    "a - (b - (c - constant))": (lambda a, b, c: a - (b - (c - OFFSET[: a.shape[-1]])), (1, -1, 1)),
}


@pytest.mark.parametrize("name", SUMS)
def test_each_summand_keeps_its_sign(name):
    f, signs = SUMS[name]
    terms = TERMS[: len(signs)]
    signed = [sign * term for sign, term in zip(signs, terms, strict=True)]
    by_ratio = jrlrp.relevance(f, tuple(range(len(terms))), rules=jrlrp.Zero(), target="all")(*terms)
    close(by_ratio, signed)  # a constant keeps its share
    by_size = jrlrp.relevance(f, tuple(range(len(terms))), rules=jrlrp.relative(), target="all")(*terms)
    close(by_size, np.abs(signed) / np.abs(signed).sum(0) * f(*terms))


@pytest.mark.parametrize("name", SUMS)
def test_zero_of_a_network_with_brackets_is_gradient_times_input(name):
    combine, signs = SUMS[name]
    kernels = normal(2, len(signs), 6, 4)
    f = lambda x: jax.nn.relu(combine(*(jax.nn.relu(x @ w) for w in kernels))) @ HEAD
    x = normal(3, 3, 6)
    close(jrlrp.relevance(f, rules=jrlrp.Zero())(x), oracles.gradient_times_input(f, x))


def gate(z):
    return jax.nn.sigmoid(z)


def divisor(z):
    return 1 + z * z  # one over it lies in [0, 1]


# Of factors a, b, c, d each product gives R to the signals alone, in equal parts; 1 marks a signal.
PRODUCTS = {
    "a / (b / c), c a gate": (lambda a, b, c: a / (b / gate(c)), (1, 1, 0)),
    "a / (b / c), b a divisor": (lambda a, b, c: a / (divisor(b) / c), (1, 0, 1)),
    "a / (b / c), c no gate though one over it is": (lambda a, b, c: a / (b / divisor(c)), (1, 1, 1)),
    "a / (b / c), b no gate though it is in [0, 1]": (lambda a, b, c: a / (gate(b) / c), (1, 1, 1)),
    "a / (b · c), c a divisor": (lambda a, b, c: a / (b * divisor(c)), (1, 1, 0)),
    "(a / b) / c, c a divisor": (lambda a, b, c: (a / b) / divisor(c), (1, 1, 0)),
    "a / (b / (c / d)), d a divisor": (lambda a, b, c, d: a / (b / (c / divisor(d))), (1, 1, 1, 0)),
    "a / (b / (c / d)), c a gate": (lambda a, b, c, d: a / (b / (gate(c) / d)), (1, 1, 0, 1)),
}


@pytest.mark.parametrize("rules", [jrlrp.relative(), jrlrp.epsilon()], ids=["relative", "epsilon"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_each_factor_is_a_gate_on_its_own_side_of_the_line(name, rules):
    f, signals = PRODUCTS[name]
    factors = TERMS[: len(signals)]
    shares = jrlrp.relevance(f, tuple(range(len(factors))), rules=rules, target="all")(*factors)
    value = f(*factors)
    close(shares, [value * signal / sum(signals) for signal in signals], 1e-5)


# A norm that turns its input over.


def turned(eps, spelling):
    """Return a root-mean-square norm of rows that ends as columns."""

    def f(x):
        size = jnp.sqrt(eps + jnp.mean(x * x, 1, keepdims=True))
        return (x / size).T if spelling == "after" else x.T / size.T

    return f


@pytest.mark.parametrize("size", [3, 4])  # of rows of 3
def test_relevance_of_a_norm_with_a_transpose_in_it_comes_back_to_where_it_belongs(size):
    x, r = normal(0, size, 3), normal(1, 3, size)
    for eps in (1.0, 2.0):  # 1 / size is a gate, so that this holds where no norm is found too
        for rules in (jrlrp.relative(), jrlrp.epsilon(0.0), jrlrp.epsilon_plus(0.0)):
            _, propagate = jrlrp.pullback(turned(eps, "inside"), x, rules=rules)
            close(propagate(r)[0], r.T, 1e-3)


@every_preset
@pytest.mark.parametrize("size", [3, 4])
def test_a_norm_with_a_transpose_in_it_has_the_map_of_one_with_it_outside(rules, size):
    x = normal(0, size, 3) + 0.5
    explain = lambda spelling: jrlrp.relevance(lambda x: turned(1e-5, spelling)(x) @ HEAD[:size], rules=rules)(x)
    close(explain("inside"), explain("after"))


# Values inside an activation or a norm that are explained themselves.


@every_preset
def test_a_value_inside_an_activation_may_be_an_output(rules):
    def f(x):
        u = jnp.tanh(x)
        return u, x * u

    x, of_u, of_product = normal(0, 3, 4, 5)
    _, propagate = jrlrp.pullback(f, x, rules=rules)
    close(propagate((of_u, of_product))[0], of_u + of_product)
    close(jrlrp.relevance(f, rules=rules, target="all")(x), f(x)[0] + f(x)[1])


def test_a_value_inside_an_activation_may_be_an_output_of_a_loop():
    def turn(c, t):
        u = jnp.tanh(c)
        return c * u, u

    x = normal(0, 4)
    end, steps = lax.scan(turn, x, jnp.zeros(3))
    total = jrlrp.relevance(lambda x: lax.scan(turn, x, jnp.zeros(3)), rules=jrlrp.epsilon(), target="all")(x)
    close(total, end + steps.sum(0))  # all of it is elementwise


@pytest.mark.parametrize("inner", ["centred", "size"])
def test_a_value_inside_a_norm_may_be_an_output(inner):
    def f(x):
        centred = x - x.mean(-1, keepdims=True)
        size = jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-9)
        return (centred if inner == "centred" else size), centred / size

    x = normal(0, 2, 5)
    outputs, propagate = jrlrp.pullback(f, x, rules=jrlrp.Zero())
    of_inner, of_norm = (normal(1 + k, *out.shape) for k, out in enumerate(outputs))
    (result,) = propagate((of_inner, of_norm))
    close(result.sum(), of_inner.sum() + of_norm.sum())  # nothing is lost
    if inner == "centred":  # the relevance of c = x − mean(x) is its own and that of c / size, the size being held
        share = (of_inner + of_norm) / outputs[0]
        close(result, x * (share - share.mean(-1, keepdims=True)))


# Loops that make no turn.

NO_TURN = {
    "a carry that is handed on": lambda c, t: (c, None),
    "a carry that is forgotten": lambda c, t: (jnp.full_like(c, 2.0) * t, None),
    "a carry that is held": lambda c, t: (lax.stop_gradient(c) + t, None),
    "a layer": lambda c, t: (jnp.tanh(c @ SQUARE) + t, c.sum()),
    "a softmax": lambda c, t: (jax.nn.softmax(c), jax.nn.softmax(c)),
}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", NO_TURN)
@every_preset
def test_a_loop_of_no_turns_hands_on_its_first_state(rules, name, reverse):
    loop = lambda x: lax.scan(NO_TURN[name], x, jnp.zeros((0,)), reverse=reverse)[0]
    x = normal(0, 4)
    close(jrlrp.relevance(loop, rules=rules, target="all")(x), x)
    for f, plain in (
        (lambda x: loop(x) @ HEAD, lambda x: x @ HEAD),
        (lambda x: loop(x @ SQUARE) @ HEAD, lambda x: (x @ SQUARE) @ HEAD),
        (lambda x: loop(x @ SQUARE), lambda x: x @ SQUARE),
    ):
        close(jrlrp.relevance(f, rules=rules)(x), jrlrp.relevance(plain, rules=rules)(x))
        np.testing.assert_allclose(jrlrp.value_and_relevance(f, rules=rules)(x)[0], plain(x))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_loop_of_no_turns_keeps_its_states_apart(reverse):
    """Each state would move to the other's place in a turn."""

    def f(a, b):
        (a, b, _), stack = lax.scan(
            lambda c, t: ((c[1], lax.stop_gradient(c[0]), t), c[0]), (a, b, 0.0), jnp.zeros((0,)), reverse=reverse
        )
        return a * 2.0 + stack.sum(0), b

    a, b, of_a, of_b = normal(0, 4, 5)
    _, propagate = jrlrp.pullback(f, a, b, rules=jrlrp.Zero())
    close(propagate((of_a, of_b)), [of_a, of_b])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_state_that_a_turn_forgets_gets_nothing(length, reverse):
    slices = normal(1, length, 4)
    f = lambda x, xs: lax.scan(lambda c, t: (t, c), x, xs, reverse=reverse)[0]
    x = normal(0, 4)
    of_x, of_slices = jrlrp.relevance(f, (0, 1), rules=jrlrp.Zero(), target="all")(x, slices)
    expected = np.zeros_like(slices)
    expected[0 if reverse else -1] = slices[0 if reverse else -1]
    close(of_x, 0 * x)
    close(of_slices, expected)


# Solves are linear in the right-hand side alone.

MATRIX, SIDE = SQUARE + 4 * np.eye(4), normal(12, 4)


def triangular(a, b):
    return jax.scipy.linalg.solve_triangular(a, b, lower=True)


def iterated(a, b):
    inverse = jnp.linalg.inv(lax.stop_gradient(a))
    return lax.custom_linear_solve(lambda v: a @ v, b, lambda _, b: inverse @ b, lambda _, b: inverse.T @ b)


SOLVES = {"triangular_solve": (triangular, np.tril(MATRIX)), "linear_solve": (iterated, MATRIX)}


@pytest.mark.parametrize("name", SOLVES)
def test_a_solve_is_linear_in_its_right_hand_side(name):
    solve, matrix = SOLVES[name]
    w = np.linalg.inv(matrix).T
    explain = lambda rules: jrlrp.relevance(lambda b: solve(matrix, b), rules=rules, target="all")(SIDE)
    z = SIDE @ w
    close(explain(jrlrp.Zero()), oracles.zero(w, np.zeros(4), SIDE, z))
    close(explain(jrlrp.Epsilon(0.1)), oracles.epsilon_rule(w, np.zeros(4), SIDE, z, 0.1))
    close(explain(jrlrp.Relative()), oracles.relative(w, np.zeros(4), SIDE, z))


@pytest.mark.parametrize("both", [False, True], ids=["the matrix", "both"])
@pytest.mark.parametrize("name", SOLVES)
def test_a_solve_is_not_linear_in_its_matrix(name, both):
    solve, matrix = SOLVES[name]
    argnums = (0, 1) if both else 0
    (node,) = jrlrp.plan(solve, matrix, SIDE, argnums=argnums).unsupported
    assert name in " ".join(node.equations)
    with pytest.raises(jrlrp.UnsupportedError, match=name):
        jrlrp.relevance(solve, argnums, target="all")(matrix, SIDE)
    # By gradient × input, the relevance of the solution being the solution itself.
    share = jrlrp.relevance(solve, argnums, rules=jrlrp.Zero(), target="all", unknown="gradient")(matrix, SIDE)
    gradients = jax.grad(lambda *args: solve(*args).sum(), (0, 1))(matrix, SIDE)
    if both:
        close(share[1], SIDE * gradients[1], 1e-4)
    close(share[0] if both else share, matrix * gradients[0], 1e-4)


def test_a_solve_is_not_linear_in_what_its_product_closes_over():
    """The matrix is one operand alone where nothing says how to solve the transposed system."""
    inverse = np.linalg.inv(MATRIX)

    def f(a):
        return lax.custom_linear_solve(lambda v: a @ v, jnp.asarray(SIDE), lambda _, b: inverse @ b)

    with pytest.raises(jrlrp.UnsupportedError, match="linear_solve"):
        jrlrp.relevance(f, target="all")(MATRIX)


# Effects.


def printing(name):
    """Return a function that prints from within control flow, and what it prints."""

    def say(x):
        jax.debug.print(name + " has {:.3f}", x.sum())
        return jnp.tanh(x @ SQUARE)

    return {
        "scan": lambda x: lax.scan(lambda c, t: (say(c) + t, None), x, jnp.arange(3.0))[0],
        "cond": lambda x: lax.cond(x.sum() < 1e9, say, lambda x: x, x),
        "switch": lambda x: lax.switch(1, [lambda x: x, say, jnp.sin], x),
        "remat": jax.checkpoint(say),
        "map": lambda x: lax.map(say, x[None])[0],
        "a loop in a loop": lambda x: lax.scan(
            lambda c, t: lax.scan(lambda c, t: (say(c), None), c, jnp.zeros(2)), x, jnp.zeros(2)
        )[0],
        "a cond in a loop": lambda x: lax.scan(
            lambda c, t: (lax.cond(t > 0.5, say, lambda c: c, c), None), x, jnp.arange(3.0)
        )[0],
        "while": lambda x: x * lax.while_loop(lambda n: n < 3, counted, 0) + 0 * say(x),
    }[name]


def counted(n):
    jax.debug.print("turn {}", n)
    return n + 1


def printed(capsys, run):
    run()
    jax.effects_barrier()
    return sorted(set(capsys.readouterr().out.splitlines()))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("rules", [None, jrlrp.epsilon(), jrlrp.gradient_times_input()])
@pytest.mark.parametrize(
    "name", ["scan", "cond", "switch", "remat", "map", "a loop in a loop", "a cond in a loop", "while"]
)
def test_what_is_printed_inside_control_flow_still_is(capsys, name, rules, compiled):
    f, x = printing(name), normal(0, 4)
    expected = printed(capsys, lambda: f(x))
    assert expected
    explain = jrlrp.relevance(f, rules=rules, target="all")
    assert printed(capsys, lambda: (jax.jit(explain) if compiled else explain)(x)) == expected


def test_effects_alone_in_a_body_still_happen():
    """Nothing in the body's outputs depends on what is called."""
    seen = []

    def turn(c, t):
        jax.debug.callback(lambda t: seen.append(int(t)), t)
        return c * 2.0, None

    jrlrp.relevance(lambda x: lax.scan(turn, x, jnp.arange(5))[0], target="all")(normal(0, 3))
    jax.effects_barrier()
    assert sorted(set(seen)) == [0, 1, 2, 3, 4]


# Each vector that a matrix product maps has its own κ.

N = 3  # for all sizes: what is put into the wrong order must not fail by its shape
CONTRACTIONS = {
    "batch in order": (((2,), (2,)), ((0, 1), (0, 1))),
    "batch turned round": (((2,), (2,)), ((1, 0), (1, 0))),
    "batch turned round on one side": (((2,), (1,)), ((1, 0), (0, 2))),
    "batch last": (((0,), (0,)), ((2, 1), (1, 2))),
    "contracting in the middle": (((1,), (0,)), ((2, 0), (1, 2))),
    "one batch axis, last": (((0,), (1,)), ((2,), (0,))),
    "one batch axis, in the middle": (((2,), (0,)), ((1,), (2,))),
    "no batch axis": (((1,), (1,)), ((), ())),
}


def by_vectors(dimensions, x, w):
    """Return R of lax.dot_general(x, w), one vector of x after another, with the whole of w that it meets."""
    (of_x, of_w), (batch_x, batch_w) = dimensions
    free = [d for d in range(x.ndim) if d not in (*of_x, *batch_x)]
    result = np.zeros_like(x)
    for index in np.ndindex(*(x.shape[d] for d in (*batch_x, *free))):
        here: list = [slice(None)] * x.ndim
        there: list = [slice(None)] * w.ndim
        for d, k in zip((*batch_x, *free), index, strict=True):
            here[d] = k
        for d, k in zip(batch_w, index, strict=False):
            there[d] = k
        left = [d for d in range(w.ndim) if d not in batch_w]
        kernel = np.moveaxis(w[tuple(there)], left.index(of_w[0]), 0).reshape(x.shape[of_x[0]], -1)
        vector = x[tuple(here)]
        result[tuple(here)] = oracles.relative(kernel, np.zeros(kernel.shape[1]), vector, vector @ kernel)
    return result


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CONTRACTIONS)
def test_each_vector_of_a_batched_product_has_its_own_factor(name, side):
    dimensions = CONTRACTIONS[name]
    (of_x, of_w), (batch_x, batch_w) = dimensions
    x, w = normal(0, 2, N, N, N)
    x = x * np.arange(1, N + 1)[:, None] ** 3
    if side == "left":
        f = lambda x: lax.dot_general(x, w, dimensions)
    else:
        f = lambda x: lax.dot_general(w, x, ((of_w, of_x), (batch_w, batch_x)))
    close(jrlrp.relevance(f, rules=jrlrp.Relative(), target="all")(x), by_vectors(dimensions, x, w))


def test_each_vector_of_a_batched_product_has_the_factor_that_vmap_gives_it():
    x, w = normal(0, N, N, N), normal(1, N, N, N, 2)
    f = lambda x: lax.dot_general(x, w, (((1,), (2,)), ((2, 0), (1, 0))))  # [i, k, b] · [i, b, k, m] -> [b, i, m]
    one = jrlrp.relevance(lambda x, w: x @ w, rules=jrlrp.Relative(), target="all")
    expected = jax.vmap(jax.vmap(one, in_axes=(1, 0), out_axes=1))(x, w)
    close(jrlrp.relevance(f, rules=jrlrp.Relative(), target="all")(x), expected)


# What remat and scan are told.


@pytest.mark.parametrize("prevent_cse", [False, True])
def test_a_remat_keeps_its_options(prevent_cse):
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    block = jax.checkpoint(lambda x: jnp.tanh(jnp.tanh(x @ SQUARE) @ SQUARE), prevent_cse=prevent_cse, policy=policy)
    remats = [
        eqn
        for eqn in traced(jrlrp.relevance(lambda x: block(x) @ HEAD), np.ones((2, 4)))
        if "prevent_cse" in eqn.params
    ]
    assert remats
    assert all(eqn.params["prevent_cse"] == prevent_cse for eqn in remats)
    assert all(eqn.params["policy"] is policy for eqn in remats)


def test_the_policy_of_a_remat_says_what_is_computed_twice():
    def products(policy):
        block = jax.checkpoint(lambda x: jnp.tanh(jnp.tanh(x @ SQUARE) @ SQUARE), policy=policy)
        run = traced(jrlrp.relevance(lambda x: block(x) @ HEAD, rules=jrlrp.epsilon()), np.ones((2, 4)))
        return sum(eqn.primitive.name == "dot_general" for eqn in run)

    policies = jax.checkpoint_policies
    assert products(policies.everything_saveable) < products(policies.nothing_saveable)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("unroll", [1, 2, 5, True])
def test_a_scan_keeps_its_unrolling(unroll, reverse):
    def f(x, unroll):
        return lax.scan(lambda c, t: (jnp.tanh(c @ SQUARE + t), c), x[0], x, reverse=reverse, unroll=unroll)[0] @ HEAD

    x = normal(0, 5, 4)
    explain = jrlrp.relevance(lambda x: f(x, unroll))
    close(explain(x), jrlrp.relevance(lambda x: f(x, 1))(x))
    told = [
        eqn.params["unroll"] for eqn in equations(jax.make_jaxpr(lambda x: f(x, unroll))(x)) if "unroll" in eqn.params
    ]
    kept = [eqn.params["unroll"] for eqn in traced(explain, x) if "unroll" in eqn.params]
    assert set(kept) == set(told)


# Average pools and what is multiplied to them.

POOLED, GAIN = normal(0, 5, 3), np.asarray([-1.5, 0.5, -2.0])
POOL_RULES = {
    "zplus": (jrlrp.ZPlus(), oracles.zplus),
    "alphabeta": (jrlrp.AlphaBeta(), oracles.alphabeta),
    "gamma": (jrlrp.Gamma(), oracles.gamma_rule),
    "epsilon": (jrlrp.Epsilon(), oracles.epsilon_rule),
    "zero": (jrlrp.Zero(), oracles.zero),
    "relative": (jrlrp.Relative(), functools.partial(oracles.relative, apart=True)),
    "relative_plus": (jrlrp.RelativePlus(), functools.partial(oracles.relative, apart=True, plus=True)),
}
FACTORS = {
    "a negative number": (lambda z: -2.0 * z, -2.0),
    "a sign": (lambda z: -z, -1.0),
    "division by a negative number": (lambda z: z / -4.0, -0.25),
    "a number minus it": (lambda z: 0.0 - z, -1.0),
    "two signs and a number": (lambda z: -(3.0 * -z), 3.0),
    "a negative scalar": (lambda z: jnp.asarray(-2.0) * z, -2.0),
    "gains of both signs": (lambda z: jnp.asarray(GAIN) * z, GAIN),
    "a positive number": (lambda z: 2.0 * z, 2.0),
}


@pytest.mark.parametrize("rule", POOL_RULES)
@pytest.mark.parametrize("name", FACTORS)
def test_the_sign_of_a_factor_after_an_average_pool_is_no_weight_of_the_pool(name, rule):
    """A factor passes relevance on, and the pool shares it by its own weights, which are positive."""
    scaled, factor = FACTORS[name]
    own, oracle = POOL_RULES[rule]
    entries = [(jrlrp.match("average_pool"), own)]
    if np.ndim(factor):
        entries.append((jrlrp.match("scale"), jrlrp.Pass()))
    rules = jrlrp.Composite(entries, base=jrlrp.epsilon(0.0))
    f = lambda x: scaled(x.mean(0))
    w = np.tile(np.eye(3), (5, 1)) / 5
    expected = oracle(w, np.zeros(3), POOLED.ravel(), POOLED.mean(0) * factor).reshape(5, 3)
    close(jrlrp.relevance(f, rules=rules, target="all")(POOLED), expected, 1e-4)


# What looks like a softmax and is none: a sum over one axis, spread over another.


def shifted(e):
    return jnp.exp(e - lax.stop_gradient(e.max()))


MISTAKEN = {
    "the total of row j under column j": lambda p: p / p.sum(1),
    "by a reshape": lambda p: p / p.sum(1).reshape(1, 4),
    "the total of column i beside row i": lambda p: p / p.sum(0)[:, None],
    "by broadcast_in_dim": lambda p: p / lax.broadcast_in_dim(p.sum(0), (4, 4), (0,)),
    "times the reciprocal": lambda p: p * (1 / p.sum(1)),
    "there and back and there": lambda p: p / p.sum(1)[:, None].T,
}


@pytest.mark.parametrize("power", [jnp.exp, shifted], ids=["exp", "shifted"])
@pytest.mark.parametrize("name", MISTAKEN)
def test_a_sum_spread_over_another_axis_makes_no_softmax(name, power):
    f, e = lambda e: MISTAKEN[name](power(e)), normal(0, 4, 4)
    assert all(node.kind != "softmax" for node in jrlrp.plan(lambda e: f(e) @ SQUARE, e).nodes)
    # So it is no final softmax either, whose relevance would be the logits: it is explained as it is, and conserves.
    for rules in (jrlrp.Zero(), jrlrp.epsilon(), jrlrp.attn_lrp()):
        close(jrlrp.relevance(f, rules=rules, target="all")(e).sum(), f(e).sum(), 1e-4)


@pytest.mark.parametrize("end", [lambda z: z, jnp.exp], ids=["log", "exp of log"])
def test_nor_does_its_logarithm(end):
    f, e = lambda e: end(e - jnp.log(jnp.exp(e).sum(1))), normal(0, 4, 4)
    assert all(node.kind != "softmax" for node in jrlrp.plan(lambda e: f(e) @ SQUARE, e).nodes)
    assert not np.allclose(jrlrp.relevance(f, rules=jrlrp.Zero(), target="all")(e), e)  # as at the logits


@pytest.mark.parametrize(
    "f",
    [
        lambda p: p / p.sum(0),
        lambda p: p / p.sum(1)[:, None],
        lambda p: p / lax.broadcast_in_dim(p.sum(1), (4, 4), (0,)),
        lambda p: p / p.sum(1)[None].T,
    ],
)
def test_a_sum_that_comes_back_to_its_own_axis_makes_a_softmax(f):
    e = normal(0, 4, 4)
    close(jrlrp.relevance(lambda e: f(jnp.exp(e)), rules=jrlrp.epsilon(), target="all")(e), e)


# Convolutions that mix the batch.

GROUPED = {
    "rows": ((4, 2, 5), (6, 2, 3), 2, (1,), "SAME"),
    "strides": ((6, 1, 6), (3, 1, 2), 3, (2,), "VALID"),
    "all": ((3, 2, 4), (3, 2, 2), 3, (1,), [(1, 0)]),
}
CONV_RULES = {
    "zero": (jrlrp.Zero(), oracles.zero),
    "epsilon": (jrlrp.Epsilon(0.01), functools.partial(oracles.epsilon_rule, epsilon=0.01)),
    "alphabeta": (jrlrp.AlphaBeta(), oracles.alphabeta),
    "zplus": (jrlrp.ZPlus(), oracles.zplus),
    "gamma": (jrlrp.Gamma(), oracles.gamma_rule),
    "flat": (jrlrp.Flat(), oracles.flat),
    "wsquare": (jrlrp.WSquare(), oracles.wsquare),
    "relative": (jrlrp.Relative(), oracles.relative),
    "relative_plus": (jrlrp.RelativePlus(), functools.partial(oracles.relative, plus=True)),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # that the batch is taken for one example
@pytest.mark.parametrize("rule", CONV_RULES)
@pytest.mark.parametrize("name", GROUPED)
def test_a_convolution_with_groups_of_the_batch_is_its_unrolled_matrix(name, rule):
    shape, kernel_shape, groups, strides, padding = GROUPED[name]
    x, kernel, bias = normal(0, *shape), normal(1, *kernel_shape), normal(2, kernel_shape[0], 1)

    def f(x):
        return lax.conv_general_dilated(x, kernel, strides, padding, batch_group_count=groups) + bias

    own, oracle = CONV_RULES[rule]
    w, b = oracles.affine(f, x)
    expected = oracle(w, b, x.ravel(), np.asarray(f(x)).ravel()).reshape(shape)
    # One example of its own: along a leading axis of x, each group would be examples apart.
    close(jrlrp.relevance(lambda x: f(x[0]), rules=own, target="all")(x[None])[0], expected, 1e-5)


# Approximate choices.

CHOICES = {
    "approx_max_k": (lambda x: lax.approx_max_k(x, 3), lambda x: lax.top_k(x, 3)),
    "approx_min_k": (lambda x: lax.approx_min_k(x, 3), lambda x: lax.sort_key_val(x, _places(x))),
    "over another axis": (
        lambda x: [v.T for v in lax.approx_max_k(x.T, 3, reduction_dimension=0)],
        lambda x: lax.top_k(x, 3),
    ),
}


def _places(x):
    return jnp.broadcast_to(jnp.arange(x.shape[-1]), x.shape)


@every_preset
@pytest.mark.parametrize("name", CHOICES)
def test_an_approximate_choice_gives_all_to_those_it_chooses(name, rules):
    approximate, exact = CHOICES[name]
    x = normal(0, 2, 8)
    values, places = (v[:, :3] for v in exact(x))
    np.testing.assert_array_equal(approximate(x)[0], values)  # as it is on CPUs
    expected = np.zeros_like(x)
    np.put_along_axis(expected, np.asarray(places), np.asarray(values), 1)
    close(jrlrp.relevance(lambda x: approximate(x)[0], rules=rules, target="all")(x), expected)
    w = normal(1, 8, 8)
    explain = lambda f: jrlrp.relevance(lambda x: f(x @ w)[0][:, :3] @ HEAD[:3], rules=rules)(x)
    close(explain(approximate), explain(exact))


@pytest.mark.parametrize("name", CHOICES)
def test_an_approximate_choice_keeps_the_examples_of_a_batch_apart(name):
    x = normal(0, 3, 6, 2) * np.asarray([1, 30, 0.1])[:, None, None]
    kernel = normal(1, 3, 2, 4)

    def f(x):
        z = lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
        return CHOICES[name][0](jax.nn.relu(z).reshape(len(x), -1))[0] @ HEAD[:3]

    together = jrlrp.relevance(f)(x)
    close(together, np.concatenate([jrlrp.relevance(f)(x[k : k + 1]) for k in range(3)]))


# Length.

LENGTH = 2000
NUMBERS = np.random.default_rng(0).uniform(0.5, 1.5, LENGTH).tolist()


def terms(x, y):
    """Return thousands of terms, those of even places made of x and the others of y."""
    return [number * (y if k % 2 else x) for k, number in enumerate(NUMBERS)]


def right_to_left(combine, terms):
    return functools.reduce(lambda so_far, term: combine(term, so_far), reversed(terms))


@pytest.mark.parametrize("tree", [functools.reduce, right_to_left])
def test_a_sum_of_thousands_is_one(tree):
    x, y = normal(0, 2, 3)
    f = lambda x, y: tree(operator.add, terms(x, y))
    shares = jrlrp.relevance(f, (0, 1), rules=jrlrp.Zero(), target="all")(x, y)
    close(shares, [sum(NUMBERS[::2]) * x, sum(NUMBERS[1::2]) * y])


def test_a_difference_of_thousands_knows_each_sign():
    """t0 - (t1 - (t2 - ...)), all of y being taken away."""
    x, y = normal(0, 2, 3)
    f = lambda x, y: right_to_left(operator.sub, terms(x, y))
    shares = jrlrp.relevance(f, (0, 1), rules=jrlrp.Zero(), target="all")(x, y)
    close(shares, [sum(NUMBERS[::2]) * x, -sum(NUMBERS[1::2]) * y])


def test_a_product_of_thousands_is_one():
    x, y = np.exp(normal(0, 2, 3) / 100)
    numbers = [1 + (number - 1) / 100 for number in NUMBERS]
    f = lambda x, y: right_to_left(operator.mul, [n * (y if k % 2 else x) for k, n in enumerate(numbers)])
    shares = jrlrp.relevance(f, (0, 1), rules=jrlrp.epsilon(), target="all")(x, y)
    close(shares, [f(x, y) / 2, f(x, y) / 2], 1e-4)


def test_a_plan_of_a_long_chain_needs_no_deep_stack():
    def f(x):
        for k in range(LENGTH):
            x = (x + 0.001 * x, jnp.tanh(x), -x)[k % 3]
        return x

    assert not jrlrp.plan(f, normal(0, 2, 3)).unsupported
