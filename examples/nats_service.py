#!/usr/bin/env python3
"""A handler as a NATS service: handler = { nats = "orders.enrich", timeout = "5s", output = "reply" }

Needs nats-py (pip install nats-py). Run as many as you like: each event goes to one of them.
"""
import asyncio
import json
import sys

import nats


async def main(url="nats://127.0.0.1:4222"):
    client = await nats.connect(url)

    async def handle(message):
        event = json.loads(message.data)
        amount = event["eventData"]["amount"]
        if amount < 0:  # the code is read as an HTTP status: 400 rejects; 429 and 500 are retried
            failed = {"Nats-Service-Error-Code": "400", "Nats-Service-Error": f"amount {amount} is negative"}
            await client.publish(message.reply, headers=failed)
            return
        event["eventData"]["amountWithTax"] = round(amount * 1.19, 2)
        await client.publish(message.reply, json.dumps(event).encode())

    await client.subscribe("orders.enrich", queue="orders", cb=handle)
    print("listening on orders.enrich", file=sys.stderr)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
