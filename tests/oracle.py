"""The published route: ChemEnv, CrystalNN and matminer from one end to the other, for tests and benchmarks to compare with.

Slow (75 ms of CPU a site), and nothing of it is used by the package."""
from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pymatgen.core import Lattice, Structure

DISTANCE_CUTOFF, ANGLE_CUTOFF, MAXIMUM_DISTANCE_FACTOR = 1.4, 0.3, 1.41
ANIONS_AROUND_CATIONS = 1  # ChemEnv's additional condition: neighbours of opposite charge only
MEASURE = "csm_wcs_ctwcc"  # with the centre, from the centroid of centre and ligands: ChemEnv's default


@dataclass(frozen=True)
class Site:
    "What ChemEnv says of a site"
    symbol: str  # `O:6`; `UNKNOWN:14` where no geometry has so many ligands
    csm: float  # NaN where unknown
    ligands: list  # of (atom, image)
    permutation: tuple = ()  # ligand of each vertex of the geometry
    faces: tuple = ()  # (atom, image, normalised distance, normalised angle) of each face of the Voronoi cell


def as_site(saved):
    "A `Site` again from what was saved as JSON"
    named = lambda pairs: tuple((a, tuple(i), *rest) for a, i, *rest in pairs)
    return Site(saved["symbol"], saved["csm"], list(named(saved["ligands"])), tuple(saved["permutation"]), named(saved["faces"]))


@lru_cache(maxsize=1)
def finder():
    "ChemEnv's geometry finder; its ideal polyhedra take half a second to load"
    from pymatgen.analysis.chemenv.coordination_environments.coordination_geometry_finder import LocalGeometryFinder

    return LocalGeometryFinder()


def image(offset): return tuple(int(v) for v in np.rint(offset))


def chosen_set(found, i):
    "The set of neighbours that the two cut-offs choose, whether or not it has a geometry"
    shells, cones = found.voronoi.neighbors_normalized_distances[i], found.voronoi.neighbors_normalized_angles[i]
    d = max(k for k, shell in enumerate(shells) if shell["min"] <= DISTANCE_CUTOFF)
    a = max(k for k, cone in enumerate(cones) if cone["max"] >= ANGLE_CUTOFF)
    return next(s for sets in found.neighbors_sets[i].values() for s in sets if any((o["idp"], o["iap"]) == (d, a) for o in s.sources))


def chemenv(structure, valences):
    "site -> `Site` of every cation, by ChemEnv with the simplest strategy; ions as `valences` has them. Raises what ChemEnv raises"
    from pymatgen.analysis.chemenv.coordination_environments.chemenv_strategies import SimplestChemenvStrategy

    finder().setup_structure(structure)
    centres = [i for i, v in enumerate(valences) if v > 0]
    found = finder().compute_structure_environments(valences=list(valences), only_indices=centres, maximum_distance_factor=MAXIMUM_DISTANCE_FACTOR,
                                                    additional_conditions=[ANIONS_AROUND_CATIONS])
    strategy = SimplestChemenvStrategy(found, distance_cutoff=DISTANCE_CUTOFF, angle_cutoff=ANGLE_CUTOFF, additional_condition=ANIONS_AROUND_CATIONS)
    return {i: site(found, strategy, i) for i in centres}


def site(found, strategy, i):
    faces = [(int(n["index"]), image(n["site"].frac_coords - found.structure[n["index"]].frac_coords), float(n["normalized_distance"]),
              float(n["normalized_angle"]))
             for n in found.voronoi.voronoi_list2[i]]
    members = chosen_set(found, i)
    ligands = [faces[k][:2] for k in members.site_voronoi_indices]
    answer = strategy.get_site_coordination_environment(found.structure[i], isite=i, return_map=True)
    if answer is None or answer[0] is None: return Site(f"UNKNOWN:{len(ligands)}", math.nan, ligands, faces=tuple(faces))
    symbol, geometry = answer[0]
    return Site(symbol, float(geometry["other_symmetry_measures"][MEASURE]), ligands, tuple(int(v) for v in geometry["permutation"]), tuple(faces))


def chemenv_measure(vectors, symbol):
    "Measure and ligand of each vertex that ChemEnv's search finds for ligands at `vectors` and one geometry of as many vertices"
    from pymatgen.analysis.chemenv.coordination_environments.coordination_geometry_finder import AbstractGeometry

    geometry, search = finder().allcg[symbol], finder()
    search.setup_structure(Structure(Lattice.cubic(100), ["Na"], [[0, 0, 0]]))
    search.setup_local_geometry(0, coords=np.asarray(vectors, float))
    search.perfect_geometry = AbstractGeometry.from_cg(geometry)
    found, permutations, *_ = search.coordination_geometry_symmetry_measures(geometry, points_perfect=search.perfect_geometry.points_wcs_ctwcc())
    best = int(np.argmin([f["symmetry_measure"] for f in found]))
    return float(found[best]["symmetry_measure"]), tuple(int(v) for v in permutations[best])


def measure(vectors, symbol, permutation):
    "pymatgen's own measure of ligands at `vectors` where ligand `permutation[k]` stands on vertex k"
    from pymatgen.analysis.chemenv.coordination_environments.coordination_geometry_finder import AbstractGeometry, symmetry_measure

    perfect = AbstractGeometry.from_cg(finder().allcg[symbol])
    real = AbstractGeometry(central_site=np.zeros(3), bare_coords=np.asarray(vectors, float))
    if len(vectors) == 1: return 0.0
    return float(symmetry_measure(real.points_wcs_ctwcc(permutation=list(permutation)), perfect.points_wcs_ctwcc())["symmetry_measure"])


def plain(structure):
    "Without oxidation states, for which CrystalNN would take other radii"
    bare = structure.copy()
    bare.remove_oxidation_states()
    return bare


def crystalnn(structure, sites=None):
    "Of each site the neighbours (atom, image) that CrystalNN finds; the reason where VoronoiNN finds no cell"
    from pymatgen.analysis.local_env import CrystalNN

    near, answers = CrystalNN(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements without oxidation state, where it takes atomic radii
        for i in range(len(structure)) if sites is None else sites:
            try: answers.append([(int(n["site_index"]), tuple(int(v) for v in n["image"])) for n in near.get_nn_info(structure, i)])
            except (ValueError, RuntimeError) as error: answers.append(str(error) or type(error).__name__)
    return answers


@lru_cache(maxsize=1)
def fingerprint():
    from matminer.featurizers.site import CrystalNNFingerprint

    return CrystalNNFingerprint.from_preset("ops")


def order_parameters(structure, sites):
    "(m, 61) matminer's order parameters of sites; NaN where VoronoiNN finds no cell"
    values = np.full((len(sites), 61), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row, i in zip(values, sites):
            try: row[:] = fingerprint().featurize(structure, int(i))
            except (ValueError, RuntimeError): continue
    return values
