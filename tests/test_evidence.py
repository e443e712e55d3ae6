"""The parts of the evidence that need no download, and a quick run of it on images that are made up."""

import csv
import gzip
import pickle

import evidence
import folder
import image_data
import image_networks
import jax
import jax.numpy as jnp
import measures
import methods
import numpy as np
import pytest
import squeezenet
import tables
import training
from cases import Case, Size
from measures import LEVELS, TESTS
from PIL import Image

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
def case():
    images = np.ones((3, 4, 4, 1), np.float32)
    images[:, 2:] += 1.0  # so that class 1 is seen
    images[2] = 2 * images[2]
    return Case("made linear", 0, linear, WEIGHTS, images, np.array([1, 1, 0]))


@pytest.fixture
def found(case, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "METHODS", {name: methods.METHODS[name] for name in ("default", "ε", "random")})
    return evidence.measured(case, tmp_path, "choose", ())


def test_features_are_kept_and_removed(found):
    counts = np.rint(np.array(LEVELS) * 16).astype(int)
    speaking, against = 2 * np.arange(8.0)[::-1], -np.arange(8.0, 0, -1)  # relevance, the largest first
    kept = [np.sum(np.concatenate([speaking, [-1.0]])[:n]) for n in counts]
    without_lowest = [speaking.sum() + against[n:].sum() for n in counts]
    for test, logits in (("keep the highest", kept), ("remove the lowest", without_lowest)):
        np.testing.assert_allclose(found["ε"][list(TESTS).index(test), 0], jax.nn.sigmoid(np.array(logits)), rtol=1e-4)
    assert found["ε"].shape == (len(TESTS), 3, len(LEVELS))
    np.testing.assert_array_equal(found[tables.WHOLE][1], [True, True, False])
    assert found[tables.MAPS.format("ε")].shape == (3, 4, 4)


def test_what_was_measured_is_not_measured_again_but_when_asked(case, found, monkeypatch, tmp_path):
    never = lambda case, explain: pytest.fail("it is measured again")
    monkeypatch.setattr(evidence, "explained", never)
    again = evidence.measured(case, tmp_path, "choose", ())
    for name, values in found.items():
        np.testing.assert_array_equal(again[name], values)
    monkeypatch.setattr(evidence, "explained", lambda case, explain: -found[tables.MAPS.format("ε")])
    other = evidence.measured(case, tmp_path, "choose", ("ε",))
    assert not np.allclose(other["ε"], found["ε"])
    np.testing.assert_array_equal(other["default"], found["default"])


def test_the_best_are_those_that_differences_of_pairs_do_not_tell_apart(monkeypatch):
    examples = np.random.default_rng(0).uniform(0.2, 0.8, size=(50, 1))  # of very different difficulty
    noise = 0.1 * np.random.default_rng(1).normal(size=(50, 1))
    curve = lambda values: np.stack([np.broadcast_to(values, (50, len(LEVELS)))] * 2 + [np.zeros((50, len(LEVELS)))])
    seeds = [{"default": curve(examples), "ε": curve(examples - 0.01 + noise), "random": curve(examples - 0.01)}]
    rows = [row for row in tables.rows("choose", "made", {"made": seeds}) if row.measure == "ABPC"]
    assert {row.method: row.best for row in rows} == {"default": True, "ε": True, "random": False}
    assert next(row.rank for row in rows if row.method == "random") in (2, 3)
    (low, mean, high) = next((row.low, row.mean, row.high) for row in rows if row.method == "default")
    np.testing.assert_allclose(mean, examples.mean(), atol=1e-4)
    half = 1.96 * examples.std() / np.sqrt(50)
    np.testing.assert_allclose([mean - low, high - mean], half, rtol=0.15)
    table = tables.markdown(rows, "ABPC")
    assert f"| default | **{mean:.2f}** |" in table and "| random | **" not in table


def test_a_table_of_both_halves_has_a_mean_of_each():
    values = {("choose", "a"): 0.5, ("choose", "b"): 0.7, ("confirm", "c"): 0.3}
    rows = [tables.Row(half, "made", name, "default", "ABPC", v, v, v, 1, True) for (half, name), v in values.items()]
    rows.append(tables.Row("confirm", "made", "c", "random", "ABPC", 0.1, 0.1, 0.1, 2, False))
    assert tables.markdown(rows, "ABPC").splitlines() == [
        "| ABPC | a | b | mean | *c* | *mean* |",
        "|---|---|---|---|---|---|",
        "| default | **0.50** | **0.70** | 0.600 | **0.30** | 0.300 |",
        "| random |  |  |  | 0.10 | 0.100 |",
        "| *rank of the default* | 1 of 1 | 1 of 1 |  | 1 of 2 |  |",
    ]


def test_ranks_are_compared():
    a = np.arange(12.0).reshape(2, 6)
    assert measures.rank_correlation([a, 3 * a + 1]) == pytest.approx(1)
    assert measures.rank_correlation([a, -a]) == pytest.approx(-1)


def test_seeds_lie_side_by_side(found):
    both = tables.together([found, {name: found[name] for name in ("default", "ε")}])
    assert list(both) == ["default", "ε"] and both["ε"].shape == (len(TESTS), 6, len(LEVELS))


def images(count):
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, count)
    made = random.uniform(0, 0.2, (count, 32, 32, 1)).astype(np.float32)
    for image, label in zip(made, labels, strict=True):
        image[3 * label : 3 * label + 4, 8:24] += 0.8  # each class has its height
    return made, labels


def test_a_quick_run_leaves_tables_and_figures(monkeypatch, tmp_path, capsys):
    made, labels = images(522)
    data = image_data.Images(made[:512], labels[:512], made[512:], labels[512:])
    monkeypatch.setattr(image_data, "fashion_mnist", lambda train, test: data)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ["--quick", "--family", "convolutional", "--networks", "Fashion CNN", "--output", str(tmp_path / "out")]
    evidence.main(options)
    with (tmp_path / "out/choose.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == set(methods.METHODS)
    assert {row["measure"] for row in rows} == set(measures.MEASURES)
    assert all(np.isfinite(float(row["mean"])) for row in rows)
    said = (tmp_path / "out/choose.md").read_text(encoding="utf-8")
    assert "rank of the default" in said and "Mean rank correlation" in said
    kept = tables.read(tmp_path / "out/choose.csv")
    assert [row.mean for row in kept] == [float(row["mean"]) for row in rows] and any(row.best for row in kept)
    families = (tmp_path / "out/families.md").read_text(encoding="utf-8")
    assert families.splitlines()[2:] == said[said.index("| ABPC") :].splitlines()[:-2]
    assert (tmp_path / "out/choose-convolutional.png").stat().st_size > 5000
    assert "Fashion CNN, seed 0: 10 examples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--family", "cubist"], "--family 'cubist': expected some of convolutional"),
        (["--again", "ζ"], "--again 'ζ'"),
        (["--labels", "x"], "--labels is for --images"),
        (["--examples", "-1"], "at least one example"),
    ],
)
def test_options_that_do_not_fit(given, said, capsys):
    with pytest.raises(SystemExit):
        evidence.arguments(given)
    assert said in capsys.readouterr().err


def test_a_folder_of_ones_own_images(monkeypatch, tmp_path):
    for k, name in enumerate(("b.png", "a.jpg", "notes.txt")):
        path = tmp_path / name
        Image.new("L", (8, 8), 100 * k).save(path) if k < 2 else path.write_text("")
    labels = tmp_path / "labels.csv"
    labels.write_text("a.jpg,7\n\nval/b.png, 3\n")
    seen = []
    monkeypatch.setattr(folder, "of_photographs", lambda size, pictures, labels: seen.append((pictures, labels)) or [])
    list(folder.family(tmp_path, labels)(Size(examples=5)))
    ((pictures, classes),) = seen
    assert [picture.mode for picture in pictures] == ["RGB", "RGB"] and classes.tolist() == [7, 3]
    for text, said in (("a.jpg,1000\n", "line 1: expected a file's name"), ("a.jpg,1\n", "no class of b.png")):
        labels.write_text(text)
        with pytest.raises(SystemExit, match=said):
            list(folder.family(tmp_path, labels)(Size(examples=5)))
    with pytest.raises(SystemExit, match="has no images"):
        folder.family(tmp_path / "none", None)


def test_images_of_idx_files_get_a_black_border(monkeypatch, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    labels = np.arange(5, dtype=np.uint8)
    for part in ("train", "t10k"):
        for name, data in ((f"{part}-images-idx3", images), (f"{part}-labels-idx1", labels)):
            header = bytes([0, 0, 8, data.ndim]) + np.array(data.shape, ">i4").tobytes()
            (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(header + data.tobytes()))
    monkeypatch.setattr(image_data, "_fashion_folder", lambda: tmp_path)
    found = image_data.fashion_mnist(4, 3)
    assert found.train.shape == (4, 32, 32, 1) and found.test.shape == (3, 32, 32, 1)
    np.testing.assert_allclose(found.test[:, 2:-2, 2:-2, 0], images[:3] / 255, rtol=1e-6)
    assert found.test[:, :2].sum() == found.test[:, :, -2:].sum() == 0
    np.testing.assert_array_equal(found.train_labels, labels[:4])


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("CNN", 4),
        ("VGG16-like", 16),
        ("VGG19-like", 19),
        ("ResNet50-like", 50 + 4),
        ("ResNet18-like, group norms", 18 + 3),
        ("depthwise CNN", 10),
    ],
)
def test_networks_have_their_models_layers(name, layers):
    x = jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32)
    network = image_networks.NETWORKS[name].network
    logits, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), x)
    kernels = [path for path, _ in jax.tree_util.tree_leaves_with_path(variables) if "kernel" in str(path[-1])]
    assert len(kernels) == layers and logits.shape == (2, 10)


def test_training_learns():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 1024)
    x = random.random((1024, 8, 8, 1), np.float32) * labels[:, None, None, None]
    network = image_networks.NETWORKS["CNN"].network
    variables = training.train(network, x, labels, seed=0, epochs=5, rate=2e-3)
    assert (jax.jit(network.apply)(variables, x).argmax(-1) == labels).mean() > 0.95


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
