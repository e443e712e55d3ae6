"""The parts of the examples that need no weights."""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict

import concepts
import credit_scoring
import defect_inspection
import jax
import jax.numpy as jnp
import numpy as np
import optax
import packaged
import PIL.Image
import pytest
import surfaces
import training
from rich.console import Console

torch_weights = pytest.importorskip("torch_weights")

import jrlrp  # noqa: E402


def test_the_checkpoint_reader_builds_nothing_but_tensors(tmp_path):
    class Harm:
        def __reduce__(self):
            return print, ("harm",)

    file = tmp_path / "weights.pth"
    with file.open("wb") as out:
        for part in (torch_weights._MAGIC, 1001, {}, OrderedDict(x=Harm())):
            pickle.dump(part, out, protocol=2)
    with pytest.raises(pickle.UnpicklingError, match=r"print is no part of a tensor"):
        torch_weights.read(file)
    other = tmp_path / "other.pth"
    other.write_bytes(pickle.dumps("text"))
    with pytest.raises(pickle.UnpicklingError, match="no PyTorch checkpoint"):
        torch_weights.read(other)


def test_the_checkpoint_reader_reads_strided_tensors(tmp_path):
    values = np.arange(6, dtype=np.float32)
    file = tmp_path / "weights.pth"

    class Storage:
        pass

    class Tensor:
        def __init__(self, shape, strides):
            self.args = (STORAGE, 0, shape, strides, False, OrderedDict())

        def __reduce__(self):
            return _rebuild_tensor_v2, self.args

    STORAGE = Storage()  # noqa: N806

    class Writer(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", FloatStorage, "0", "cpu", 6) if obj is STORAGE else None

    def dump(part):
        buffer = io.BytesIO()
        Writer(buffer, protocol=2).dump(part)
        text = buffer.getvalue()
        for name, module in (("_rebuild_tensor_v2", "torch._utils"), ("FloatStorage", "torch")):
            text = text.replace(f"c{__name__}\n{name}\n".encode(), f"c{module}\n{name}\n".encode())
        return text

    with file.open("wb") as out:
        for part in (torch_weights._MAGIC, 1001, {}):
            pickle.dump(part, out, protocol=2)
        out.write(dump(OrderedDict(w=Tensor((3, 2), (1, 3)))))
        pickle.dump(["0"], out, protocol=2)
        out.write(np.int64(6).tobytes() + values.tobytes())
    np.testing.assert_array_equal(torch_weights.read(file)["w"], values.reshape(2, 3).T)
    archive = io.BytesIO()  # the newer format
    with zipfile.ZipFile(archive, "w") as made:
        state = {"config": {"layers": 4}, "weights": OrderedDict(w=Tensor((3, 2), (1, 3)))}
        made.writestr("model/data.pkl", dump(state))
        made.writestr("model/data/0", values.tobytes())
    found = torch_weights.read_archive(archive)
    assert found["config"] == {"layers": 4}
    np.testing.assert_array_equal(found["weights"]["w"], values.reshape(2, 3).T)


def _rebuild_tensor_v2():
    """A name for the pickle, exchanged for PyTorch's."""


class FloatStorage:
    """A name for the pickle, exchanged for PyTorch's."""


def test_every_node_of_the_network_is_found():
    network = pytest.importorskip("efficientnet_lite0")
    with jax.enable_x64(False):
        model = network.EfficientNetLite0()
        x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        variables = jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), variables)
        plan = jrlrp.plan(lambda x: model.apply(variables, x), x)
    assert plan.summary() == "93 nodes (49 conv, 1 dense, 1 average_pool, 33 activation, 9 sum), 0 unsupported"
    assert plan.nodes[0].path == "EfficientNetLite0/conv_stem" and plan.nodes[0].first
    assert plan.ended == ()


@pytest.fixture
def single_precision():
    with jax.enable_x64(False):
        yield


@pytest.fixture
def applications(monkeypatch, tmp_path):
    """Made-up applications, of which those with an empty account go bad; amounts and purposes do not matter."""
    chance = np.random.default_rng(0)
    lines = ["account_status,credit_amount,purpose,personal_status_and_sex,creditability"]
    for k in range(90):
        empty, purpose = k % 3 == 0, chance.choice(["car", "sofa", "pony"])
        account, outcome = ("empty", "bad") if empty else (chance.choice(["some", "full"]), "good")
        lines.append(f"{account},{chance.integers(100, 999)},{purpose},{'ab'[k // 45]},{outcome}")
    monkeypatch.setattr(packaged.Sdist, "read", lambda *_: "\n".join(lines).encode())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    presets = {"default": jrlrp.default, "epsilon": jrlrp.epsilon}
    for name, value in (("TEST", 30), ("STEPS", 60), ("REMOVED", 1), ("PRESETS", presets)):
        monkeypatch.setattr(credit_scoring, name, value)


def run(monkeypatch, program, *options):
    monkeypatch.setattr(sys, "argv", [f"{program.__name__}.py", *map(str, options)])
    program.main()


def table_row(said, name):
    (row,) = (line for line in said.splitlines() if line.startswith(f"| {name} "))
    return [float(cell.split("±")[0].strip("% ")) for cell in row.split("|")[2:-1] if any(map(str.isdigit, cell))]


@pytest.mark.usefixtures("single_precision", "applications")
def test_a_credit_score_is_explained(monkeypatch, capsys, tmp_path):
    output = tmp_path / "new" / "credit.png"
    run(monkeypatch, credit_scoring, "--by", "account_status", "--output", output)
    said = capsys.readouterr().out
    assert "Right on 100.0% of 30 test applicants" in said and "ROC curve is 1.00" in said
    reasons = said.split("by the default\n")[1].splitlines()
    assert reasons[0].startswith("  account status = empty: +") and len(reasons[0].split("+")) == 2
    (heads,) = (line for line in said.splitlines() if line.startswith("| mean relevance"))
    names = [head.split("(")[0].strip() for head in heads.split("|")[2:-1]]
    means = dict(zip(names, table_row(said, "account status"), strict=True))
    assert means["empty"] > 0 > max(means["some"], means["full"])
    for name in ("credit.png", "credit_by_account_status.png"):
        picture = np.asarray(PIL.Image.open(output.with_name(name)))
        assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50


@pytest.mark.usefixtures("applications")
def test_the_strongest_features_of_a_linear_score_are_known(capsys):
    chance = np.random.default_rng(0)
    x, weights = chance.normal(size=(8, 3, 2)), chance.normal(size=(6, 1))
    credit_scoring.evaluate(credit_scoring.Console(), lambda x: (x.reshape(-1, 6) @ weights)[:, 0], x)
    said, shares = capsys.readouterr().out, (x * weights.reshape(3, 2)).sum(-1)
    for name in ("ε", "integrated gradients", "occlusion of one feature"):
        np.testing.assert_allclose(table_row(said, name), [-shares.max(1).mean(), -shares.min(1).mean()], atol=0.01)
    assert table_row(said, "random")[0] > -shares.max(1).mean() + 0.1


@pytest.mark.usefixtures("applications")
def test_an_average_applicant_is_zero_and_the_sorted_column_is_left_out():
    whole = credit_scoring.load()
    assert whole.names == ["account_status", "credit_amount", "purpose"] and whole.bad.sum() == 30
    train = np.arange(60)
    x = credit_scoring.encode(whole.values, train)
    assert x.shape == (90, 3, 3)
    np.testing.assert_allclose(x[train].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x[train, 1, 0].std(), 1, rtol=1e-5)
    np.testing.assert_allclose(x[:, [0, 2]].sum(-1), 0, atol=1e-6)  # of centred columns that added up to one
    assert not x[:, 1, 1:].any()


def test_groups_of_many_numbers_are_quarters():
    members = credit_scoring.groups(np.array([str(k) for k in range(20)]))
    assert list(members) == ["0 to 4", "5 to 9", "10 to 14", "15 to 19"]
    np.testing.assert_array_equal(sum(members.values()), 1)
    assert list(credit_scoring.groups(np.array([*"abbcccddddeeeee"]))) == ["e", "d", "c", "b"]
    assert credit_scoring.area(np.array([1.0, 2.0, 2.0, 0.0]), np.array([False, True, False, False])) == pytest.approx(
        5 / 6
    )


@pytest.mark.parametrize(
    ("program", "options", "said"),
    [
        (credit_scoring, ["--applicant", "300"], "--applicant 300: expected 0 to 299"),
        (credit_scoring, ["--rules", "nonsense"], "there is no preset 'nonsense'"),
        (defect_inspection, ["--number", "-1"], "--number -1: expected 0 to 19"),
    ],
)
def test_what_there_is_not_is_refused(monkeypatch, capsys, program, options, said):
    with pytest.raises(SystemExit):
        run(monkeypatch, program, *options)
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("applications")
def test_a_column_that_is_not_there_is_refused(monkeypatch):
    with pytest.raises(SystemExit, match="--by shoes: the table has no such column; it has creditability, account_s"):
        run(monkeypatch, credit_scoring, "--by", "shoes")


def test_defects_are_where_their_masks_are(monkeypatch):
    monkeypatch.setattr(surfaces, "metal", lambda chance: np.zeros((surfaces.SIDE, surfaces.SIDE)))
    made = surfaces.make(60, seed=0)
    assert set(made.kinds) == {0, 1, 2, 3}
    sizes = np.abs(made.pictures[..., 0])
    inside = (sizes * made.masks).sum((1, 2)) / np.maximum(sizes.sum((1, 2)), 1e-9)
    assert (inside[made.kinds > 0] > 0.7).all() and not sizes[made.kinds == 0].any()
    np.testing.assert_array_equal(made.masks.any((1, 2)), made.kinds > 0)
    np.testing.assert_array_equal(made.pictures, surfaces.make(60, seed=0).pictures)
    assert (made.pictures != surfaces.make(60, seed=1).pictures).any()


class Extremes:
    """A network that calls a surface defective for its brightest and its darkest pixel."""

    def apply(self, parameters, x):
        most = jax.nn.relu(jnp.concatenate([x, -x], -1)).max((1, 2)).sum(-1)
        return jnp.stack([jnp.full_like(most, 0.1), most], -1)


@pytest.mark.usefixtures("single_precision")
def test_defects_are_found_and_drawn(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(surfaces, "metal", lambda chance: 0.005 * chance.normal(size=(surfaces.SIDE, surfaces.SIDE)))
    for name, value in (("DefectCNN", Extremes), ("train", lambda *_: {}), ("TEST", 40), ("TRAIN", 2)):
        monkeypatch.setattr(defect_inspection, name, value)
    output = tmp_path / "new" / "defects.png"
    run(monkeypatch, defect_inspection, "--rules", "gradient_times_input", "--output", output)
    said = capsys.readouterr().out
    assert "Right on 100.0% of 40 test surfaces" in said
    found, against = said.split("What speaks against")
    pointing, mass, _ = table_row(found, "gradient × input")
    assert pointing == 1 and 0.5 < mass > table_row(found, "random")[1]
    assert table_row(against, "the score itself")[0] < 0 < table_row(against, "the score itself")[2]
    picture = np.asarray(PIL.Image.open(output))
    assert picture.shape[0] > 300 and len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50


class Mean:
    """A network of one weight, which is for defects in light surfaces."""

    def init(self, key, x):
        return jnp.zeros(())

    def apply(self, weight, x):
        return jnp.stack([-weight * x.mean((1, 2, 3)), weight * x.mean((1, 2, 3))], -1)


@pytest.mark.usefixtures("single_precision")
def test_defects_are_learnt(monkeypatch):
    monkeypatch.setattr(defect_inspection, "STEPS", 30)
    pictures = np.repeat([1.0, -1.0], 4)[:, None, None, None] * np.ones((8, 4, 4, 1))
    data = surfaces.Surfaces(pictures, np.array([2, 1, 3, 1, 0, 0, 0, 0]), pictures[..., 0] > 2)
    weight = defect_inspection.train(Mean(), data)
    assert weight > 0.02
    model, x = defect_inspection.DefectCNN(), jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)
    parameters = jax.tree.map(lambda a: jnp.ones(a.shape), jax.eval_shape(model.init, jax.random.key(0), x))
    plan = jrlrp.plan(defect_inspection.score(model, parameters), x)
    assert plan.summary() == "14 nodes (4 conv, 2 dense, 4 max_pool, 4 activation), 0 unsupported"


def test_a_loss_is_brought_down():
    found = training.fit(lambda w, key: ((w - 3.0) ** 2).sum(), jnp.zeros(2), optax.sgd(0.2), 30)
    np.testing.assert_allclose(found, 3, rtol=1e-4)


def test_the_channels_that_matter_and_their_references(single_precision):
    random = np.random.default_rng(0)
    kernels, w = (jnp.asarray(random.normal(size=size), jnp.float32) for size in ((3, 3, 1, 4), (4, 2)))

    def hidden(x):
        h = jax.lax.conv_general_dilated(x, kernels, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(h).sum((1, 2))

    images, model = random.random((7, 8, 8, 1), np.float32), lambda x: hidden(x) @ w
    rules, x = jrlrp.epsilon(), images[:1]
    subject = concepts.Subject(model, "conv", ["a, one", "b"], x, images, images, x[0], rules, 3, {"around": 2.0})
    channels, found = concepts.choose(subject, 2), concepts.references(subject, 3)
    values = np.asarray(hidden(images)) * np.asarray(w)[:, np.asarray(model(images)).argmax(1)].T
    np.testing.assert_array_equal(channels.numbers, np.argsort(-values[0])[:2])
    np.testing.assert_allclose(channels.relevance, np.sort(values[0])[::-1][:2], rtol=1e-4)
    np.testing.assert_allclose(channels.shares, channels.relevance / np.abs(values[0]).sum(), rtol=1e-4)
    np.testing.assert_allclose(channels.maps.sum((1, 2)), channels.relevance, rtol=1e-3)
    np.testing.assert_allclose(found.values, -np.sort(-values, axis=0)[:3], rtol=1e-4)
    figure = concepts.draw(subject, channels, found, "an image")
    assert len(figure.axes) == 1 + 2 + (found.values[:, channels.numbers] > 0).sum()
    out = io.StringIO()
    concepts.show(Console(file=out, width=120), subject, channels, found)
    assert f"{channels.shares[0]:.1%}" in out.getvalue() and "mean correlation" in out.getvalue()
