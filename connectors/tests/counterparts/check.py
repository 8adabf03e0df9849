"""Libraries that others wrote read what we sent. A question comes as JSON on stdin; the answer goes to stdout, or it ends with an error."""

import base64
import json
import sys


def web_push(question):
    """http-ece decrypts the body for the browser's key; py-vapid verifies who sent it."""
    import http_ece
    from cryptography.hazmat.primitives.asymmetric import ec
    from py_vapid import Vapid02

    assert Vapid02.verify(question["authorization"]), "the signature is not by the key"
    number = int.from_bytes(unbase64(question["private_key"]), "big")
    text = http_ece.decrypt(
        unbase64(question["body"]),
        private_key=ec.derive_private_key(number, ec.SECP256R1()),
        auth_secret=unbase64(question["auth"]),
        version="aes128gcm",
    )
    return json.loads(text)


def webhook(question):
    """standardwebhooks verifies each secret's signature, and that the time is now."""
    from standardwebhooks import Webhook

    bodies = [Webhook(secret).verify(question["body"], question["headers"]) for secret in question["secrets"]]
    return bodies[0]


def unbase64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


if __name__ == "__main__":
    answer = {"web_push": web_push, "webhook": webhook}[sys.argv[1]](json.load(sys.stdin))
    json.dump(answer, sys.stdout)
