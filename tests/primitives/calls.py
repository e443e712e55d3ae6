"""Some hundreds of calls of jax.numpy, jax.nn, jax.lax, jax.image and jax.ops, and the equations that they emit."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec

X = np.random.default_rng(0).normal(size=(3, 4))
Y, V = X[::-1] + 0.5, X[0]
SQUARE, POSITIVE = X[:, :3] + 2 * np.eye(3), np.abs(X) + 0.1
COUNTS, N, B = np.arange(12).reshape(3, 4) % 5, np.array([2, 0, 1]), X > 0
Z = X + 1j * Y
IMAGE, KERNEL = X.reshape(1, 3, 4, 1) * np.ones(2), np.ones((2, 2, 2, 3))
BATCH, HEADS = np.ones((2, 3, 4)) * X, np.ones((1, 3, 2, 4)) * V
UPDATES, INDEX = X[:2], np.array([[2], [0]])

NUMPY = [  # names of functions, by what they are called with
    (
        (X,),
        """abs absolute all amax amin angle any arccos arccosh arcsin arcsinh arctan arctanh argmax argmin argsort
        argwhere:size=3 around atleast_1d atleast_2d atleast_3d average cbrt ceil conj copy
        corrcoef cos cosh count_nonzero cov cumprod cumsum deg2rad
        diagflat diagonal diff ediff1d exp exp2 expm1 fabs flatnonzero:size=3 flip fliplr flipud floor frexp
        full_like:fill_value=2 gradient i0 imag isfinite isinf isnan isneginf isposinf iscomplex isreal log
        log10 log1p log2 logical_not matrix_transpose max mean median min modf nan_to_num nanargmax nanargmin
        nancumprod nancumsum nanmax nanmean nanmedian nanmin nanprod nanstd nansum nanvar negative
        nonzero:size=3 ones_like permute_dims:axes=(1,0) positive prod ptp rad2deg ravel real reciprocal rint
        roll:shift=1 rot90 round sign signbit sin sinc sinh size sort sort_complex sqrt square squeeze std sum
        tan tanh trace transpose tril triu trunc unique:size=4 unwrap var zeros_like nanquantile:q=0.3
        quantile:q=0.3 percentile:q=30 repeat:repeats=2 tile:reps=(2,3) pad:pad_width=1
        pad:pad_width=1,mode="edge" pad:pad_width=1,mode="reflect" pad:pad_width=1,mode="wrap"
        pad:pad_width=1,mode="mean" expand_dims:axis=1 reshape:shape=(4,3) resize:new_shape=(5,2)
        clip:min=0,max=1 clip:max=1 swapaxes:axis1=0,axis2=1 moveaxis:source=0,destination=1 rollaxis:axis=1
        delete:obj=1,axis=0 insert:obj=1,values=0.0,axis=0 partition:kth=1 argpartition:kth=1 histogram:bins=4
        split:indices_or_sections=3 array_split:indices_or_sections=2 hsplit:indices_or_sections=2
        vsplit:indices_or_sections=3 unstack """,
    ),
    (
        (X, Y),
        """add allclose append arctan2 array_equal array_equiv copysign cross:axisa=0,axisb=0 divide
        divmod equal float_power floor_divide fmax fmin fmod greater greater_equal heaviside hypot inner
        isclose kron less less_equal logaddexp logaddexp2 logical_and logical_or logical_xor
        maximum minimum mod multiply nextafter not_equal outer power remainder subtract true_divide vdot vecdot""",
    ),
    (
        (COUNTS,),
        """bitwise_count bitwise_invert bitwise_not invert sum cumsum prod sort max
        argmax negative abs sign square unique:size=4""",
    ),
    (
        (COUNTS, COUNTS),
        """bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor floor_divide gcd lcm
        left_shift mod power right_shift setdiff1d:size=3 union1d:size=6 intersect1d:size=3 isin""",
    ),
    (
        (V,),
        """vander diag diagflat trapezoid polyder polyint sort""",
    ),
    (
        (V, V),
        """convolve correlate polyadd polymul polysub polyval dot tensordot:axes=1 inner vdot searchsorted digitize""",
    ),
    (
        (SQUARE,),
        """linalg.cholesky linalg.det linalg.eigh linalg.eigvalsh linalg.inv linalg.matrix_power:n=3 linalg.norm
        linalg.pinv linalg.qr linalg.slogdet linalg.svd linalg.svdvals linalg.trace linalg.matrix_norm
        linalg.matrix_rank linalg.cond linalg.diagonal fft.fft fft.ifft fft.rfft fft.irfft fft.fft2 fft.rfftn
        fft.fftshift fft.ifftshift fft.hfft""",
    ),
    (
        (SQUARE, X),
        """matmul linalg.solve linalg.matmul dot linalg.lstsq""",
    ),
    (
        (Z,),
        """abs angle conj real imag exp sum fft.ifft square sin""",
    ),
]
LAX_ONE = """abs acos acosh asin asinh atan atanh bessel_i0e bessel_i1e cbrt ceil cos cosh digamma erf erf_inv erfc exp
    exp2 expm1 floor is_finite lgamma log log1p logistic neg reciprocal round rsqrt sign sin sinh sqrt square
    tan tanh stop_gradient optimization_barrier cumsum cumprod cummin cumlogsumexp sort
    full_like:fill_value=1.0"""
LAX_TWO = """add atan2 complex div eq ge gt igamma igammac le lt max min mul ne nextafter pow rem sub igamma_grad_a
    random_gamma_grad zeta"""
NN = """celu elu gelu gelu:approximate=False glu hard_sigmoid hard_silu hard_tanh leaky_relu log_sigmoid log_softmax
    logsumexp mish relu relu6 selu sigmoid silu soft_sign softmax softplus sparse_plus sparse_sigmoid squareplus
    standardize swish tanh log1mexp"""

_conv = functools.partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
_GATHER = lax.GatherDimensionNumbers(offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,))
_BATCHED = lax.GatherDimensionNumbers((), (1,), (1,), (0,), (0,))
_SCATTER = lax.ScatterDimensionNumbers((1,), (0,), (0,))
_WINDOW = ((1, 2, 2, 1), (1, 1, 1, 1), "SAME")


_WITH_JVP, _WITH_VJP = jax.custom_jvp(jnp.sin), jax.custom_vjp(jnp.sin)
_WITH_JVP.defjvps(lambda t, y, x: t)
_WITH_VJP.defvjp(lambda x: (jnp.sin(x), x), lambda x, r: (r,))


def _max_pool(x: Any) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, *_WINDOW)


def _window(x: Any, start: Any, f: Callable, strides: tuple = (1, 1), padding: Any = "SAME", **dilations: Any) -> Any:
    return lax.reduce_window(x, start, f, (2, 2), strides, padding, **dilations)


OTHERS: dict[str, tuple[Callable, tuple]] = {
    name: (f, args)
    for name, f, *args in [
        ("dot", lambda x, y: x @ y.T, X, Y),
        ("dot_batched", lambda x, y: jnp.einsum("bij,bjk->bik", x, y), BATCH, BATCH.mT),
        ("dot_batch_last", lambda x, y: jnp.einsum("ib,jb->bij", x, y), X, Y),
        ("dot_outer", lambda x, y: jnp.einsum("i,j->ij", x, y), V, V),
        ("dot_entries", lambda x, y: jnp.einsum("ij,ij->ij", x, y), X, Y),
        ("dot_two", lambda x, y: jnp.tensordot(x, y, 2), X, Y),
        ("conv", lambda x, k: _conv(x, k, (1, 1), "SAME"), IMAGE, KERNEL),
        ("conv_strided", lambda x, k: _conv(x, k, (2, 1), "VALID"), IMAGE, KERNEL),
        (
            "conv_groups",
            lambda x, k: _conv(x, k, (1, 1), "SAME", feature_group_count=2),
            np.concatenate([IMAGE, IMAGE + 1]),
            np.ones((2, 2, 1, 4)) * np.arange(4.0),
        ),
        (
            "conv_batch_groups",
            lambda x, k: _conv(x, k, (1, 1), "SAME", batch_group_count=2),
            np.concatenate([IMAGE, IMAGE + 1]),
            np.ones((2, 2, 2, 4)) * np.arange(4.0),
        ),
        ("conv_channels_first", lambda x, k: lax.conv(x, k, (1, 1), "SAME"), IMAGE.transpose(0, 3, 1, 2), KERNEL.T),
        ("conv_transpose", lambda x, k: lax.conv_transpose(x, k, (2, 2), "SAME"), IMAGE, KERNEL),
        (
            "conv_vmapped",
            jax.vmap(lambda x, k: _conv(x[None], k, (1, 1), "SAME")),
            np.concatenate([IMAGE, IMAGE + 1]),
            np.stack([KERNEL, KERNEL * 2]),
        ),
        ("max_pool", lambda x: _max_pool(x), IMAGE),
        ("min_pool", lambda x: lax.reduce_window(x, jnp.inf, lax.min, *_WINDOW), IMAGE),
        ("sum_pool", lambda x: lax.reduce_window(x, 0.0, lax.add, *_WINDOW), IMAGE),
        ("window_strided", lambda x: _window(x, 0.0, lax.add, (2, 2), "VALID"), X),
        ("window_dilated", lambda x: _window(x, 0.0, lax.add, window_dilation=(2, 1)), X),
        ("window_of_dilated", lambda x: _window(x, -jnp.inf, lax.max, base_dilation=(2, 1)), X),
        ("window_padded", lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 1), (1, 1), ((0, 1), (2, 0))), X),
        ("window_product", lambda x: _window(x, 1.0, lax.mul), X),
        ("window_any", lambda x: _window(x, 1.0, lambda a, b: a + 2 * b), X),
        ("window_any_max", lambda x: _window(x, 0.0, lax.max), X),
        ("max_pool_gradient", jax.grad(lambda x: jnp.square(_max_pool(x)).sum()), IMAGE),
        ("max_pool_tangent", lambda x: jax.jvp(lambda x: _max_pool(x), (x,), (x,)), IMAGE),
        ("reduce", lambda x: lax.reduce(x, 1.0, lambda a, b: a + 2 * b, (0,)), X),
        ("reduce_and", lambda b: lax.reduce_and(b, (0,)), B),
        ("reduce_or", lambda b: lax.reduce_or(b, (0,)), B),
        ("reduce_xor", lambda b: lax.reduce_xor(b, (0,)), COUNTS),
        ("gather", lambda x, i: lax.gather(x, i, _GATHER, (1, 4)), X, INDEX),
        ("gather_window", lambda x, i: lax.gather(x, i, _GATHER, (1, 2)), X, INDEX),
        ("gather_batched", lambda x, i: lax.gather(x, i, _BATCHED, (1, 1)), X, N[:, None]),
        ("gather_filled", lambda x, i: lax.gather(x, i, _GATHER, (1, 4), mode="fill", fill_value=7.0), X, INDEX),
        ("take", lambda x, i: x[i], X, N),
        ("take_two", lambda x, i: x[i, i], X, N),
        ("take_column", lambda x, i: x[:, i], X, N),
        ("take_along", lambda x, i: jnp.take_along_axis(x, i, 0), X, COUNTS % 3),
        ("take_vmapped", jax.vmap(lambda x, i: x[i]), X, N),
        ("take_clip", lambda x, i: jnp.take(x, i, 0, mode="clip"), X, N),
        ("take_wrap", lambda x, i: jnp.take(x, i, 1, mode="wrap"), X, N),
        ("set", lambda x, y, i: x.at[i].set(y), X, UPDATES, N[:2]),
        ("set_column", lambda x, y, i: x.at[:, i].set(y), X, Y[:, :2], N[:2]),
        ("add_at", lambda x, y, i: x.at[i].add(y), X, UPDATES, N[:2]),
        ("max_at", lambda x, y, i: x.at[i].max(y), X, UPDATES, N[:2]),
        ("min_at", lambda x, y, i: x.at[i].min(y), X, UPDATES, N[:2]),
        ("mul_at", lambda x, y, i: x.at[i].mul(y), X, UPDATES, N[:2]),
        ("apply_at", lambda x: x.at[0].apply(jnp.tanh), X),
        ("set_vmapped", jax.vmap(lambda x, i: x.at[i].set(1.0)), X, N),
        ("add_vmapped", jax.vmap(lambda x, i, y: x.at[i].add(y)), X, N, V[:3]),
        ("scatter", lambda x, i, y: lax.scatter(x, i, y, _SCATTER), X, INDEX, UPDATES),
        ("scatter_apply", lambda x, i: lax.scatter_apply(x, i, jnp.exp, _SCATTER, update_shape=(2, 4)), X, INDEX),
        ("put_along", lambda x, i: jnp.put_along_axis(x, i, 2.0, 0, inplace=False), X, COUNTS % 3),
        ("slice", lambda x: x[1:, ::2], X),
        ("slice_of", lambda x: lax.slice_in_dim(x, 0, 2, axis=1), X),
        ("dynamic_slice", lambda x, i: lax.dynamic_slice(x, (i, i), (2, 4)), X, np.array(1)),
        ("dynamic_update", lambda x, y, i: lax.dynamic_update_slice(x, y, (i, 0)), X, UPDATES, np.array(1)),
        ("pad_inner", lambda x: lax.pad(x, 0.5, ((1, 2, 1), (0, 0, 0))), X),
        ("pad_cut", lambda x: lax.pad(x, 0.0, ((-1, 0, 0), (0, 1, 0))), X),
        ("concatenate", lambda x, y: jnp.concatenate([x, y, x], 1), X, Y),
        ("stack", lambda x, y: jnp.stack([x, y], 1), X, Y),
        ("unstack", lambda x: jnp.unstack(x, axis=1), X),
        ("split", lambda x: lax.split(x, (1, 3), 1), X),
        ("tile", lambda x: lax.tile(x, (2, 3)), X),
        ("rev", lambda x: lax.rev(x, (1,)), X),
        ("broadcast", lambda v: jnp.broadcast_to(v, (3, 4)), V),
        ("broadcast_one", lambda x: jnp.broadcast_to(x, (3, 4, 5)), X[:, :, None]),
        ("reshape_merge", lambda x: x.reshape(12), X),
        ("reshape_split", lambda x: x.reshape(3, 2, 2), X),
        ("reshape_mix", lambda x: x.reshape(2, 6), X),
        ("squeeze", lambda x: jnp.squeeze(x, 1), X[:, None]),
        ("transpose", lambda x: jnp.transpose(x, (2, 0, 1)), IMAGE[0]),
        ("select_n", lambda b, x, y: lax.select_n(b, x, y), B, X, Y),
        ("select_scalar", lambda b, x, y: lax.select(b, x, y), np.array(True), X, Y),
        ("where", lambda b, x: jnp.where(b, x, 2.0), B, X),
        ("select", lambda x: jnp.select([x > 1, x > 0], [x, 2 * x], 0.5), X),
        ("piecewise", lambda x: jnp.piecewise(x, [x < 0, x >= 0], [-1.0, lambda x: 2 * x]), X),
        ("clamp", lambda x: lax.clamp(-0.5, x, 0.5), X),
        ("clamp_arrays", lambda x, y: lax.clamp(y, x, y + 1), X, Y),
        ("top_k", lambda x: lax.top_k(x, 2), X),
        ("approx_max_k", lambda x: lax.approx_max_k(x, 2), X),
        ("approx_min_k", lambda x: lax.approx_min_k(x, 2, reduction_dimension=0), X),
        ("sort_two", lambda x, y: lax.sort((x, y), dimension=0, num_keys=1), X, Y),
        ("sort_key_val", lambda x, y: lax.sort_key_val(x, y), X, Y),
        ("lexsort", lambda x, y: jnp.lexsort((x, y)), V, V),
        ("integer_pow", lambda x: lax.integer_pow(x, 3), X),
        ("integer_pow_even", lambda x: x**4, X),
        ("integer_pow_negative", lambda x: lax.integer_pow(x, -2), X),
        ("pow_of_integer", lambda x, i: lax.pow(x, i), X, COUNTS),
        ("pow_number", lambda x: x**2.5, POSITIVE),
        ("pow_of_number", lambda x: 2.0**x, X),
        ("betainc", lambda x: jax.scipy.special.betainc(x, x, 0.5), POSITIVE),
        ("polygamma", lambda x: jax.scipy.special.polygamma(1, x), POSITIVE),
        ("cast_down", lambda x: x.astype(jnp.bfloat16), X),
        ("cast_to_integers", lambda x: x.astype(jnp.int8), X),
        ("cast_to_truth", lambda x: x.astype(bool), X),
        ("cast_from_integers", lambda i: i.astype(float), COUNTS),
        ("reduce_precision", lambda x: lax.reduce_precision(x, 5, 10), X),
        ("bitcast", lambda x: lax.bitcast_convert_type(x, jnp.int64), X),
        ("clz", lax.clz, COUNTS),
        ("population_count", lax.population_count, COUNTS),
        ("shifts", lambda i: lax.shift_right_logical(lax.shift_right_arithmetic(lax.shift_left(i, 2), 1), 1), COUNTS),
        ("iota", lambda x: x + lax.broadcasted_iota(float, (3, 4), 1), X),
        ("arange", lambda x: x + jnp.arange(4), X),
        ("linspace", lambda x: jnp.linspace(x, 2 * x, 5), X),
        ("eye", lambda x: x @ jnp.eye(4), X),
        ("meshgrid", lambda v: jnp.meshgrid(v, v), V),
        ("einsum", lambda x, y: jnp.einsum("ij,ij->i", x, y), X, Y),
        ("block", lambda x: jnp.block([[x, x], [x, x]]), X),
        ("cumsum_reverse", lambda x: lax.cumsum(x, 1, reverse=True), X),
        ("associative_scan", lambda x: lax.associative_scan(jnp.add, x), X),
        ("scan", lambda x: lax.scan(lambda c, t: (c + t, c * t), jnp.zeros(4), x), X),
        ("fori_loop", lambda x: lax.fori_loop(0, 3, lambda k, c: jnp.sin(c) + k, x), X),
        ("while_loop", lambda x: lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, x), X),
        ("map", lambda x: lax.map(jnp.cumsum, x), X),
        ("cond", lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x), X),
        ("switch", lambda x: lax.switch(1, [jnp.sin, jnp.cos, jnp.tan], x), X),
        ("remat", jax.checkpoint(lambda x: jnp.sin(x @ x.T)), X),
        ("custom_jvp", _WITH_JVP, X),
        ("custom_vjp", _WITH_VJP, X),
        ("custom_root", lambda x: lax.custom_linear_solve(lambda v: 2 * v, x, lambda a, b: b / 2), X),
        ("triangular_solve", lambda a, x: lax.linalg.triangular_solve(a, x, left_side=True, lower=True), SQUARE, X),
        ("triangular_right", lambda a, x: jax.scipy.linalg.solve_triangular(a, x), SQUARE, X),
        ("lu", lax.linalg.lu, SQUARE),
        ("schur", lambda a: lax.linalg.schur(a), SQUARE),
        ("hessenberg", lambda a: lax.linalg.hessenberg(a), SQUARE),
        ("householder", lambda a: lax.linalg.householder_product(a, a[0]), SQUARE),
        ("eig", jnp.linalg.eig, SQUARE),
        ("tridiagonal_solve", lambda v: lax.linalg.tridiagonal_solve(v, v + 5, v, v[:, None]), V),
        ("tridiagonal", lambda a: lax.linalg.tridiagonal(a + a.T), SQUARE),
        ("one_hot", lambda i: jax.nn.one_hot(i, 5), COUNTS),
        ("attention", lambda x: jax.nn.dot_product_attention(x, x, x), HEADS),
        ("attention_causal", lambda x: jax.nn.dot_product_attention(x, x, x, is_causal=True), HEADS),
        ("softmax_where", lambda x: jax.nn.softmax(x, where=x > 0, axis=0), X),
        ("logsumexp_two", lambda x, y: jax.nn.logsumexp(x, b=y), X, Y),
        ("relu_gradient", jax.grad(lambda x: jax.nn.relu(x).sum()), X),
        ("segment_sum", lambda x, i: jax.ops.segment_sum(x, i, 3), X, N),
        ("segment_max", lambda x, i: jax.ops.segment_max(x, i, 3), X, N),
        ("segment_min", lambda x, i: jax.ops.segment_min(x, i, 3), X, N),
        ("segment_prod", lambda x, i: jax.ops.segment_prod(x, i, 3), X, N),
        ("index_exp", lambda x: x.at[jnp.index_exp[1:, 0]].multiply(2), X),
        *(
            (f"resize_{how}", lambda x, how=how: jax.image.resize(x, (5, 6), how), X)
            for how in ("nearest", "linear", "cubic", "lanczos3", "lanczos5")
        ),
        ("scale_and_translate", lambda x: jax.image.scale_and_translate(x, (4, 4), (0, 1), V[:2], V[:2], "linear"), X),
        ("random_bits", lambda x: x * jax.random.bernoulli(jax.random.key(0), 0.5, (3, 4)), X),
        ("random_keys", lambda x: jax.random.normal(jax.random.fold_in(jax.random.split(jax.random.key(0))[0], 3)), X),
        ("random_gamma", lambda x: jax.random.gamma(jax.random.key(0), x), POSITIVE),
        ("rng_bit_generator", lambda k: lax.rng_bit_generator(k, (3,)), np.arange(4, dtype=np.uint32)),
        ("rng_uniform", lambda x: lax.rng_uniform(0.0, 1.0, (3,)), X),
        ("debug_print", lambda x: (jax.debug.print("{}", x), x)[1], X),
        ("name", lambda x: checkpoint_name(x, "x"), X),
        ("device_put", lambda x: jax.device_put(x, jax.devices("cpu")[0]), X),
        ("stacks", lambda x: jnp.hstack([jnp.vstack([x, x]), jnp.column_stack([x, x]).reshape(6, 4)]), X),
        ("interp", lambda x: jnp.interp(x, V[:3], V[1:]), X),
        ("bincount", lambda i: jnp.bincount(i, length=5), N),
        ("packbits", lambda b: jnp.unpackbits(jnp.packbits(b, axis=1), axis=1), B),
        ("cumulative", lambda x: jnp.cumulative_prod(jnp.cumulative_sum(x, axis=0), axis=1), X),
        ("cummax", lambda x: lax.cummax(x, axis=1), X),
        ("platform", lambda x: lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos), X),
        ("copy", lambda x: jnp.array(x, copy=True), X),
    ]
}


def _shards(f: Callable) -> Callable:
    """Return a function of X mapped over two devices."""
    spec = PartitionSpec(None, "i")
    mesh = Mesh(np.array(jax.devices("cpu")[:2]), ("i",))
    return jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec)


COLLECTIVES = {
    name: (_shards(f), (X,))
    for name, f in {
        "psum": lambda x: lax.psum(x, "i"),
        "pmean": lambda x: x + lax.pmean(x, "i"),
        "pmax": lambda x: lax.pmax(x, "i"),
        "pmin": lambda x: lax.pmin(x, "i"),
        "all_gather": lambda x: lax.all_gather(x, "i"),
        "all_to_all": lambda x: lax.all_to_all(x, "i", 1, 0, tiled=False),
        "ppermute": lambda x: lax.ppermute(x, "i", [(0, 1)]),
        "psum_scatter": lambda x: lax.psum_scatter(x, "i", scatter_dimension=1, tiled=True),
        "axis_index": lambda x: x * lax.axis_index("i"),
        "pcast": lambda x: lax.pcast(lax.psum(x, "i"), "i", to="varying"),
    }.items()
}


def _calls(module: Any, words: str, args: tuple) -> Iterator[tuple[str, Callable, tuple]]:
    """Read "name" and "name:option=value" as functions of `args`."""
    for word in words.split():
        name, _, given = word.partition(":")
        options = eval(f"dict({given})", {"_V": V})
        f = module
        for part in name.split("."):
            f = getattr(f, part)
        yield f"{module.__name__}.{word}", lambda *x, f=f, options=options: f(*x, **options), args


def calls() -> dict[str, tuple[Callable, tuple]]:
    """Return all calls by name, each a function and its arguments."""
    found = [entry for args, words in NUMPY for entry in _calls(jnp, words, args)]
    found += [*_calls(lax, LAX_ONE, (X,)), *_calls(lax, LAX_TWO, (POSITIVE, POSITIVE + 0.5)), *_calls(jax.nn, NN, (X,))]
    named = {f"{name}({','.join(str(x.shape) + x.dtype.char for x in args)})": (f, args) for name, f, args in found}
    return {**named, **OTHERS}
