"""Publishes the events of a crash test, as a client in another language would, and writes down what was acknowledged.

Each line of the ledger is `<id> <kind> <stream>:<sequence> <payload in hexadecimal>`. A publish whose answer was lost is
repeated with the same Nats-Msg-Id until it is answered.
"""

import argparse
import asyncio
import json
import os
import sys

import nats
from nats.errors import Error as NatsError
from nats.js.errors import APIError

TYPES = ["order.created", "order.created", "order.cancelled", "payment.captured", "order.shipped", "payment.refunded"]
TENANTS = ["acme", "globex", "initech"]


def kind_of(n, refuse_all):
    """How the event ends: fine, flaky, broken, refused, invalid, cut, binary, report or nonsense."""
    if refuse_all:
        return "refused"
    if n % 500 == 7:
        return "cut"
    if n % 500 == 257:
        return "binary"
    if n % 50 == 41:
        return "report"
    if n % 1000 == 42:
        return "nonsense"
    return {3: "broken", 53: "broken", 13: "flaky", 113: "flaky", 23: "refused", 33: "invalid"}.get(n % 200, "fine")


def message(n, kind):
    """The subject and the payload of the nth event."""
    if kind == "cut":
        return "events.order.created", b'{"eventId": "cut off in the mid'
    if kind == "binary":
        return "events.payment.captured", b"\xff\xfe not text at all %d" % n
    if kind == "nonsense":
        return "errors.till", b"the till is on fire %d" % n
    if kind == "report":
        report = {
            "errorCode": ["REDIS_CONNECTION_FAILED", "APK_UPLOAD_FAILED", "ACCOUNT_LOCKED"][n % 3],
            "severity": "high",
            "message": f"no connection to host {n % 7} after {n} ms",
            "serviceName": "till",
            "timestamp": "2026-01-01T00:00:00Z",
        }
        return "errors.till", json.dumps(report).encode()
    event_type = TYPES[n % len(TYPES)]
    data = {"orderId": f"o-{n}", "amount": 5 + n % 90, "currency": "EUR", "note": kind}
    if event_type.startswith("payment"):
        data["paymentId"] = f"p-{n}"
    if event_type == "order.shipped":
        data["carrier"] = "owl"
    if kind == "invalid":
        data["orderId"] = "x" * 65
        data["amount"] = -1
        del data["currency"]
        event_type = "order.created"
    event = {
        "eventId": f"e-{n}",
        "eventType": event_type,
        "eventVersion": "1",
        "aggregateId": f"o-{n}",
        "tenantId": TENANTS[n % len(TENANTS)],
        "timestamp": "2026-01-01T00:00:00Z",
        "eventData": data,
    }
    return f"events.{event_type}", json.dumps(event).encode()


async def publish(args):
    async def quiet(error):
        print(f"publisher: {error!r}", file=sys.stderr)

    connection = await nats.connect(
        args.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=quiet, allow_reconnect=True
    )
    stream = connection.jetstream()
    loop = asyncio.get_running_loop()
    started = loop.time()
    numbers = iter(range(args.count))
    repeated = 0

    async def work(ledger):
        nonlocal repeated
        for n in numbers:
            await asyncio.sleep(max(0.0, started + n / args.rate - loop.time()))
            kind = kind_of(n, args.refuse_all)
            subject, payload = message(n, kind)
            while True:
                try:
                    ack = await stream.publish(subject, payload, timeout=2, headers={"Nats-Msg-Id": f"e-{n}"})
                    break
                except (NatsError, APIError, OSError):
                    repeated += 1
                    await asyncio.sleep(0.1)
            ledger.write(f"e-{n} {kind} {ack.stream}:{ack.seq} {payload.hex()}\n")

    with open(args.ledger, "w", encoding="ascii") as ledger:
        await asyncio.gather(*(work(ledger) for _ in range(args.window)))
        ledger.flush()
        os.fsync(ledger.fileno())
    print(f"publisher: {args.count} acknowledged, {repeated} repeated, {loop.time() - started:.1f} s", file=sys.stderr)
    await connection.close()


parser = argparse.ArgumentParser()
parser.add_argument("--url", required=True)
parser.add_argument("--ledger", required=True)
parser.add_argument("--count", type=int, required=True)
parser.add_argument("--rate", type=float, required=True, help="events a second, at the most")
parser.add_argument("--window", type=int, default=400, help="publishes that await their answer at once")
parser.add_argument("--refuse-all", action="store_true", help="every event is one that the service refuses")
asyncio.run(publish(parser.parse_args()))
