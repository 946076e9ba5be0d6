"""`jaxnn lr`: which learning rate, for these settings and this data?"""

import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from jaxnn.app.build import build, build_for_data, check_experiment
from jaxnn.app.checks import check
from jaxnn.app.compile_cache import enable_compile_cache
from jaxnn.app.config import LRConfig
from jaxnn.app.folder import fresh_folder, print_undrawn
from jaxnn.environment import surroundings, warn_if_idle
from jaxnn.files import draw, plain, write_json
from jaxnn.text import aligned
from jaxnn.train.rates import find_lr


def lr_run(config: LRConfig, started: float | None = None) -> dict:
    """Find a rate; write lr.json, whose content is returned, and lr.png."""
    started = time.perf_counter() if started is None else started
    c = config.network
    check(config)
    enable_compile_cache()
    warn_if_idle()
    e = build_for_data(c)
    check_experiment(e)
    say = (lambda *_: None) if c.quiet else print
    say(f"{config.count} rates x {c.seeds} seeds x {config.steps} steps")
    with fresh_folder(c.out, f"lr-{Path(e.data.name).name}") as folder:
        found = find_lr(
            e.net, e.data.train, loss=e.loss, batch=c.batch, steps=config.steps,
            optimizer=lambda lr: build(replace(c, lr=lr), e.facts, e.data).optimizer,
            rates=np.geomspace(config.lowest, config.highest, config.count).tolist(),
            seeds=range(c.seed, c.seed + c.seeds), **e.options,
        )  # fmt: skip
        result = plain({
            **vars(found), "config": asdict(config),
            "seconds": round(time.perf_counter() - started, 2), **surroundings(),
        })  # fmt: skip
        write_json(folder / "lr.json", result)
    say(aligned(_rows(found), right=(0, 1, 2, 3)))
    print(f"suggested      --lr {found.why}")
    print_undrawn(draw(folder, {"lr.png": found.plot}))
    print(f"saved to       {folder}  (lr.json, lr.png)")
    return result


def _rows(found):
    rows = [["rate", "median loss", "least", "largest", ""]]
    for rate, losses in zip(found.rates, found.losses, strict=True):
        mark = "<- suggested" if rate == np.float32(found.suggestion) else ""
        middle = float(np.median(losses))
        numbers = [f"{v:.3g}" for v in (rate, middle, losses.min(), losses.max())]
        rows.append([*numbers, mark])
    return rows
