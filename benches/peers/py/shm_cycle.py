"""CPython's SharedMemory: create, attach, close both, unlink.

usage: shm_cycle.py NEAR_CPU FAR_CPU MILLISECONDS WHERE
WHERE: together | apart: on which CPU the resource tracker runs, which every cycle writes to: on the
same one, so that all the work of a cycle is seen, or on the far one, where it costs the cycle nothing
but the wake-up. Prints the median nanoseconds per cycle of 4096 bytes, in chunks of 50.
"""
import fcntl
import os
import statistics
import struct
import sys
import termios
import time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

near, far, milliseconds = (int(argument) for argument in sys.argv[1:4])
CYCLES = 50


def cycle():
    made = SharedMemory(create=True, size=4096)
    found = SharedMemory(name=made.name)
    found.close()
    made.close()
    made.unlink()


def unread():
    """Bytes in the tracker's pipe."""
    pipe = resource_tracker._resource_tracker._fd
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


# The tracker inherits the CPU of who starts it. It takes longer to start than a measurement lasts.
os.sched_setaffinity(0, {far if sys.argv[4] == "apart" else near})
cycle()
os.sched_setaffinity(0, {near})
while unread():
    time.sleep(0.01)
samples = []
before = time.perf_counter_ns()
end = before + milliseconds * 1_000_000
while before < end or len(samples) < 10:
    for _ in range(CYCLES):
        cycle()
    after = time.perf_counter_ns()
    samples.append((after - before) / CYCLES)
    before = after
print(statistics.median(samples[len(samples) // 10 :]))
