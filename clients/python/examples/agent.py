"""An agent with three tasks. ROLLCALL_URL and ROLLCALL_KEY say where Rollcall is, and which agent this is."""

import logging
import time

from rollcall_heartbeat import Heartbeat

logging.basicConfig(level=logging.INFO)
with Heartbeat() as heartbeat, heartbeat.working():
    for task in ["one", "two", "three"]:
        heartbeat.check()  # waits while an operator wants a pause
        time.sleep(1)  # the agent's work
        heartbeat.progress()
        heartbeat.usage(tokens=1200, cost_usd=0.004)
        print("done:", task)
