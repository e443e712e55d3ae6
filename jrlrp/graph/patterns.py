"""Softmax and log-softmax in any spelling, by dataflow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from jrlrp.graph.axes import Axis, image
from jrlrp.trace.program import Equation, Literal, Var


@dataclass(frozen=True)
class SoftmaxMatch:
    """A softmax (or, with `log`, its logarithm) of `logits` over the dimensions `dims`, found at `output`."""

    logits: Var
    output: Var
    dims: frozenset[int]
    log: bool = False


class SoftmaxFinder:
    """Recognises exp(x) / Σ exp(x) and x − log Σ exp(x), whatever constant was taken from x before."""

    def __init__(self, definition: Mapping[Var, Equation], varying: Callable[[Var], frozenset[int]]):
        self.definition, self.varying = definition, varying

    def match(self, eqn: Equation) -> SoftmaxMatch | None:
        if eqn.primitive in ("div", "mul", "sub"):
            return self._log_softmax(eqn) if eqn.primitive == "sub" else self._softmax(eqn)
        return self._exp_of_log(eqn) if eqn.primitive == "exp" else None

    def _softmax(self, eqn: Equation) -> SoftmaxMatch | None:
        a, b = eqn.inputs
        pairs = [(a, b)] if eqn.primitive == "div" else [(a, self._reciprocal_of(b)), (b, self._reciprocal_of(a))]
        for numerator, denominator in pairs:
            total = denominator and self._reduction(denominator)
            made = self._made_by(numerator, "exp")
            if total and made and total.inputs[0] is numerator and numerator.shape == eqn.output.shape:
                dims = frozenset(total.params["axes"])
                return SoftmaxMatch(self._unshifted(made.inputs[0], dims), eqn.output, dims)
        return None

    def _exp_of_log(self, eqn: Equation) -> SoftmaxMatch | None:
        inner = self.definition.get(eqn.inputs[0])
        match = inner and inner.primitive == "sub" and self._log_softmax(inner)
        return replace(match, output=eqn.output, log=False) if match else None

    def _log_softmax(self, eqn: Equation) -> SoftmaxMatch | None:
        x, normaliser = eqn.inputs
        log = self._strip(normaliser, ("log",))
        while log is not None and log.primitive in ("add", "sub"):  # log Σ exp(x − c) + c
            log = next((e for e in (self._strip(v, ("log",)) for v in log.inputs) if e is not None), None)
        total = self._reduction(log.inputs[0]) if log is not None and log.primitive == "log" else None
        made = total and self._made_by(total.inputs[0], "exp")
        if not total or not made or x.shape != eqn.output.shape:
            return None
        dims = frozenset(total.params["axes"])
        logits = self._unshifted(x, dims)
        same = logits is self._unshifted(made.inputs[0], dims)
        return SoftmaxMatch(logits, eqn.output, dims, log=True) if same else None

    def _made_by(self, v: Var, primitive: str) -> Equation | None:
        eqn = self.definition.get(v)
        return eqn if eqn is not None and eqn.primitive == primitive else None

    def _strip(self, v: Var, wanted: tuple[str, ...]) -> Equation | None:
        """Return the equation that makes `v`, but for axes of size one added to it."""
        eqn = self.definition.get(v)
        while eqn is not None and eqn.primitive in ("broadcast_in_dim", "reshape", "expand_dims", "abs"):
            eqn = self.definition.get(eqn.inputs[0])
        return eqn if eqn is None or eqn.primitive in (*wanted, "add", "sub") else None

    def _reduction(self, v: Var) -> Equation | None:
        """Return the sum that `v` is, if its axes have come back to where they were before the sum."""
        chain: list[Equation] = []
        eqn = self.definition.get(v)
        while eqn is not None and eqn.primitive in ("broadcast_in_dim", "reshape", "expand_dims", "abs"):
            chain.append(eqn)
            eqn = self.definition.get(eqn.inputs[0])
        if eqn is None or eqn.primitive != "reduce_sum":
            return None
        for dim, size in enumerate(eqn.inputs[0].shape):
            axis: Axis | None = Axis(dim, size)
            for step in (eqn, *reversed(chain)):
                axis = axis and image(step, 0, axis)
            if dim not in eqn.params["axes"] and size > 1 and axis != Axis(dim, size):
                return None
        return eqn

    def _reciprocal_of(self, v: Var) -> Var | None:
        eqn = self.definition.get(v)
        if eqn is None:
            return None
        if eqn.primitive == "div" and isinstance(eqn.inputs[0], Literal) and eqn.inputs[0].value == 1:
            return eqn.inputs[1]
        return eqn.inputs[0] if eqn.primitive == "integer_pow" and eqn.params["y"] == -1 else None

    def _unshifted(self, x: Var, dims: frozenset[int]) -> Var:
        """Go back over whatever was added to `x` that is constant along `dims`: a softmax does not see it."""
        while (eqn := self.definition.get(x)) is not None and eqn.primitive in ("sub", "add"):
            a, b = eqn.inputs
            if not self.varying(b) & dims and a.shape == x.shape:
                x = a
            elif eqn.primitive == "add" and not self.varying(a) & dims and b.shape == x.shape:
                x = b
            else:
                break
        return x
