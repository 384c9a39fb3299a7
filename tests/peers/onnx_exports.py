"""Trains, exports and scores models as people do, for crates/scoring/tests/peers.rs.

    onnx_exports.py OUT TORCH_FOLDER

For each model a folder in OUT: model.onnx, preprocessing.json, and case.json with rows in the order of the columns (null
where a value is missing), the scores that onnxruntime gives them, and whether the fused kernel has to take the model.
Everything follows from one seed.
"""

import json
import os
import sys
import warnings
from pathlib import Path

# Models this small are slower on several threads, much so on a busy machine. Read when numpy is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import onnx
import onnxruntime
import polars
import xgboost
from onnx import TensorProto, helper, numpy_helper
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as XgboostFloats
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import BooleanTensorType, DoubleTensorType, FloatTensorType, Int64TensorType
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier, GradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, OneHotEncoder, RobustScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

warnings.filterwarnings("ignore")

ROWS = 300
random = np.random.default_rng(20)


def transactions(count):
    """Columns of very different spreads, as a bank's are."""
    distance = np.exp(random.normal(1.8, 1.9, count))
    ratio = np.exp(random.normal(0, 1.0, count))
    chip, pin, online = (random.random((3, count)) < [[0.35], [0.1], [0.65]]).astype(float)
    return np.column_stack([distance, ratio, chip, pin, online])


TRAIN = transactions(4000)
FRAUD = ((TRAIN[:, 1] > 2) & (TRAIN[:, 4] > 0) & (TRAIN[:, 3] == 0) | (TRAIN[:, 0] > 90)).astype(int)
TEST = transactions(ROWS)


class Cases:
    def __init__(self, out):
        self.out = out

    def add(self, name, model, rows, feeds=None, fused=False, beside=False, **preprocessing):
        """`feeds` are the inputs for onnxruntime; by default all rows as f32. Weights may lie in a file beside the model."""
        folder = self.out / name
        folder.mkdir()
        onnx.save(model, folder / "model.onnx", save_as_external_data=beside, location="model.onnx.data", size_threshold=0)
        if feeds is None:
            feeds = {model.graph.input[0].name: rows.astype(np.float32)}
        columns = [f"c{at}" for at in range(rows.shape[1])]
        document = {"format": 1, "columns": columns, "threshold": 0.5, **preprocessing}
        (folder / "preprocessing.json").write_text(json.dumps(document))
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), settings, providers=["CPUExecutionProvider"])
        positive = preprocessing.get("positive_class")
        case = {
            "rows": [[None if np.isnan(value) else value for value in row] for row in rows.tolist()],
            # A score that is no number is null, as a value that is missing is.
            "scores": [None if np.isnan(score) else score for score in probabilities(session.run(None, feeds), positive)],
            "fused": fused,
        }
        (folder / "case.json").write_text(json.dumps(case))


def probabilities(outputs, positive):
    """The one output that is no label."""
    for output in outputs:
        if isinstance(output, list):
            classes = sorted(output[0])
            return [float(row[classes[-1 if positive is None else positive]]) for row in output]
        if output.dtype in (np.float32, np.float64):
            output = output.reshape(len(output), -1)
            return output[:, -1 if positive is None else positive].astype(float).tolist()
    raise ValueError("no probability")


def floats(model, width=5, **options):
    return convert_sklearn(model, initial_types=[("X", FloatTensorType([None, width]))], **options)


def scikit_learn(cases):
    train, fraud = TRAIN.astype(np.float32), FRAUD
    for name, model, fused in [
        ("forest", RandomForestClassifier(100, random_state=1), False),
        ("extra_trees", ExtraTreesClassifier(30, max_depth=9, random_state=1), False),
        ("tree", DecisionTreeClassifier(random_state=1), False),
        ("boosting", GradientBoostingClassifier(random_state=1), False),
        ("boosting_from_zero", GradientBoostingClassifier(init="zero", n_estimators=10, random_state=1), False),
        ("logistic", make_pipeline(StandardScaler(), LogisticRegression()), True),
        ("logistic_robust", make_pipeline(RobustScaler(), LogisticRegression()), True),
        ("logistic_l1_rows", make_pipeline(Normalizer("l1"), LogisticRegression()), False),
        ("logistic_l2_rows", make_pipeline(Normalizer("l2"), LogisticRegression()), False),
        ("mlp", make_pipeline(StandardScaler(), MLPClassifier((32, 16), max_iter=40, random_state=1)), True),
        ("mlp_tanh", make_pipeline(MinMaxScaler(), MLPClassifier((20,), "tanh", max_iter=40, random_state=1)), True),
        ("mlp_logistic", make_pipeline(StandardScaler(), MLPClassifier((9, 9, 9), "logistic", max_iter=40, random_state=1)), True),
    ]:
        model.fit(train, fraud)
        cases.add(f"sklearn_{name}", floats(model), TEST, fused=fused)
        cases.add(f"sklearn_{name}_tensor", floats(model, options={"zipmap": False}), TEST, fused=fused)

    # Trained with values missing, their thresholds may be infinite.
    holes, holes_test = train.copy(), TEST.copy()
    holes[random.random(holes.shape) < 0.15] = np.nan
    holes_test[random.random(holes_test.shape) < 0.15] = np.nan
    endless = 0
    for name, model in [
        ("forest", RandomForestClassifier(40, random_state=1)), ("tree", DecisionTreeClassifier(random_state=1)),
        ("extra_trees", ExtraTreesClassifier(20, random_state=1)),
    ]:
        exported = floats(model.fit(holes, fraud))
        thresholds = [attribute.floats for attribute in exported.graph.node[0].attribute if attribute.name == "nodes_values"]
        endless += np.isinf(thresholds).sum()
        cases.add(f"sklearn_{name}_missing", exported, holes_test, missing="nan")
    assert endless > 0, "no threshold is infinite"
    calibrated = CalibratedClassifierCV(RandomForestClassifier(8, max_depth=5, random_state=1), cv=2).fit(train, fraud)
    cases.add("sklearn_calibrated", floats(calibrated), TEST)
    descent = make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=1)).fit(train, fraud)
    cases.add("sklearn_sgd", floats(descent, options={"zipmap": False}), TEST)

    forest = RandomForestRegressor(20, max_depth=6, random_state=1).fit(train, fraud)
    cases.add("sklearn_forest_regressor", floats(forest), TEST)

    double = [("X", DoubleTensorType([None, 5]))]
    for name, model in [
        ("forest", RandomForestClassifier(20, max_depth=8, random_state=1)),
        ("logistic", make_pipeline(StandardScaler(), LogisticRegression())),
        ("mlp", make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=30, random_state=1))),
    ]:
        model.fit(TRAIN, fraud)
        cases.add(f"sklearn_{name}_double", convert_sklearn(model, initial_types=double, options={"zipmap": False}), TEST, {"X": TEST})

    whole, whole_test = (TRAIN * 10).astype(np.int64), (TEST * 10).astype(np.int64)
    forest = RandomForestClassifier(20, max_depth=8, random_state=1).fit(whole, fraud)
    exported = convert_sklearn(forest, initial_types=[("X", Int64TensorType([None, 5]))])
    cases.add("sklearn_forest_int64", exported, whole_test.astype(float), {"X": whole_test})

    kinds = FRAUD + (TRAIN[:, 1] > 3)
    for name, model in [
        ("forest", RandomForestClassifier(15, max_depth=7, random_state=1)),
        ("boosting", GradientBoostingClassifier(n_estimators=15, random_state=1)),
        ("logistic", make_pipeline(StandardScaler(), LogisticRegression())),
        ("mlp", make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=30, random_state=1))),
    ]:
        model.fit(train, kinds)
        for positive in (0, 2):
            cases.add(f"sklearn_{name}_class_{positive}_of_3", floats(model), TEST, positive_class=positive)
    model = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=30, random_state=1)).fit(train, fraud)
    cases.add("sklearn_mlp_class_0_of_2", floats(model), TEST, positive_class=0, fused=True)


def named_inputs(cases):
    """A pipeline over a data frame: floats, whole numbers, truth values and categories, each an input of its own."""
    def frame(rows):
        return polars.DataFrame({
            "amount": rows[:, 0].astype(np.float32), "items": (rows[:, 1] * 3).astype(np.int64),
            "chip": rows[:, 2] > 0, "country": (rows[:, 0] % 7).astype(np.int64),
        })

    columns = ColumnTransformer([
        ("numbers", StandardScaler(), ["amount", "items"]),
        ("kinds", OneHotEncoder(handle_unknown="ignore"), ["country"]),
        ("flags", "passthrough", ["chip"]),
    ])
    types = [
        ("amount", FloatTensorType([None, 1])), ("items", Int64TensorType([None, 1])),
        ("chip", BooleanTensorType([None, 1])), ("country", Int64TensorType([None, 1])),
    ]
    test = frame(TEST)
    feeds = {name: test[name].to_numpy().reshape(-1, 1).copy() for name in test.columns}
    feeds["country"][::17] = 99
    rows = np.column_stack([feeds["country"], feeds["amount"], feeds["items"], feeds["chip"]]).astype(float)
    inputs = {"country": ["c0"], "amount": ["c1"], "items": ["c2"], "chip": ["c3"]}
    for name, model in [
        ("logistic", LogisticRegression(max_iter=500)), ("forest", RandomForestClassifier(10, random_state=1)),
    ]:
        pipeline = make_pipeline(columns, model).fit(frame(TRAIN), FRAUD)
        cases.add(f"named_inputs_{name}", convert_sklearn(pipeline, initial_types=types), rows, feeds, inputs=inputs)

    # Without categories the same is a dense network, whatever the types of its inputs.
    columns = ColumnTransformer([("numbers", StandardScaler(), ["amount", "items"]), ("flags", "passthrough", ["chip"])])
    pipeline = make_pipeline(columns, MLPClassifier((12,), max_iter=30, random_state=1))
    pipeline.fit(frame(TRAIN).drop("country"), FRAUD)
    del feeds["country"], inputs["country"]
    inputs = {"amount": ["c0"], "items": ["c1"], "chip": ["c2"]}
    exported = convert_sklearn(pipeline, initial_types=types[:3])
    cases.add("named_inputs_mlp", exported, rows[:, 1:], feeds, inputs=inputs, fused=True)


def xgboost_models(cases):
    types = [("X", XgboostFloats([None, 5]))]
    train, test = TRAIN.copy(), TEST.copy()
    train[random.random(train.shape) < 0.1] = np.nan
    test[random.random(test.shape) < 0.1] = np.nan
    settings = {"n_estimators": 60, "max_depth": 5, "random_state": 1, "n_jobs": 1}
    model = xgboost.XGBClassifier(**settings).fit(TRAIN.astype(np.float32), FRAUD)
    cases.add("xgboost", convert_xgboost(model, initial_types=types), TEST)
    model = xgboost.XGBClassifier(**settings).fit(train.astype(np.float32), FRAUD)
    cases.add("xgboost_missing", convert_xgboost(model, initial_types=types), test, missing="nan")
    some = {"c0": "nan", "c1": "nan", "c2": "nan", "c3": "nan", "c4": "nan"}
    cases.add("xgboost_missing_by_column", convert_xgboost(model, initial_types=types), test, missing=some)
    model = xgboost.XGBClassifier(**settings).fit(TRAIN.astype(np.float32), FRAUD + (TRAIN[:, 1] > 3))
    cases.add("xgboost_class_1_of_3", convert_xgboost(model, initial_types=types), TEST, positive_class=1)
    model = xgboost.XGBRegressor(**{**settings, "n_estimators": 4}).fit(TRAIN.astype(np.float32), FRAUD)
    cases.add("xgboost_regressor", convert_xgboost(model, initial_types=types), TEST)


def torch_models(cases, folder):
    rows = random.normal(0, 1.5, (ROWS, 6))
    cases.add("torch_probability", onnx.load(folder / "torch_probability.onnx"), rows, fused=True)
    feeds = {"amounts": rows[:, [3, 1, 0, 2]].astype(np.float32), "flags": rows[:, 4:].astype(np.float32)}
    inputs = {"amounts": ["c3", "c1", "c0", "c2"], "flags": ["c4", "c5"]}
    cases.add("torch_classes", onnx.load(folder / "torch_classes.onnx"), rows, feeds, inputs=inputs)


def scaled_outside(cases):
    """A scaler in preprocessing.json, in f64, before a network."""
    mean, scale = TRAIN.mean(axis=0), TRAIN.std(axis=0)
    model = MLPClassifier((16, 16), max_iter=40, random_state=1).fit((TRAIN - mean) / scale, FRAUD)
    feeds = {"X": ((TEST - mean) / scale).astype(np.float32)}
    scaler = {"mean": mean.tolist(), "scale": scale.tolist()}
    cases.add("scaled_outside", floats(model), TEST, feeds, fused=True, scaler=scaler)


def operators(cases):
    """Every operator that is read and that no export above has, in small graphs."""
    def weights(*shape):
        return random.normal(0, 0.6, shape).astype(np.float32)

    def case(name, nodes, constants, fused=False, width=6, element=TensorProto.FLOAT, opset=13, rows=None, **preprocessing):
        dtype = helper.tensor_dtype_to_np_dtype(element)
        initializers = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", element, ["n", width])],
            [helper.make_tensor_value_info("y", element, ["n", 1])], initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        rows = random.normal(0, 1, (ROWS, width)) if rows is None else rows
        cases.add(f"operators_{name}", model, rows, {"x": rows.astype(dtype)}, fused=fused, **preprocessing)

    node = helper.make_node
    for function, settings in [
        ("Relu", {}), ("LeakyRelu", {"alpha": 0.3}), ("LeakyRelu", {"alpha": 1.7}), ("Elu", {"alpha": 0.7}), ("Selu", {}),
        ("Softplus", {}), ("Exp", {}), ("Abs", {}), ("Neg", {}), ("Erf", {}), ("Tanh", {}), ("Sigmoid", {}),
    ]:
        fused = function in ("Relu", "LeakyRelu", "Tanh", "Sigmoid")
        name = "_".join([function, *(str(value).replace(".", "_") for value in settings.values())])
        case(name, [
            node("Gemm", ["x", "w", "b"], ["h"], alpha=0.5, beta=2.0), node(function, ["h"], ["f"], **settings),
            node("MatMul", ["f", "v"], ["z"]), node("Sigmoid", ["z"], ["y"]),
        ], {"w": weights(6, 11), "b": weights(11), "v": weights(11, 1)}, fused)
    case("positive", [
        node("Softplus", ["x"], ["p"]), node("Log", ["p"], ["l"]), node("Sqrt", ["p"], ["s"]), node("Reciprocal", ["s"], ["r"]),
        node("Concat", ["l", "s", "r"], ["c"], axis=-1), node("MatMul", ["c", "w"], ["z"]), node("Sigmoid", ["z"], ["y"]),
    ], {"w": weights(18, 1)})
    case("parts", [
        node("Slice", ["x", "from", "to", "axis"], ["a"]), node("Gather", ["x", "places"], ["b"], axis=1),
        node("Split", ["x", "sizes"], ["c", "d"], axis=1), node("Concat", ["d", "b", "a", "c"], ["all"], axis=1),
        node("Reshape", ["all", "shape"], ["same"]), node("Identity", ["same"], ["i"]), node("Dropout", ["i"], ["kept"]),
        node("MatMul", ["kept", "w"], ["z"]), node("Sigmoid", ["z"], ["y"]),
    ], {
        "from": np.array([-4]), "to": np.array([2**63 - 1]), "axis": np.array([1]), "places": np.array([5, -6, 0]),
        "sizes": np.array([2, 4]), "shape": np.array([-1, 13]), "w": weights(13, 1),
    }, fused=True)
    case("arithmetic", [
        node("Sub", ["one", "x"], ["a"]), node("Div", ["a", "scales"], ["b"]), node("MatMul", ["b", "w"], ["c"]),
        node("Mul", ["two", "c"], ["d"]), node("Relu", ["d"], ["e"]), node("Sub", ["e", "row"], ["f"]), node("Div", ["f", "two"], ["g"]),
        node("Sub", ["row", "g"], ["h"]), node("Gemm", ["h", "v"], ["i"], transB=1), node("Sigmoid", ["i"], ["j"]), node("Sub", ["one", "j"], ["y"]),
    ], {
        "one": np.float32(1), "two": np.array([2], np.float32), "scales": weights(1, 6) + 3, "row": weights(7), "w": weights(6, 7), "v": weights(1, 7),
    }, fused=True)
    case("rows_with_rows", [
        node("MatMul", ["x", "w"], ["a"]), node("Softmax", ["a"], ["b"], axis=-1), node("Mul", ["a", "b"], ["c"]), node("Add", ["c", "x"], ["d"]),
        node("ReduceSum", ["d", "axes"], ["e"], keepdims=1), node("Div", ["d", "e2"], ["f"]), node("MatMul", ["f", "v"], ["g"]),
        node("Add", ["g", "e"], ["h"]), node("Clip", ["h", "low", "high"], ["y"]),
    ], {
        "w": weights(6, 6), "v": weights(6, 1), "axes": np.array([1]), "e2": weights(6) + 4, "low": np.float32(0.1), "high": np.float32(0.9),
    })
    case("flat", [
        node("Gather", ["x", "place"], ["a"], axis=1), node("Sigmoid", ["a"], ["b"]), node("Unsqueeze", ["b", "axes"], ["c"]),
        node("Squeeze", ["c", "axes"], ["d"]), node("Mul", ["d", "half"], ["e"]), node("Reshape", ["e", "shape"], ["y"]),
    ], {"place": np.array(2), "axes": np.array([1]), "half": np.float32(0.5), "shape": np.array([-1, 1])}, fused=True)
    case("opset_9", [
        node("MatMul", ["x", "w"], ["a"]), node("BatchNormalization", ["a", "s", "t", "m", "v"], ["b"], epsilon=0.01), node("Clip", ["b"], ["c"], min=-0.5, max=2.0),
        node("Slice", ["c"], ["d"], starts=[1], ends=[3], axes=[1]), node("Softmax", ["d"], ["e"]), node("Slice", ["e"], ["f"], starts=[1], ends=[2], axes=[1]),
        node("Squeeze", ["f"], ["g"], axes=[1]), node("Unsqueeze", ["g"], ["y"], axes=[1]),
    ], {
        "w": weights(6, 5), "s": weights(5), "t": weights(5), "m": weights(5), "v": np.abs(weights(5)) + 0.1,
    }, opset=9)
    case("double", [
        node("Sub", ["x", "m"], ["a"]), node("MatMul", ["a", "w"], ["b"]), node("Tanh", ["b"], ["c"]), node("Gemm", ["c", "v", "t"], ["d"]), node("Sigmoid", ["d"], ["y"]),
    ], {
        "m": weights(6).astype(float), "w": weights(6, 4).astype(float), "v": weights(4, 1).astype(float), "t": weights(1).astype(float),
    }, element=TensorProto.DOUBLE)

    def learned(name, settings, rows, post="LOGISTIC", width=3):
        nodes = [
            node("Normalizer", ["x"], ["n"], domain="ai.onnx.ml", **settings),
            node("LinearRegressor", ["n"], ["z"], domain="ai.onnx.ml", coefficients=[0.7, -1.1, 0.4], intercepts=[0.2]),
            node("Sigmoid", ["z"], ["y"]),
        ]
        case(name, nodes, {}, rows=rows, width=width)

    tiny = np.vstack([random.normal(0, 2, (ROWS - 7, 3)), [
        [0, 0, 0], [1e30, 1e30, 0], [1e-30, 0, 0], [1e-30, -1e-30, 1e-32], [-3, 0, 0], [1e18, 1e18, 0], [0, -1e-40, 0],
    ]])
    learned("normalizer_l1", {"norm": "L1"}, tiny)
    learned("normalizer_l2", {"norm": "L2"}, tiny)

    numbers_that_are_none(case)
    choices_and_tables(case)
    sums_of_trees(cases)


def numbers_that_are_none(case):
    """Logarithms and reciprocals of zero and of less: NaN and both infinities, into every function there is."""
    node = helper.make_node
    rows = np.resize([-2.75, -4, -3, 2, -7, 30, 1e30, 0.7, -2, -2.5], (ROWS, 1)).astype(float)
    rows[10:] += random.normal(0, 0.1, (ROWS - 10, 1)) * (rows[10:] > 0)
    # The average row is all zeros, and has to have a score.
    before = [node("Add", ["x", "three"], ["h"]), node("Log", ["h"], ["l"]), node("Reciprocal", ["h"], ["r"]), node("Mul", ["r", "tenth"], ["s"]), node("Concat", ["l", "s"], ["c"], axis=1)]
    after = [node("MatMul", ["f", "w"], ["z"]), node("Sigmoid", ["z"], ["y"])]
    constants = {"w": np.array([[0.3], [0.2]], np.float32), "tenth": np.float32(0.1), "three": np.float32(3)}

    for function, settings, opset in [
        ("Relu", {}, 13), ("LeakyRelu", {"alpha": 0.3}, 13), ("Elu", {"alpha": 0.7}, 13), ("Selu", {}, 13), ("Softplus", {}, 13),
        ("Exp", {}, 13), ("Log", {}, 13), ("Sqrt", {}, 13), ("Abs", {}, 13), ("Neg", {}, 13), ("Reciprocal", {}, 13), ("Erf", {}, 13),
        ("Tanh", {}, 13), ("Sigmoid", {}, 13), ("Softmax", {"axis": -1}, 13), ("Softmax", {}, 11), ("Softsign", {}, 13),
        ("HardSigmoid", {}, 13), ("HardSigmoid", {"alpha": 0.4, "beta": 0.1}, 13), ("HardSwish", {}, 14), ("Gelu", {}, 20),
        ("Gelu", {"approximate": "tanh"}, 20), ("Identity", {}, 13),
    ]:
        name = "_".join([function, str(opset), *(str(value).replace(".", "_") for value in settings.values())])
        case(f"none_{name}", [*before, node(function, ["c"], ["f"], **settings), *after], constants, width=1, opset=opset, rows=rows)
    one, two = np.array([-0.7, 0.2], np.float32), np.float32(0.6)
    for function, more, opset in [
        ("Clip", {"low": np.float32(-0.2), "high": np.float32(0.7)}, 13), ("PRelu", {"slope": one}, 16), ("Pow", {"power": two}, 13),
        ("Pow", {"whole": np.array([2, 3])}, 13), ("Max", {"one": one}, 13), ("Min", {"one": one}, 13), ("Sum", {"one": one}, 13), ("Mean", {"one": one}, 13),
        ("Add", {"one": one}, 13), ("Sub", {"one": one}, 13), ("Mul", {"one": one}, 13), ("Mul", {"zero": np.array([0, 1], np.float32)}, 13), ("Div", {"one": one}, 13),
        ("LayerNormalization", {"scale": one, "shift": one}, 17),
    ]:
        name = "_".join([function, *more])
        case(f"none_{name}", [*before, node(function, ["c", *more], ["f"]), *after], {**constants, **more}, width=1, opset=opset, rows=rows)
    for function in ["Sub", "Max", "Min", "Add", "Mul", "Div"]:
        case(f"none_rows_{function}", [*before, node(function, ["c", "l"], ["f"]), *after], constants, width=1, rows=rows)
    for function in ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"]:
        case(f"none_{function}", [*before, node(function, ["c", "axes"], ["a"]), node("Concat", ["a", "l"], ["f"], axis=1), *after],
             {**constants, "axes": np.array([1])}, width=1, opset=18, rows=rows)
    for function in ["Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"]:
        case(f"none_{function}", [
            *before, node(function, ["c", "one"], ["t"]), node("Where", ["t", "three", "c"], ["f"]), *after,
        ], {**constants, "one": np.array([0, 0.1], np.float32)}, width=1, opset=16, rows=rows)
    case("none_is_replaced", [
        *before, node("IsNaN", ["c"], ["t"]), node("Not", ["t"], ["u"]), node("Where", ["u", "c", "one"], ["f"]), *after,
    ], {**constants, "one": one}, width=1, rows=rows)
    # The average row is all zeros, of which a logarithm is none.
    case("none_on_average", [
        node("Log", ["x"], ["l"]), node("Neg", ["l"], ["n"]), node("Concat", ["l", "n"], ["f"], axis=1), *after,
    ], constants, width=1, rows=np.abs(rows))
    missing = random.normal(0, 1, (ROWS, 2))
    missing[::3, 0] = np.nan
    case("missing_is_replaced", [
        node("IsNaN", ["x"], ["t"]), node("Where", ["t", "one", "x"], ["f"]), *after,
    ], {**constants, "one": one}, width=2, rows=missing, missing="nan")


def choices_and_tables(case):
    node = helper.make_node

    def weights(*shape):
        return random.normal(0, 0.6, shape).astype(np.float32)

    end = [node("MatMul", ["f", "v"], ["z"]), node("Sigmoid", ["z"], ["y"])]
    case("comparisons", [
        node("Split", ["x"], ["a", "b"], axis=1), node("Greater", ["a", "b"], ["g"]), node("Less", ["a", "half"], ["l"]), node("And", ["g", "l"], ["n"]),
        node("Or", ["n", "flags"], ["o"]), node("Not", ["o"], ["m"]), node("Where", ["m", "a", "row"], ["c"]), node("Where", ["g", "one", "b"], ["d"]),
        node("Where", ["l", "one", "zero"], ["e"]), node("Cast", ["o"], ["h"], to=TensorProto.FLOAT), node("Concat", ["c", "d", "e", "h"], ["f"], axis=1), *end,
    ], {
        "half": np.float32(0.5), "one": np.float32(1), "zero": np.float32(0), "flags": np.array([False, True, False]), "row": weights(1, 3), "v": weights(12, 1),
    }, opset=16)
    case("several", [
        node("Split", ["x"], ["a", "b"], axis=1), node("Sum", ["a", "b", "row"], ["s"]), node("Mean", ["a", "row", "b", "s"], ["m"]), node("Max", ["row", "a", "b"], ["h"]),
        node("Min", ["a", "b", "half"], ["l"]), node("ReduceMean", ["x"], ["e"], axes=[-1], keepdims=1), node("Max", ["e", "a"], ["k"]), node("ReduceMax", ["x"], ["t"], axes=[1]),
        node("ReduceMin", ["x"], ["u"], axes=[1]), node("Sum", ["t"], ["w"]), node("Concat", ["s", "m", "h", "l", "k", "w", "u"], ["f"], axis=1), *end,
    ], {"half": np.float32(0.5), "row": weights(3), "v": weights(17, 1)})
    case("normalized", [
        node("MatMul", ["x", "w"], ["a"]), node("LayerNormalization", ["a", "scale", "shift"], ["b"], epsilon=1e-3), node("Gelu", ["b"], ["c"]), node("PRelu", ["c", "slope"], ["d"]),
        node("LayerNormalization", ["d", "scale"], ["e"], axis=1), node("HardSwish", ["e"], ["g"]), node("Softsign", ["g"], ["h"]), node("HardSigmoid", ["h"], ["f"]), *end,
    ], {"w": weights(6, 9), "scale": weights(9), "shift": weights(9), "slope": weights(1, 9), "v": weights(9, 1)}, opset=20)
    case("normalized_by_hand", [
        node("MatMul", ["x", "w"], ["a"]), node("ReduceMean", ["a"], ["m"], axes=[-1]), node("Sub", ["a", "m"], ["d"]), node("Pow", ["d", "two"], ["s"]),
        node("ReduceMean", ["s"], ["t"], axes=[-1]), node("Add", ["t", "least"], ["u"]), node("Sqrt", ["u"], ["r"]), node("Div", ["d", "r"], ["n"]), node("Mul", ["n", "scale"], ["p"]),
        node("Add", ["p", "shift"], ["f"]), *end,
    ], {"w": weights(6, 9), "two": np.float32(2), "least": np.float32(1e-5), "scale": weights(9), "shift": weights(9), "v": weights(9, 1)})
    case("transposed", [
        node("Transpose", ["w"], ["t"], perm=[1, 0]), node("Identity", ["t"], ["i"]), node("MatMul", ["x", "i"], ["f"]), *end,
    ], {"w": weights(4, 6), "v": weights(4, 1)}, fused=True)
    case("weights_beside", [
        node("Gemm", ["x", "w", "b"], ["h"]), node("Relu", ["h"], ["f"]), *end,
    ], {"w": weights(6, 9), "b": weights(9), "v": weights(9, 1)}, fused=True, beside=True)
    case("opset_latest", [
        node("Identity", ["w"], ["i"]), node("Cast", ["x"], ["c"], to=TensorProto.FLOAT), node("MatMul", ["c", "i"], ["g"]), node("Flatten", ["g"], ["h"], axis=1),
        node("Reshape", ["h", "shape"], ["j"]), node("Tanh", ["j"], ["f"]), *end,
    ], {"w": weights(6, 4), "shape": np.array([-1, 4]), "v": weights(4, 1)}, opset=25, fused=True)

    # The first columns are categories, as whole numbers among the floats; one more category than the table has.
    rows = np.column_stack([random.integers(-7, 7, (ROWS, 2)), random.normal(0, 1, (ROWS, 2))]).astype(float)
    case("embedding", [
        node("Slice", ["x", "from", "to", "axis"], ["a"]), node("Cast", ["a"], ["i"], to=TensorProto.INT64), node("Gather", ["table", "i"], ["e"]),
        node("Flatten", ["e"], ["g"]), node("Gather", ["x", "place"], ["o"], axis=1), node("Cast", ["o"], ["j"], to=TensorProto.INT32), node("Gather", ["table", "j"], ["k"]),
        node("Gather", ["list", "i"], ["m"]), node("Concat", ["g", "k", "x", "m"], ["f"], axis=1), *end,
    ], {
        "from": np.array([0]), "to": np.array([2]), "axis": np.array([1]), "place": np.array(1), "table": weights(7, 5), "list": weights(7), "v": weights(21, 1),
    }, width=4, rows=rows)


def sums_of_trees(cases):
    """What classifiers and regressors make of the sums of their leaves, in the combinations that are taken."""
    node = helper.make_node
    three = {"nodes_treeids": [0] * 5, "nodes_nodeids": [0, 1, 2, 3, 4], "nodes_featureids": [0, 0, 1, 0, 0], "nodes_values": [1.0, 0.0, 0.25, 0.0, 0.0],
             "nodes_modes": ["BRANCH_LEQ", "LEAF", "BRANCH_LT", "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 3, 0, 0], "nodes_falsenodeids": [2, 0, 4, 0, 0]}
    first, second, third = [(1, 0), (3, 0), (4, 0)], [(1, 1), (3, 1), (4, 1)], [(1, 2), (3, 2), (4, 2)]
    rows = random.normal(0.5, 1.5, (ROWS, 2))
    rows[:50] = np.round(rows[:50])
    positive, signed = [0.1, 0.5, 0.9], [-0.4, 0.5, 0.9]

    def case(name, leaves, weights, post, classes, regressor=False, **more):
        kind = "target" if regressor else "class"
        settings = {**three, f"{kind}_treeids": [0] * len(leaves), f"{kind}_nodeids": [at for at, _ in leaves], f"{kind}_ids": [of for _, of in leaves],
                    f"{kind}_weights": weights, "post_transform": post, **more.pop("settings", {})}
        if regressor:
            made = node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=classes, **settings)
        else:
            made = node("TreeEnsembleClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml", classlabels_int64s=list(range(classes)), **settings)
        graph = helper.make_graph(
            [made], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8)
        cases.add(f"trees_{name}_{post}", model, rows, {"x": rows.astype(np.float32)}, **more)

    for post in ["NONE", "LOGISTIC"]:
        weights = positive if post == "NONE" else signed
        for at in (0, 1):
            case(f"first_{at}", first, weights, post, 2, positive_class=at)
            case(f"both_{at}", first + second, [0.9, 0.5, 0.2, 0.1, 0.5, 0.8], post, 2, positive_class=at)
        case("first_base", first, [0.1, 0.4, 0.6], post, 2, settings={"base_values": [0.3]})
    for post in ["NONE", "LOGISTIC", "SOFTMAX"]:
        case("second", second, positive if post == "NONE" else signed, post, 2)
        for at in range(3):
            case(f"three_{at}", first + second + third, [0.9, 0.1, 0.3, 0.1, 0.5, 0.4, 0.2, 0.6, 0.3], post, 3, positive_class=at)
        case("three_base", first + second + third, [0.6, 0.1, 0.3, 0.1, 0.5, 0.4, 0.2, 0.6, 0.3], post, 3, positive_class=0, settings={"base_values": [0.1, 0.2, 0.3]})
        case("two_targets", first + second, [0.6, 0.1, 0.3, 0.1, 0.5, 0.4], post, 2, regressor=True, settings={"base_values": [0.1, 0.2]})
    case("second_0", second, signed, "SOFTMAX", 2, positive_class=0)
    case("both", first + second, [0.9, 0.5, 0.2, 0.1, 0.5, 0.8], "SOFTMAX", 2)
    case("one_target", first, positive, "NONE", 1, regressor=True, settings={"base_values": [0.05], "aggregate_function": "AVERAGE"})


def main():
    cases = Cases(Path(sys.argv[1]))
    scikit_learn(cases)
    named_inputs(cases)
    xgboost_models(cases)
    torch_models(cases, Path(sys.argv[2]))
    scaled_outside(cases)
    operators(cases)


main()
