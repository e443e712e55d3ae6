"""What was added to a value and is the same in all of a group: shifts, that a softmax does not see."""

from jrlrp.primitives.row import Op
from jrlrp.primitives.table import named
from jrlrp.rewrites.canonical import Writer
from jrlrp.trace.groups import Group
from jrlrp.trace.program import Equation, Region, Var


def unshifted(w: Writer, u: Var, group: Group | None, count: int | None = None) -> Var:
    """Return a value without what was added to it, the last `count` times, and is the same in all of a group."""
    path: list[tuple[Equation, int, bool]] = []  # from the value down: what is gone through, and whether it stays
    v = u
    while (step := _step_down(w, v, group)) is not None:
        path.append(step)
        v = step[0].inputs[step[1]]
    dropped = [n for n, (_, _, stays) in enumerate(path) if not stays][:count]
    if not dropped:
        return u
    eqn, k, _ = path[dropped[-1]]
    z = eqn.inputs[k]
    for eqn, k, stays in reversed(path[: dropped[-1] + 1]):
        if stays:
            z = w.apply(eqn, z, eqn.output, k)
        elif eqn.op is Op.SUB and k == 1:  # c − x without c
            z = w.add(named("neg"), [z], lambda z: -z, z)
    return z


def _step_down(w: Writer, v: Var, group: Group | None) -> tuple[Equation, int, bool] | None:
    eqn = w.forms.definition.get(v)
    if eqn is None or v not in w.dependent or isinstance(eqn, Region):
        return None
    own = [k for k, x in enumerate(eqn.inputs) if x in w.dependent and x.shape == v.shape]
    if eqn.op in (Op.ADD, Op.SUB):
        for k in own:
            if w.forms.is_steady(eqn.inputs[1 - k], group):
                return eqn, k, False
        return next(((eqn, k, True) for k in own if _is_shifted(w, eqn.inputs[k], group)), None)
    if eqn.op in (Op.CAST, Op.NEG) and own == [0]:
        return eqn, 0, True
    if eqn.op in (Op.MUL, Op.DIV):
        for k in own if eqn.op is Op.MUL else own[:1]:
            if (eqn.op is Op.MUL or k == 0) and w.forms.is_steady(eqn.inputs[1 - k], group):
                return eqn, k, True
    if eqn.op is Op.SELECT and len(own) == 1 and own[0] > 0 and len(eqn.inputs) == 3:
        other = w.forms.number(eqn.inputs[3 - own[0]])
        if other is not None and other < -1e3:
            return eqn, own[0], True
    return None


def _is_shifted(w: Writer, v: Var, group: Group | None) -> bool:
    eqn = w.forms.made_by(w.forms.plain(v), Op.ADD, Op.SUB)
    return eqn is not None and any(w.forms.is_steady(x, group) for x in eqn.inputs)


Shifts = frozenset[tuple[Var | float, int]]  # values, each with its sign


def peeled(w: Writer, u: Var, group: Group, wanted: Shifts | None = None) -> tuple[Var, Shifts, int]:
    """Return a value without its shifts, masked or not, what these are, and in how many additions they came.

    It goes no further than to the shifts that are `wanted`: the value may have more, which are its own then.
    """
    shifts: list[tuple[Var | float, int]] = []
    count = 0
    while frozenset(shifts) != wanted and (step := _step_down(w, w.forms.plain(u), group)) is not None:
        eqn, k, stays = step
        if (stays and eqn.op is not Op.SELECT) or (eqn.op is Op.SUB and k == 1):
            break
        if not stays:
            shifts += terms_of(w, eqn.inputs[1 - k], -1 if eqn.op is Op.SUB else 1)
            count += 1
        u = eqn.inputs[k]
    return w.forms.plain(u), frozenset(shifts), count


def terms_of(w: Writer, v: Var, sign: int) -> list[tuple[Var | float, int]]:
    """Return what a value is the sum of, by the values that these are copies of, and by numbers."""
    found: list[tuple[Var | float, int]] = []
    pending = [(v, sign)]
    while pending:
        v, sign = pending.pop()
        core = w.forms.place(v).core
        eqn = w.forms.made_by(core, Op.ADD, Op.SUB, Op.NEG)
        if (number := w.forms.number(v)) is not None:
            found.append((abs(number), sign if number > 0 else -sign))
        elif eqn is None or isinstance(eqn, Region):
            found.append((core, sign))
        elif eqn.op is Op.NEG:
            pending.append((eqn.inputs[0], -sign))
        else:
            pending += [(eqn.inputs[0], sign), (eqn.inputs[1], sign if eqn.op is Op.ADD else -sign)]
    return found
