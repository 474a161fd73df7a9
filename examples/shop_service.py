#!/usr/bin/env python3
"""The HTTP service that the example pipeline calls, to break and to mend. It prints what is posted to /alerts and /chat.

    python3 examples/shop_service.py                  serve on 127.0.0.1:9000
    python3 examples/shop_service.py --refuse USD     the same with a bug: it refuses orders in USD
    python3 examples/shop_service.py --events 1000    print events for `millstream publish`, one per line
"""

import argparse
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--port", type=int, default=9000)
parser.add_argument("--refuse", metavar="CURRENCY", help="answer 422 to events in this currency")
parser.add_argument("--events", type=int, metavar="N", help="print N events and end")
parser.add_argument("--from", dest="first", type=int, default=0, metavar="N", help="the number of the first of them")
args = parser.parse_args()


def event(n):
    order = {"orderId": f"o-{n}", "amount": 100 + n % 900, "currency": ("EUR", "EUR", "USD", "GBP")[n % 4]}
    return {"eventId": f"e-{n}", "eventType": "order.created", "tenantId": f"tenant-{n % 3}", "eventData": order}


if args.events is not None:
    for n in range(args.first, args.first + args.events):
        print(json.dumps(event(n), separators=(",", ":")))
    sys.exit()


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    handled = 0

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if self.path in ("/alerts", "/chat"):
            print(f"{self.path}: {body.get('title') or body.get('text')}", flush=True)
            return self.answer(200, "ok")
        currency = body.get("eventData", {}).get("currency")
        if args.refuse and currency == args.refuse:
            return self.answer(422, f"no exchange rate for {currency}")
        Shop.handled += 1
        if Shop.handled % 1000 == 0:
            print(f"{Shop.handled} handled", flush=True)
        self.answer(204, "")

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


ThreadingHTTPServer.daemon_threads = True
ThreadingHTTPServer.request_queue_size = 128
with ThreadingHTTPServer(("127.0.0.1", args.port), Shop) as server:
    print(f"serving on 127.0.0.1:{args.port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print(f"{Shop.handled} handled")
