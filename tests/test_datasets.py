"Datasets by name: embedded, local, from matminer's catalogue, from the Materials Project"
import gzip
import hashlib
import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import pytest
from pymatgen.core import Lattice, Structure

import motiflab.datasets as datasets
from motiflab.crystals import read_crystals
from motiflab.datasets import is_dataset, list_datasets, load_dataset, query_materials_project
from motiflab.errors import UserError

MGO = Structure(Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
MATBENCH = gzip.compress(json.dumps(dict(index=[0, 1], columns=["structure", "n"], data=[[MGO.as_dict(), 1.7], [MGO.as_dict(), 1.8]])).encode())


@pytest.fixture
def serve():
    "serve(answer) starts a server that calls answer(path, query) for the bytes of each answer"
    running = []
    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                url = urlparse(self.path)
                body = answer(url.path, parse_qs(url.query))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            def log_message(self, *args): pass
        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        running.append(http)
        return f"http://127.0.0.1:{http.server_port}/"
    yield start
    for http in running:
        http.shutdown()
        http.server_close()


@pytest.fixture
def own_folders(tmp_path, monkeypatch):
    "No data of this machine and an empty cache"
    for name in ("MOTIFLAB_CACHE", "MATMINER_DATA"): monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("MOTIFLAB_DATA", "")
    return tmp_path


# ---------------------------------------------------------------- embedded
def test_embedded_set_is_whole():
    crystals = read_crystals("matbench_dielectric", progress=False)
    assert list(crystals.frame.index) == list(range(4764)) and crystals.frame.index.dtype == int and not len(crystals.skipped)
    assert crystals.frame.n.between(1, 63).all() and len(crystals.containing("O")) == 2259 and not len(crystals.flagged)
    assert crystals[0].formula == "K4 Al4 S8" or crystals[0].composition["S"] > 0


def test_embedded_set_is_downloaded_where_it_is_missing(own_folders, serve, monkeypatch):
    url = serve(lambda path, query: MATBENCH)
    monkeypatch.setattr(datasets, "embedded_path", lambda: None)
    about = dict(datasets._catalogue()["matbench_dielectric"], url=url, hash=hashlib.sha256(MATBENCH).hexdigest())
    monkeypatch.setattr(datasets, "_catalogue", lambda: {"matbench_dielectric": about})
    crystals = load_dataset("matbench_dielectric", progress=False)
    assert crystals.frame.n.tolist() == [1.7, 1.8] and crystals[1] == MGO
    assert (own_folders / "MOTIFLAB_CACHE" / "datasets" / "matbench_dielectric.json.gz").read_bytes() == MATBENCH


# ---------------------------------------------------------------- matminer
def test_matminer_copy_is_used_only_when_whole(own_folders, serve, monkeypatch):
    asked = []
    url = serve(lambda path, query: asked.append(path) or MATBENCH)
    about = dict(datasets._catalogue()["matbench_jdft2d"], url=url, hash=hashlib.sha256(MATBENCH).hexdigest())
    monkeypatch.setattr(datasets, "_catalogue", lambda: {"matbench_jdft2d": about})
    home = own_folders / "MATMINER_DATA" / "matbench_jdft2d.json.gz"
    home.parent.mkdir()
    home.write_bytes(MATBENCH)
    assert len(read_crystals("matbench_jdft2d", progress=False)) == 2 and not asked
    home.write_bytes(MATBENCH[:-9])
    assert len(read_crystals("matbench_jdft2d", progress=False)) == 2 and len(asked) == 1
    assert len(read_crystals("matbench_jdft2d", progress=False)) == 2 and len(asked) == 1 # from the cache


def test_no_network_is_one_sentence(own_folders, monkeypatch):
    monkeypatch.setattr(datasets, "download", partial(datasets.download, retries=0, timeout=(0.3, 0.3)))
    about = dict(datasets._catalogue()["matbench_jdft2d"], url="https://motiflab.invalid/x.json.gz")
    monkeypatch.setattr(datasets, "_catalogue", lambda: {"matbench_jdft2d": about})
    with pytest.raises(UserError, match="check the network"): load_dataset("matbench_jdft2d")


def test_catalogue():
    table = list_datasets()
    assert {"matbench_dielectric", "matbench_mp_gap", "jarvis_dft_3d", "materials_project"} <= set(table.index) and table.index.is_unique
    assert table.loc["matbench_mp_gap", "crystals"] == 106113
    assert is_dataset("matbench_steels") and not is_dataset("no such thing")
    with pytest.raises(UserError, match="without crystal structures"): load_dataset("matbench_steels")
    with pytest.raises(UserError, match="did you mean 'matbench_dielectric'"): read_crystals("Matbench-Dielectric")
    with pytest.raises(UserError, match="takes no option chemsys"): load_dataset("matbench_dielectric", chemsys="Mg-O")
    with pytest.raises(UserError, match="only for the dataset materials_project"): read_crystals("matbench_dielectric", chemsys="Mg-O")
    with pytest.raises(UserError, match="min_distance"): read_crystals("matbench_dielectric", min_distanse=0.3)


# ---------------------------------------------------------------- MOTIFLAB_DATA
def test_folders_of_the_user(tmp_path, monkeypatch):
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b, b / "salts"): folder.mkdir()
    line = '{"id": "%s", "lattice": [[3, 0, 0], [0, 3, 0], [0, 0, 3]], "species": ["Po"], "frac": [[0, 0, 0]]}'
    (a / "mine.jsonl.gz").write_bytes(gzip.compress((line % "first").encode()))
    (b / "mine.jsonl").write_text(line % "second")
    (b / "salts" / "x.jsonl").write_text(line % "third")
    monkeypatch.setenv("MOTIFLAB_DATA", f"{a}:{tmp_path / 'missing'}:{b}")
    assert "first" in load_dataset("mine", progress=False) and "first" in load_dataset("mine.jsonl.gz", progress=False)
    assert "second" in load_dataset("mine.jsonl", progress=False) and "third" in load_dataset("salts", progress=False)
    assert {"mine", "salts"} <= set(list_datasets().index)
    with pytest.raises(UserError, match="did you mean 'mine'"): read_crystals("mien")
    both = read_crystals(["mine", b / "mine.jsonl"], progress=False)
    assert list(both.frame.index) == ["first", "second"]


# ---------------------------------------------------------------- Materials Project
def summary(n_documents, asked):
    "What the Materials Project's server answers about `n_documents` materials"
    def answer(path, query):
        if "summary" not in path: return json.dumps(dict(version="2026.1", db_version="2026.1", access_controlled_batch_ids=[])).encode()
        asked.append(query)
        skip, limit = int(query.get("_skip", ["0"])[0]), int(query.get("_limit", ["1000"])[0])
        mixed = dict(MGO.as_dict(), sites=[dict(s, species=[dict(element="Mg", occu=0.5)]) for s in MGO.as_dict()["sites"]])
        documents = [dict(material_id=f"mp-{i}", structure=mixed if i == 3 else MGO.as_dict(), band_gap=4.5, formation_energy_per_atom=-3.0, formula_pretty="MgO") for i in range(n_documents)]
        return json.dumps(dict(data=documents[skip:skip + limit], meta=dict(total_doc=n_documents))).encode()
    return answer


@pytest.fixture
def project(serve, monkeypatch):
    "mp-api's own client, talking to a server on this machine"
    import mp_api.client
    asked = []
    monkeypatch.setenv("MP_API_KEY", "k" * 32)
    monkeypatch.setattr(mp_api.client, "MPRester", partial(mp_api.client.MPRester, endpoint=serve(summary(1500, asked))))
    return asked


def test_query_of_binary_and_ternary_oxides(project):
    crystals = read_crystals("materials_project", progress=False)
    assert len(crystals) == 1499 and crystals.skipped.id.tolist() == ["mp-3"] and "partly occupied" in crystals.skipped.reason[0]
    assert crystals["mp-0"] == MGO and crystals.frame.loc["mp-0", ["formula", "band_gap_eV", "formation_energy_eV_per_atom"]].tolist() == ["MgO", 4.5, -3.0]
    assert len(project) == 2 and project[0]["elements"] == ["O"] and (project[0]["nelements_min"], project[0]["nelements_max"]) == (["2"], ["3"])


def test_query_by_system_and_elements(project):
    assert len(query_materials_project("Mg-O", limit=7, progress=False)) == 6 and project[-1]["chemsys"] == ["Mg-O"] and project[-1]["_limit"] == ["7"]
    query_materials_project(elements=["Zn"], filter="binary and ternary oxides", limit=2, progress=False)
    assert set(project[-1]["elements"][0].split(",")) == {"O", "Zn"}
    with pytest.raises(UserError, match="Say what to take"): query_materials_project()
    with pytest.raises(UserError, match="binary and ternary oxides"): query_materials_project(filter="binary oxides")
    with pytest.raises(UserError, match="chemsys"): load_dataset("materials_project", chemsis="Mg-O")


def test_without_key_or_network(monkeypatch, serve):
    import mp_api.client
    monkeypatch.delenv("MP_API_KEY", raising=False)
    with pytest.raises(UserError, match="set MP_API_KEY"): read_crystals("materials_project")
    monkeypatch.setenv("MP_API_KEY", "k" * 32)
    monkeypatch.setattr(mp_api.client, "MPRester", partial(mp_api.client.MPRester, endpoint="http://127.0.0.1:9/"))
    with pytest.raises(UserError, match="check the network"): query_materials_project("Mg-O")
    monkeypatch.setattr(mp_api.client, "MPRester", partial(mp_api.client.MPRester, endpoint=serve(lambda path, query: b"{}")))
    with pytest.raises(UserError, match="check the key"): query_materials_project("Mg-O")
