"""The published ``radgraph`` package behind a pipe: runs in an environment of its own, which this project's is not.

What lives here: one program, ``PYTHON _radgraph_package.py FOLDER VARIANT [CORE]``, where FOLDER/VARIANT is an archive.
It reads a JSON object a line and answers each with one. What does not: anything of this project.

``{"annotate": [text, ...]}``       → ``{"annotations": [...]}``
``{"refs": [...], "hyps": [...]}``  → ``{"simple": [...], "partial": [...], "complete": [...]}``

Every answer but the first, which gives versions, also has ``seconds`` and ``cpu``, what it took.
"""

import contextlib
import importlib.metadata
import json
import os
import sys
import time

del sys.path[0]  # this folder, which holds a radgraph.py of its own
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")


def main():
    folder, variant, *core = sys.argv[1:]
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # the package prints
        import torch
        from radgraph import F1RadGraph

        torch.set_num_threads(1)
        scorer = F1RadGraph(reward_level="all", model_type=variant, model_cache_dir=folder)
        if core:
            for thread in os.listdir("/proc/self/task"):
                os.sched_setaffinity(int(thread), {int(core[0])})
        packages = ("radgraph", "transformers", "torch")
        reply(answers, {"versions": {name: importlib.metadata.version(name) for name in packages}})
        with torch.no_grad():
            for line in sys.stdin:
                reply(answers, answer(scorer, json.loads(line)))


def answer(scorer, task):
    wall, cpu = time.perf_counter(), time.process_time()
    if "annotate" in task:
        found = scorer.radgraph(task["annotate"])
        result = {"annotations": [found[str(index)] for index in range(len(task["annotate"]))]}
    else:
        _, (simple, partial, complete), _, _ = scorer(refs=task["refs"], hyps=task["hyps"])
        result = {"simple": simple, "partial": partial, "complete": complete}
    return {**result, "seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def reply(answers, content):
    print(json.dumps(content), file=answers, flush=True)


if __name__ == "__main__":
    main()
