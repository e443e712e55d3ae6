"""log Σ exp and log-softmax in any spelling."""

import math

import jax
import jax.numpy as jnp

from jrlrp.primitives.row import Op
from jrlrp.primitives.table import ADDED, named
from jrlrp.rewrites.canonical import Writer
from jrlrp.rewrites.shifts import peeled, terms_of, unshifted
from jrlrp.rewrites.softmax import logits_of
from jrlrp.trace.groups import Axes, Group
from jrlrp.trace.program import Equation, Var


def log_sum_exp(w: Writer, eqn: Equation) -> bool:
    """log Σ exp(x), and that with what was taken from x before added again."""
    if eqn.op is Op.LOG:
        core = w.forms.place(eqn.data[0]).core
        found = w.forms.summed(core)
        if found is None or found[0].ndim < eqn.output.ndim:
            return False
        part, dims, _ = found
        rows = math.prod(n for d, n in enumerate(part.shape) if d not in dims)
        logits = logits_of(w, part, None) if eqn.output.size == rows else None
        return logits is not None and w.read_as(eqn, ADDED[Op.LOG_SUM_EXP], [logits], group=Axes(dims))
    if eqn.op not in (Op.ADD, Op.SUB):
        return False
    for k, v in enumerate(eqn.data):
        made = w.forms.made_by(w.forms.place(v).core, Op.LOG_SUM_EXP)
        if made is None or (eqn.op is Op.SUB and k == 1) or len(made.data) > 1:
            continue
        group = made.params["group"]
        back = terms_of(w, eqn.data[1 - k], 1 if eqn.op is Op.ADD else -1)
        taken = frozenset((core, -sign) for core, sign in back)
        _, shifts, count = peeled(w, made.data[0], group, taken)
        if shifts and shifts == taken and eqn.output.size == made.output.size:
            return w.read_as(eqn, made.row, [unshifted(w, made.data[0], group, count)], group=group)
    return _log_softmax(w, eqn)


def _log_softmax(w: Writer, eqn: Equation) -> bool:
    """x − log Σ exp(x), or its negative, whatever both were shifted by: a sum of the two."""
    if eqn.op is not Op.SUB:
        return False
    for sign, (x, total) in ((1, eqn.data), (-1, eqn.data[::-1])):
        made = w.forms.made_by(w.forms.place(total).core, Op.LOG_SUM_EXP)
        if made is None or len(made.data) > 1 or x.shape != eqn.output.shape or x.shape != made.data[0].shape:
            continue
        group = made.params["group"]
        if not w.forms.is_steady(total, group):
            continue
        (base, shifts, _), (own, others, _) = peeled(w, x, group), peeled(w, made.data[0], group)
        if w.forms.same(base, own) and shifts == others and shifts:
            logits = unshifted(w, x, group)
            scale = _log_sum_exp_of(w, logits, group, eqn)
            return w.read_as(eqn, named("sub"), [logits, scale] if sign > 0 else [scale, logits])
    return False


def _log_sum_exp_of(w: Writer, x: Var, group: Group, near: Equation) -> Var:
    """Write log Σ exp(x) over axes, in the shape of x."""
    assert isinstance(group, Axes)
    axes = tuple(sorted(group.dims))
    rows = Var(tuple(1 if d in axes else n for d, n in enumerate(x.shape)), x.dtype)
    function = lambda x: jax.nn.logsumexp(x, axis=axes, keepdims=True)
    scale = w.add(ADDED[Op.LOG_SUM_EXP], [x], function, rows, changed=axes, near=near, group=group)
    wide = lambda scale: jnp.broadcast_to(scale, x.shape)
    every = tuple(range(x.ndim))
    return w.add(ADDED[Op.BROADCAST], [scale], wide, x, changed=axes, near=near, broadcast_dimensions=every)


def logarithm_of_softmax(w: Writer, eqn: Equation) -> bool:
    """log of a softmax is x − log Σ exp(x)."""
    made = w.forms.made_by(w.forms.plain(eqn.data[0]), Op.SOFTMAX) if eqn.op is Op.LOG else None
    if made is None or not isinstance(made.params["group"], Axes) or made.output.shape != eqn.output.shape:
        return False
    logits = made.data[0]
    scale = _log_sum_exp_of(w, logits, made.params["group"], eqn)
    return w.read_as(eqn, named("sub"), [logits, scale])


def exponential_of_logarithm(w: Writer, eqn: Equation) -> bool:
    """exp(x − log Σ exp(x)) is a softmax, with a sink if constants stand beside x in the sum."""
    made = w.forms.made_by(w.forms.plain(eqn.data[0]), Op.SUB) if eqn.op is Op.EXP else None
    if made is None or len(made.data) != 2:
        return False
    x, total = made.data
    scale = w.forms.made_by(w.forms.place(total).core, Op.LOG_SUM_EXP)
    if scale is None or len(scale.data) != 1 or not _is_all_of(w, x, scale.data[0]):
        return False
    group = scale.params["group"]
    if x.shape != eqn.output.shape or not w.forms.is_steady(total, group):
        return False
    return w.read_as(eqn, ADDED[Op.SOFTMAX], [unshifted(w, x, group)], group=group)


def _is_all_of(w: Writer, x: Var, whole: Var) -> bool:
    """Tell whether a value is another, or all of it that depends on the inputs."""
    joined = w.forms.made_by(w.forms.plain(whole), Op.CONCATENATE)
    if joined is None:
        return w.forms.same(x, whole)
    parts = [v for v in joined.inputs if v in w.dependent]
    return len(parts) == 1 and w.forms.same(x, parts[0])


def log_add_exp(w: Writer, eqn: Equation) -> bool:
    """log(exp(a) + exp(b)), by max(a, b) + log1p(exp(−|a − b|))."""
    for a, b in (eqn.data, eqn.data[::-1]) if eqn.op is Op.ADD else ():
        larger, rest = w.forms.made_by(w.forms.plain(a), Op.MAX), w.forms.made_by(w.forms.plain(b), Op.LOG1P)
        chain = rest
        for op in (Op.EXP, Op.NEG, Op.ABS, Op.SUB):
            chain = chain and w.forms.made_by(w.forms.plain(chain.inputs[0]), op)
        if larger is None or chain is None or set(chain.inputs) != set(larger.inputs):
            continue
        if all(v in w.dependent and v.shape == eqn.output.shape for v in chain.inputs):
            return w.read_as(eqn, ADDED[Op.LOG_SUM_EXP], list(chain.inputs), group=None)
    return False
