"""The PyPI packages `httpx` and `httpx-sse`: listens at the URL named as the argument, prints every event as a line of
JSON, comes back with its last id after a cut, and stops when it is told 204.
"""

import json
import sys

import httpx
from httpx_sse import EventSource


def tell(kind, number, data):
    print(json.dumps({"type": kind, "id": number, "data": data}), flush=True)


def listen(client, url):
    last = ""
    while True:
        headers = {"accept": "text/event-stream", **({"last-event-id": last} if last else {})}
        with client.stream("GET", url, headers=headers) as response:
            if response.status_code != 200:
                tell("stopped", "", str(response.status_code))
                return
            try:
                for event in EventSource(response).iter_sse():
                    if event.retry is not None:
                        continue  # httpx-sse makes an event of a lone `retry`, which by the standard is none.
                    last = event.id or last
                    if event.event != "heartbeat":
                        tell(event.event, event.id, event.data)
            except httpx.TransportError:
                pass  # Cut.


with httpx.Client(timeout=30, trust_env=False) as client:
    listen(client, sys.argv[1])
