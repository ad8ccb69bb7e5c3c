"""The house of the design: imports go down only, rooms fit in a head, and the core needs no TensorFlow."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "phenaki_jax"

FLOORS = {
    "__init__": 7, "__main__": 6, "quickstart": 6, "reconstruct": 6, "reproduce": 6, "benchmark": 6, "long_video": 6,
    "cli": 6, "making": 6, "evaluate": 6, "doctor": 6, "inspect_data": 6, "story_files": 6, "precompute": 6, "aot": 6,
    "pipeline": 5, "tasks": 5, "windows": 5, "prompts": 5, "bound": 5, "export": 5, "training": 5, "progress": 5,
    "ledger": 5, "evaluation": 4, "ingest": 4,
    "sampling": 3, "input": 3, "provenance": 3, "models": 2,
    "layers": 1, "parallel": 1, "media": 1, "pictures": 1, "weights": 1, "array_files": 1,
    "config": 0, "errors": 0, "memory": 0, "digest": 0,
}
HEAVY = {"tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio", "clu", "tensorboard", "grain", "sklearn"}
WITH_HEAVY = ("phenaki_jax/input/seqio_", "phenaki_jax/training/metrics", "data/")
LONGEST = 400

FILES = sorted(PACKAGE.rglob("*.py"))
OURS = [*FILES, *(f for folder in ("tests", "data", "configs") for f in sorted((ROOT / folder).rglob("*.py")))]
MODULES = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES}


def imports(path: pathlib.Path, top_only: bool = False) -> set[str]:
    """Modules that a file imports, absolute; those inside functions too, unless only the top is asked for."""
    tree = ast.parse(path.read_text())
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    nodes, found = list(tree.body), set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[:len(package) - node.level + 1], *filter(None, [node.module])]
                            if node.level else [node.module])
            names = {f"{base}.{alias.name}" for alias in node.names}
            submodules = {name for name in names if name in MODULES}
            found |= submodules | ({base} if names - submodules else set())
        elif top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        elif top_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        else:
            nodes += ast.iter_child_nodes(node)
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_imports_go_down_only():
    wrong = []
    for module, path in MODULES.items():
        if module == "phenaki_jax":
            continue  # the face: it names what lies below, and loads it when asked
        for target in imports(path):
            if not target.startswith("phenaki_jax") or room(target) == room(module):
                continue
            assert room(module) in FLOORS, f"{module} is in no room of the design"
            if target == "phenaki_jax" or FLOORS[room(target)] > FLOORS[room(module)]:
                wrong.append(f"{module} ({FLOORS[room(module)]}) imports {target}")
    assert not wrong, "\n".join(wrong)


def test_no_circles():
    below = {module: {t for t in imports(path) if t in MODULES and t != module and t != "phenaki_jax"}
             for module, path in MODULES.items() if module != "phenaki_jax"}
    done, open_now = set(), []

    def visit(module):
        assert module not in open_now, " -> ".join([*open_now[open_now.index(module):], module])
        if module in done:
            return
        open_now.append(module)
        for target in below.get(module, ()):
            visit(target)
        open_now.pop()
        done.add(module)

    for module in below:
        visit(module)


def test_the_package_does_not_lean_on_its_data_sets():
    """A data set builds on the package; the package learns of data sets from the config alone."""
    wrong = [f"{module}: {target}" for module, path in MODULES.items() for target in imports(path)
             if target.split(".")[0] in ("data", "configs", "tests")]
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_are_imported_where_data_is_read_or_metrics_are_written():
    wrong = []
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(WITH_HEAVY):
            wrong += [f"{name}: {t}" for t in imports(path, top_only=True) if t.split(".")[0] in HEAVY]
    assert not wrong, "\n".join(wrong)


def test_rooms_fit_in_a_head():
    long = {f.relative_to(ROOT).as_posix(): n for f in OURS if (n := len(f.read_text().splitlines())) > LONGEST}
    assert not long, long


def test_lines_fit_the_page():
    wide = [f"{f.relative_to(ROOT)}:{i}" for f in OURS
            for i, line in enumerate(f.read_text().splitlines(), 1) if len(line) > 120]
    assert not wide, wide


def loaded_after(code: str) -> set[str]:
    code += "\nimport sys; print(' '.join(sorted({m.split('.')[0] for m in sys.modules})))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_importing_the_package_costs_nothing():
    loaded = loaded_after("import phenaki_jax")
    assert not loaded & (HEAVY | {"jax", "flax", "numpy", "av", "PIL"}), loaded


@pytest.mark.parametrize("code", [
    "import phenaki_jax; phenaki_jax.PhenakiPipeline, phenaki_jax.T5Encoder, phenaki_jax.create_generator",
    "from phenaki_jax import evaluation",
    "import phenaki_jax.media, phenaki_jax.pictures",
])
def test_the_way_to_a_model_needs_no_tensorflow(code):
    assert not loaded_after(code) & HEAVY


def test_the_names_that_the_outside_relies_on():
    import phenaki_jax
    for name in ("load_config", "create_tokenizer", "create_generator", "T5Encoder", "PhenakiPipeline", "UserError",
                 "evaluation"):
        assert getattr(phenaki_jax, name) is not None and name in dir(phenaki_jax)
    with pytest.raises(AttributeError, match="no_such_name"):
        phenaki_jax.no_such_name  # noqa: B018
