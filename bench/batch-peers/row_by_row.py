"""The workshop's container without its sleeps: `openssl` decrypts to a file, and each row is scaled and scored alone.

row_by_row.py FILE MODEL_FOLDER KEY ROWS
"""

import csv
import json
import os
import subprocess
import sys

import numpy
import onnxruntime

source, folder, key, rows = sys.argv[1:]
opened = source + ".opened"
subprocess.run(
    ["openssl", "enc", "-d", "-aes-256-cfb", "-pbkdf2", "-kfile", key, "-in", source, "-out", opened],
    check=True,
)
preprocessing = json.load(open(f"{folder}/preprocessing.json"))
from sklearn.preprocessing import StandardScaler

scaler = StandardScaler()
scaler.mean_ = numpy.array(preprocessing["scaler"]["mean"])
scaler.scale_ = numpy.array(preprocessing["scaler"]["scale"])
scaler.var_ = scaler.scale_**2
scaler.n_features_in_ = len(scaler.mean_)
session = onnxruntime.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])
into, out_of = session.get_inputs()[0].name, session.get_outputs()[0].name
with open(opened, newline="") as file, open(os.devnull, "w") as log:
    reader = csv.reader(file)
    names = next(reader)
    places = [names.index(name) for name in preprocessing["columns"]]
    for number, row in enumerate(reader):
        if number == int(rows):
            break
        picked = [float(row[place]) for place in places]
        score = numpy.squeeze(session.run([out_of], {into: scaler.transform([picked]).astype(numpy.float32)}))
        verdict = preprocessing["threshold"] < score < 1
        print(f"\rIs query {number} fraudulent? {verdict}. Likelihood of fraud: {100 * score:.5f}%", end="", file=log)
os.remove(opened)
