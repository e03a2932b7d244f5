"""The atlas on the home page: the motifs of the embedded oxides, as `Atlas.to_html` writes them."""
import sys
from pathlib import Path

from motiflab.crystals import read_crystals
from motiflab.explorer import Atlas
from motiflab.motif2vec import Motif2Vec
from motiflab.motifs import extract_motifs

LARGEST = 24 # atoms in a cell


def write(path: Path) -> Path:
    "Motifs of the oxides of at most three elements among the crystals that come with the installation"
    crystals = read_crystals("matbench_dielectric", progress=False).filter(containing="O", max_elements=3, max_sites=LARGEST)
    table = extract_motifs(crystals, n_jobs=1, progress=False)
    return Atlas(table, Motif2Vec.shipped(), crystals, title="Motifs of oxides").to_html(path, max_examples=1)


if __name__ == "__main__": write(Path(sys.argv[1]))
