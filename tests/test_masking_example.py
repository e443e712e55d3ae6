"""The parts of the masking experiment that need no download and no training of minutes."""

import gzip
import io
import pickle

import jax
import jax.numpy as jnp
import masking_data
import masking_experiment
import masking_networks
import numpy as np
import pytest
import squeezenet
from masking_experiment import LEVELS, Case
from masking_networks import NETWORKS
from rich.console import Console

import jrlrp

WEIGHTS = jnp.arange(-8.0, 8.0)  # of 4 × 4 pixels, for class 1 against class 0


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


def linear(weights, x):
    z = x.reshape(len(x), -1) @ weights
    return jnp.stack([jnp.zeros_like(z), z], -1)


@pytest.fixture
def measured(monkeypatch):
    methods = {name: masking_experiment.METHODS[name] for name in ("ε", "random")}
    monkeypatch.setattr(masking_experiment, "METHODS", methods)
    images = np.ones((3, 4, 4, 1), np.float32)
    images[:, 2:] += 1.0  # so that class 1 is seen
    images[2] = 2 * images[2]
    return masking_experiment.evaluate(Case("made", "linear", 0, images, np.array([1, 1, 0]), linear, WEIGHTS))


def test_pixels_are_kept_and_removed(measured):
    np.testing.assert_array_equal(measured["whole"], [True, True, False])
    counts = np.rint(np.array(LEVELS) * 16).astype(int)
    parts = 2 * np.arange(8.0)[::-1], -np.arange(8.0, 0, -1)  # relevance for and against, the largest first
    kept = [np.sum(np.concatenate([parts[0], [-1.0]])[:n]) for n in counts]
    left = [parts[0].sum() + parts[1][n:].sum() for n in counts]
    for test, logits in (("keep the highest", kept), ("remove the lowest", left)):
        right, probability = measured[test][0, 0].T
        np.testing.assert_allclose(probability, jax.nn.sigmoid(np.array(logits)), rtol=1e-4)
        np.testing.assert_array_equal(right, 1)
        np.testing.assert_array_equal(measured[test][0, 2, :, 0], 0)
    assert measured["keep the highest"].shape == (2, 3, len(LEVELS), 2)


def test_rows_have_means_and_confidence_intervals(monkeypatch):
    monkeypatch.setattr(masking_experiment, "METHODS", {"ε": None})
    values = np.zeros((2, 1, 4, len(LEVELS), 2))
    values[0, 0, :, 0, 1], values[1, 0, :, 0, 1] = [0.0, 0.2, 0.4, 0.6], [0.2, 0.4, 0.6, 0.8]
    seeds = [dict.fromkeys(masking_experiment.TESTS, found) for found in values]
    rows = masking_experiment.summarise(masking_experiment.together({("made", "linear"): seeds}))
    assert len(rows) == 2 * len(LEVELS)
    first = rows[0]
    assert (first.test, first.method, first.level, first.accuracy) == ("keep the highest", "ε", 0.05, 0.0)
    assert first.probability == pytest.approx(0.4)
    assert first.probability_half == pytest.approx(1.96 * np.sqrt(0.05 / 4 + 0.02 / 2))  # images, and seeds
    assert rows[1].probability_half == 0


def test_bold_is_what_differences_of_pairs_do_not_tell_from_the_best(monkeypatch):
    monkeypatch.setattr(masking_experiment, "METHODS", dict.fromkeys("abc"))
    images = np.random.default_rng(0).uniform(size=(2, 50, 1, 1, 1))  # of very different difficulty
    values = np.concatenate([images, images - 0.01, images - 0.01], 2) * np.ones((len(LEVELS), 2))
    values[:, :, 1, :, 1] += 0.1 * np.random.default_rng(1).normal(size=(2, 50, 1))
    console = Console(file=io.StringIO(), width=180)
    masking_experiment.show(console, {("made", "linear"): {"test": values}}, "test", "probability")
    bold = [line.split("|")[1].strip() for line in console.file.getvalue().splitlines() if "**" in line]
    assert bold == ["a", "b"]


def test_results_are_printed_and_drawn(measured, tmp_path):
    networks = {("made", f"network {k}"): [measured, measured] for k in range(7)}
    found = masking_experiment.together(networks)
    console = Console(file=io.StringIO(), width=180)
    masking_experiment.show(console, found, "keep the highest", "accuracy")
    lines = console.file.getvalue().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ε")]
    assert cells == [["ε", *["**0.67**"] * 7, "0.67"]]
    masking_experiment.draw(masking_experiment.summarise(found), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_what_was_measured_is_not_measured_again(measured, monkeypatch, tmp_path):
    case = Case("made", "linear", 1, np.ones((3, 4, 4, 1)), np.array([1, 1, 0]), linear, WEIGHTS)
    monkeypatch.setattr(masking_experiment, "evaluate", lambda case: measured)
    first = masking_experiment.measured(case, tmp_path)
    monkeypatch.setattr(masking_experiment, "evaluate", None)
    again = masking_experiment.measured(case, tmp_path)
    for name, values in measured.items():
        np.testing.assert_array_equal(first[name], values)
        np.testing.assert_array_equal(again[name], values)
    monkeypatch.setitem(masking_experiment.METHODS, "other", None)
    monkeypatch.setattr(masking_experiment, "evaluate", lambda case: measured | {"whole": np.array([False])})
    assert not masking_experiment.measured(case, tmp_path)["whole"].any()  # with other methods, it is


def test_images_of_idx_files_get_a_black_border(monkeypatch, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    labels = np.arange(5, dtype=np.uint8)
    for part in ("train", "t10k"):
        for name, data in ((f"{part}-images-idx3", images), (f"{part}-labels-idx1", labels)):
            header = bytes([0, 0, 8, data.ndim]) + np.array(data.shape, ">i4").tobytes()
            (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(header + data.tobytes()))
    monkeypatch.setattr(masking_data, "_fashion_folder", lambda: tmp_path)
    found = masking_data.fashion_mnist(4, 3)
    assert found.train.shape == (4, 32, 32, 1) and found.test.shape == (3, 32, 32, 1)
    np.testing.assert_allclose(found.test[:, 2:-2, 2:-2, 0], images[:3] / 255, rtol=1e-6)
    assert found.test[:, :2].sum() == found.test[:, :, -2:].sum() == 0
    np.testing.assert_array_equal(found.train_labels, labels[:4])


@pytest.mark.parametrize(
    ("name", "layers"), [("CNN", 4), ("VGG16-like", 16), ("VGG19-like", 19), ("ResNet50-like", 50 + 4)]
)
def test_networks_have_their_models_layers(name, layers):
    x = jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32)
    logits, variables = jax.eval_shape(NETWORKS[name].init_with_output, jax.random.key(0), x)
    kernels = [path for path, _ in jax.tree_util.tree_leaves_with_path(variables) if "kernel" in str(path[-1])]
    assert len(kernels) == layers and logits.shape == (2, 10)


def test_training_learns():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 1024)
    images = masking_data.Images(
        random.random((1024, 8, 8, 1), np.float32) * labels[:, None, None, None], labels, None, None
    )
    variables = masking_networks.train("CNN", images, seed=0, epochs=5)
    logits = jax.jit(NETWORKS["CNN"].apply)(variables, images.train)
    assert (logits.argmax(-1) == labels).mean() > 0.95


def test_the_reader_of_squeezenet_builds_nothing_but_arrays():
    arrays = {"conv1": [np.ones((1, 2), np.float32), np.zeros(2, np.float32)]}
    data = pickle.dumps(arrays, protocol=3).replace(b"numpy._core", b"numpy.core")
    found = squeezenet.read_arrays(data)
    np.testing.assert_array_equal(found["conv1"][0], arrays["conv1"][0])

    class Harm:
        def __reduce__(self):
            return print, ("harm",)

    with pytest.raises(pickle.UnpicklingError, match=r"print is no part of an array"):
        squeezenet.read_arrays(pickle.dumps(Harm()))


def test_every_node_of_squeezenet_is_found():
    model = squeezenet.SqueezeNet()
    x = jax.ShapeDtypeStruct((1, squeezenet.SIZE, squeezenet.SIZE, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert sum(a.size for a in jax.tree.leaves(variables)) == 1_235_496
    variables = jax.tree.map(lambda a: np.ones(a.shape, a.dtype), variables)
    plan = jrlrp.plan(lambda x: model.apply(variables, x), x)
    assert not plan.unsupported and plan.summary().startswith("5")
