"""Print how many nodes of the cluster at RAY_ADDRESS are up: a batch script waits for them before it starts a run."""

from __future__ import annotations

import sys


def main() -> int:
    """0 if the cluster answers."""
    import ray

    try:
        ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
        print(sum(node["Alive"] for node in ray.nodes()))
    except ConnectionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
