"""jrlrp beside zennit and LXT on the very same torch module, through torchax: in float64, float32 and bfloat16.

`make test-torch` runs this file as a program, which prints how far apart the maps are.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from compiling import xla_flags

os.environ["XLA_FLAGS"] = xla_flags()

import compared
import jax
import ml_dtypes
import numpy as np
import torch
import torchax

import jrlrp

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
ZENNIT = {
    "EpsilonPlus": jrlrp.epsilon_plus,
    "EpsilonPlusFlat": jrlrp.epsilon_plus_flat,
    "EpsilonGammaBox": lambda: jrlrp.epsilon_gamma_box(-4.0, 4.0),
    "EpsilonAlpha2Beta1": jrlrp.epsilon_alpha2_beta1,
    "EpsilonAlpha2Beta1Flat": jrlrp.epsilon_alpha2_beta1_flat,
    "ExcitationBackprop": jrlrp.excitation_backprop,
}
PEERS = "the peer's bfloat16"
MODULES = (*compared.TRANSFORMERS, "vit")


def explained(module: torch.nn.Module, x: torch.Tensor, rules: jrlrp.Composite, dtype: str, called: str) -> np.ndarray:
    """Return the relevance of an input for the highest scores, in float64."""
    jax.config.update("jax_disable_most_optimizations", dtype == "float64")  # narrower numbers as users have them
    with jax.enable_x64(dtype == "float64"):
        params, call = torchax.extract_jax(deepcopy(module).to(DTYPES[dtype]))  # not to round the module's own numbers

        def scores(params: Any, x: Any) -> Any:
            return compared.read(call(params, (), {called: x}))

        explain = jax.jit(jrlrp.relevance(scores, argnums=1, rules=rules))
        given = x.numpy().astype({"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype))
        return np.asarray(explain(params, given), np.float64)


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference in parts of the largest entry."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def lost(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the difference in parts of what is expected, root mean square."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# --- zennit ---


@cache
def convolutional(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    return compared.convolutional(name)


def zennit_map(name: str, composite: str, dtype: str) -> np.ndarray:
    """Return zennit's relevance, its batch norms folded and its sums modules."""
    from zennit import composites, torchvision
    from zennit.attribution import Gradient

    module, x = convolutional(name)
    folding = torchvision.ResNetCanonizer() if "resnet" in name else torchvision.VGGCanonizer()
    bounds = {"low": -4.0, "high": 4.0} if "Box" in composite else {}
    made = getattr(composites, composite)(canonizers=[folding], **bounds)
    top = lambda out: torch.where(out == out.amax(1, keepdim=True), out, 0.0).detach()
    with Gradient(deepcopy(module).to(DTYPES[dtype]), made) as attribution:
        _, relevance = attribution(x.detach().to(DTYPES[dtype]).requires_grad_(), top)
    return relevance.double().numpy()


def beside(maps: dict[str, np.ndarray], golden: dict[str, np.ndarray]) -> dict[str, float]:
    """Return how far maps are from a peer's in float64 and float32, and how far in bfloat16 both are from float32's."""
    found = {dtype: apart(maps[dtype], golden[dtype]) for dtype in ("float64", "float32")}
    return {**found, **{k: lost(m["bfloat16"], m["float32"]) for k, m in (("bfloat16", maps), (PEERS, golden))}}


def beside_zennit(name: str, composite: str) -> dict[str, float]:
    module, x = convolutional(name)
    maps = {dtype: explained(module, x, ZENNIT[composite](), dtype, "x") for dtype in DTYPES}
    return beside(maps, {dtype: zennit_map(name, composite, dtype) for dtype in DTYPES})


# --- LXT ---


def lxt_maps(name: str, attention: str) -> dict[str, np.ndarray]:
    """Return LXT's relevance and scores, which another process makes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maps.npz"
        subprocess.run([sys.executable, Path(__file__).with_name("lxt_maps.py"), name, attention, path], check=True)
        return dict(np.load(path))


def beside_lxt(name: str, attention: str) -> dict[str, float]:
    module = compared.transformer(name, attention)
    called, x = compared.explained_input(module, name)
    golden = lxt_maps(name, attention)
    with torch.no_grad():
        scores = compared.read(module(**{called: x})).numpy()
    np.testing.assert_allclose(scores, golden["torch.float64/scores"], atol=1e-6)
    rules = jrlrp.cp_lrp() if name == "vit" else jrlrp.attn_lrp()
    maps = {dtype: explained(module, x, rules, dtype, called) for dtype in DTYPES}
    return beside(maps, {dtype: golden[f"torch.{dtype}/relevance"] for dtype in DTYPES})


CASES: dict[str, dict[tuple[str, str], Callable]] = {
    "zennit": {(name, preset): beside_zennit for name in compared.CONVOLUTIONAL for preset in ZENNIT},
    "lxt": {(name, attention): beside_lxt for name in MODULES for attention in ("eager", "sdpa")},
}


def is_there(peer: str, name: str, attention: str) -> bool:
    """Say whether a peer is installed, and explains this module."""
    if find_spec(peer) is None:
        return False
    return peer != "lxt" or not (
        (name == "qwen3_moe" and find_spec("lxt.efficient.models.qwen3_moe") is None)  # newer than the release
        or (name == "bert" and attention == "sdpa")  # its patch puts a module with eager attention in the place
        or (name == "vit" and attention == "sdpa")  # torchvision's has the one that it has
    )


def too_far(peer: str, name: str, found: dict[str, float]) -> list[str]:
    """Return the dtypes in which maps are further apart than they may be, in bfloat16 twice as far as the peer's."""
    rounds = peer == "lxt" and name not in ("gpt2", "bert", "vit")  # RMS norms and rotary angles are in float32
    bounds = {"float64": 1e-5 if rounds else 1e-6, "float32": 1e-4, "bfloat16": 2 * found[PEERS]}
    return [f"{dtype}: {found[dtype]:.1e}" for dtype, bound in bounds.items() if not found[dtype] <= bound]


def pytest_generate_tests(metafunc):
    pairs = [(peer, *case) for peer, cases in CASES.items() for case in cases if is_there(peer, *case)]
    metafunc.parametrize(("peer", "name", "case"), pairs)


def test_relevance_is_the_peers(peer, name, case):
    found = CASES[peer][name, case](name, case)
    assert not too_far(peer, name, found), found


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package}, from a folder"


def main(peer: str, *names: str) -> int:
    """Print a row for each module that a peer explains, or for some; return how many deviate by more than they may."""
    packages = ", ".join(map(_version, (peer, "torch", "torchvision", "transformers")))
    print(f"{packages}\n\n| module | {peer} | float64 | float32 | bfloat16, of float32 | {peer}'s |")
    print("|---|---|---|---|---|---|")
    failed = 0
    for (name, case), compare in CASES[peer].items():
        if is_there(peer, name, case) and (not names or name in names):
            found = compare(name, case)
            far = too_far(peer, name, found)
            failed += bool(far)
            numbers = " | ".join(f"{deviation:.1e}" for deviation in found.values())
            print(f"| {name} | {case} | {numbers} |{' too far' if far else ''}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
