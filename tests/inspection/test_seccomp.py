"""The numbers of system calls are those of the kernel's headers, also for the architecture that no test runs on."""

import re
from pathlib import Path

import pytest

from pixcrawler_worker.inspection import seccomp

#: By place in a pair of numbers: the headers of x86_64 and aarch64.
HEADERS = (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h"))


@pytest.mark.parametrize("place", [0, 1], ids=["x86_64", "aarch64"])
def test_numbers_are_those_of_the_kernel(place: int) -> None:
    if not HEADERS[place].exists():
        pytest.skip(f"the headers of the kernel are not installed: {HEADERS[place]}")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[place].read_text())
    numbers = {name: int(number) for name, number in reversed(defined)}
    for name, pair in seccomp.ALLOWED.items():
        assert numbers[name] == pair[place], name
    for name, condition in seccomp.CONDITIONS.items():
        assert numbers[name] == condition.numbers[place], name
