"""How long a sweep takes to look at every agent, where nobody has measured it: 10 and 100 million rows on DynamoDB.

    python3 benches/sweep_at_scale.py

Simulates an hour of sweeps over what bounds them, by the second: segments that read one page after the other, pages that
take their time, partitions and provisioned reads that give so many units a second and refuse the rest, the SDK's three
attempts and the sweep's waits, the end of a sweep's time, the schedule, and the cursors by which the next sweep goes on. Of
DynamoDB it takes the documented quotas; the time of a page is an assumption, so it is given three times. Prints the table
of docs/scale.md, within a minute or two.
"""

import heapq
import math
import random

# Ours: shared/src/store/sweep.rs, shared/src/store/endpoint.rs, functions/sweep.rs, template.yaml.
ROW, PAGE = 399, 2000  # bytes, rows
UNITS = -(-PAGE * ROW // 4096) / 2  # of a page, eventually consistent
SCAN, PERIOD = 235, 60  # seconds: 300 without what is kept for telling and reporting
ATTEMPTS, BACKOFF = 3, 0.05  # seconds, at most, of the first wait; twice that of the next one
WAITS, WAIT = 5, 0.5  # after those; seconds on average

# DynamoDB's: units a second of a partition, which reads and writes share; seconds of unused capacity that are kept; the
# partitions of a table that is new and on demand.
READS, WRITES, BURST, NEW = 3000, 1000, 300, 4


class Bucket:
    def __init__(self, rate, seconds):
        self.rate, self.size = rate, rate * seconds
        self.left, self.at = self.size, 0.0

    def take(self, now, units):
        self.left = min(self.size, self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left <= 0:
            return False
        self.left -= units
        return True


def hour(agents, segments, latency, interval=60, fill=0.7, provisioned=None, seed=1):
    """Seconds of a sweep; mean and longest between two looks at a row; sweeps of which a segment failed, of all."""
    chance = random.Random(seed)
    pages = -(-agents // PAGE)
    partitions = math.ceil(agents / interval / WRITES / fill + (provisioned or 0) / READS)
    partitions = max(partitions, math.ceil(agents * ROW / 10e9), 1 if provisioned else NEW)
    writes = agents / interval / partitions / WRITES
    parts = [Bucket(READS * (1 - min(writes, 0.95)), 1) for _ in range(partitions)]
    table = provisioned and Bucket(provisioned, BURST)
    cursor = [0] * segments  # where each goes on
    length = [pages * (i + 1) // segments - pages * i // segments for i in range(segments)]
    first = [pages * i // segments for i in range(segments)]
    looked = {}  # page: when
    gaps, sweeps, failed, now, took = [], 0, 0, 0.0, []
    while now < 3600:
        began, ends, bad = now, now + SCAN, False
        # A segment that was done begins anew; one that was not goes on.
        queue = [(began, i, 0) for i in range(segments)]
        heapq.heapify(queue)
        last = began
        while queue:
            at, i, attempt = heapq.heappop(queue)
            if at >= ends:
                last = max(last, ends)
                continue
            page = first[i] + cursor[i]
            part = parts[page * partitions // pages]
            if part.take(at, UNITS) and (table is None or table.take(at, UNITS)):
                done = at + latency * chance.lognormvariate(0, 0.3)
                if page in looked:
                    gaps.append(done - looked[page])
                looked[page] = done
                cursor[i] += 1
                last = max(last, done)
                if cursor[i] >= length[i]:
                    cursor[i] = 0
                else:
                    heapq.heappush(queue, (done, i, 0))
            elif attempt % ATTEMPTS + 1 < ATTEMPTS:
                wait = 0.005 + chance.random() * BACKOFF * 2 ** (attempt % ATTEMPTS)
                heapq.heappush(queue, (at + wait, i, attempt + 1))
            elif attempt // ATTEMPTS < WAITS:
                heapq.heappush(queue, (at + WAIT * (0.5 + chance.random()), i, attempt + 1))
            else:
                bad, last = True, max(last, at)
        sweeps, failed = sweeps + 1, failed + bad
        took.append(last - began)
        now = max(began + PERIOD, -(-last // PERIOD) * PERIOD)  # the next tick that finds its slot free
    gaps.sort()
    return {
        "sweep": sum(took) / len(took),
        "mean": sum(gaps) / len(gaps) if gaps else None,
        "longest": gaps[-1] if gaps else None,
        "failed": failed,
        "sweeps": sweeps,
    }


if __name__ == "__main__":
    cases = [(10_000_000, 60, 4, None), (10_000_000, 60, 16, None), (10_000_000, 60, 64, None)]
    cases += [(10_000_000, 600, 16, None), (10_000_000, 600, 64, None), (100_000_000, 60, 16, None)]
    cases += [(100_000, 60, 4, 10), (100_000, 60, 4, 100), (1_000_000, 60, 4, 500), (1_000_000, 60, 4, 1200)]
    print("| agents | a heartbeat every | segments | provisioned reads | a sweep | looked at every | at most | sweeps that failed |")
    print("|---|---|---|---|---|---|---|---|")
    for agents, interval, segments, provisioned in cases:
        runs = [hour(agents, segments, latency, interval, provisioned=provisioned) for latency in (0.025, 0.05, 0.1)]
        said = [" / ".join(f"{run[name] or -1:.0f}" for run in runs) for name in ("sweep", "mean", "longest")]
        said.append(" / ".join(f"{run['failed']} of {run['sweeps']}" for run in runs))
        print(f"| {agents:,} | {interval} s | {segments} | {provisioned or ''} | " + " | ".join(said) + " |", flush=True)
