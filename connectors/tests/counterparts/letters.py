"""Puts questions of connectors/tests/mail to dkimpy, flufl.bounce and Python's own email package.

One JSON object {question, input} comes on stdin, the answer goes to stdout. Messages are base64. Nothing here knows what answer is expected.
"""

import base64
import json
import sys
from email import message_from_bytes, policy


def dkim(asked):
    """Of each signature of each message whether it holds, by the keys given as DNS names and records."""
    import dkim

    records = {name.encode(): record.encode() for name, record in asked["records"].items()}

    def verdicts(message):
        message = base64.b64decode(message)
        count = len(message_from_bytes(message).get_all("DKIM-Signature", []))
        one = dkim.DKIM(message)
        return [one.verify(idx=n, dnsfunc=lambda name, timeout=5: records.get(name)) for n in range(count)]

    return [verdicts(message) for message in asked["messages"]]


def bounces(messages):
    """Addresses that failed for good and for now."""
    from flufl.bounce import all_failures

    def failures(message):
        temporary, permanent = all_failures(message_from_bytes(base64.b64decode(message)))
        return {"temporary": sorted(a.decode() for a in temporary), "permanent": sorted(a.decode() for a in permanent)}

    return [failures(message) for message in messages]


def letters(messages):
    """Headers, parts and defects as the email package reads them."""

    def part(one):
        content = None if one.is_multipart() else one.get_payload(decode=True)
        return {
            "type": one.get_content_type(),
            "file": one.get_filename(),
            "disposition": one.get_content_disposition(),
            "id": one["Content-ID"],
            "content": None if content is None else base64.b64encode(content).decode(),
        }

    def letter(message):
        parsed = message_from_bytes(base64.b64decode(message), policy=policy.default)
        parts = list(parsed.walk())
        names = ["Subject", "From", "To", "List-Unsubscribe-Post"]
        return {
            "headers": {name: None if parsed[name] is None else str(parsed[name]) for name in names},
            "defects": [str(defect) for one in parts for defect in one.defects],
            "parts": [part(one) for one in parts],
        }

    return [letter(message) for message in messages]


asked = json.load(sys.stdin)
questions = {f.__name__: f for f in (dkim, bounces, letters)}
json.dump(questions[asked["question"]](asked["input"]), sys.stdout)
