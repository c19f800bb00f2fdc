"""A clock that jumps: a small library, put before a process's own, that moves the date and leaves durations alone."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

DAY = 86_400
SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long shift(void) {
  static volatile long *seconds;
  if (!seconds) {
    int file = open(getenv("SHIFTED_BY"), O_RDONLY);
    void *page = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page == MAP_FAILED) abort();
    seconds = page;
  }
  return *seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int code = syscall(SYS_clock_gettime, clock, now);
  if (!code && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
  return code;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *now) {
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  if (now) *now = exact.tv_sec;
  return exact.tv_sec;
}
"""


class Clock:
    """The date of all processes that have `environment`. (What libfaketime does; that one breaks sleeping as well.)"""

    def __init__(self, folder: Path) -> None:
        """Skips the test where there is no C compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler (Debian's package gcc)")
        source, library, self.file = folder / "clock.c", folder / "clock.so", folder / "shift"
        source.write_text(SOURCE)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
        self.jump(0)
        self.environment = {"LD_PRELOAD": str(library), "SHIFTED_BY": str(self.file)}

    def jump(self, days: int) -> None:
        """From now on the date is so many days off."""
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.write(struct.pack("@l", days * DAY))
