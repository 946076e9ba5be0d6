"""Training: state, step, engine, fit, evaluate."""

from jaxnn.train.average import evaluated
from jaxnn.train.defense import Defense, standard_training
from jaxnn.train.engine import batch_order, scan_seeds, scan_steps, take_rows
from jaxnn.train.evaluation import Evaluation, evaluate, predict
from jaxnn.train.fitting import fit
from jaxnn.train.loop import History, TrainingError, describe
from jaxnn.train.snapshots import Snapshots
from jaxnn.train.state import (
    TrainState,
    Weighted,
    cast_floats,
    float_type,
    init_state,
    to_unit,
)
from jaxnn.train.step import make_step
from jaxnn.train.weighting import balanced_class_weights

__all__ = [
    "Defense",
    "Evaluation",
    "History",
    "Snapshots",
    "TrainState",
    "TrainingError",
    "Weighted",
    "balanced_class_weights",
    "batch_order",
    "cast_floats",
    "describe",
    "evaluate",
    "evaluated",
    "fit",
    "float_type",
    "init_state",
    "make_step",
    "predict",
    "scan_seeds",
    "scan_steps",
    "standard_training",
    "take_rows",
    "to_unit",
]
