"""Try many random programs: `make fuzz`, or `python tests/fuzz/run.py --programs 300 --properties 'equal spellings'`.

Prints what the programs held, and failures by property and what is left of the program when all that can go is gone.
"""

import argparse
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from compiling import xla_flags

os.environ["XLA_FLAGS"] = xla_flags()

import jax
from fuzz.programs import Program
from fuzz.properties import PROPERTIES, RULES, forget
from fuzz.search import each, failure, reduced

# Of how many programs one is tried with the properties that take most time.
EVERY = {"finite": 3, "jit = eager": 6, "batch = alone": 3, "vmap = loop": 4, "audit closes": 2}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=300)
    parser.add_argument("--properties", default=",".join(PROPERTIES), help="names, separated by commas")
    parser.add_argument("--rules", default=";".join(RULES), help="names, separated by semicolons")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no program after so many")
    options = parser.parse_args(arguments)
    share = -(-options.programs // options.processes)
    work = partial(_work, options.properties.split(","), options.rules.split(";"), share, options.seconds)
    seeds = [options.seed * 1000 + k for k in range(options.processes)]
    started = time.monotonic()
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        results = list(pool.map(work, seeds))
    counts = sum((counts for counts, _ in results), Counter())
    failures = [failure for _, found in results for failure in found]
    _print(counts, failures, time.monotonic() - started)
    return 1 if failures else 0


def _work(properties: list[str], rules: list[str], count: int, seconds: float, seed: int):
    """Try programs; return what they held, and (property, rules, smallest program, message) of each failure."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # these programs run once
    counts, failures, known = Counter(), [], set()
    until = time.monotonic() + seconds

    def use(program: Program, chosen: str) -> None:
        if time.monotonic() > until:
            return
        counts.update(_contents(program))
        for name in properties:
            if counts["programs"] % EVERY.get(name, 1) == 0:
                failed, message = failure(name, program, chosen)
                counts[f"checked: {name}"] += failed is not None
                if failed:
                    left = min(60.0, until - time.monotonic())
                    smallest, message = reduced(name, program, chosen, message, left)
                    if (name, smallest) not in known:
                        known.add((name, smallest))
                        failures.append((name, chosen, smallest, message))
                        print(f"{name}, {chosen}: {smallest!r}", file=sys.stderr, flush=True)
        if counts["programs"] % 40 == 0:
            forget()
            jax.clear_caches()  # they hold gigabytes by and by

    each(count, seed, rules, use)
    return counts, failures


def _contents(program: Program) -> Iterator[str]:
    yield "programs"
    yield from (f"holds a {what}" for what in program.holds)
    if program.holds:
        yield "holds a softmax, a norm or a product"
    yield f"head: {program.head}"
    yield f"ending: {program.ending}"
    for step in program.walk():
        yield f"operation: {step.name}"
        yield f"spelling: {step.name}: {step.spelling}"


def _print(counts: Counter, failures: list, seconds: float) -> None:
    total = counts.pop("programs")
    print(f"{total} programs in {seconds:.0f} s ({60 * total / seconds:.0f} a minute). How many of them held what:")
    for prefix in ("holds", "checked", "head", "ending", "operation", "spelling"):
        rows = {name: count for name, count in sorted(counts.items()) if name.startswith(prefix)}
        print(f"  {prefix}: " + ", ".join(f"{name.split(' ', 1)[1]} {count}" for name, count in rows.items()))
    groups = defaultdict(list)
    for name, rules, program, message in failures:
        groups[name, _signature(program)].append((program.size, rules, program, message))
    print(f"\n{len(failures)} failures of {len(groups)} kinds.")
    for (name, _), found in sorted(groups.items()):
        _, _, program, message = min(found, key=lambda failure: failure[:2])
        under = Counter(rules for _, rules, *_ in found)
        print(f"\n== {name}: {len(found)} programs, under {', '.join(f'{r} {n}' for r, n in under.items())}")
        print(program.listing())
        print(f"    {message[:900]}")


def _signature(program: Program) -> tuple[str, ...]:
    return (*sorted({f"{step.name}: {step.spelling}" for step in program.walk()}), program.ending)


if __name__ == "__main__":
    sys.exit(main())
