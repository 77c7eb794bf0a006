# /// script
# requires-python = ">=3.10"
# dependencies = ["scikit-learn>=1.4", "matplotlib>=3.8"]
# ///
"""Find out which classifier reads handwritten digits best: ``clustrix run docs/tutorials/first_job.py``.

The digits come with scikit-learn: 1797 images of 8 x 8 pixels. Every candidate is one call of a map; the table and the
plot are written to the directory ``first_job``.
"""

from __future__ import annotations

import csv
import platform
import time
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from clustrix import cluster


def candidates() -> dict[str, object]:
    """Give every model that takes part, by name."""
    models: dict[str, object] = {}
    for penalty in (0.1, 1, 10):
        models[f"SVM, C={penalty}"] = make_pipeline(StandardScaler(), SVC(C=penalty))
    for neighbours in (1, 3, 9):
        models[f"{neighbours} nearest neighbours"] = KNeighborsClassifier(neighbours)
    for trees in (20, 100):
        models[f"forest of {trees} trees"] = RandomForestClassifier(trees, random_state=0)
    models["logistic regression"] = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return models


@cluster(cores=1)
def evaluate(name: str, model: object) -> dict[str, object]:
    """Cross-validate one model; this is what runs at the target."""
    images, digits = load_digits(return_X_y=True)
    started = time.perf_counter()
    scores = cross_val_score(model, images, digits, cv=5)
    seconds = time.perf_counter() - started
    print(f"{name}: {scores.mean():.3f}")
    # Plain numbers can be read anywhere, numpy's only where numpy is.
    accuracy, spread = float(scores.mean()), float(scores.std())
    return {"model": name, "accuracy": accuracy, "spread": spread, "seconds": seconds, "on": platform.node()}


def write_table(rows: list[dict[str, object]], path: Path) -> None:
    """Write the rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """Draw the accuracies, best on top."""
    import matplotlib as mpl

    mpl.use("Agg")  # no display is needed
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    shown = rows[::-1]
    names, accuracies, spreads = ([row[key] for row in shown] for key in ("model", "accuracy", "spread"))
    axes.barh(names, accuracies, xerr=spreads)
    axes.set_xlim(0.85, 1)
    axes.set_xlabel("accuracy in 5-fold cross-validation")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    rows = sorted(evaluate.starmap(candidates().items()), key=lambda row: -row["accuracy"])
    for row in rows:
        print(f"{row['accuracy']:.3f} +- {row['spread']:.3f}  {row['model']}")
    results = Path("first_job")
    results.mkdir(exist_ok=True)
    write_table(rows, results / "models.csv")
    draw(rows, results / "models.png")
    print(f"wrote {results / 'models.csv'} and {results / 'models.png'}")
