"""CPython's SharedMemory: create, attach, close both, unlink.

usage: shm_cycle.py NEAR_CPU FAR_CPU MILLISECONDS
Prints the median nanoseconds per cycle of 4096 bytes. The resource tracker runs, as it does for
everybody.
"""
import os
import statistics
import sys
import time
from multiprocessing.shared_memory import SharedMemory

near, milliseconds = int(sys.argv[1]), int(sys.argv[3])
os.sched_setaffinity(0, {near})


def cycle():
    made = SharedMemory(create=True, size=4096)
    found = SharedMemory(name=made.name)
    found.close()
    made.close()
    made.unlink()


cycle()  # starts the tracker
samples = []
before = time.perf_counter_ns()
end = before + milliseconds * 1_000_000
while before < end or len(samples) < 10:
    cycle()
    after = time.perf_counter_ns()
    samples.append(after - before)
    before = after
print(statistics.median(samples[len(samples) // 10 :]))
