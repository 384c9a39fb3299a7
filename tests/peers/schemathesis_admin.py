"""Who schemathesis is: an admin, with a fresh token for each request, or the guest that the test attested."""

import base64
import json
import os
import secrets

import schemathesis
from cryptography.hazmat.primitives.serialization import load_pem_private_key

with open(os.environ["STRONGROOM_ADMIN_KEY"], "rb") as file:
    KEY = load_pem_private_key(file.read(), None)
NOW = int(os.environ["STRONGROOM_NOW"])
GUEST = os.environ["STRONGROOM_GUEST_TOKEN"]


def encoded(part):
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def admin_token():
    claims = {
        "sub": "admin",
        "role": "admin",
        "aud": "strongroom-broker",
        "iat": NOW,
        "exp": NOW + 60,
        "jti": secrets.token_hex(16),
    }
    parts = ({"alg": "EdDSA", "typ": "JWT"}, claims)
    signed = b".".join(encoded(json.dumps(part).encode()) for part in parts)
    return (signed + b"." + encoded(KEY.sign(signed))).decode()


@schemathesis.auth(refresh_interval=None)
class Bearer:
    """The token that the operation asks for."""

    def get(self, case, context):
        schemes = {name for one in case.operation.definition.raw["security"] for name in one}
        if "admin" in schemes:
            return admin_token()
        return GUEST if "attestation" in schemes else None

    def set(self, case, data, context):
        if data is not None:
            case.headers = case.headers or {}
            case.headers["Authorization"] = f"Bearer {data}"
