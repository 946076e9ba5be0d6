"""Training: state, step, engine, fit, evaluate."""

from jaxnn.train.engine import batch_order, scan_seeds, scan_steps, take_rows
from jaxnn.train.evaluation import Evaluation, evaluate, predict
from jaxnn.train.fitting import fit
from jaxnn.train.loop import History, TrainingError, describe
from jaxnn.train.step import (
    TrainState,
    cast_floats,
    float_type,
    init_state,
    make_step,
    to_unit,
)

__all__ = [
    "Evaluation",
    "History",
    "TrainState",
    "TrainingError",
    "batch_order",
    "cast_floats",
    "describe",
    "evaluate",
    "fit",
    "float_type",
    "init_state",
    "make_step",
    "predict",
    "scan_seeds",
    "scan_steps",
    "take_rows",
    "to_unit",
]
