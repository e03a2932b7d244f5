"""What do the hybrids of benchmarks/hybrids.py lean on? Figures 4 and S6a of Gong et al., Sci. Adv. 9, eadi3245 (2023).

    MOTIFLAB_DATA=DATA python benchmarks/explain.py                      # all that is known of the networks below
    MOTIFLAB_DATA=DATA python benchmarks/explain.py de-cgcnn-vibrations  # of some

Takes the networks that come with motiflab; one that does not is trained anew as `benchmarks/hybrids.py ship` would. Results:
data/explanations/importance.csv (a row a network, property, method and feature; measured on the test crystals, the forest learns from the
training crystals) and representation_r2.csv (a row a network and descriptor: linear regression on the pooled vector, all crystals of the set,
each held out once in five folds).
"""
from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from hybrids import SETS, EXPLAINED, TOP, VARIANTS, columns_of, graph_settings, trained # noqa: E402

OUT = TOP / "data" / "explanations"


def network(label: str, graphs, crystals):
    "A network that comes with motiflab, or the same trained anew"
    from motiflab.named import load_model, model_names
    from motiflab.targets import match_rows, read_targets, split_by_seed

    if label in model_names(): return load_model(label)
    name, kind, seed = EXPLAINED[label]
    targets, split = match_rows(read_targets(crystals, SETS[name].targets), split_by_seed(len(crystals), seed=seed), graphs.ids)
    return trained(SETS[name], VARIANTS[kind], graphs, targets, split, seed)[0]


def explained(label: str) -> tuple[pd.DataFrame, pd.DataFrame]: # rows of both tables
    "Everything that is asked of one network"
    from motiflab.crystals import CrystalSet
    from motiflab.descriptors import DescriptorSettings, descriptor_table
    from motiflab.explain import METHODS, held_out_r2, importance, pooled_vectors
    from motiflab.graphs import build_graphs

    name, kind, seed = EXPLAINED[label]
    frame = columns_of(SETS[name].source)
    crystals = CrystalSet(frame[frame[list(SETS[name].targets)].notna().any(axis=1)])
    graphs = build_graphs(crystals, graph_settings(VARIANTS[kind]), n_jobs=1, progress=False)
    run, weighed = network(label, graphs, crystals), []
    for target, method, group in product(SETS[name].targets if kind.startswith("de_") else (), METHODS, (False, True)):
        table = importance(run, graphs, frame[target], method, group=group, target=target)
        weighed.append(table.assign(run=label, target=target, method=method, grouped=group))
    told, vectors = descriptor_table(crystals, DescriptorSettings(), 1)[0].reindex(graphs.ids), pooled_vectors(run, graphs)
    known = [dict(run=label, descriptor=c, r2=held_out_r2(vectors, told[c].to_numpy(float)), n_crystals=int(np.isfinite(told[c]).sum())) for c in told if "=" not in c]
    print(run, flush=True)
    return pd.concat(weighed, ignore_index=True) if weighed else pd.DataFrame(), pd.DataFrame(known)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for label in sys.argv[1:] or EXPLAINED:
        for file, rows in zip(("importance.csv", "representation_r2.csv"), explained(label)):
            if not len(rows): continue
            path = OUT / file
            before = pd.read_csv(path).query("run != @label") if path.exists() else rows.iloc[:0]
            first = ["run", "target", "method", "grouped"] if file == "importance.csv" else ["run"]
            both = pd.concat([t for t in (before, rows) if len(t)], ignore_index=True)
            both[[*first, *(c for c in both if c not in first)]].to_csv(path, index=False, float_format="%.5g")


if __name__ == "__main__": main()
