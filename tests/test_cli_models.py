"`motiflab train`, `predict`, `models`: what is written, one row for every crystal asked about, and one clear sentence for each mistake"
from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from motiflab.cli import run
from motiflab.crystals import read_crystals
from motiflab.ensembles import load_model
from motiflab.errors import UserError

QUICK = ["--model", "megnet", "--recipe", "quick", "--epochs", "2", "--batch-size", "8", "--jobs", "1"]
COMMON = "Li Na K Mg Ca Sr Ba Al Si Zn O S F Cl P".split()
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [.5, .5, .5]])


def write(path, structures, **columns):
    "JSON-lines as `motiflab train --data` reads them"
    rows = [dict(id=f"c{i}", lattice=s.lattice.matrix.tolist(), species=[e.symbol for e in s.species], frac=s.frac_coords.tolist(), **{k: v[i] for k, v in columns.items()}) for i, s in enumerate(structures)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


@pytest.fixture(scope="module")
def real(): # 60 real crystals of common elements, at most 6 atoms each
    return read_crystals("matbench_dielectric", progress=False).filter(only=COMMON, max_sites=6).sample(60, seed=2).frame


@pytest.fixture(scope="module")
def data(real, tmp_path_factory): # their file: a band gap of made-up size, a refractive index with gaps, a split, and columns that cannot be learned
    n, rng = real["n"].to_numpy(), np.random.default_rng(0)
    third = [float(v) if i % 3 == 0 else None for i, v in enumerate(n)]
    return write(tmp_path_factory.mktemp("data") / "crystals.jsonl", list(real.structure), band_gap_eV=np.maximum(4 - n * 1.5, 0).tolist(), n=n.tolist(), third=third, same=[1.5] * 60,
                 words=[*map(str, n[:-1]), "metal"], empty=[None] * 60, kind=["low" if v < 1.7 else "middle" if v < 2.1 else "high" for v in n], part=rng.permutation(["train"] * 40 + ["val"] * 10 + ["test"] * 10).tolist())


@pytest.fixture(scope="module")
def gap(data, tmp_path_factory): # a trained run
    folder = tmp_path_factory.mktemp("runs") / "gap"
    assert run(["train", "-d", data, "-t", "band_gap_eV", "-o", str(folder), *QUICK]) == 0
    return folder


@pytest.fixture
def shipped(gap, tmp_path, monkeypatch): # the run as if it came with motiflab
    shutil.copytree(gap, tmp_path / "models" / "megnet-band-gap", ignore=shutil.ignore_patterns("checkpoint.pt", "figures.html"))
    monkeypatch.setattr("motiflab.named.shipped_names", lambda: ["models"])
    monkeypatch.setattr("motiflab.named.shipped_path", lambda name: tmp_path / name)
    return tmp_path / "models"


def complaint(capsys, *arguments: str) -> str: # the one line on stderr
    "Run a command that has to end with status 2 and one line"
    capsys.readouterr()
    status, said = run(arguments), capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("motiflab:") and not line.startswith("motiflab: Note")]
    assert status == 2 and len(lines) == 1 and "Traceback" not in said.err, said.err
    return lines[0]


def last_line(capsys) -> str: return capsys.readouterr().out.strip().splitlines()[-1]


# ---------------------------------------------------------------- train
def test_a_run_is_written(gap):
    assert {"weights.safetensors", "model.json", "history.csv", "predictions.csv", "skipped.csv", "figures.html"} <= {p.name for p in gap.iterdir()}
    found = load_model(gap)
    assert found.model.name == "megnet" and len(found.history) == 2 and found.settings.batch_size == 8 and found.targets.minimum == (0,) and found.targets.units == ("eV",)
    page = (gap / "figures.html").read_text(encoding="utf-8")
    assert page.count('class="card"') == 5 and f"MAE {found.score():.4g} eV on 12 test crystals" in page # curves, parity, calibration, size, elements


def test_train_says_what_it_learned(data, tmp_path, capsys):
    assert run(["train", "-d", data, "-t", "n", "-o", str(tmp_path / "run"), "--split", "part", "--seed", "3", *QUICK]) == 0
    out, found = capsys.readouterr().out, load_model(tmp_path / "run")
    assert out.strip().splitlines()[-1] == f"n: MAE {found.score():.4g} on 10 test crystals; 0 crystals skipped; written to {tmp_path / 'run'}"
    assert f"motiflab predict {tmp_path / 'run'} INPUT" in out and "figures.html" in out and found.settings.seed == 3
    parts = {p: len(ids) for p, ids in found.split.items()}
    assert parts == dict(train=40, validation=10, test=10)


def test_classes_from_a_threshold_and_from_words(data, tmp_path, capsys):
    assert run(["train", "-d", data, "-t", "band_gap_eV", "--threshold", "1", "-o", str(tmp_path / "two"), *QUICK]) == 0
    assert "band_gap_eV: accuracy" in last_line(capsys)
    assert run(["predict", str(tmp_path / "two"), data, "-o", str(tmp_path / "two.csv"), "--limit", "7"]) == 0
    table = pd.read_csv(tmp_path / "two.csv")
    assert list(table) == ["id", "band_gap_eV", "band_gap_eV_class", "band_gap_eV_uncertainty", "reason"] and table.band_gap_eV.between(0, 1).all()
    assert ((table.band_gap_eV > 0.5) == (table.band_gap_eV_class == "> 1")).all() and len(table) == 7 and table.band_gap_eV_uncertainty.max() <= 0.5
    assert run(["train", "-d", data, "-t", "kind", "-o", str(tmp_path / "three"), *QUICK]) == 0
    assert run(["predict", str(tmp_path / "three"), data, "-o", str(tmp_path / "three.csv"), "--limit", "7"]) == 0
    table = pd.read_csv(tmp_path / "three.csv").set_index("id")
    chance = table[["kind=high", "kind=low", "kind=middle"]]
    assert np.allclose(chance.sum(axis=1), 1, atol=1e-4) and (chance.idxmax(axis=1).str.removeprefix("kind=") == table.kind).all()


def test_several_targets_with_gaps(data, tmp_path, capsys):
    assert run(["train", "-d", data, "-t", "band_gap_eV", "-t", "third", "-o", str(tmp_path / "run"), *QUICK]) == 0
    said = capsys.readouterr()
    assert "Only 20 of 60 crystals have a value of 'third'" in said.err and "Traceback" not in said.err
    found = load_model(tmp_path / "run")
    assert said.out.strip().splitlines()[-1].startswith("band_gap_eV: MAE") and f"on {int(found.score('n', target='third'))} test crystal" in said.out
    assert run(["predict", str(tmp_path / "run"), data, "-o", str(tmp_path / "p.csv"), "--limit", "5"]) == 0
    table = pd.read_csv(tmp_path / "p.csv")
    assert list(table) == ["id", "band_gap_eV", "band_gap_eV_uncertainty", "third", "third_uncertainty", "reason"] and table.third.notna().all()


def test_an_ensemble_and_how_it_goes_on(data, tmp_path, capsys):
    folder, asked = tmp_path / "both", ["train", "-d", data, "-t", "n", "-o", str(tmp_path / "both"), "--ensemble", "2", *QUICK]
    assert run(asked) == 0 and len(load_model(folder)) == 2 and {"member_0", "member_1", "ensemble.json", "figures.html"} <= {p.name for p in folder.iterdir()}
    first = (folder / "member_0" / "weights.safetensors").read_bytes()
    shutil.rmtree(folder / "member_1") # as if it had been stopped before the second
    (folder / "ensemble.json").unlink()
    assert "--resume" in complaint(capsys, *asked)
    assert run([*asked, "--resume"]) == 0 and (folder / "member_0" / "weights.safetensors").read_bytes() == first
    capsys.readouterr()
    assert run(["predict", str(folder), data, "-o", str(tmp_path / "p.csv"), "--limit", "6"]) == 0
    out = capsys.readouterr().out
    assert "2 times megnet that learned from 36 crystals" in out and out.strip().splitlines()[-1].startswith("6 crystals predicted; written to")
    assert pd.read_csv(tmp_path / "p.csv").n_uncertainty.nunique() > 1 # the members differ more about some crystals


def test_ctrl_c_says_how_to_go_on(data, tmp_path, capsys, monkeypatch):
    from motiflab.curves import LiveCurves
    folder, asked = tmp_path / "run", ["train", "-d", data, "-t", "n", "-o", str(tmp_path / "run"), *QUICK]
    def stop(self, trainer, module):
        if len(module.progress.history) == 2: raise KeyboardInterrupt
    with monkeypatch.context() as patched:
        patched.setattr(LiveCurves, "on_train_epoch_end", stop)
        assert run(asked) == 130
    said = capsys.readouterr().err
    assert "Stopped. The last epoch is kept in" in said and "--resume" in said and "Traceback" not in said and not (folder / "model.json").exists()
    with pytest.raises(UserError, match="--resume"): load_model_by_name(folder)
    assert run([*asked, "--resume"]) == 0 and len(load_model(folder).history) == 2
    assert run(["train", "-d", data, "-t", "n", "-o", str(tmp_path / "other"), *QUICK]) == 0
    assert (folder / "weights.safetensors").read_bytes() == (tmp_path / "other/weights.safetensors").read_bytes() # as if it had never been stopped


def load_model_by_name(name):
    from motiflab.named import load_model as load_named
    return load_named(name)


@pytest.mark.parametrize("column, words", [("band_gap", "did you mean 'band_gap_eV'"), ("bulk_modulus", "There is no column 'bulk_modulus' to learn: there are 'band_gap_eV'"), ("same", "is 1.5 for all 60 crystals"),
                                           ("words", "'metal' for crystal 'c59', which is not a number"), ("empty", "is empty")])
def test_a_column_that_cannot_be_learned(data, column, words, tmp_path, capsys):
    assert words in complaint(capsys, "train", "-d", data, "-t", column, "-o", str(tmp_path / "run"), *QUICK)
    assert not [*(tmp_path / "run").glob("*")]


def test_three_crystals(data, tmp_path, capsys):
    assert "at least 8 are needed" in complaint(capsys, "train", "-d", data, "-t", "n", "-o", str(tmp_path / "run"), "--limit", "3", *QUICK)


@pytest.mark.parametrize("wrong, words", [(["--model", "amdnt"], "'amdnet'"), (["--recipe", "papr"], "'paper'"), (["--task", "clasification"], "'classification'"), (["--split", "prt"], "did you mean 'part'"),
                                          (["--split", "kind"], "should say train, validation or test"), (["--epochs", "0"], "--epochs"), (["--learning-rate", "-1"], "learning_rate"), (["--targt", "n"], "--target"),
                                          (["--threshold", "99"], "one side of the threshold"), (["--disorder", "skp"], "'skip'"), (["--ensemble", "0"], "--ensemble")])
def test_wrong_options_name_the_near_miss(data, wrong, words, tmp_path, capsys):
    assert words in complaint(capsys, "train", "-d", data, "-t", "n", "-o", str(tmp_path / "run"), *QUICK, *wrong)
    assert not [*(tmp_path / "run").glob("*")]


def test_places_that_are_taken(data, gap, tmp_path, capsys):
    assert "already holds a run: go on with it with --resume" in complaint(capsys, "train", "-d", data, "-t", "n", "-o", str(gap), *QUICK)
    (tmp_path / "file").write_text("")
    assert "is a file: give -o the name of a folder" in complaint(capsys, "train", "-d", data, "-t", "n", "-o", str(tmp_path / "file"), *QUICK)
    assert "learning_rate" in complaint(capsys, "train", "-d", data, "-t", "band_gap_eV", "-o", str(gap), *QUICK, "--learning-rate", "0.5", "--resume")
    assert "is a folder" in complaint(capsys, "predict", str(gap), data, "-o", str(tmp_path))


# ---------------------------------------------------------------- predict
def test_one_row_for_every_crystal(gap, real, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    SALT.to(filename=str(folder / "a_salt.cif"))
    (folder / "b_broken.cif").write_text("data_x\n")
    Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [.01, 0, 0]]).to(filename=str(folder / "c_close.cif"))
    Structure(Lattice.cubic(4.2), [{"Mg": .5, "Ca": .5}, "O"], [[0, 0, 0], [.5, .5, .5]]).to(filename=str(folder / "d_mixed.cif"))
    Structure(Lattice.cubic(40), ["Mg"], [[0, 0, 0]]).to(filename=str(folder / "e_alone.cif"))
    assert run(["predict", str(gap), str(folder), "-o", str(tmp_path / "p.csv"), "--jobs", "1"]) == 0
    said, table = capsys.readouterr(), pd.read_csv(tmp_path / "p.csv", keep_default_na=False, na_values=[""])
    assert list(table) == ["id", "band_gap_eV", "band_gap_eV_uncertainty", "reason"] and list(table.id.str[0]) == list("abcde")
    assert table.band_gap_eV.notna().tolist() == table.reason.isna().tolist() == table.band_gap_eV_uncertainty.notna().tolist() and table.band_gap_eV.notna()[0] and not table.band_gap_eV.notna()[1:4].any()
    assert "closer" in table.reason[2] and "occupied" in table.reason[3] and "Traceback" not in said.err
    there = table.band_gap_eV.notna().sum()
    assert said.out.strip().splitlines()[-1].startswith(f"{there} crystal") and f"{5 - there} crystals without one (reasons in" in said.out


def test_only_crystals_that_cannot_be_predicted(gap, tmp_path, capsys):
    (tmp_path / "x.cif").write_text("data_x\n")
    status = run(["predict", str(gap), str(tmp_path / "x.cif"), "-o", str(tmp_path / "p.csv")])
    said = capsys.readouterr()
    assert "Traceback" not in said.err and status in (0, 2)
    if status == 0: assert len(pd.read_csv(tmp_path / "p.csv")) == 1 and "0 crystals predicted" in said.out
    else: assert said.err.count("\n") == 1


def test_predictions_do_not_depend_on_company_and_are_those_of_the_run(gap, data, tmp_path):
    assert run(["predict", str(gap), data, "-o", str(tmp_path / "all.csv"), "--jobs", "1"]) == 0
    assert run(["predict", str(gap), data, "-o", str(tmp_path / "some.csv"), "--limit", "4", "--jobs", "1"]) == 0
    whole, some, kept = pd.read_csv(tmp_path / "all.csv", index_col="id"), pd.read_csv(tmp_path / "some.csv", index_col="id"), load_model(gap).predictions
    assert len(whole) == 60 and np.allclose(whole.band_gap_eV[:4], some.band_gap_eV, atol=1e-5)
    assert np.allclose(whole.band_gap_eV[kept.index], kept.band_gap_eV_predicted, atol=1e-5) and (whole.band_gap_eV_uncertainty > 0).all()


def test_band_gaps_are_not_negative(gap, data, tmp_path):
    low = shutil.copytree(gap, tmp_path / "low")
    found = load_model(low)
    from dataclasses import replace
    replace(found, normaliser=replace(found.normaliser, mean=(-50.0,))).save(low)
    assert run(["predict", str(low), data, "-o", str(tmp_path / "p.csv"), "--limit", "5", "--jobs", "1"]) == 0
    assert (pd.read_csv(tmp_path / "p.csv").band_gap_eV == 0).all()


def test_an_element_never_seen(gap, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    SALT.to(filename=str(folder / "salt.cif"))
    strange = SALT.copy()
    strange.replace_species({"Na": "Pu"})
    strange.to(filename=str(folder / "strange.cif"))
    assert run(["predict", str(gap), str(folder), "-o", str(tmp_path / "p.csv"), "--jobs", "1"]) == 0
    said, table = capsys.readouterr().err, pd.read_csv(tmp_path / "p.csv", index_col="id")
    notes = [l for l in said.splitlines() if l.startswith("motiflab: Note:")]
    assert len(notes) == 1 and "(Pu)" in notes[0] and "elements that training never saw" in notes[0]
    assert table.band_gap_eV.notna().all() and table.band_gap_eV_uncertainty["strange"] > 1.5 * table.band_gap_eV_uncertainty["salt"]


@pytest.mark.parametrize("name, change, words", [("weights.safetensors", None, "weights.safetensors is damaged"), ("model.json", None, "model.json is damaged"), ("model.json", dict(format=9), "written in format 9"), ("predictions.csv", "gone", "holds no whole run")])
def test_a_model_that_cannot_be_read(gap, data, name, change, words, tmp_path, capsys):
    folder = shutil.copytree(gap, tmp_path / "copy")
    content = bytearray((folder / name).read_bytes())
    if change is None: content[len(content) // 2] ^= 1
    elif change != "gone": content = json.dumps(json.loads(content) | change).encode()
    (folder / name).unlink() if change == "gone" else (folder / name).write_bytes(content)
    assert words in complaint(capsys, "predict", str(folder), data, "-o", str(tmp_path / "p.csv")) and not (tmp_path / "p.csv").exists()


def test_models_by_name(shipped, data, tmp_path, capsys):
    assert run(["models"]) == 0
    out = capsys.readouterr().out
    assert "megnet-band-gap" in out and "test crystals" in out and out.strip().splitlines()[-1].startswith("1 model; use one with: motiflab predict megnet-band-gap")
    assert run(["predict", "megnet-band-gap", data, "-o", str(tmp_path / "p.csv"), "--limit", "3", "--jobs", "1"]) == 0 and len(pd.read_csv(tmp_path / "p.csv")) == 3
    assert "did you mean 'megnet-band-gap'" in complaint(capsys, "predict", "megnet-bandgap", data, "-o", str(tmp_path / "p.csv"))
    assert "there is megnet-band-gap" in complaint(capsys, "predict", "zzz", data, "-o", str(tmp_path / "p.csv"))
    assert "a folder without a trained model" in complaint(capsys, "predict", str(tmp_path), data, "-o", str(tmp_path / "p.csv"))
    from motiflab.named import describe_models
    assert describe_models().loc["megnet-band-gap", "training crystals"] == 36 and describe_models().loc["megnet-band-gap", "gives"] == "eV"


def test_no_models(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("motiflab.named.shipped_names", lambda: [])
    assert "train one with `motiflab train`" in complaint(capsys, "models")
    assert "none comes with this copy" in complaint(capsys, "predict", "amdnet-band-gap", "x.cif", "-o", str(tmp_path / "p.csv"))


def test_from_python_too(gap, real):
    "A row for each crystal, in their order, whatever they are called"
    from motiflab.crystalset import CrystalSet
    from motiflab.named import predict_crystals
    found = load_model(gap)
    crystals = CrystalSet(real.iloc[:3][["structure"]].set_axis(["b", "a", 7]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = predict_crystals(found, crystals, n_jobs=1, progress=False)
    assert table.id.tolist() == ["b", "a", "7"] and (table.reason == "").all() and table.band_gap_eV.notna().all()
    assert len(predict_crystals(found, crystals.subset([]))) == 0
    with pytest.raises((UserError, TypeError)): predict_crystals(found, crystals, n_job=1)


@pytest.mark.parametrize("command", ["train", "predict", "models"])
def test_help(command, capsys):
    assert run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Usage: motiflab {command}" in out and "Traceback" not in out


def test_predict_says_what_the_uncertainty_is(gap, data, tmp_path, capsys):
    assert run(["predict", str(gap), data, "-o", str(tmp_path / "p.csv"), "--limit", "5"]) == 0
    *_, before, last = capsys.readouterr().out.strip().splitlines()
    assert before.startswith("Next: band_gap_eV_uncertainty is a standard deviation in eV") and "--ensemble" in before and last.endswith(f"written to {tmp_path / 'p.csv'}")


def test_the_list_of_models_names_the_next_command(capsys):
    assert run(["models"]) == 0 and "motiflab predict" in last_line(capsys)
