"""Verifies that a webhook is Millstream's: its signature, and that it is not an old one sent again.

    python3 examples/verify_webhook.py SECRET TIMESTAMP SIGNATURE < body

TIMESTAMP and SIGNATURE are the headers Millstream-Timestamp and Millstream-Signature; the secret is the channel's `secret`.
Exit code 0: it is; 1: it is not. In a service, call `verify` with the bytes of the body as they came, before they are parsed.
"""

import hashlib
import hmac
import sys
import time

# Requests signed longer ago are refused, in seconds: whoever has seen one cannot send it again later.
AGE_MAX = 300


def verify(secret: str, timestamp: str, signature: str, body: bytes, now: float) -> bool:
    """Whether the signature over `<timestamp>.<body>` is right, and recent."""
    if not timestamp.isdigit() or abs(now - int(timestamp)) > AGE_MAX:
        return False
    signed = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(f"v1={signed}", signature)


if __name__ == "__main__":
    sys.exit(0 if verify(*sys.argv[1:4], sys.stdin.buffer.read(), time.time()) else 1)
