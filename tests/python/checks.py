"""What the tests in Python say: a line for each check, and the end with status 1 at the first that fails."""

import sys

from scratch_channel import Refused


def check(what, holds, found=None):
    if not holds:
        print(f"FAILED {what}" + ("" if found is None else f": found {found!r}"))
        sys.exit(1)
    print(f"ok {what}", flush=True)


def refused(what, reason, act):
    """`act` must be refused for this reason."""
    try:
        result = act()
    except Refused as refusal:
        check(f"{what}: {reason}", refusal.reason == reason, str(refusal))
        return
    check(f"{what}: {reason}", False, result)
