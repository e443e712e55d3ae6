"""Perturbation curves against cases computed by hand, and against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp
from jrlrp import metrics
from jrlrp.batches import rows

RNG = np.random.default_rng(0)
# One score is the sum of its features: removing a feature takes it away.
X = np.array([[1.0, 2.0, 3.0, 4.0], [4.0, -1.0, 0.0, 2.0]])
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


def total(x):
    return x.reshape(len(x), -1).sum(1)


def curve(x=X, relevance=None, model=total, **options):
    options = {"levels": LEVELS, "score": "logit", **options}
    return metrics.perturbation(model, x, x if relevance is None else relevance, **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[10, 6, 3, 1, 0], [5, 1, -1, -1, 0]]),
        ({"order": "least"}, [[10, 9, 7, 4, 0], [5, 6, 6, 4, 0]]),
        ({"keep": True}, [[0, 4, 7, 9, 10], [0, 4, 6, 6, 5]]),
        ({"order": "least", "keep": True}, [[0, 1, 3, 6, 10], [0, -1, -1, 1, 5]]),
        ({"absolute": True}, [[10, 6, 3, 1, 0], [5, 1, -1, 0, 0]]),
        ({"replace": 1.0}, [[10, 7, 5, 4, 4], [5, 2, 1, 2, 4]]),
        ({"replace": "mean"}, [[10, 8.5, 8, 8.5, 10], [5, 2.25, 1.5, 2.75, 5]]),
        ({"region": 2}, [[10, 10, 3, 0, 0], [5, 5, 2, 0, 0]]),
    ],
)
def test_of_a_sum(options, expected):
    np.testing.assert_allclose(curve(**options).values, expected)


def test_areas_of_a_sum():
    found, least = curve(), curve(order="least")
    np.testing.assert_allclose(found.area, [(5 + 6 + 3 + 1) / 4, (2.5 + 1 - 1 - 1) / 4])
    np.testing.assert_allclose(found.aopc, [(0 + 4 + 7 + 9 + 10) / 5, (0 + 4 + 6 + 6 + 5) / 5])
    np.testing.assert_allclose(metrics.abpc(found, least), [(3 + 4 + 3) / 5, (5 + 7 + 5) / 5])
    np.testing.assert_allclose(found.mean, found.values.mean(0))
    part = curve(levels=(0.25, 0.5, 1.0))  # of which the steps differ: (6 + 3)/2 · 1/3 + (3 + 0)/2 · 2/3, for the first
    np.testing.assert_allclose(part.area, [2.5, (1 - 1) / 2 / 3 + (-1 + 0) / 2 * 2 / 3])
    np.testing.assert_allclose(curve(levels=(0.5,)).area, [3, -1])


def test_insertion_and_the_orders_of_a_sum():
    """By hand: a map that ranks by value; kept first, each row adds up from its largest entry."""
    levels = (0.0, 0.5, 1.0)
    insertion, deletion = curve(keep=True, levels=levels), curve(levels=levels)
    np.testing.assert_allclose(insertion.values, [[0, 7, 10], [0, 6, 5]])
    np.testing.assert_allclose(insertion.area, [6, (0 + 6) / 4 + (6 + 5) / 4])
    np.testing.assert_allclose(deletion.area, [4, (5 - 1) / 4 + (-1 + 0) / 4])
    np.testing.assert_allclose(insertion.values + deletion.values, total(X)[:, None] * np.ones(3))
    least = curve(order="least", levels=levels)
    np.testing.assert_allclose(least.values, [[10, 7, 0], [5, 6, 0]])
    np.testing.assert_allclose(least.aopc, [(0 + 3 + 10) / 3, (0 - 1 + 5) / 3])
    np.testing.assert_allclose(metrics.abpc(deletion, least), [4 / 3, 7 / 3])
    np.testing.assert_allclose(metrics.abpc(deletion, deletion), 0)
    better, worse = curve(relevance=X), curve(relevance=-X)
    np.testing.assert_allclose(worse.values[0], [10, 9, 7, 4, 0])
    assert (better.aopc > worse.aopc).all()


def test_of_features_kept_the_whole_input_comes_last():
    """By hand: rows 0 4 7 9 10 and 0 4 6 6 5, of which the last is f(x)."""
    kept = curve(keep=True)
    assert kept.keep and not curve().keep
    np.testing.assert_allclose(kept.aopc, [10 - 6, 5 - 21 / 5])
    np.testing.assert_allclose(metrics.Curve(np.array(LEVELS), np.array([[0.0, 4, 6, 7, 4]]), keep=True).aopc, [-0.2])
    np.testing.assert_allclose(curve(keep=True, levels=(0.25, 1.0)).aopc, [(6 + 0) / 2, (1 + 0) / 2])
    with pytest.raises(jrlrp.ArgumentError, match="expected 1 as the last level"):
        _ = curve(keep=True, levels=(0.0, 0.5)).aopc
    # To keep the first part of the features is to replace the rest, which come last in the other order.
    least = curve(keep=True, order="least")
    np.testing.assert_allclose(kept.aopc, curve(order="least").aopc)
    np.testing.assert_allclose(metrics.abpc(kept, least), metrics.abpc(curve(), curve(order="least")))
    assert (metrics.abpc(kept, least) > 0).all()
    with pytest.raises(jrlrp.ArgumentError, match="not one of each"):
        metrics.abpc(kept, curve(order="least"))


def test_equals_go_in_the_order_of_memory():
    flat = np.zeros((2, 4))
    for order in ("most", "least"):
        np.testing.assert_allclose(curve(relevance=flat, order=order).values, [[10, 9, 7, 4, 0], [5, 1, 2, 2, 0]])
    np.testing.assert_allclose(
        curve(relevance=[[1, -1, 1, 0], [0, 2, -2, 2]], absolute=True, levels=(0.25, 0.5)).values, [[9, 7], [6, 6]]
    )


def test_single_features_and_examples():
    one = metrics.perturbation(total, [[3.0]], [[1.0]], levels=(0.0, 1.0), score="logit")
    np.testing.assert_allclose(one.values, [[3, 0]])
    whole = metrics.perturbation(total, X, np.ones((2, 1)), levels=(0.0, 1.0), score="logit")
    np.testing.assert_allclose(whole.values, [[10, 0], [5, 0]])
    np.testing.assert_allclose(curve(X[:1, :, None], X[:1]).values, [[10, 6, 3, 1, 0]])


def test_whole_pixels_channels_anywhere_and_squares():
    images = RNG.normal(size=(3, 5, 6, 2))
    weights = RNG.normal(size=(5, 6, 2))
    model = lambda x: (x * weights).sum((1, 2, 3))
    relevance = images * weights
    whole = curve(images, relevance.sum(-1), model)
    flipped = curve(images.transpose(0, 3, 1, 2), relevance.sum(-1)[:, None], lambda x: model(x.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(whole.values, flipped.values, rtol=1e-5)
    for k, level in enumerate(LEVELS):
        for n in range(3):
            order = np.argsort(-relevance[n].sum(-1), axis=None, kind="stable")[: round(level * 30)]
            left = np.array(images[n].reshape(30, 2))
            left[order] = 0
            np.testing.assert_allclose(whole.values[n, k], (left.reshape(5, 6, 2) * weights).sum(), rtol=1e-5)
    squares = curve(images, relevance.sum(-1), model, region=4, levels=(0.25, 1.0))
    for n in range(3):
        r = relevance[n].sum(-1)
        sums = {(i, j): r[i : i + 4, j : j + 4].sum() for i in (0, 4) for j in (0, 4)}
        i, j = max(sums, key=sums.get)
        left = images[n].copy()
        left[i : i + 4, j : j + 4] = 0
        np.testing.assert_allclose(squares.values[n], [(left * weights).sum(), 0.0], rtol=1e-5, atol=1e-9)


def test_scores_and_targets():
    w = RNG.normal(size=(4, 3))
    model = lambda x: x @ w
    x = RNG.normal(size=(7, 4))
    z = x @ w
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    rows, best = np.arange(7), z.argmax(1)
    at = lambda **options: metrics.perturbation(model, x, x, levels=(0.0,), **options).values[:, 0]
    np.testing.assert_allclose(at(), p[rows, best], rtol=1e-5)
    np.testing.assert_allclose(at(target=1), p[:, 1], rtol=1e-5)
    np.testing.assert_allclose(at(target=rows % 3, score="logit"), z[rows, rows % 3], rtol=1e-5)
    np.testing.assert_array_equal(at(target=rows % 3, score="correct"), best == rows % 3)
    np.testing.assert_allclose(at(target=-1), p[:, 2], rtol=1e-5)
    np.testing.assert_array_equal(at(target=-1, score="correct"), best == 2)
    single = metrics.perturbation(lambda x: total(x)[:, None], X, X, levels=(0.0,), score="logit")
    np.testing.assert_allclose(single.values[:, 0], total(X))
    both = at(score=lambda out, target: jnp.stack([out.max(-1), target], axis=-1))
    np.testing.assert_allclose(both, np.stack([z.max(1), best], 1), rtol=1e-5)


@pytest.mark.parametrize("score", ["logit", "probability", "correct", lambda out, target: out[:, 0] > 1])
def test_scores_are_added_up_in_single_precision_at_least(score):
    """A model of half precision, whose scores bfloat16 and yes or no would spoil in sums."""
    model = lambda x: jnp.stack([total(x), 7 * x[:, 0]], axis=1)
    options = {"model": model, "score": score, "target": 0}
    found = curve(jnp.asarray(X, jnp.bfloat16), X, **options)
    assert found.values.dtype == np.float32
    expected = curve(X, X, **options)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-6)
    np.testing.assert_allclose(found.aopc, expected.aopc, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_changes_nothing(batch_size):
    np.testing.assert_allclose(curve(batch_size=batch_size).values, curve().values)


def test_a_model_is_compiled_once_and_seen_in_batches():
    shapes = []

    def model(x):
        shapes.append(x.shape)
        return total(x)

    jitted = jax.jit(model)
    for _ in range(2):
        curve(np.tile(X, (5, 1)), model=jitted, batch_size=8, target=0)
    assert shapes == [(8, 4)]


def test_weights_are_those_of_the_call():
    class Model:
        weight = 1.0

        def __call__(self, x):
            return self.weight * total(x)

    traces, weights = [], [0.0]

    def function(x):
        return weights[0] * total(x)

    def apply(weight, x):
        traces.append(x.shape)
        return weight * total(x)

    model = Model()
    for weight in (1.0, 3.0):
        model.weight = weights[0] = weight
        for changing in (model, model.__call__, function, jax.tree_util.Partial(apply, weight)):
            np.testing.assert_allclose(curve(model=changing).values, weight * curve().values)
    compiled = len(traces)
    curve(model=jax.tree_util.Partial(apply, 5.0))
    assert len(traces) == compiled + 1  # for the shape of its output alone


def test_ids_are_replaced_by_the_id_of_a_mask():
    table = RNG.normal(size=(9, 3))
    model = lambda ids: jnp.asarray(table)[ids].sum(1)
    ids = np.array([[3, 1, 4], [5, 2, 6]])
    relevance = jrlrp.relevance(model, rules=jrlrp.epsilon(), target=0)(ids)
    found = metrics.perturbation(model, ids, relevance, levels=(0.0, 1 / 3, 1.0), replace=8, score="logit", target=0)
    for n in range(2):
        left = ids[n].copy()
        left[np.argmax(relevance[n])] = 8
        expected = [table[ids[n], 0].sum(), table[left, 0].sum(), 3 * table[8, 0]]
        np.testing.assert_allclose(found.values[n], expected, rtol=1e-5)
    with pytest.raises(jrlrp.ArgumentError, match="ids have no mean"):
        metrics.perturbation(model, ids, relevance, replace="mean")
    with pytest.raises(jrlrp.ArgumentError, match=r"replace=0\.5: not a number of dtype int64"):
        metrics.perturbation(model, ids, relevance, replace=0.5)


def test_what_features_become():
    images = RNG.uniform(1, 2, size=(2, 20, 10, 3))
    gone = lambda replace, **options: metrics.perturbation(
        lambda x: x,
        images,
        images.sum(-1),
        levels=(1.0,),
        replace=replace,
        score=lambda out, _: out,
        target=0,
        **options,
    ).values[:, 0]
    np.testing.assert_allclose(
        gone("mean"), np.broadcast_to(images.mean((1, 2), keepdims=True), images.shape), rtol=1e-5
    )
    noise = gone("noise")
    assert (noise >= images.min((1, 2, 3), keepdims=True)).all() and (
        noise <= images.max((1, 2, 3), keepdims=True)
    ).all()
    assert not np.allclose(noise, gone("noise", seed=1)) and np.array_equal(noise, gone("noise"))
    wide = jnp.asarray([[-6e4, 6e4, 0.0]], jnp.float16)
    assert jnp.isfinite(metrics.perturbation(lambda x: x, wide, wide, levels=(1.0,), replace="noise").values).all()
    blurred = gone("blur")
    np.testing.assert_allclose(blurred.mean((1, 2)), images.mean((1, 2)), rtol=0.03)
    assert (blurred.std((1, 2)) < 0.3 * images.std((1, 2))).all()
    flat = np.ones((1, 20, 10, 3))
    same = metrics.perturbation(total, flat, flat[..., 0], levels=(0.0, 1.0), replace="blur", score="logit").values
    np.testing.assert_allclose(same, 600.0, rtol=1e-5)
    np.testing.assert_allclose(gone(np.arange(3.0)), np.broadcast_to(np.arange(3.0), images.shape))


def test_each_channel_keeps_its_own_mean_and_blur():
    """Channels of sizes far apart, so that any of another shows; relevance of the input's own shape."""
    sizes = np.array([1.0, 100.0, 1e4])
    images = RNG.uniform(1, 2, size=(2, 20, 10, 3)) * sizes

    def gone(replace, x=images, relevance=None, **options):
        return metrics.perturbation(
            lambda x: x,
            x,
            x if relevance is None else relevance,
            levels=(1.0,),
            replace=replace,
            score=lambda out, _: out,
            target=0,
            **options,
        ).values[:, 0]

    mean = np.broadcast_to(images.mean((1, 2), keepdims=True), images.shape)
    np.testing.assert_allclose(gone("mean"), mean, rtol=1e-5)
    for replace in ("mean", "blur"):
        expected = gone(replace, relevance=images.sum(-1))
        np.testing.assert_allclose(gone(replace), expected, rtol=1e-6)
        first = images.transpose(0, 3, 1, 2)
        np.testing.assert_allclose(gone(replace, first), expected.transpose(0, 3, 1, 2), rtol=1e-6)
        for axis in (1, -3):
            np.testing.assert_allclose(gone(replace, first, channels=axis), expected.transpose(0, 3, 1, 2), rtol=1e-6)
        for k in range(3):  # as if it were alone
            alone = gone(replace, images[..., k])
            np.testing.assert_allclose(gone(replace)[..., k], alone, rtol=1e-6)
        wide = np.concatenate([images, images], -1)  # no image of six rows
        np.testing.assert_allclose(gone(replace, wide), np.concatenate([expected, expected], -1), rtol=1e-6)
    series = images[:, :, 0]  # (N, time, channels): of many channels it could be one of (N, height, width)
    of_each = np.broadcast_to(series.mean(1, keepdims=True), series.shape)
    np.testing.assert_allclose(gone("mean", series), of_each, rtol=1e-6)
    many = np.concatenate([series, series], -1)
    np.testing.assert_allclose(gone("mean", many)[:, 0, 0], many.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(gone("mean", series, channels=2), of_each, rtol=1e-6)
    np.testing.assert_allclose(gone("mean", series, series[:, :1], channels=-1), of_each, rtol=1e-6)
    for channels in (0, 4, -4, True, 1.0):
        with pytest.raises(jrlrp.ArgumentError, match="expected an axis of the examples"):
            gone("mean", channels=channels)
    with pytest.raises(jrlrp.ArgumentError, match="others to take a mean over"):
        gone("mean", X, channels=-1)


def test_relevance_beats_chance_on_a_network():
    w1, w2 = RNG.normal(size=(20, 30)), RNG.normal(size=(30, 4))
    model = lambda x: jax.nn.relu(x @ w1) @ w2
    x = RNG.normal(size=(50, 20))
    options = {"levels": (0.0, 0.1, 0.2, 0.4), "score": "logit"}
    drops = {
        name: metrics.perturbation(model, x, r, **options).aopc.mean()
        for name, r in (("relevance", jrlrp.relevance(model)(x)), ("chance", RNG.normal(size=x.shape)))
    }
    assert drops["relevance"] > 2 * drops["chance"]


def test_a_bar_is_shown_when_asked_for(capsys):
    curve(progress=True)
    assert "perturbing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"levels": (0.5, 0.2)}, "expected fractions between 0 and 1, ascending"),
        ({"levels": ()}, "expected fractions between 0 and 1, ascending"),
        ({"levels": (0, 1.5)}, "expected fractions between 0 and 1, ascending"),
        ({"order": "first"}, "expected one of 'most', 'least'"),
        ({"score": "loss"}, "expected one of 'probability', 'logit', 'correct'"),
        ({"score": "probability"}, 'use score="logit"'),
        ({"replace": "black"}, "expected one of 'zero', 'mean', 'blur', 'noise'"),
        ({"replace": np.ones(3)}, r"an array that broadcasts to (2, 4)"),
        ({"region": 0}, "expected an int ≥ 1"),
        ({"batch_size": 0}, "expected an int ≥ 1"),
        ({"target": [0, 1, 2]}, "one for each of 2 examples"),
        ({"target": "cat"}, "one for each of 2 examples"),
        ({"target": 1.0}, "one for each of 2 examples"),
        ({"model": lambda x: x, "target": [0, 4]}, "target=[0, 4]: the model has 4 classes"),
        ({"model": lambda x: x, "target": -5}, "target=-5: the model has 4 classes"),
        ({"model": lambda x: total(x)[:, None], "score": "correct"}, 'use score="logit"'),
        ({"model": lambda x: x[:, :, None]}, "to an output of shape (10, 4, 1): expected (10, classes) or (10,)"),
        ({"model": lambda x: x.sum()}, "to an output of shape (): expected (10, classes) or (10,)"),
        ({"relevance": np.where(X == 0, np.nan, X)}, "relevance has NaNs, which have no rank, in examples [1]"),
        ({"relevance": np.ones((2, 3))}, "expected the same shape, its leading axes, or axes of size 1"),
        ({"relevance": np.ones((2, 4, 1))}, "expected the same shape"),
        ({"x": X[:0]}, "pass at least one"),
        ({"x": None, "relevance": X}, "examples of type NoneType: expected an array of shape (N, ...)"),
        ({"x": 1.0, "relevance": X}, "one number for examples"),
        ({"relevance": X + 1j}, "relevance of dtype complex128, which has no order"),
        ({"levels": "all"}, "levels='all': expected fractions"),
        ({"keep": "no"}, "keep='no': expected True or False"),
        ({"absolute": None}, "absolute=None: expected True or False"),
        ({"seed": 0.5}, "seed=0.5: expected an int"),
        ({"model": "total"}, "expected a function, got a str"),
        ({"model": lambda x: (x, x)}, "the model returns a tuple: expected one array"),
        ({"score": lambda out, target: out.sum()}, "the score of 10 examples has shape (): expected (N, ...)"),
    ],
)
def test_what_does_not_fit_is_an_error(options, said):
    with pytest.raises(jrlrp.ArgumentError) as caught:
        curve(**options)
    assert said in str(caught.value)


def test_areas_that_do_not_go_together_are_errors():
    with pytest.raises(jrlrp.ArgumentError, match="expected curves of the same levels and examples"):
        metrics.abpc(curve(), curve(levels=(0.0, 1.0)))
    with pytest.raises(jrlrp.ArgumentError, match="expected 0 as the first level"):
        _ = curve(levels=(0.5, 1.0)).aopc


@pytest.mark.parametrize(
    ("size", "count", "expected"), [(64, 336, 56), (64, 384, 64), (64, 5, 5), (1, 7, 1), (7, 8, 4)]
)
def test_batches_are_filled_alike_and_never_larger_than_asked(size, count, expected):
    assert rows(size, count) == expected <= size
