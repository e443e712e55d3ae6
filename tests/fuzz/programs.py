"""Random programs: a few operations, each in one of its spellings, then a dense head and perhaps an increasing ending.

A program prints itself as what makes it, `Program(...)`, and `listing` shows the source of its spellings.
"""

import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import jax
import jax.numpy as jnp
import numpy as np
from fuzz import control, layers, norms, softmaxes  # noqa: F401 (they fill the table)
from fuzz.softmaxes import SOFTMAX
from fuzz.table import CLASSES, OPERATIONS, SHAPE, F, N, Operation, P, bound

HEADS = {
    "flat": Operation("flat", {"": lambda h, p: h.reshape(h.shape[0], -1) @ p.w + p.b}, {"w": (P * F, 5), "b": (5,)}),
    "mean": Operation("mean", {"": lambda h, p: h.mean(1) @ p.w + p.b}, {"w": (F, CLASSES), "b": (CLASSES,)}),
    "last": Operation("last", {"": lambda h, p: h[:, -1] @ p.w}, {"w": (F, CLASSES)}),
    "max": Operation("max", {"": lambda h, p: h.max(1) @ p.w}, {"w": (F, CLASSES)}),
}
ENDINGS = {
    "none": lambda z: z,
    **{f"softmax: {name}": softmax for name, softmax in SOFTMAX.items()},
    "softmax: where": lambda z: jax.nn.softmax(z, axis=-1, where=np.ones(CLASSES, bool)),
    "log_softmax": lambda z: jax.nn.log_softmax(z, axis=-1),
    "log of softmax": lambda z: jnp.log(jax.nn.softmax(z, axis=-1)),
    "log of softmax + 1e-7": lambda z: jnp.log(jax.nn.softmax(z, axis=-1) + 1e-7),
    "clipped softmax": lambda z: jnp.clip(jax.nn.softmax(z, axis=-1), 1e-7, 1 - 1e-7),
    "z - logsumexp": lambda z: z - jax.nn.logsumexp(z, axis=-1, keepdims=True),
    **{f"sigmoid: {name}": sigmoid for name, sigmoid in norms.SIGMOID.items()},
    "log_sigmoid": jax.nn.log_sigmoid,
    "exp": jnp.exp,
    "softplus": jax.nn.softplus,
    "1 + tanh": lambda z: 1 + jnp.tanh(z),
    "scaled sigmoid": lambda z: 3 * jax.nn.sigmoid(z) - 1,
}


@dataclass(frozen=True)
class Step:
    """An operation in one spelling, with parameters of a seed and the steps inside it."""

    name: str
    spelling: str
    seed: int = 0
    inner: tuple["Step", ...] = ()

    def __call__(self, h):
        operation = OPERATIONS[self.name]
        p = bound(operation.parameters(self.seed), h.dtype)
        return operation.spellings[self.spelling](h, p, *self.inner)

    def walk(self) -> Iterator["Step"]:
        yield self
        for step in self.inner:
            yield from step.walk()

    def source(self, depth: int = 1) -> Iterator[str]:
        indent = "    " * depth
        yield f"{indent}# {self.name}, spelt {self.spelling!r}, parameters of seed {self.seed}"
        yield from (indent + line for line in _source(OPERATIONS[self.name].spellings[self.spelling]))
        for letter, step in zip("fg", self.inner, strict=False):
            yield f"{indent}# with {letter} ="
            yield from step.source(depth + 1)

    def __repr__(self) -> str:
        return f"Step{(self.name, self.spelling, self.seed, *([self.inner] if self.inner else ()))}"


def _source(function: Callable) -> Iterator[str]:
    """Yield the source of a function, and of those of the tests' own that it has as defaults or in its closure."""
    if not getattr(function, "__module__", "").startswith("fuzz"):
        yield f"{function.__module__}.{function.__name__}"
        return
    yield from textwrap.dedent(inspect.getsource(function)).rstrip().splitlines()
    for other in (*(function.__defaults__ or ()), *inspect.getclosurevars(function).nonlocals.values()):
        if callable(other):
            yield "# which calls"
            yield from _source(other)


@dataclass(frozen=True)
class Program:
    """A function of inputs of shape (batch, positions, features) that returns scores (batch, classes)."""

    steps: tuple[Step, ...]
    head: str = "flat"
    ending: str = "none"
    seed: int = 0

    def logits(self, x):
        h = x
        for step in self.steps:
            h = step(h)
        head = HEADS[self.head]
        return head.spellings[""](h, bound(head.parameters(self.seed), x.dtype))

    def __call__(self, x):
        return ENDINGS[self.ending](self.logits(x))

    def inputs(self) -> np.ndarray:
        """Return inputs whose examples are of different sizes."""
        return np.random.default_rng(self.seed).normal(size=SHAPE) * np.asarray([1.0, 4.0, 0.3]).reshape(N, 1, 1)

    def walk(self) -> Iterator[Step]:
        for step in self.steps:
            yield from step.walk()

    @property
    def size(self) -> int:
        return sum(1 for _ in self.walk()) + (self.ending != "none")

    @property
    def holds(self) -> set[str]:
        return {OPERATIONS[step.name].holds for step in self.walk()} - {""}

    @property
    def rounded(self) -> bool:
        """Whether a spelling rounds to float32."""
        return any(step.spelling in OPERATIONS[step.name].rounded for step in self.walk()) or any(
            name in self.ending for name in softmaxes.ROUNDED
        )

    def listing(self) -> str:
        lines = [repr(self), *(line for step in self.steps for line in step.source())]
        return "\n".join([*lines, f"    # head {self.head!r}, ending {self.ending!r}"])


# Spellings that are known to get another map than the plain one, for now.
TO_COME = {
    ("instance norm", "std"),  # a root by hypot
    ("gate", "softmax of two"),  # which is a sigmoid
    ("residual", "sum of a stack"),  # a sum over an axis, as the states of a loop have
    ("residual", "twice the mean"),
    ("tanh", "by exp"),  # whose exponentials are read twice
    ("scale and shift", "einsum"),  # the bias after what moves is a summand of what comes next
    ("group norm", "parts"),  # the gain after what moves is a layer of its own
    ("group norm", "flat"),
}


def plain(step: Step) -> Step:
    """Return a step whose operation, and those inside it, are in their first spelling."""
    return replace(step, spelling=next(iter(OPERATIONS[step.name].spellings)), inner=tuple(map(plain, step.inner)))


def respelt(program: Program) -> Program:
    """Return the same program in plain spellings."""
    return replace(program, steps=tuple(map(plain, program.steps)))


NAMES = sorted(OPERATIONS, key=lambda name: OPERATIONS[name].inner)
SIMPLE = [name for name in NAMES if not OPERATIONS[name].inner]
NOTABLE = [name for name in NAMES if OPERATIONS[name].holds]


def draw_step(random: Random, names: Sequence[str], depth: int = 2) -> Step:
    """Draw a step; what is inside one that takes a function may take one too, but no deeper."""
    name = random.choice(names)
    operation = OPERATIONS[name]
    inside = NAMES if operation.inner == 1 and depth > 1 else SIMPLE
    inner = tuple(draw_step(random, inside, depth - 1) for _ in range(operation.inner))
    spellings = [spelling for spelling in operation.spellings if (name, spelling) not in TO_COME]
    return Step(name, random.choice(spellings), random.randrange(10), inner)


def draw_program(random: Random) -> Program:
    """Draw a program of two to six operations, in most programs a softmax, a norm or a product of active values.

    All operations are equally likely, which they are not where hypothesis chooses each; it chooses `random`.
    """
    count = random.randint(2, 6)
    chosen = [draw_step(random, NAMES) for _ in range(count)]
    if random.random() < 0.6:
        chosen[random.randrange(count)] = draw_step(random, NOTABLE)
    ending = "none" if random.random() < 0.5 else random.choice(list(ENDINGS))
    return Program(tuple(chosen), random.choice(list(HEADS)), ending, random.randrange(10))
