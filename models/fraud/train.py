#!/usr/bin/env python3
"""Trains the fraud model that ships with Strongroom and writes model.onnx, preprocessing.json and metrics.json beside
this file. The rows come from Strongroom's own generator. Everything is seeded and runs on one thread, so that a second
run with the same versions (requirements.txt) writes the same bytes. See README.md."""
import os

# One thread, and one summation order in matrix products: before numpy is imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import io
import json
import math
import pathlib
import shlex
import subprocess
import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score
from sklearn.neural_network import MLPClassifier

HERE = pathlib.Path(__file__).resolve().parent
GENERATOR = "cargo run --quiet --package strongroom-scoring --example generate --"
FEATURES = [
    "distance_from_last_transaction",
    "ratio_to_median_purchase_price",
    "used_chip",
    "used_pin_number",
    "online_order",
]
# Known columns of the public data set that the model does not read.
IGNORED = ["distance_from_home", "repeat_retailer", "fraud"]

TRAIN, VALIDATION, TEST = {"rows": 600_000, "seed": 1}, {"rows": 200_000, "seed": 2}, {"rows": 200_000, "seed": 3}
TRAINING_SEED = 20240917
# Learning rate, batch size and epochs of each stage: coarse first, then fine.
STAGES = [(3e-3, 512, 10), (1e-3, 1024, 12), (3e-4, 2048, 12), (1e-4, 4096, 10)]
PRECISION_FLOOR = 0.995


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", default=GENERATOR, help="command that takes ROWS SEED --label and prints CSV")
    parser.add_argument("--out", type=pathlib.Path, default=HERE, help="folder to write to")
    arguments = parser.parse_args()

    train_x, train_y = rows(arguments.generator, TRAIN)
    # The arithmetic of scikit-learn's StandardScaler, which stays outside the graph: f64, then cast to f32.
    mean, scale = train_x.mean(axis=0), train_x.std(axis=0)
    standardised = lambda x: ((x - mean) / scale).astype(np.float32)

    network = train(standardised(train_x).astype(np.float64), train_y)
    model = export(network)
    score = lambda x: run(model, standardised(x))

    validation_x, validation_y = rows(arguments.generator, VALIDATION)
    threshold = choose_threshold(validation_y, score(validation_x))
    test_x, test_y = rows(arguments.generator, TEST)
    metrics = measure(test_x, test_y, score(test_x), threshold)

    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "model.onnx").write_bytes(model)
    write_json(arguments.out / "preprocessing.json", {
        "format": 1,
        "columns": FEATURES,
        "ignored_columns": IGNORED,
        "scaler": {"mean": mean.tolist(), "scale": scale.tolist()},
        "threshold": threshold,
    })
    write_json(arguments.out / "metrics.json", metrics)
    print(json.dumps(metrics, indent=2))


def rows(generator, which):
    """Features and labels of generated transactions."""
    command = [*shlex.split(generator), str(which["rows"]), str(which["seed"]), "--label"]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=HERE.parents[1]).stdout.decode()
    header, body = text.split("\n", 1)
    assert header.split(",") == [*FEATURES, "fraud"], header
    table = np.loadtxt(io.StringIO(body), delimiter=",", ndmin=2)
    assert table.shape == (which["rows"], len(FEATURES) + 1), table.shape
    return table[:, :-1], table[:, -1].astype(int)


def train(x, y):
    """A network of the tutorial's form, trained in stages with a falling learning rate."""
    network = MLPClassifier(
        hidden_layer_sizes=(32, 32, 32), activation="relu", solver="adam", alpha=1e-6, shuffle=True,
        tol=0.0, n_iter_no_change=1_000_000, warm_start=True, random_state=TRAINING_SEED,
    )
    for stage, (rate, batch, epochs) in enumerate(STAGES):
        network.set_params(learning_rate_init=rate, batch_size=batch, max_iter=epochs, random_state=TRAINING_SEED + stage)
        with warnings.catch_warnings():
            # Each stage has a fixed number of epochs: it always stops at its limit.
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(x, y)
        print(f"stage {stage + 1} of {len(STAGES)}: loss {network.loss_:.6f}", flush=True)
    return network


def export(network):
    """The graph as the tutorial's export names it: dense_input [N,5] to dense_3 [N,1], MatMul, Add, Relu, Sigmoid."""
    nodes, weights, value = [], [], "dense_input"
    layers = list(zip(network.coefs_, network.intercepts_))
    for index, (weight, bias) in enumerate(layers):
        name = "dense" if index == 0 else f"dense_{index}"
        last = index == len(layers) - 1
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"{name}/kernel"))
        weights.append(numpy_helper.from_array(bias.astype(np.float32), f"{name}/bias"))
        nodes.append(helper.make_node("MatMul", [value, f"{name}/kernel"], [f"{name}/MatMul"], f"{name}/MatMul"))
        nodes.append(helper.make_node("Add", [f"{name}/MatMul", f"{name}/bias"], [f"{name}/Add"], f"{name}/Add"))
        value = name if last else f"{name}/Relu"
        nodes.append(helper.make_node("Sigmoid" if last else "Relu", [f"{name}/Add"], [value], f"{value}/activation"))
    assert value == "dense_3"
    graph = helper.make_graph(
        nodes, "fraud",
        [helper.make_tensor_value_info("dense_input", TensorProto.FLOAT, ["N", len(FEATURES)])],
        [helper.make_tensor_value_info("dense_3", TensorProto.FLOAT, ["N", 1])],
        weights,
    )
    model = helper.make_model(
        graph, producer_name="strongroom models/fraud/train.py", ir_version=8,
        opset_imports=[helper.make_operatorsetid("", 15)],
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def run(model, x):
    """Scores by onnxruntime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(["dense_3"], {"dense_input": x})[0][:, 0].astype(np.float64)


def choose_threshold(y, score):
    """The lowest step of 0.01 from which on every threshold up to 0.99 keeps the precision."""
    chosen = None
    for step in range(99, 0, -1):
        if precision_score(y, score > step / 100) < PRECISION_FLOOR:
            break
        chosen = step / 100
    assert chosen is not None, "no threshold reaches the wanted precision"
    return chosen


def measure(x, y, score, threshold):
    """What metrics.json holds: the model on held-out rows, and the best that these five columns allow."""
    # The posterior has four values only. Ties broken at random, or the steps would count against it.
    best = posterior(x) + np.random.default_rng(TRAINING_SEED).uniform(0, 1e-9, len(y))
    flagged = score > threshold
    return {
        "train": TRAIN,
        "validation": VALIDATION,
        "test": TEST,
        "fraud_rate": float(y.mean()),
        "roc_auc": float(roc_auc_score(y, score)),
        "average_precision": float(average_precision_score(y, score)),
        "threshold": threshold,
        "precision": float(precision_score(y, flagged)),
        "recall": float(recall_score(y, flagged)),
        "best_achievable": {
            "roc_auc": float(roc_auc_score(y, best)),
            "average_precision": float(average_precision_score(y, best)),
        },
    }


def posterior(x):
    """The probability of fraud given the five columns, by the generator's own law: what no model can beat.
    Two features are hidden from the model, and both follow from distance_from_home."""
    last, ratio, chip, pin, online = x.T
    points = 3 * (last > 50) + 4 * (ratio > 4) - chip - 4 * pin + 2 * online
    normal = lambda z: 0.5 * math.erfc(-z / math.sqrt(2))
    far = 1 - normal((math.log(100) - math.log(10)) / 1.4)  # three more points
    near = normal((math.log(1.9) - math.log(10)) / 1.4)  # one more point: no repeat retailer
    return np.select([points >= 5, points >= 4, points >= 2], [1.0, far + near, far], 0.0)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
