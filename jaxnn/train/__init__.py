"""Training: state, step, engine, fit, evaluate."""

from jaxnn.train.callbacks import (
    Callback,
    Checkpoint,
    CSVLog,
    EarlyStopping,
    TensorBoard,
    WandB,
)
from jaxnn.train.engine import batch_order, scan_seeds, scan_steps, take_rows
from jaxnn.train.evaluate import Evaluation, evaluate, predict
from jaxnn.train.fit import fit
from jaxnn.train.inputs import balanced_class_weights
from jaxnn.train.policy import TrainingError
from jaxnn.train.run import History, describe
from jaxnn.train.snapshots import Snapshots
from jaxnn.train.state import (
    TrainState,
    Weighted,
    cast_floats,
    evaluated,
    float_type,
    init_state,
    to_unit,
)
from jaxnn.train.step import Defense, Step, make_step, standard_training

__all__ = [
    "CSVLog", "Callback", "Checkpoint", "Defense", "EarlyStopping", "Evaluation",
    "History", "Snapshots", "Step", "TensorBoard", "TrainState", "TrainingError",
    "WandB", "Weighted", "balanced_class_weights", "batch_order", "cast_floats",
    "describe", "evaluate", "evaluated", "fit", "float_type", "init_state", "make_step",
    "predict", "scan_seeds", "scan_steps", "standard_training", "take_rows", "to_unit",
]  # fmt: skip
