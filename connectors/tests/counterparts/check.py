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


def fcm(question):
    """What Google's own description of FCM has against each of these requests to `projects.messages.send`."""
    from importlib.resources import files

    document = files("googleapiclient") / "discovery_cache/documents/fcm.v1.json"
    schemas = json.loads(document.read_text())["schemas"]
    return [complaints(schemas, {"$ref": "SendMessageRequest"}, request, "") for request in question]


def complaints(schemas, schema, value, at):
    """Where a value is not what a schema of a discovery document says: https://developers.google.com/discovery/v1/type-format."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    kinds = {"string": str, "boolean": bool, "number": (int, float), "integer": int, "object": dict, "array": list}
    if "type" in schema and (not isinstance(value, kinds[schema["type"]]) or isinstance(value, bool) != (schema["type"] == "boolean")):
        return [f"{at or '.'} is no {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at} is none of {schema['enum']}"]
    found = []
    if schema.get("type") == "object":
        for name, part in value.items():
            known = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            found += [f"{at}.{name} is unknown"] if known is None else complaints(schemas, known, part, f"{at}.{name}")
    elif schema.get("type") == "array":
        for n, part in enumerate(value):
            found += complaints(schemas, schema["items"], part, f"{at}[{n}]")
    return found


def unbase64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


if __name__ == "__main__":
    answer = {"web_push": web_push, "webhook": webhook, "fcm": fcm}[sys.argv[1]](json.load(sys.stdin))
    json.dump(answer, sys.stdout)
