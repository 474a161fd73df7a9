"""Makes the store that an older Millstream leaves behind, and the ledger of what is in it.

    python3 make.py MILLSTREAM NATS_SERVER

MILLSTREAM is a binary of the version to upgrade from; nats-py must be importable. Writes store.tar.gz
and ledger.json beside this file. Parked events fall due three minutes after that.
"""

import asyncio
import atexit
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

import nats

HERE = pathlib.Path(__file__).resolve().parent
MILLSTREAM, NATS_SERVER = sys.argv[1:]
ACCEPTED = []
MENDED = set()


class Service(http.server.BaseHTTPRequestHandler):
    """Answers as the note of an event asks."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status = 204
        if self.path != "/alerts":
            note, event_id = event["eventData"]["note"], event["eventId"]
            if event_id not in MENDED:
                status = {"fine": 204, "refused": 422}.get(note, 500)
            if status == 204:
                ACCEPTED.append(event_id)
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def wait(what, ask, timeout=60):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found = ask()
        if found:
            return found
        time.sleep(0.1)
    raise SystemExit(f"still waiting for {what}")


service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
threading.Thread(target=service.serve_forever, daemon=True).start()
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
store = tempfile.mkdtemp()
server = subprocess.Popen(
    [NATS_SERVER, "--addr", "127.0.0.1", "--port", str(port), "--jetstream", "--store_dir", store],
    stderr=subprocess.DEVNULL,
)
atexit.register(server.kill)
url = f"nats://127.0.0.1:{port}"
at = f"http://127.0.0.1:{service.server_port}"
SET = {
    "nats.url": url,
    "stage.orders.handler.http": f"{at}/orders",
    "stage.stock.handler.http": f"{at}/stock",
    "channel.hook.url": f"{at}/alerts",
}
KEYS = [f"{key}={value}" for key, value in SET.items()]


def command(*words, flag="--set"):
    return [MILLSTREAM, *words, *(text for key in KEYS for text in (flag, key))]


def run(*words, flag="--set", status=(0,)):
    ran = subprocess.run(command(*words, flag=flag), cwd=HERE, capture_output=True, text=True)
    print("$ millstream", *words, "->", ran.returncode)
    if ran.returncode not in status:
        raise SystemExit(f"{ran.stdout}\n{ran.stderr}")
    return ran.stdout


def lines(*words):
    # 1 is for something that was found.
    return [json.loads(line) for line in run(*words, status=(0, 1)).splitlines() if line.strip()]


def worker(*words):
    return subprocess.Popen(command("run", *words), cwd=HERE, stderr=subprocess.DEVNULL)


def stop(process):
    process.send_signal(signal.SIGTERM)
    process.wait(40)


def event(event_id, event_type, note, **more):
    data = {"note": note, **more}
    body = {"eventId": event_id, "eventType": event_type, "eventVersion": "1", "eventData": data}
    return f"events.{event_type}", json.dumps(body).encode()


def publish(messages):
    async def go():
        connection = await nats.connect(url)
        for subject, body in messages:
            await connection.jetstream().publish(subject, body)
        await connection.close()

    asyncio.run(go())


def report(code, n):
    body = {"errorCode": code, "serviceName": "till", "message": "it is broken", "userId": f"u-{n}"}
    return "errors.till", json.dumps(body).encode()


def letters():
    return lines("dlq", "export")


def letter_of(event_id):
    found = [one["letter"] for one in letters() if one["letter"].get("eventId") == event_id]
    return found[0]["seq"] if found else None


def incident(code):
    found = [one for one in lines("incidents", "ls", "--json") if one["code"] == code]
    return found[0]["incidentId"] if found else None


wait("the server", lambda: subprocess.run(command("plan"), cwd=HERE, capture_output=True).returncode < 2)
run("apply")
first = worker()
atexit.register(first.kill)


def send(name, count, event_type, note, **more):
    ids = [f"{name}-{n}" for n in range(1, count + 1)]
    publish([event(event_id, event_type, note, **more) for event_id in ids])
    return ids


send("fine", 20, "order", "fine")
send("refused", 4, "order", "refused", amount=5)
send("broken", 3, "order", "broken")
send("invalid", 1, "order", "fine", amount="much")
# So large that its letter keeps its payload apart.
send("apart", 1, "order", "fine", amount="much", text="x" * ((1 << 20) - 400))
publish([("events.order", b'{"eventId": "cut-1", "eventType": "ord')])
publish([("errors.till", b"the till is on fire")])
publish([report("OPEN", n) for n in range(3)] + [report("KNOWN", n) for n in range(2)])
publish([report("OVER", 1)])
wait("the letters", lambda: len(letters()) == 11)
wait("the incidents", lambda: all(incident(code) for code in ("OPEN", "KNOWN", "OVER")))
run("incidents", "ack", incident("KNOWN"), "--by", "ada", "--reason", "mine")
run("incidents", "resolve", incident("OVER"), "--by", "ada")
run("silence", "add", "code=OPEN", "--for", "3650d", "--reason", "known", "--by", "ada")

# A letter that is edited, a redrive that finished, and one that its canary stopped.
run("dlq", "edit", str(letter_of("refused-1")), "--set", "eventData.amount=6", flag="--config-set")
MENDED.add("refused-4")
run("dlq", "redrive", str(letter_of("refused-4")), "--yes")
wait("refused-4", lambda: "refused-4" in ACCEPTED)
run("dlq", "redrive", "--stage", "orders", "--reason", "exhausted", "--canary", "2", "--yes", status=(1,))
wait("the letters", lambda: len(letters()) == 10)

# Parked, waiting for a retry in the consumer, in the retry queue, and unread on an edge.
send("parked", 3, "parked", "later")
send("waiting", 2, "waiting", "later")
wait("failures on record", lambda: any(one.get("code") == "HttpServerError" and one["count"] >= 5
     for one in lines("incidents", "ls", "--json") if one["labels"].get("stage") == "stock"))
stop(first)
second = worker("--stage", "validate")
send("unread", 5, "order", "fine")


async def pending():
    connection = await nats.connect(url)
    info = await connection.jetstream().consumer_info("old-out-validate", "old-orders")
    await connection.close()
    return info.num_pending


wait("unread events", lambda: asyncio.run(pending()) == 5)
stop(second)
run("dlq", "redrive", str(letter_of("refused-3")), "--yes")

ledger = {
    "made_by": run("--version").strip(),
    "letters": [{key: one["letter"].get(key) for key in ("seq", "stage", "reason", "eventId")}
                for one in letters()],
    "edited": letter_of("refused-1"),
    "apart": letter_of("apart-1"),
    "incidents": {one["incidentId"]: {key: one[key] for key in ("code", "event", "count")}
                  for one in lines("incidents", "ls", "--all", "--json")},
    "silences": [one["id"] for one in lines("silence", "ls", "--json")],
    "jobs": {one["id"]: one["state"] for one in lines("dlq", "jobs", "ls", "--json")},
    "done": sorted(set(ACCEPTED)),
    "under_way": ["parked-1", "parked-2", "parked-3", "waiting-1", "waiting-2", "refused-3"]
    + [f"unread-{n}" for n in range(1, 6)],
}
server.send_signal(signal.SIGTERM)
server.wait(20)
with tarfile.open(HERE / "store.tar.gz", "w:gz") as tar:
    tar.add(os.path.join(store, "jetstream"), "jetstream")
(HERE / "ledger.json").write_text(json.dumps(ledger, indent=1) + "\n")
print((HERE / "store.tar.gz").stat().st_size, "bytes")
