"""A worker with threads: takes what the daemon asks for from a log file, and writes there when it is done."""

import queue
import threading
import time
from datetime import UTC, datetime

jobs: queue.Queue[str] = queue.Queue(10)


def work() -> None:
    """Does one job after another."""
    while True:
        job = jobs.get()
        with open("messages.log", "a") as file:
            file.write(f"ui|{datetime.now(UTC).isoformat()}|done|{job}\n")


for number in range(3):
    threading.Thread(target=work, daemon=True, name=f"worker {number}").start()
lines = open("messages.log")
while True:
    if not (line := lines.readline()):
        time.sleep(0.05)
        continue
    role, _, _, text = line.rstrip("\n").split("|", 3)
    if role == "daemon":
        jobs.put(text)
