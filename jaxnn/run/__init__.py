"""Runs: the main job, its folder, and using it again."""

from jaxnn.run.folder import Run, load_run
from jaxnn.run.main import train_run
from jaxnn.run.use import evaluate_run, predict_run

__all__ = ["Run", "evaluate_run", "load_run", "predict_run", "train_run"]
