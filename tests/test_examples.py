"""The parts of the examples that need no weights."""

import io
import pickle
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
