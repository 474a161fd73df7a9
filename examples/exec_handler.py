#!/usr/bin/env python3
"""A handler in Python: handler = { exec = ["python3", "examples/exec_handler.py"], timeout = "5s" }

One JSON line per event comes in on standard input; one JSON line with the event's id goes out on standard output,
flushed. Print everything else to standard error: it goes to the worker's log.
"""
import json
import sys


def handle(event, attempt):
    amount = event["eventData"]["amount"]
    if amount < 0:
        return {"error": {"class": "ValidationError", "message": f"amount {amount} is negative", "retry": "reject"}}
    event["eventData"]["amountWithTax"] = round(amount * 1.19, 2)
    return {"ok": True, "outputs": [event]}  # {"ok": True} alone passes the event on as it is


for line in sys.stdin:  # the end of the input is the sign to exit
    request = json.loads(line)
    try:
        reply = handle(request["event"], request["attempt"])
    except Exception as error:  # may work later: the stage's retry policy decides
        reply = {"error": {"message": repr(error), "retry": "retry"}}
    print(json.dumps({"id": request["id"], **reply}), flush=True)
