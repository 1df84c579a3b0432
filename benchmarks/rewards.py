"""Pairs a second of every scorer alone and composed, with cold and warm caches, and beside peer packages.

    python benchmarks/rewards.py [--quick] [--peer-python PYTHON] [--reports NLMCXR_reports.tgz]

What lives here: the script. What does not: what it measures (_reward_speed.py).
"""

from pathlib import Path

if __name__ == "__main__":
    from _reward_speed import main

    main()
else:
    # Scripts of this folder find this file where they mean the package of the same name: it is that package then.
    __path__ = [str(Path(__file__).resolve().parents[1] / "rewards")]
