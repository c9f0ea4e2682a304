"""Two machines of one core each, on this one: a study whose trials have a process on either. Run by the test beside it.

Prints as JSON how the trials ended, what the complete ones trained and measured last, and the cores that are free when
all is done. No machine has room for two processes of a trial.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from sparsestudy import operations


def main(path: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        outcome = operations.run(path)
        trials = [
            {
                "state": t.state,
                "failure": [t.failure.kind, t.failure.message] if t.failure else [],
                "config": t.config.model_dump_json(),
                "final": t.headlines.get("final/train/loss"),
            }
            for t in outcome.trials
        ]
        deadline = time.monotonic() + 20
        while (free := ray.available_resources().get("CPU")) != 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        sys.stdout.write(json.dumps({"trials": trials, "free": free}))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
