"""A worker with threads: takes what the daemon asks for from a log file, and writes there when it is done."""

import queue
import threading

from bridge import open_log

jobs: queue.Queue[str] = queue.Queue(10)
log = open_log("hestai-message", component="ui")


def work() -> None:
    """Does one job after another."""
    while True:
        job = jobs.get()
        log.append("done", job)


for number in range(3):
    threading.Thread(target=work, daemon=True, name=f"worker {number}").start()
for message in log.follow():
    role, text = message.role, message.text
    if role == "daemon":
        jobs.put(text)
