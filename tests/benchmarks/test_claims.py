"""benchmarks/claims.py: ablations over seeds, and published figures beside ours."""

import csv

import claims
import numpy as np
import pytest
import train_queue
import yaml
from test_recipes import BENCHMARKS, TINY

from segzoo.errors import SegzooError


def store(folder, arm, seed, scores):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{arm}-{seed}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "dice"], *((f"image {index}", score) for index, score in enumerate(scores))])


ABLATION = {
    "claim": "a beats b.",
    "margin": 0,
    "options": {"data.image_size": 32},
    "arms": {"a": {"recipe": "x"}, "b": {"recipe": "y"}},
}


def words(folder, ablation=ABLATION):
    """What the page says of an ablation whose p needs no correction."""
    found = claims.outcome(ablation, folder)
    text = claims.ablation_words(folder.name, ablation, found, found.p if found else 1.0)
    return " ".join("\n".join(text).split())


def test_seeds_that_both_arms_have_are_compared_image_by_image(tmp_path):
    store(tmp_path, "a", 1, [0.9, 0.8])
    store(tmp_path, "a", 2, [0.7, 0.6])
    store(tmp_path, "b", 1, [0.5, 0.7])
    store(tmp_path, "b", 3, [0.0, 0.0])
    text = words(tmp_path)
    assert "| a (`x.yaml`) | 0.850 | 0.850 |" in text
    assert "| b (`y.yaml`) | 0.600 | 0.600 |" in text
    assert "a - b: +0.250 [+0.100, +0.400], p = 0.000. Confirmed: above." in text
    assert "One seed alone" in text


def test_scores_of_different_images_are_not_compared(tmp_path, refused):
    store(tmp_path, "a", 1, [0.9, 0.8])
    store(tmp_path, "b", 1, [0.5, 0.7, 0.6])
    with refused(SegzooError):
        claims.outcome(ABLATION, tmp_path)
    store(tmp_path, "b", 1, [0.5, 0.7])
    for arm in "ab":
        store(tmp_path, arm, 2, [0.5, 0.7, 0.6])
    with refused(SegzooError):
        claims.outcome(ABLATION, tmp_path)


@pytest.mark.parametrize(
    ("shift", "margin", "said"),
    [
        (0.2, 0, "Confirmed: above."),
        (-0.2, 0, "Refuted: below."),
        (0.0, 0, "Not confirmed: neither that it is above is shown, nor the contrary."),
        (0.0, 0.1, "Confirmed: no more than 0.1 below."),
        (-0.2, 0.1, "Refuted: more than 0.1 below."),
    ],
)
def test_a_claim_is_confirmed_where_its_trainings_show_it(tmp_path, shift, margin, said):
    noise = np.random.default_rng(0).normal(0, 0.1, (3, 40))
    for seed, row in enumerate(noise - noise.mean()):
        store(tmp_path, "a", seed, 0.5 + shift + row)
        store(tmp_path, "b", seed, [0.5] * 40)
    assert said in words(tmp_path, {**ABLATION, "margin": margin})


def test_images_of_a_group_and_seeds_of_an_arm_are_drawn_together(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 40)
    first = np.tile(noise, (3, 1))
    alone, together = (
        np.ptp(np.percentile(claims.resampled_differences(first, np.zeros((2, 40)), groups), (2.5, 97.5)))
        for groups in (np.arange(40), np.arange(40) // 20)
    )
    assert together != pytest.approx(alone, rel=0.1)
    seeds = np.array([[0.1], [0.2], [0.3]]) + np.zeros((3, 40))
    means = claims.resampled_differences(seeds, seeds, np.arange(40))
    assert means.std() > 0.05  # as pairs, equal seeds would cancel


def test_an_arm_may_be_one_of_another_ablation(tmp_path):
    store(tmp_path / "first", "c", 1, [0.5, 0.7])
    store(tmp_path / "second", "a", 1, [0.9, 0.8])
    arms = {"a": {"recipe": "x"}, "b": {"recipe": "y", "stored": "first/c"}}
    assert "| b (`y.yaml`) | 0.600 | 0.600 |" in words(tmp_path / "second", {**ABLATION, "arms": arms})


def test_what_two_ablations_share_is_trained_alike():
    ablations = claims.CLAIMS["ablations"]
    for ablation in ablations.values():
        for arm in (arm for arm in ablation["arms"].values() if "stored" in arm):
            name, _, other = arm["stored"].partition("/")
            theirs = ablations[name]["arms"][other]
            assert arm["recipe"] == theirs["recipe"]
            assert {**ablation["options"], **arm.get("options", {})} == {
                **ablations[name]["options"],
                **theirs.get("options", {}),
            }
            assert ablation["seeds"] == ablations[name]["seeds"]


def test_a_claim_without_a_comparison_says_how_to_make_one(tmp_path):
    store(tmp_path, "a", 1, [0.9])
    store(tmp_path, "b", 2, [0.9])
    assert f"Not tested yet: `python benchmarks/claims.py run {tmp_path.name}`." in words(tmp_path)


def test_the_stored_page_is_that_of_the_stored_results(tmp_path):
    (tmp_path / "results").symlink_to(BENCHMARKS / "results")
    claims.report(tmp_path)
    assert (tmp_path / claims.PAGE).read_text() == (BENCHMARKS / claims.PAGE).read_text()


def test_every_arm_is_one_of_the_recipes():
    order = (BENCHMARKS / "recipes" / "order.txt").read_text().split()
    for ablation in claims.CLAIMS["ablations"].values():
        assert {arm["recipe"] for arm in ablation["arms"].values()} <= set(order)
    known = {*order, *(path.stem for path in (BENCHMARKS / "results").glob("*.csv"))}
    assert {row["ours"] for row in claims.CLAIMS["published"]} <= known


@pytest.mark.slow
def test_what_is_missing_is_trained_scored_and_reported(commands_here, tmp_path, samples, monkeypatch):
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    recipe = yaml.safe_load(TINY.format(root=samples / "BUSI"))
    (recipes / "x.yaml").write_text(yaml.safe_dump(recipe))
    changes = {"model.in_channels": 1, "data.root": str(samples / "BUSI")}
    arms = {"a": {"recipe": "x"}, "b": {"recipe": "x", "options": changes}}
    ablation = {"claim": "none", "margin": 0, "options": {"trainer.max_epochs": 1}, "arms": arms, "seeds": [1]}
    monkeypatch.setattr(claims, "BENCHMARKS", tmp_path)
    monkeypatch.setattr(claims, "CLAIMS", {"ablations": {"tiny": ablation}, "published": []})
    monkeypatch.setattr(train_queue, "RECIPES", recipes)
    monkeypatch.chdir(tmp_path)
    claims.run([], 1)
    folder = tmp_path / "results" / "claims" / "tiny"
    assert sorted(path.name for path in folder.iterdir()) == ["a-1.csv", "b-1.csv"]
    claims.report(tmp_path)
    assert "`x.yaml in_channels=1 root=" in (tmp_path / claims.PAGE).read_text()
