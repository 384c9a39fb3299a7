"""Tink's side of peer_tink.rs: reads jobs as JSON from standard input, prints their results as JSON.

A job is {"do": "encrypt" | "decrypt", "key": hex, "segment": bytes, "name": hex, "from": path, "to": path};
its result is "ok" or Tink's error. Needs the PyPI package tink, nothing else.
"""

import base64
import json
import shutil
import sys

import tink
from tink import secret_key_access, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2

TYPE = "type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey"


def primitive(key: bytes, segment: int):
    message = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(version=0, key_value=key)
    message.params.ciphertext_segment_size = segment
    message.params.derived_key_size = 32
    message.params.hkdf_hash_type = common_pb2.SHA256
    keyset = {
        "primaryKeyId": 1,
        "key": [
            {
                "keyData": {
                    "typeUrl": TYPE,
                    "value": base64.b64encode(message.SerializeToString()).decode(),
                    "keyMaterialType": "SYMMETRIC",
                },
                "status": "ENABLED",
                "keyId": 1,
                "outputPrefixType": "RAW",
            }
        ],
    }
    handle = tink.json_proto_keyset_format.parse(json.dumps(keyset), secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)


def run(job) -> str:
    name = bytes.fromhex(job["name"])
    cipher = primitive(bytes.fromhex(job["key"]), job["segment"])
    source, target = open(job["from"], "rb"), open(job["to"], "wb")
    try:
        if job["do"] == "encrypt":
            with cipher.new_encrypting_stream(target, name) as stream, source:
                shutil.copyfileobj(source, stream)
        else:
            with cipher.new_decrypting_stream(source, name) as stream, target:
                shutil.copyfileobj(stream, target)
    except Exception as error:  # Whatever it says is the result.
        return f"{type(error).__name__}: {error}"
    return "ok"


def template_segment() -> int:
    """The segment size of Tink's ready template for 1 MiB."""
    template = streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB
    form = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKeyFormat.FromString(template.value)
    assert (form.key_size, form.params.derived_key_size) == (32, 32)
    assert form.params.hkdf_hash_type == common_pb2.SHA256
    return form.params.ciphertext_segment_size


streaming_aead.register()
results = [run(job) for job in json.load(sys.stdin)]
json.dump({"template_segment": template_segment(), "results": results}, sys.stdout)
