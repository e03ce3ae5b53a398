"""Whatever the bytes, every reader gives a value or refuses in one sentence; `make soak` tries many more of them."""

from __future__ import annotations

import ast
import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostile_readers import READERS
from hostile_values import contents

SOURCE = Path(__file__).resolve().parents[2] / "src" / "leapverify"
pytestmark = pytest.mark.failure(15)


@pytest.mark.parametrize("name", READERS)
def test_a_valid_file_is_read(tmp_path: Path, name: str) -> None:
    reader = READERS[name]
    reader.beside(tmp_path)
    reader.write(tmp_path, reader.valid())
    assert reader.outcome(tmp_path) == "read"


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_other_is_read_or_refused_in_one_sentence(name: str, data: st.DataObject) -> None:
    reader = READERS[name]
    with tempfile.TemporaryDirectory() as folder:
        reader.beside(Path(folder))
        reader.write(Path(folder), data.draw(contents(reader)))
        reader.outcome(Path(folder))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 64, b"[" * 100_000, b"PK\x03\x04", b"&a [*a]"])
def test_what_is_no_such_file_is_no_crash(tmp_path: Path, name: str, content: bytes) -> None:
    reader = READERS[name]
    reader.beside(tmp_path)
    reader.write(tmp_path, content)
    reader.outcome(tmp_path)


def _calls() -> list[tuple[str, str, set[str]]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                options = {each.arg or "**" + ast.unparse(each.value) for each in node.keywords}
                found.append((str(path.relative_to(SOURCE)), name, options))
    return found


CALLS = _calls()


def test_nothing_reads_what_could_run_code() -> None:
    forbidden = ("pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.safe_load",
                 "joblib.load", "shelve.open", "marshal.loads", "eval", "exec", "np.load", "numpy.load")  # fmt: skip
    # Exceptions go there and back, to see whether they can: what is loaded was dumped in the same line.
    assert [(file, name) for file, name, _ in CALLS if name in forbidden and file != "core/collective.py"] == []
    assert "pickle.loads(pickle.dumps(error))" in (SOURCE / "core/collective.py").read_text()
    loads = [(file, options) for file, name, options in CALLS if name in ("torch.load", "torch.hub.load")]
    assert loads
    assert all("weights_only" in options for _, options in loads)


def test_no_model_brings_its_own_code() -> None:
    loads = [(file, options) for file, name, options in CALLS if name.endswith((".from_pretrained", ".from_config"))]
    assert len(loads) >= 5
    assert [file for file, options in loads if not {"**NO_CODE", "trust_remote_code"} & options] == []


def test_json_is_parsed_in_one_place_only() -> None:
    loose = {file for file, name, _ in CALLS if name in ("json.load", "json.loads")}
    # What was dumped a moment before, files of the package itself, and what running processes tell one another.
    known = {"io/untrusted/text.py", "io/checksum.py", "claims/page.py", "runs/lease.py", "runs/on_ray.py"}
    assert loose <= known | {"report/kit/figure_files.py", "report/study/paper.py"}, loose


def test_every_reader_has_a_name_of_its_own_kind() -> None:
    assert all(each.kind in ("bytes", "json", "yaml", "safetensors") for each in READERS.values())
    assert len(READERS) == len(set(itertools.chain(READERS)))
