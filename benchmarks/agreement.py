"""Where motiflab's answers differ from those of ChemEnv, CrystalNN and matminer, and why: one line for each difference."""
from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict

import numpy as np
import oracle
from pymatgen.analysis.local_env import CrystalNN

from motiflab.motifs.crystal import MotifSettings, crystal_motifs
from motiflab.motifs.environment import (ANGLE_CUTOFF, DISTANCE_CUTOFF, MAXIMUM_DISTANCE_FACTOR, MINIMUM_ANGLE_FACTOR, REACH, crystalnn_weights,
                                         element_tables)
from motiflab.motifs.measure import closest_shape
from motiflab.motifs.order_parameters import order_parameter_names, site_order_parameters
from motiflab.motifs.rows import CrystalMotifs, MotifError, PlainCrystal, plain_crystal
from motiflab.neighbors import voronoi_cells

EVERY_SITE = MotifSettings(centers="all", ligands="crystalnn", min_distance=0)
SAME_MEASURE, SAME_PARAMETER = 1e-4, 1e-6
CUBE, EQUAL = order_parameter_names().index("body-centered cubic CN_8"), "the weights are equal"


class Comparison:
    "Counts, largest differences and a list of what differs"
    def __init__(self):
        self.counts, self.largest, self.differences = Counter(), defaultdict(float), []

    def measure(self, what: str, differences) -> None:
        "Remember the largest of some differences"
        values = np.asarray(differences)[np.isfinite(differences)]
        if len(values.ravel()): self.largest[what] = max(self.largest[what], float(values.max()))

    def note(self, crystal: dict, site: int, what: str, ours, theirs, why: str) -> None:
        element = crystal["species"][site] if site >= 0 else ""
        self.differences.append(dict(crystal=crystal["id"], site=site, element=element, what=what, ours=str(ours), theirs=str(theirs), why=why))

    def add(self, crystal: dict, structure, theirs: dict) -> None:
        "Compare all that was found for one crystal"
        self.counts["crystals"] += 1
        plain = plain_crystal(structure)
        try: ours = crystal_motifs(plain)
        except MotifError as error:
            self.counts["crystals without motifs here"] += 1
            self.note(crystal, -1, "crystal", error, f"{len(theirs['order_parameters'])} cations", "left out")
            return
        alone, neighbors = crystal_motifs(plain, symmetry=False), self.add_neighbors(crystal, structure, plain, theirs["neighbors"])
        self.add_copies(ours, alone)
        self.add_order_parameters(crystal, structure, plain, ours, alone, theirs["order_parameters"], neighbors)
        self.counts["cations here"] += len(ours)
        if isinstance(theirs["environments"], str):
            self.counts["cations of crystals at which ChemEnv fails"] += len(ours)
            self.note(crystal, -1, "ChemEnv", "motifs", theirs["environments"], "ChemEnv fails")
        else: self.add_environments(crystal, plain, ours, theirs["environments"])

    def add_copies(self, ours: CrystalMotifs, alone: CrystalMotifs) -> None:
        "What the copying of equivalent sites changes"
        self.counts["cations whose geometry a copy changes"] += int((ours.symbol != alone.symbol).sum())
        same = ours.symbol == alone.symbol
        self.measure("measure, copied or computed", abs(ours.csm[same] - alone.csm[same]))
        self.measure("order parameter, copied or computed", abs(ours.order_parameters - alone.order_parameters))

    def add_environments(self, crystal: dict, plain: PlainCrystal, ours: CrystalMotifs, theirs: dict) -> None:
        "Ligands, geometry and measure of every cation"
        starts, faces = np.r_[0, np.cumsum(ours.cn)], list(zip(ours.ligand_site.tolist(), map(tuple, ours.ligand_image.tolist())))
        missing = set(theirs) - set(ours.site.tolist())
        self.counts["cations without a row here"] += len(missing)
        for k, site in enumerate(ours.site.tolist()):
            other, mine, symbol = theirs[site], set(faces[starts[k]:starts[k + 1]]), str(ours.symbol[k])
            same_ligands, same_geometry = mine == set(other.ligands), symbol == other.symbol
            self.counts["cations"] += 1
            self.counts["cations with the same ligands"] += same_ligands
            self.counts["cations with the same geometry"] += same_geometry
            if not same_ligands: self.note(crystal, site, "ligands", f"{symbol} {ours.csm[k]:.4f}", f"{other.symbol} {other.csm:.4f}",
                                           why_ligands(crystal, plain, site, mine, other))
            elif not same_geometry: self.note(crystal, site, "geometry", f"{symbol} {ours.csm[k]:.6f}", f"{other.symbol} {other.csm:.6f}",
                                              why_measure(plain, site, symbol, other))
            elif not math.isnan(other.csm):
                difference = float(ours.csm[k]) - other.csm
                self.counts["measures compared"] += 1
                self.counts["measures that differ"] += abs(difference) > SAME_MEASURE
                self.measure("measure above ChemEnv's", difference)
                self.measure("measure below ChemEnv's", -difference)
                if abs(difference) > SAME_MEASURE: self.note(crystal, site, "measure", f"{symbol} {ours.csm[k]:.6f}", f"{other.csm:.6f}",
                                                             why_measure(plain, site, symbol, other))

    def add_neighbors(self, crystal: dict, structure, plain: PlainCrystal, theirs: list) -> set[int]:
        "CrystalNN's neighbours of every site; the sites where they are equal are returned"
        ours, equal = crystal_motifs(plain, EVERY_SITE), set()
        starts, faces = np.r_[0, np.cumsum(ours.cn)], list(zip(ours.ligand_site.tolist(), map(tuple, ours.ligand_image.tolist())))
        for k, site in enumerate(ours.site.tolist()):
            self.counts["sites"] += 1
            if isinstance(theirs[site], str):
                self.counts["sites where VoronoiNN fails"] += 1
                self.note(crystal, site, "VoronoiNN", f"{ours.cn[k]} neighbours", theirs[site], "VoronoiNN fails")
                continue
            mine = set(faces[starts[k]:starts[k + 1]])
            if mine == set(theirs[site]): equal.add(site)
            else: self.note(crystal, site, "CrystalNN", f"{len(mine)} neighbours", f"{len(theirs[site])} neighbours",
                            why_neighbors(structure, plain, site))
        self.counts["sites with the same CrystalNN neighbours"] += len(equal)
        return equal

    def add_order_parameters(self, crystal: dict, structure, plain: PlainCrystal, ours: CrystalMotifs, alone: CrystalMotifs, theirs: dict,
                             equal: set[int]) -> None:
        "Order parameters of the cations whose neighbours are equal"
        for k, site in enumerate(ours.site.tolist()):
            if site not in equal or site not in theirs: continue
            difference = np.abs(ours.order_parameters[k] - theirs[site])
            own = np.abs(alone.order_parameters[k] - theirs[site])
            self.measure("order parameter, without copies", own)
            most = float(np.nanmax(difference)) if not np.isnan(difference).all() else math.inf
            self.counts["order parameters: sites compared"] += 1
            self.counts["order parameters: sites that differ"] += most > SAME_PARAMETER
            self.measure("order parameter", difference)
            self.measure("order parameter, without the body-centred cube", np.delete(difference, CUBE))
            if most > SAME_PARAMETER:
                why = why_neighbors(structure, plain, site)
                reordered = np.nanmax(np.abs(in_their_order(structure, site) - theirs[site]))
                if max(reordered, np.nanmax(np.delete(difference, CUBE))) <= SAME_PARAMETER:
                    why = "equal neighbours stand in another order, on which matminer's body-centred cube depends"
                elif np.nanmax(own) <= SAME_PARAMETER: why = "a copy by symmetry, with a weight rounded the other way; " + why
                self.note(crystal, site, "order parameters", f"{most:.2e}", order_parameter_names()[int(np.nanargmax(difference))], why)


# reasons

def why_ligands(crystal: dict, plain: PlainCrystal, site: int, mine: set, other: oracle.Site) -> str:
    "What is known of the faces that only one of the two takes for ligands, and which rule they are near to"
    unlike = mine ^ set(other.ligands)
    if all(crystal["valences"][atom] == 0 for atom, _ in unlike): return "ChemEnv lets neutral atoms be ligands, here only anions are"
    cells = voronoi_cells(plain.matrix, plain.frac, np.array([site]), REACH)[0]
    here = {(int(a), tuple(i)): (d / cells.distance.min(), w / cells.solid_angle.max())
            for a, i, d, w in zip(cells.atom, cells.image.tolist(), cells.distance, cells.solid_angle)}
    there = {face[:2]: face[2:] for face in other.faces}
    unlike = [f for f in {*here, *there} if max(here.get(f, (9, 0))[1], there.get(f, (9, 0))[1]) > MINIMUM_ANGLE_FACTOR / 2
              and (f not in here or f not in there or max(abs(here[f][0] - there[f][0]), abs(here[f][1] - there[f][1])) > 1e-4)]
    seen = there | here
    lines = [f"{'only here' if f in mine else 'only there'} {f[0]}{list(f[1])}: distance {seen[f][0]:.6f} (cut-offs {DISTANCE_CUTOFF} and"
             f" {MAXIMUM_DISTANCE_FACTOR}), angle {seen[f][1]:.6f} (cut-offs {ANGLE_CUTOFF} and {MINIMUM_ANGLE_FACTOR})"
             for f in sorted(mine ^ set(other.ligands))]
    return ("the Voronoi cells differ; " if unlike else "the cells are equal; ") + "; ".join(lines[:3])


def why_measure(plain: PlainCrystal, site: int, symbol: str, other: oracle.Site) -> str:
    "pymatgen's own measure of both assignments of ligands to vertices"
    ligands = np.array([plain.frac[a] + i for a, i in other.ligands]) - plain.frac[site]
    vectors = ligands @ plain.matrix
    found = closest_shape(vectors)
    ours = oracle.measure(vectors, found.symbol, np.argsort(found.vertices))
    what = f"pymatgen's measure of our assignment {found.symbol} {ours:.6f}, of ChemEnv's {other.symbol} {other.csm:.6f}"
    if abs(found.csm - ours) > 1e-6: return f"OURS IS WRONG: we say {found.csm:.6f}; {what}"
    if found.symbol != symbol: return f"a copy by symmetry; {what}"
    if ours < other.csm - 1e-6: return f"ChemEnv's search missed the optimum; {what}"
    return ("a tie; " if ours < other.csm + 1e-6 else "OURS IS WORSE; ") + what


def weighted(structure, site: int) -> list[dict]:
    "Neighbours of a site with CrystalNN's weights, in pymatgen's order"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements without oxidation state
        return CrystalNN().get_nn_data(structure, site).all_nninfo


def in_their_order(structure, site: int) -> np.ndarray:
    "Our order parameters of neighbours in pymatgen's order"
    found = weighted(structure, site)
    return site_order_parameters(np.array([n["site"].coords for n in found]) - structure[site].coords, np.array([n["weight"] for n in found]))


def why_neighbors(structure, plain: PlainCrystal, site: int) -> str:
    "CrystalNN's weights, ours and pymatgen's, where they differ"
    near = voronoi_cells(plain.matrix, plain.frac, np.array([site]), REACH)[1]
    z = plain.numbers
    _, face, weight = crystalnn_weights(near.starts, z[[site]], z[near.atom], near.distance, near.solid_angle, near.area, *element_tables())
    ours = {(int(near.atom[f]), tuple(near.image[f].tolist())): float(w) for f, w in zip(face, weight)}
    theirs = {(n["site_index"], tuple(int(v) for v in n["image"])): n["weight"] for n in weighted(structure, site)}
    unlike = [f"{f[0]}{list(f[1])} {ours.get(f, 0):.3f} against {theirs.get(f, 0):.3f}" for f in sorted({*ours, *theirs})
              if abs(ours.get(f, 0) - theirs.get(f, 0)) > 1e-9]
    if not unlike: return EQUAL
    most = max(abs(ours.get(f, 0) - theirs.get(f, 0)) for f in {*ours, *theirs})
    return ("a weight is rounded the other way: " if most < 0.0011 else "WEIGHTS DIFFER: ") + ", ".join(unlike[:4])
