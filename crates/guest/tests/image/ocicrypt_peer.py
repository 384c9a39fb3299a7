"""ocicrypt's layer encryption, written from its format alone: opens or makes one encrypted layer.

    ocicrypt_peer.py open DESCRIPTOR.json KEK CIPHERTEXT PLAINTEXT
    ocicrypt_peer.py make DESCRIPTOR.json KEK PLAINTEXT CIPHERTEXT KID VERSION
"""

import base64
import hashlib
import hmac
import json
import os
import sys

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PROVIDER = "org.opencontainers.image.enc.keys.provider.attestation-agent"
OPTIONS = "org.opencontainers.image.enc.pubopts"


def b64(data):
    return base64.b64encode(data).decode()


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def open_layer(descriptor, kek, ciphertext, plaintext):
    layer = json.loads(read(descriptor))
    annotations = layer["annotations"]
    packet = json.loads(base64.b64decode(annotations[PROVIDER]))
    assert packet["wrap_type"] == "A256GCM" and packet["version"] == "0.1.0" and packet["provider"] == "kbs"
    wrapped = base64.b64decode(packet["wrapped_data"])
    private = json.loads(AESGCM(read(kek)).decrypt(base64.b64decode(packet["iv"]), wrapped, None))
    public = json.loads(base64.b64decode(annotations[OPTIONS]))
    assert public["cipher"] == "AES_256_CTR_HMAC_SHA256"
    key = base64.b64decode(private["symkey"])
    data = read(ciphertext)
    mac = hmac.new(key, data, hashlib.sha256).digest()
    assert hmac.compare_digest(mac, base64.b64decode(public["hmac"])), "MAC"
    nonce = base64.b64decode(private["cipheroptions"]["nonce"])
    plain = Cipher(algorithms.AES(key), modes.CTR(nonce)).decryptor().update(data)
    assert private["digest"] == "sha256:" + hashlib.sha256(plain).hexdigest(), "digest"
    write(plaintext, plain)


def make_layer(descriptor, kek, plaintext, ciphertext, kid, version):
    plain = read(plaintext)
    key, nonce, iv = os.urandom(32), os.urandom(16), os.urandom(12)
    data = Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor().update(plain)
    private = json.dumps({
        "symkey": b64(key),
        "digest": "sha256:" + hashlib.sha256(plain).hexdigest(),
        "cipheroptions": {"nonce": b64(nonce)},
    })
    packet = {
        "kid": kid,
        "wrapped_data": b64(AESGCM(read(kek)).encrypt(iv, private.encode(), None)),
        "iv": b64(iv),
        "wrap_type": "A256GCM",
    }
    if version == "2":
        packet |= {"version": "0.1.0", "provider": "kbs", "provider_settings": {}, "annotations": {}}
    public = {
        "cipher": "AES_256_CTR_HMAC_SHA256",
        "hmac": b64(hmac.new(key, data, hashlib.sha256).digest()),
        "cipheroptions": {},
    }
    annotations = {PROVIDER: b64(json.dumps(packet).encode()), OPTIONS: b64(json.dumps(public).encode())}
    write(descriptor, json.dumps({"annotations": annotations}).encode())
    write(ciphertext, data)


{"open": open_layer, "make": make_layer}[sys.argv[1]](*sys.argv[2:])
