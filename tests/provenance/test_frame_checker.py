"""The frame checker over tiny ONNX graphs whose answers are known in closed form."""

import json
import sys

import numpy as np
import pytest

from phenaki_jax import media
from phenaki_jax.errors import UserError
from phenaki_jax.provenance.frame_checker import OnnxChecker

pytest.importorskip("onnxruntime", reason="the extra safety is not installed: pip install 'phenaki_jax[safety]'")
onnx = pytest.importorskip("onnx", reason="onnx, of the extra test, is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RED, GREEN, BLUE = np.eye(3, dtype=np.uint8) * 255


def save(path, nodes, output, shape=(1, 3, 8, 8), dtype=TensorProto.FLOAT, constants=None, rank=2, more=()):
    """An ONNX model of an input `image`."""
    graph = helper.make_graph(
        nodes, "checker", [helper.make_tensor_value_info("image", dtype, shape), *more],
        [helper.make_tensor_value_info(output, dtype, [None] * rank)],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return str(path)


def linear(path, weights, bias=0.0, shape=(1, 3, 8, 8), dtype=np.float32, rows=(2, 3)):
    """outputs = weights · the channels' means + bias: weights [3, K], means over the axes `rows`."""
    weights = np.array(weights, dtype).reshape(3, -1)
    bias = np.broadcast_to(np.array(bias, dtype), weights.shape[1:]).copy()
    nodes = [helper.make_node("ReduceMean", ["image"], ["means"], axes=list(rows), keepdims=0),
             helper.make_node("MatMul", ["means", "weights"], ["product"]),
             helper.make_node("Add", ["product", "bias"], ["logits"])]
    return save(path, nodes, "logits", shape, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
                {"weights": weights, "bias": bias})


def clip(*colours, size=8):
    """uint8 [F, size, size, 3], a frame a colour."""
    return np.broadcast_to(np.array(colours, np.uint8)[:, None, None], (len(colours), size, size, 3)).copy()


def score_of(reason):
    return float(reason.split(" for ")[0].split()[-1])


# ------------------------------------------------------------------------------------------------- scores

def test_mean_red_above_a_half_is_found(tmp_path):
    """One output, 100 (red - 0.5) of red in 0..1: its sigmoid is above a half where red is."""
    path = linear(tmp_path / "red.onnx", [100, 0, 0], -50)
    checker = OnnxChecker(path, mean=0, std=1)
    assert checker(clip([127, 255, 255])) is None and checker(clip([0, 0, 0])) is None
    assert checker(clip([129, 0, 0])) == "red.onnx scores frame 1 0.64 for class 0 (threshold 0.5)"
    assert 1 / (1 + np.exp(-100 * (129 / 255 - 0.5))) == pytest.approx(0.64, abs=0.005)


@pytest.mark.parametrize("activation, unsafe, expected", [
    ("auto", None, 0.2447), ("softmax", 2, 0.6652), ("softmax", [1, 2], 0.9100), ("sigmoid", [1, 2], 0.8808),
    ("none", 1, 1.0), ("sigmoid", 1, 0.7311), ("softmax", [0], 0.0900)])
def test_activations(tmp_path, activation, unsafe, expected):
    """Logits 0, 1, 2: softmax 0.0900, 0.2447, 0.6652 and sigmoid 0.5, 0.7311, 0.8808."""
    checker = OnnxChecker(linear(tmp_path / "a.onnx", np.zeros((3, 3)), [0, 1, 2]), activation=activation,
                          unsafe=unsafe, threshold=0.01)
    assert score_of(checker(clip(RED))) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "free", "half"])
def test_channels_come_where_the_model_has_them(tmp_path, layout):
    """Classes are the channels' means: the largest says which channel was read as which."""
    shape = {"nchw": (1, 3, 8, 8), "nhwc": (1, 8, 8, 3), "free": ("N", "C", "Y", "X"),
             "half": ("N", 3, "Y", "X")}[layout]
    path = linear(tmp_path / "a.onnx", np.eye(3), shape=shape, rows=(1, 2) if layout == "nhwc" else (2, 3),
                  dtype=np.float16 if layout == "half" else np.float32)
    checker = OnnxChecker(path, unsafe=["red", "green", "blue"], classes=["red", "green", "blue"], activation="none")
    for colour, name in ((RED, "red"), (GREEN, "green"), (BLUE, "blue")):
        assert f"1.00 for {name}" in checker(clip(colour))


def test_mean_and_std_a_channel(tmp_path):
    path = linear(tmp_path / "a.onnx", np.eye(3), shape=(1, 3, 4, 4))
    options = dict(mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2.0], activation="none", threshold=0.01)
    colour = np.array([204, 102, 153])  # 0.8, 0.4, 0.6
    for channel, expected in enumerate((1.4, 0.8, 0.15)):
        score = score_of(OnnxChecker(path, unsafe=channel, **options)(clip(colour)))
        assert score == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("shape, size, expected", [
    ((1, 3, 16, 24), None, (16, 24)), ((1, 3, "Y", "X"), None, (224, 224)), ((1, 3, "Y", "X"), 32, (32, 32)),
    ((1, 3, "Y", "X"), (16, 24), (16, 24)), ((1, 3, 16, "X"), (16, 24), (16, 24)), ((1, 16, 24, 3), 0, (16, 24))])
def test_sizes(tmp_path, shape, size, expected):
    """The model's answer is the shape that it was given, in thousands."""
    last = shape[-1] == 3
    nodes = [helper.make_node("Shape", ["image"], ["whole"]),
             helper.make_node("Slice", ["whole", "begin", "end"], ["sides"]),
             helper.make_node("Cast", ["sides"], ["floats"], to=TensorProto.FLOAT),
             helper.make_node("Div", ["floats", "thousand"], ["flat"]),
             helper.make_node("Unsqueeze", ["flat", "zero"], ["logits"])]
    begin = 1 if last else 2
    path = save(tmp_path / "a.onnx", nodes, "logits", shape, constants={
        "begin": np.array([begin]), "end": np.array([begin + 2]), "thousand": np.array([1000], np.float32),
        "zero": np.array([0])})
    options = {} if not size else {"size": size}
    checkers = [OnnxChecker(path, unsafe=side, activation="none", threshold=0.001, **options) for side in (0, 1)]
    scores = [score_of(checker(clip(RED, size=20))) for checker in checkers]
    assert scores == [pytest.approx(side / 1000, abs=0.005) for side in expected]


def test_a_whole_frame_is_seen(tmp_path):
    """A wide frame is not cropped: what is red at its edge counts."""
    frames = np.zeros((1, 16, 64, 3), np.uint8)
    frames[:, :, :16] = RED
    path = linear(tmp_path / "a.onnx", np.eye(3))
    reason = OnnxChecker(path, unsafe=0, mean=0, std=1, activation="none", threshold=0.01)(frames)
    assert score_of(reason) == pytest.approx(media.resize(frames, 8, 8)[..., 0].mean() / 255, abs=0.006)
    assert score_of(reason) == pytest.approx(0.25, abs=0.02)


def test_frames_that_are_looked_at(tmp_path):
    """Of 15 frames 8 are looked at, every second one from the first to the last; the worst is named."""
    path = linear(tmp_path / "a.onnx", [100, 0, 0], -50)
    for unsafe in range(15):
        colours = [BLUE] * 15
        colours[unsafe] = RED
        reason = OnnxChecker(path, mean=0, std=1)(clip(*colours))
        assert reason is None if unsafe % 2 else f"frame {unsafe + 1} 1.00" in reason
        assert f"frame {unsafe + 1} " in OnnxChecker(path, mean=0, std=1, frames=15)(clip(*colours))


def test_what_is_no_number_is_not_let_pass(tmp_path):
    """log of red: of black it is -inf, and its product with 0 is no number."""
    nodes = [helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
             helper.make_node("Log", ["means"], ["logits"])]
    checker = OnnxChecker(save(tmp_path / "a.onnx", nodes, "logits"), mean=0, std=1, unsafe=0)
    assert checker(clip([1, 255, 255])) is None
    assert checker(clip([255, 255, 255], [0, 255, 255])) == "a.onnx scores frame 2 with what is no number"


# ------------------------------------------------------------------------------------------------- options and errors

def test_options_lie_beside_the_model(tmp_path):
    path = linear(tmp_path / "a.onnx", np.eye(3))
    (tmp_path / "a.json").write_text(json.dumps({"threshold": 0.7, "unsafe": "red", "classes": ["red", "b", "c"],
                                                 "mean": 0, "std": 1, "activation": "none"}))
    assert OnnxChecker(path)(clip([180, 0, 0])) == "a.onnx scores frame 1 0.71 for red (threshold 0.7)"
    assert OnnxChecker(path)(clip([170, 0, 0])) is None
    assert OnnxChecker(path, threshold=0.5)(clip([170, 0, 0])) and not OnnxChecker(path, unsafe="c")(clip(RED))


@pytest.mark.parametrize("options, words", [
    ({"threshold": 0}, "threshold=0"), ({"threshold": True}, "threshold=True"),
    ({"unsafe": 3}, "unsafe=3 is not in 0 to 2"),
    ({"unsafe": -1}, "unsafe=-1"), ({"unsafe": "red"}, "none are named"), ({"unsafe": []}, "unsafe="),
    ({"unsafe": "d", "classes": ["a", "b", "c"]}, "unsafe='d'"), ({"classes": ["a"]}, "are 1, and .* has 3"),
    ({"activation": "tanh"}, "activation='tanh'"), ({"size": 7}, "size=7 does not fit .* 8 x 8"),
    ({"size": [8]}, "size="), ({"mean": [1, 2]}, "mean="), ({"std": 0}, "std=0"), ({"frames": 0}, "frames=0"),
    ({"limit": 1}, "limit=1, which is no")])
def test_options_that_do_not_fit(tmp_path, options, words):
    path = linear(tmp_path / "a.onnx", np.eye(3))
    with pytest.raises(UserError, match=words):
        OnnxChecker(path, **options)
    (tmp_path / "a.json").write_text(json.dumps(options))
    with pytest.raises(UserError, match=words):
        OnnxChecker(path)


def test_a_sidecar_that_is_no_object(tmp_path):
    path = linear(tmp_path / "a.onnx", np.eye(3))
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(UserError, match="a.json has to hold a JSON object"):
        OnnxChecker(path)


def identity(path, shape, dtype=TensorProto.FLOAT):
    return save(path, [helper.make_node("Identity", ["image"], ["same"])], "same", shape, dtype, rank=len(shape))


@pytest.mark.parametrize("shape, dtype, words", [
    ((1, 3), TensorProto.FLOAT, r"\[1, 3\]"), ((1, 4, 8, 8), TensorProto.FLOAT, r"\[1, 4, 8, 8\]"),
    ((2, 3, 8, 8), TensorProto.FLOAT, r"\[2, 3"), ((1, 3, 8, 8), TensorProto.UINT8, "uint8"),
    ((1, 3, 8, 8), TensorProto.FLOAT, r"answers an image with \[1, 3, 8, 8\]")])
def test_models_of_other_inputs_and_outputs(tmp_path, shape, dtype, words):
    with pytest.raises(UserError, match=words):
        OnnxChecker(identity(tmp_path / "a.onnx", shape, dtype))


def test_a_model_of_two_inputs(tmp_path):
    more = [helper.make_tensor_value_info("text", TensorProto.FLOAT, (1, 3))]
    path = save(tmp_path / "a.onnx", [helper.make_node("Identity", ["text"], ["same"])], "same", more=more)
    with pytest.raises(UserError, match="image, text"):
        OnnxChecker(path)


def test_a_model_that_fails_at_an_image(tmp_path):
    nodes = [helper.make_node("Reshape", ["image", "shape"], ["same"])]
    path = save(tmp_path / "a.onnx", nodes, "same", (1, 3, "Y", "X"), constants={"shape": np.array([1, 7])})
    with pytest.raises(UserError, match=r"cannot be asked of an image \[1, 3, 224, 224\]"):
        OnnxChecker(path)


def test_files_that_are_no_model(tmp_path):
    with pytest.raises(UserError, match="There is no frame checker"):
        OnnxChecker(str(tmp_path / "none.onnx"))
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="a.onnx is no ONNX model that can be run"):
        OnnxChecker(str(tmp_path / "a.onnx"))


def test_without_the_package(tmp_path, monkeypatch):
    path = linear(tmp_path / "a.onnx", np.eye(3))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'phenaki_jax\[safety\]'"):
        OnnxChecker(path)
