"""What a data scientist would write: decrypt into memory, parse, scale, score in batches, write the scores sealed.

batched.py READER FILE OUT MODEL_FOLDER KEY THREADS, with READER polars, pandas or pyarrow for CSV, parquet for Parquet.
FILE is a 12-byte nonce, then AES-256-GCM over the whole; parquet takes a file with Parquet's own encryption.
"""

import io
import json
import os
import sys

reader, source, target, folder, key_file, threads = sys.argv[1:]
os.environ["OMP_NUM_THREADS"] = threads
os.environ["POLARS_MAX_THREADS"] = threads

import numpy
import onnxruntime
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

key = open(key_file, "rb").read()
preprocessing = json.load(open(f"{folder}/preprocessing.json"))
columns = preprocessing["columns"]
mean = numpy.array(preprocessing["scaler"]["mean"])
scale = numpy.array(preprocessing["scaler"]["scale"])


def plaintext():
    with open(source, "rb") as file:
        content = file.read()
    return AESGCM(key).decrypt(content[:12], memoryview(content)[12:], None)


if reader == "polars":
    import polars

    rows = polars.read_csv(plaintext(), columns=columns).select(columns).to_numpy()
elif reader == "pandas":
    import pandas

    rows = pandas.read_csv(io.BytesIO(plaintext()), usecols=columns)[columns].to_numpy()
elif reader == "pyarrow":
    import pyarrow
    import pyarrow.csv

    pyarrow.set_cpu_count(int(threads))
    wanted = pyarrow.csv.ConvertOptions(include_columns=columns)
    table = pyarrow.csv.read_csv(pyarrow.py_buffer(plaintext()), convert_options=wanted)
    rows = numpy.stack([table[name].to_numpy() for name in columns], 1)
elif reader == "parquet":
    import pyarrow
    import pyarrow.parquet
    import pyarrow.parquet.encryption as encryption

    pyarrow.set_cpu_count(int(threads))
    opened = encryption.create_decryption_properties(key)
    table = pyarrow.parquet.read_table(source, columns=columns, decryption_properties=opened)
    rows = numpy.stack([table[name].to_numpy() for name in columns], 1)
else:
    sys.exit(f"no reader {reader}")

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)
session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])
into, out_of = session.get_inputs()[0].name, session.get_outputs()[0].name
BATCH = 65536
scores = numpy.empty(len(rows), numpy.float32)
for begin in range(0, len(rows), BATCH):
    batch = ((rows[begin : begin + BATCH] - mean) / scale).astype(numpy.float32)
    scores[begin : begin + BATCH] = session.run([out_of], {into: batch})[0][:, 0]

if reader == "polars":
    text = polars.DataFrame({"score": scores}).write_csv(float_precision=6).encode()
elif reader == "pandas":
    text = pandas.DataFrame({"score": scores}).to_csv(index=False, float_format="%.6f").encode()
else:
    import pyarrow.csv

    buffer = io.BytesIO()
    pyarrow.csv.write_csv(pyarrow.table({"score": scores}), buffer)
    text = buffer.getvalue()
nonce = os.urandom(12)
with open(target, "wb") as file:
    file.write(nonce + AESGCM(key).encrypt(nonce, text, None))
print(len(scores), int((scores > preprocessing["threshold"]).sum()))
