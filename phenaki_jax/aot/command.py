"""`phenaki compile`: the figures of a config's step on one or several topologies."""

import json
from typing import Any

import jax

from phenaki_jax.errors import at_least
from phenaki_jax.parallel import enable_compilation_cache


def main(config: Any, topologies: str, slices: int = 1, rows: int | None = None, as_json: bool = False,
         estimate: bool = True) -> int:
    """Prints them; 0 where all fit, else 1.

    Args:
      topologies: one, or several with a comma. rows: of a batch, a chip; by default the config says how many in all.
    """
    at_least("--slices", slices, 1)
    names = [name.strip() for name in topologies.split(",") if name.strip()]
    if names != ["local"]:
        jax.config.update("jax_platforms", "cpu")  # libtpu compiles; it shall not look for a TPU to run on
    enable_compilation_cache()
    from phenaki_jax.aot.figures import figures, report, rows_a_chip
    from phenaki_jax.aot.program import topology_devices
    all_found = []
    for name in names:
        one = config if rows is None else rows_a_chip(config, rows, len(topology_devices(name, slices)))
        found = figures(one, name, slices, estimate)
        all_found.append(found)
        if not as_json:
            print("\n".join(report(found)) + "\n", flush=True)
    if as_json:
        print(json.dumps(all_found if len(all_found) > 1 else all_found[0], indent=1))
    return 0 if all(found.get("fits", True) for found in all_found) else 1
