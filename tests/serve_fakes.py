"""A reward service over the fakes, as a process of its own: `python -m tests.serve_fakes PORT`."""

import sys

from impasto.rewards import LocalReward
from impasto.serve.limits import Limits
from impasto.serve.run import run
from tests.fakes import FakeRewards

if __name__ == "__main__":
    run(LocalReward(FakeRewards()), host="127.0.0.1", port=int(sys.argv[1]), token="secret",
        limits=Limits())  # fmt: skip
