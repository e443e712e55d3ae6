"""How long `jrlrp.plan` takes for programs of some hundreds to some thousands of equations, beside tracing them alone.

`make bench` runs this. A ratio that stays the same from size to size says that the time is linear in the equations.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from rich import box
from rich.console import Console
from rich.table import Table

import jrlrp

WIDTH, DEPTH = 4, 6  # features; loops that stand in each other
X = np.linspace(-1, 1, WIDTH, dtype=np.float32)
WEIGHT = np.eye(WIDTH, dtype=np.float32)[::-1] + 0.1
Function = Callable[[Any], Any]


def chain(count: int) -> Function:
    """Elementwise functions one after another."""
    return lambda x: elementwise(x, count)


def elementwise(x: Any, count: int) -> Any:
    for k in range(count):
        x = (jnp.tanh, jnp.sin, jnp.negative, jnp.exp2)[k % 4](x)
    return x


def residual_sums(count: int) -> Function:
    """x + tanh(x), again and again."""

    def f(x: Any) -> Any:
        for _ in range(count // 2):
            x = x + jnp.tanh(x)
        return x

    return f


def dense_stack(count: int) -> Function:
    """Dense layers with bias and tanh."""

    def f(x: Any) -> Any:
        for _ in range(count // 3):
            x = jnp.tanh(jnp.dot(x, WEIGHT) + X)
        return x

    return f


def branches(count: int) -> Function:
    """One cond after another, of two branches with four equations each."""

    def f(x: Any) -> Any:
        for k in range(count // 9):
            x = lax.cond(k % 2 == 0, lambda x: elementwise(x, 4), lambda x: elementwise(-x, 3), x)
        return x

    return f


def long_body(count: int) -> Function:
    """One scan with all equations in its body: cells with a layer and a skip connection."""

    def turn(h: Any, t: Any) -> tuple[Any, None]:
        for _ in range(count // 4):
            h = h + jnp.tanh(jnp.dot(h, WEIGHT) + t)
        return h, None

    return lambda x: lax.scan(turn, x, jnp.ones((3, WIDTH)))[0]


def nested_loops(depth: int, count: int) -> Function:
    """Scans in each other, each with constant first states beside the one that carries relevance."""

    def level(x: Any, depth: int) -> Any:
        x = elementwise(x, count // DEPTH - 4)
        if not depth:
            return x

        def turn(states: Any, _: None) -> tuple[Any, None]:
            h, total, turns = states
            return (level(h + total, depth - 1), 0.5 * total + h, turns + 1.0), None

        return lax.scan(turn, (x, jnp.ones(WIDTH), 0.0), None, length=3)[0][0]

    return lambda x: level(x, depth)


KINDS: dict[str, Callable[[int], Function]] = {
    "elementwise chain": chain,
    "residual sums": residual_sums,
    "dense stack": dense_stack,
    "branches": branches,
    "long scan body": long_body,
    "nested scans": lambda count: nested_loops(DEPTH - 1, count),
}


def equations(jaxpr: Any) -> int:
    """Return how many equations a jaxpr has, those of inner jaxprs too."""
    jaxpr, count = getattr(jaxpr, "jaxpr", jaxpr), 0
    for eqn in jaxpr.eqns:
        inner = [v for p in eqn.params.values() for v in (p if isinstance(p, (tuple, list)) else [p])]
        count += 1 + sum(equations(v) for v in inner if hasattr(v, "eqns") or hasattr(v, "jaxpr"))
    return count


def seconds(run: Callable[[], Any], rounds: int) -> float:
    """Return the shortest time of several."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def times_of(make: Callable[[], Function], rounds: int) -> tuple[int, float, float]:
    """Return the number of equations, and the seconds that tracing and planning take.

    The function is made anew for each round: JAX keeps what it has traced of a function.
    """
    count = equations(jax.make_jaxpr(make())(X))
    traced = seconds(lambda: jax.make_jaxpr(make())(X), rounds)
    return count, traced, seconds(lambda: jrlrp.plan(make(), X), rounds)


def attempted(make: Callable[[], Function], rounds: int) -> list[str]:
    """Return the cells of a row: equations, seconds of tracing and planning, and their ratio."""
    try:
        count, traced, planned = times_of(make, rounds)
    except RecursionError:
        return ["-", "-", "RecursionError", "-"]
    return [f"{count:,}", f"{traced:.3f}", f"{planned:.3f}", f"{planned / traced:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default="500,2000,8000", help="numbers of equations")
    parser.add_argument("--depths", default="1,2,3,4,5,6", help="numbers of loops in each other, of 20 equations each")
    parser.add_argument("--rounds", type=int, default=3, help="timed calls of each, the shortest of which counts")
    options = parser.parse_args()
    sizes, depths = ([int(n) for n in given.split(",")] for given in (options.sizes, options.depths))
    heads = ("equations", "make_jaxpr, s", "plan, s", "ratio")
    table = Table("program", *heads, box=box.MARKDOWN)
    for name, make in KINDS.items():
        for size in sizes:
            table.add_row(name, *attempted(lambda make=make, size=size: make(size), options.rounds))
    deep = Table("loops in each other", *heads, box=box.MARKDOWN)
    for depth in depths:
        row = attempted(lambda depth=depth: nested_loops(depth, 20 * DEPTH), options.rounds)
        deep.add_row(str(depth), *row)
    console = Console()
    console.print(f"jax {jax.__version__}, the shortest of {options.rounds} times each")
    console.print(table)
    console.print(deep)


if __name__ == "__main__":
    main()
