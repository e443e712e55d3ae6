"""Make `quantus.npz`, golden numbers of quantus's metrics: quantus 0.6.0, torch 2.13.0 (CPU), seed 37.

To rerun: `pip install quantus==0.6.0 torch==2.13.0`, then `python tests/parity/make_quantus.py`. All is float64, but
for what is named float32. What is explained is each example's class in `target`, by gradient × input.

Where quantus has a choice of its own, and what is done about it here or in `tests/metrics/test_quantus.py`:

- Curves begin after the first step, without the whole input. A map of one channel is repeated for all of them and their
  entries are flipped one by one: pixels go as wholes where a step is a multiple of the channels. A step has to divide
  the number of pixels, not that of entries. The area under a curve counts steps, not fractions.
- The baseline "black" is each example's least entry. "mean" is the mean of what earlier steps have left, and drifts.
- Regions that do not fit are padded on both sides; jrlrp's begin at the first pixel.
- `PointingGame` is won where any of equal largest entries is in the mask; an empty mask is meant to give NaN but, in an
  array of booleans, gives True. The other games give NaN for an empty mask. `weighted=True` stops with an error.
- `RelevanceMassAccuracy` is a ratio of signed sums, also below 0 and above 1; its source has positive maps.
- `Sparseness` adds 1e-7 to maps in parts of the largest entry of the whole batch, `Complexity` 1e-12 within the
  logarithm. Both, without `abs` and `normalise`, write into the caller's array.
- `LocalLipschitzEstimate` adds 1e-10 to the denominator. With `normalise` (its default), it and the sensitivities
  divide maps by the largest entry of their batch, so that an example's value depends on its neighbours.
- `MPRT` resets layers by torch's own initialisation with one seed for all of them; the weights are stored here. It
  flattens maps, and stops with an error at its own SSIM, which is compared on images instead.
- `Completeness` asks whether sums are equal to the last bit.
- `Monotonicity` inserts the baseline into the baseline: every curve is flat, every answer True. It gets a function here
  that inserts the input. Like `AttributionLocalisation`, it ranks by |R| unless told otherwise.
- `ROAD` stops with an error at its own imputation, which takes indices of pixels where it has those of entries: a
  function that replaces by zero makes it a curve of accuracy.
- `numpy.trapz`, which numpy 2.4 has no more, is numpy.trapezoid.
"""

import copy
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch_nets
import torchvision_stub  # noqa: F401
from torch import nn

np.trapz = np.trapezoid
import quantus  # noqa: E402
from quantus.functions import similarity_func  # noqa: E402

EXAMPLES, SIDE, CLASSES, SAMPLES = 6, 12, 5, 4
PLAIN = {"normalise": False, "disable_warnings": True}


class Small(nn.Module):
    """Three dense layers with biases, which JAX compiles quickly: 3×12×12 → 5."""

    def __init__(self):
        super().__init__()
        self.fc1, self.relu1 = nn.Linear(3 * SIDE**2, 12), nn.ReLU()
        self.fc2, self.relu2 = nn.Linear(12, 10), nn.ReLU()
        self.fc3 = nn.Linear(10, CLASSES)

    def forward(self, x):
        return self.fc3(self.relu2(self.fc2(self.relu1(self.fc1(torch.flatten(x, 1))))))


def network():
    """Return the network with weights that make its probabilities neither 0 nor 1."""
    generator = torch.Generator().manual_seed(torch_nets.SEED)
    net = Small().double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_((p[0].numel() if p.ndim > 1 else 16) ** -0.5 * torch.randn(p.shape, generator=generator))
    return net


def gradient_times_input(model, inputs, targets, **_):
    x = torch.tensor(inputs, requires_grad=True)
    score = model(x)[torch.arange(len(x)), torch.as_tensor(targets)].sum()
    return (x * torch.autograd.grad(score, x)[0]).detach().numpy()


def curves(net, x, target, r, pixels):
    """Return the curves of maps of every entry, and of one for each pixel."""
    data = {"model": net, "x_batch": x, "y_batch": target}
    flip = lambda step, a, **options: np.array(
        quantus.PixelFlipping(features_in_step=step, **(PLAIN | options))(a_batch=a.copy(), **data)
    )
    found = {
        "PixelFlipping/entries": flip(36, r),
        "PixelFlipping/absolute": flip(36, r, abs=True),
        "PixelFlipping/pixels": flip(12, pixels),
        "PixelFlipping/number": flip(36, r, perturb_baseline=0.3),
        "PixelFlipping/mean": flip(36, r, perturb_baseline="mean"),
        "PixelFlipping/area": flip(36, r, return_auc_per_sample=True),
    }
    for order in ("morf", "lerf"):
        for side in (4, 5):
            metric = quantus.RegionPerturbation(patch_size=side, order=order, perturb_baseline=0.0, **PLAIN)
            found[f"RegionPerturbation/{order}{side}"] = np.array(metric(a_batch=pixels.copy(), **data))
    metric = quantus.Selectivity(patch_size=4, **PLAIN)
    found["Selectivity"] = np.array(metric(a_batch=pixels.copy(), softmax=False, **data))

    flat, seen = x.reshape(len(x), -1), []

    def inserted(arr, indices, **_):
        arr = arr.copy()
        np.put_along_axis(arr, indices, np.take_along_axis(flat, indices, 1), 1)
        return arr

    hook = net.register_forward_hook(lambda module, args, out: seen.append(out.numpy()))
    metric = quantus.Monotonicity(
        features_in_step=36, abs=False, perturb_baseline="black", perturb_func=inserted, **PLAIN
    )
    metric(a_batch=r.copy(), softmax=False, **data)
    hook.remove()
    found["Monotonicity/scores"] = np.stack(seen, 1)[np.arange(len(x)), :, target]
    road = quantus.ROAD(percentages=[0.25, 1, 90], perturb_func=without, **PLAIN)
    found["ROAD"] = np.array(list(road(a_batch=r.copy(), **data).values()))
    return found


def without(arr, indices, **_):
    arr = arr.copy()
    arr.flat[indices] = 0
    return arr


def of_maps(net, x, target, maps, masks):
    """Return measures of maps alone, of float64 and of float32."""
    data = {"model": net, "x_batch": x, "y_batch": target}
    other = maps[::-1].copy()
    found = {}
    for dtype in (np.float64, np.float32):
        a, b = maps.astype(dtype), other.astype(dtype)
        for name in ("Sparseness", "Complexity"):
            metric = getattr(quantus, name)(disable_warnings=True)
            found[f"{name}/{dtype.__name__}"] = np.array(metric(a_batch=a.copy(), **data))
        rows = (m.reshape(len(m), -1) for m in (a, b))
        found[f"spearman/{dtype.__name__}"] = similarity_func.correlation_spearman(*rows, batched=True)
        found[f"ssim/{dtype.__name__}"] = np.array(similarity_func.ssim(a[:, 0], b[:, 0], batched=True))
    games = {"PointingGame": maps, "RelevanceRankAccuracy": maps, "RelevanceMassAccuracy": np.maximum(maps, 0)}
    for name, a in games.items():
        found[name] = np.array(getattr(quantus, name)(**PLAIN)(a_batch=a.copy(), s_batch=masks, **data))
    metric = quantus.AttributionLocalisation(positive_attributions=True, abs=False, **PLAIN)
    found["AttributionLocalisation"] = np.array(metric(a_batch=maps.copy(), s_batch=masks, **data))
    return found


def robustness(net, x, target, noise):
    found = {}
    for name in ("MaxSensitivity", "AvgSensitivity", "LocalLipschitzEstimate"):
        turns = iter(noise.swapaxes(0, 1))
        disturb = lambda arr, turns=turns, **_: arr + next(turns).reshape(arr.shape)
        metric = getattr(quantus, name)(nr_samples=SAMPLES, perturb_func=disturb, **PLAIN)
        found[name] = np.array(
            metric(model=net, x_batch=x, y_batch=target, a_batch=None, explain_func=gradient_times_input)
        )
    return found


def randomisation(net, x, target):
    """Return rank correlations by layer and the weights that each layer's network had."""
    found = {}
    for order in ("top_down", "independent"):
        states = []

        def explain(model, states=states, **options):
            states.append({name: value.numpy().copy() for name, value in model.state_dict().items()})
            return gradient_times_input(model, **options)

        metric = quantus.MPRT(layer_order=order, **PLAIN)
        scores = metric(model=net, x_batch=x, y_batch=target, a_batch=None, explain_func=explain)
        layers = [layer for layer in scores if layer != "original"]
        found[f"MPRT/{order}"] = np.array([scores[layer] for layer in layers])
        found[f"MPRT/{order}/layers"] = np.array(layers)
        for layer, state in zip(layers, states[-len(layers) :], strict=True):
            drawn = {f"MPRT/weights/{name}": value for name, value in state.items() if name.startswith(layer)}
            assert all((value == found.setdefault(name, value)).all() for name, value in drawn.items())  # of one seed
    return found


def completeness(net, x, target, rng):
    """Return whether sums are equal: of a network without biases, and of integers, where they are exact."""
    bare = copy.deepcopy(net)
    with torch.no_grad():
        for name, p in bare.named_parameters():
            if name.endswith("bias"):
                p.zero_()
    options = {"perturb_baseline": 0.0, **PLAIN}
    r = gradient_times_input(bare, x, target)
    call = lambda model, x, y, a: quantus.Completeness(**options)(
        model=model, x_batch=x, y_batch=y, a_batch=a.copy(), softmax=False
    )
    found = {"Completeness/relevance": r, "Completeness": np.array(call(bare, x, target, r))}
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False)).eval()
    with torch.no_grad():
        linear[1].weight.copy_(torch.as_tensor(rng.integers(-4, 5, (2, 16))))
    ids, y = rng.integers(-4, 5, (4, 1, 4, 4)).astype(float), np.array([0, 1, 0, 1])
    exact = gradient_times_input(linear, ids, y)
    exact[1, 0, 0, 0] += 1
    exact[2, 0, 3, 3] -= 2
    score = linear(torch.as_tensor(ids)).detach().numpy()[np.arange(4), y]
    integers = {"": call(linear, ids, y, exact), "/relevance": exact, "/score": score}
    return found | {f"Completeness/integers{name}": np.array(value) for name, value in integers.items()}


def goldens():
    """Return all arrays of the file."""
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(torch_nets.SEED)
    net = network()
    x = rng.normal(size=(EXAMPLES, 3, SIDE, SIDE))
    logits = net(torch.tensor(x))
    target = logits.argmax(1).numpy()
    target[::3] = rng.integers(CLASSES, size=len(target[::3]))
    r = gradient_times_input(net, x, target)
    maps, masks = rng.normal(size=(EXAMPLES, 1, SIDE, SIDE)), rng.random((EXAMPLES, 1, SIDE, SIDE)) < 0.3
    maps[1] = np.round(maps[1], 1)  # of which some are equal
    masks[2] = False
    noise = rng.uniform(-0.2, 0.2, (EXAMPLES, SAMPLES, 3, SIDE, SIDE))
    pixels = r.sum(1, keepdims=True)
    found = {"target": target, "relevance": r, "maps": maps, "masks": masks, "noise": noise}
    found |= torch_nets.arrays("small", net, torch.tensor(x), logits)
    found |= curves(net, x, target, r, pixels)
    found |= of_maps(net, x, target, maps, masks)
    found |= robustness(net, x, target, noise) | randomisation(net, x, target) | completeness(net, x, target, rng)
    torch.set_default_dtype(torch.float32)
    metric = quantus.PixelFlipping(features_in_step=36, **PLAIN)
    single = metric(model=copy.deepcopy(net).float(), x_batch=np.float32(x), y_batch=target, a_batch=np.float32(r))
    return found | {"PixelFlipping/float32": np.array(single)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    versions = {name: np.array(version(name)) for name in ("quantus", "torch", "numpy")}
    path = Path(__file__).with_name("quantus.npz")
    np.savez_compressed(path, **goldens(), **versions, seed=np.array(torch_nets.SEED))
