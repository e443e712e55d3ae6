"""Many examples, a batch at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrlrp

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 3))
X = RNG.normal(size=(10, 4))


def net(x):
    return jax.nn.relu(x @ W) @ W.T


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 64])
def test_in_batches_is_all_at_once(batch_size):
    value, r = jrlrp.in_batches(jrlrp.value_and_relevance(net), X, batch_size=batch_size)
    assert isinstance(value, np.ndarray) and isinstance(r, np.ndarray)
    np.testing.assert_allclose(value, net(X), rtol=1e-12)
    np.testing.assert_allclose(r, jrlrp.relevance(net)(X), rtol=1e-12)


def test_one_compilation_and_the_last_batch_is_filled_with_its_last_row():
    seen = []

    @jax.jit
    def explain(x):
        seen.append(x.shape)
        return x

    found = []
    record = lambda x: found.append(np.array(x)) or x
    traced = jax.jit(lambda x: jax.pure_callback(record, jax.ShapeDtypeStruct(x.shape, x.dtype), explain(x)))
    np.testing.assert_array_equal(jrlrp.in_batches(traced, X, batch_size=4), X)
    assert seen == [(4, 4)]
    np.testing.assert_array_equal(found[-1], X[[8, 9, 9, 9]])


def test_pytrees_several_arguments_and_narrow_dtypes():
    x = {"a": jnp.asarray(X, jnp.bfloat16), "b": [np.arange(10)]}
    explain = lambda x, scale: {"sum": x["a"].sum(-1) * scale, "ids": (x["b"][0] + 1,)}
    scale = np.linspace(1, 2, 10, dtype=np.float32)
    found = jrlrp.in_batches(explain, x, scale, batch_size=3)
    np.testing.assert_array_equal(found["ids"][0], np.arange(10) + 1)
    np.testing.assert_allclose(found["sum"], np.asarray(explain(x, scale)["sum"]), rtol=1e-6)
    assert jrlrp.in_batches(lambda x: x, x["a"]).dtype == jnp.bfloat16


def test_a_stream_yields_batches_of_what_an_iterable_brings():
    pairs = ((x, k) for k, x in enumerate(X))
    parts = list(jrlrp.stream(lambda x, k: (jrlrp.relevance(net)(x), k), pairs, batch_size=4))
    assert [len(k) for _, k in parts] == [4, 4, 2]
    np.testing.assert_allclose(np.concatenate([r for r, _ in parts]), jrlrp.relevance(net)(X), rtol=1e-12)
    np.testing.assert_array_equal(np.concatenate([k for _, k in parts]), np.arange(10))
    assert list(jrlrp.stream(net, [])) == []


def test_a_stream_reads_no_more_than_a_few_batches_ahead():
    read = []

    def examples():
        for k in range(1000):
            read.append(k)
            yield np.full(4, float(k))

    stream = jrlrp.stream(lambda x: x, examples(), batch_size=2)
    np.testing.assert_array_equal(next(stream), [[0] * 4, [1] * 4])
    assert len(read) <= 8


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: jrlrp.in_batches(X, net), "expected a function of batches first"),
        (lambda: jrlrp.in_batches(net, X, X[:3]), r"shapes \(10, 4\), \(3, 4\): expected one leading axis"),
        (lambda: jrlrp.in_batches(net), "shapes none"),
        (lambda: jrlrp.in_batches(net, 1.0), "expected one leading axis"),
        (lambda: jrlrp.in_batches(net, X[:0]), "no examples"),
        (lambda: jrlrp.in_batches(net, X, batch_size=0), "batch_size=0: expected an int"),
        (lambda: jrlrp.in_batches(lambda x: x.sum(), X, batch_size=4), "of shape \\(\\); expected one row for each"),
        (lambda: jrlrp.stream(net, X, batch_size=True), "batch_size=True"),
        (lambda: list(jrlrp.stream(lambda x: x.T, X)), "expected one row for each"),
    ],
)
def test_what_does_not_fit(call, said):
    with pytest.raises(jrlrp.ArgumentError, match=said):
        call()


def test_a_bar_counts_batches(capsys):
    jrlrp.in_batches(net, X, batch_size=4, progress="explaining")
    assert "explaining" in capsys.readouterr().err
