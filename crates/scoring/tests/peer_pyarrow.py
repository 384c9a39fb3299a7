"""PyArrow's side of peer_pyarrow.rs: `write FOLDER` makes the files that we read, `read` reads ours.

`read` takes jobs as JSON from standard input ([{"path": ..., "key": hex or null, "format": ...}]) and prints what
PyArrow finds in each as JSON, or its error. Needs the PyPI packages pyarrow and cryptography, nothing else.
"""

import base64
import decimal
import json
import os
import sys

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ROWS = 2500
# Master keys, by the names that a broker knows them by.
MASTER = {"default/parquet/footer": b"F" * 32, "default/parquet/columns": b"C" * 16}


def table(nulls: bool) -> pa.Table:
    def holes(values):
        return [None if nulls and i % 97 == 13 else value for i, value in enumerate(values)]

    numbers = range(ROWS)
    return pa.table(
        {
            "note": pa.array([f"not wanted {i}" for i in numbers]),
            "x": pa.array(holes([i * 0.25 - 100 for i in numbers]), pa.float64()),
            "k": pa.array([i * 1_000_003 for i in numbers], pa.int64()),
            "s": pa.array([i % 7 - 3 for i in numbers], pa.int8()),
            "id": pa.array([f"tx-{i}" for i in numbers], pa.string()),
            "u": pa.array([4_000_000_000 + i for i in numbers], pa.uint32()),
            "b": pa.array([i % 3 == 0 for i in numbers], pa.bool_()),
            "f": pa.array([i * 0.5 for i in numbers], pa.float32()),
            "h": pa.array([i % 100 * 0.5 for i in numbers], pa.float16()),
            "d": pa.array([decimal.Decimal(i) / 100 for i in numbers], pa.decimal128(12, 2)),
        }
    )


class Kms(pe.KmsClient):
    """Wraps by AES-GCM with the master key's name as associated data: nonce, ciphertext and tag in base64."""

    def __init__(self, _connection):
        super().__init__()

    def wrap_key(self, key, name):
        nonce = os.urandom(12)
        return base64.b64encode(nonce + AESGCM(MASTER[name]).encrypt(nonce, key, name.encode())).decode()

    def unwrap_key(self, wrapped, name):
        raw = base64.b64decode(wrapped)
        return AESGCM(MASTER[name]).decrypt(raw[:12], raw[12:], name.encode())


def write(folder: str):
    def at(name):
        return os.path.join(folder, name)

    plain, holes = table(False), table(True)
    for compression in ["none", "snappy", "gzip", "zstd", "lz4"]:
        for page in ["1.0", "2.0"]:
            for dictionary in [True, False]:
                pq.write_table(
                    holes,
                    at(f"plain-{compression}-{page}-{dictionary}.parquet"),
                    compression=compression,
                    data_page_version=page,
                    use_dictionary=dictionary,
                    row_group_size=1000,
                )
    pq.write_table(plain, at("pages.parquet"), data_page_size=512, use_dictionary=False)
    for encoding in ["DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"]:
        pq.write_table(plain, at(f"{encoding}.parquet"), use_dictionary=False, column_encoding={"k": encoding})

    direct = {
        "uniform-128": dict(footer_key=b"k" * 16),
        "uniform-256": dict(footer_key=b"k" * 32),
        "readable-footer": dict(footer_key=b"k" * 16, plaintext_footer=True),
        "prefix-stored": dict(footer_key=b"k" * 16, aad_prefix=b"rows-2026-11"),
        "prefix-supplied": dict(footer_key=b"k" * 16, aad_prefix=b"rows-2026-11", store_aad_prefix=False),
        "ctr": dict(footer_key=b"k" * 16, encryption_algorithm="AES_GCM_CTR_V1"),
        "uniform-192": dict(footer_key=b"k" * 24),
    }
    for name, options in direct.items():
        properties = pe.create_encryption_properties(**options)
        pq.write_table(plain, at(f"{name}.parquet"), encryption_properties=properties, row_group_size=1000)

    factory = pe.CryptoFactory(lambda connection: Kms(connection))
    columns = {"default/parquet/columns": ["x", "k", "id"]}
    every = {"default/parquet/columns": [name for name in plain.column_names if name != "note"]}
    named = {
        "named-double": dict(uniform_encryption=True),
        "named-single": dict(uniform_encryption=True, double_wrapping=False),
        "named-256": dict(uniform_encryption=True, data_key_length_bits=256),
        "columns-all": dict(column_keys=every),
        "columns-some": dict(column_keys=columns),
        "columns-readable-footer": dict(column_keys=every, plaintext_footer=True),
    }
    for name, options in named.items():
        configuration = pe.EncryptionConfiguration(footer_key="default/parquet/footer", **options)
        properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), configuration)
        pq.write_table(plain, at(f"{name}.parquet"), encryption_properties=properties, row_group_size=1000)

    encoded = plain
    for name in ["x", "s", "id"]:
        place = encoded.column_names.index(name)
        encoded = encoded.set_column(place, name, encoded.column(name).dictionary_encode().unify_dictionaries())
    seconds = pa.array(range(ROWS), pa.int64())
    for unit, zone in [("s", None), ("ms", "UTC"), ("us", None), ("us", "Europe/Berlin"), ("ns", None)]:
        per = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[unit]
        times = pa.array([second * per for second in seconds.to_pylist()], pa.int64()).cast(pa.timestamp(unit, zone))
        data = plain.set_column(plain.column_names.index("id"), "id", times)
        name = f"times-{unit}-{'zone' if zone else 'none'}"
        pq.write_table(data, at(f"{name}.parquet"))
        with pa.ipc.new_file(at(f"{name}.arrow"), data.schema) as out:
            out.write_table(data)
    views = plain.set_column(4, "id", plain.column("id").cast(pa.string_view()))
    for compression in [None, "lz4", "zstd"]:
        options = pa.ipc.IpcWriteOptions(compression=compression)
        for kind, data in {"holes": holes, "encoded": encoded, "views": views}.items():
            with pa.ipc.new_file(at(f"{kind}-{compression}.arrow"), data.schema, options=options) as out:
                out.write_table(data, max_chunksize=1000)
            with pa.ipc.new_stream(at(f"{kind}-{compression}.arrows"), data.schema, options=options) as out:
                out.write_table(data, max_chunksize=1000)


def read(job):
    try:
        if job["format"] == "csv":
            found = pyarrow.csv.read_csv(job["path"])
        else:
            key = job["key"]
            properties = key and pe.create_decryption_properties(bytes.fromhex(key))
            found = pq.read_table(job["path"], decryption_properties=properties)
        return {"columns": found.column_names, "rows": found.to_pylist()}
    except Exception as error:  # Whatever it says is the result.
        return {"error": f"{type(error).__name__}: {error}"}


if sys.argv[1] == "write":
    write(sys.argv[2])
else:
    json.dump([read(job) for job in json.load(sys.stdin)], sys.stdout)
