"""What of a function does not depend on its argument is computed once, however often it is called."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jrlrp.primitives.register import look_up
from jrlrp.primitives.row import Op
from jrlrp.trace import compat

_Values = dict[Any, Any]


def hoisted(function: Callable[[Any], Any], example: Any) -> Callable[[Any], Any]:
    """Return a function equal to `function` for arrays of the shape and dtype of `example`.

    All that depends on no argument is computed now; `jax.lax.map` of what is left does not repeat it.
    """
    closed, out = jax.make_jaxpr(function, return_shape=True)(example)
    (argument,) = closed.jaxpr.invars
    program = _Program(argument)
    results = program.take(closed.jaxpr, closed.consts, [argument])

    def rest(x: Any) -> Any:
        values = {**program.known, argument: x}
        for step in program.steps:
            values.update(step(values))
        return jax.tree.unflatten(jax.tree.structure(out), [_read(v, values) for v in results])

    return rest


class _Program:
    """The equations of a jaxpr, those of calls inlined: values of what is known, and steps of what is not."""

    def __init__(self, argument: Any):
        self.known: _Values = {}
        self.steps: list[Callable[[_Values], _Values]] = []
        self._depending = {argument}

    def take(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """Add a jaxpr's equations, its inputs being variables or literals; return its outputs."""
        scope: _Values = dict(zip(jaxpr.invars, inputs, strict=True))  # a jaxpr may be called twice
        for v, value in zip(jaxpr.constvars, consts, strict=True):
            scope[v] = self._new()
            self.known[scope[v]] = value
        here = lambda v: v if compat.is_literal(v) else scope[v]
        for eqn in jaxpr.eqns:
            arguments = [here(v) for v in eqn.invars]
            inner = None if eqn.primitive.name in compat.CUSTOM else compat.called(eqn)
            if inner is not None:
                outputs = self.take(*compat.parts(inner), arguments)
            else:
                outputs = [self._new() for _ in eqn.outvars]
                self._add(eqn, arguments, outputs)
            scope.update(zip(eqn.outvars, outputs, strict=True))
        return [here(v) for v in jaxpr.outvars]

    @staticmethod
    def _new() -> Any:
        return object()

    def _add(self, eqn: Any, arguments: Sequence[Any], outputs: Sequence[Any]) -> None:
        depends = [not compat.is_literal(v) and v in self._depending for v in arguments]
        if not any(depends):
            found = compat.run(eqn, [_read(v, self.known) for v in arguments])
            self.known.update(zip(outputs, found, strict=True))
            return
        self._depending.update(outputs)
        run: Callable[..., Sequence[Any]] = lambda *values: compat.run(eqn, values)
        if look_up(eqn.primitive)[0].op is Op.CONV and depends == [True, False]:
            lay_out, run = _in_order(eqn)
            kernel = self._new()
            self.known[kernel] = lay_out(_read(arguments[1], self.known))
            arguments = [arguments[0], kernel]

        def step(values: _Values) -> _Values:
            return dict(zip(outputs, run(*(_read(v, values) for v in arguments)), strict=True))

        self.steps.append(step)


def _in_order(eqn: Any) -> tuple[Callable, Callable]:
    """Return what lays out a kernel for a convolution, and the convolution of it: spatial dimensions, inputs, outputs.

    Inside a loop XLA's CPU backend (jaxlib 0.10.2) does not reorder operands, and is four times as slow without.
    """
    numbers, count = eqn.params["dimension_numbers"], eqn.invars[0].aval.ndim - 2
    last = lambda spec: (spec[0], *spec[2:], spec[1])
    laid_out = (0, count + 1, *range(1, count + 1))
    like = type(numbers)(laid_out, (count + 1, count, *range(count)), laid_out)

    def run(x: Any, kernel: Any) -> list[Any]:
        (z,) = compat.bind(eqn, [jax.lax.transpose(x, last(numbers.lhs_spec)), kernel], dimension_numbers=like)
        return [jax.lax.transpose(z, np.argsort(last(numbers.out_spec)))]

    spec = numbers.rhs_spec
    return lambda w: jax.lax.transpose(w, (*spec[2:], spec[1], spec[0])), run


def _read(v: Any, values: Mapping[Any, Any]) -> Any:
    return v.val if compat.is_literal(v) else values[v]
