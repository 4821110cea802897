"""T4: a model's folder brings code of every kind; none of it is ever imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.security.guarded import OPTIONS
from tests.security.model import CONFIG, write_byte_model, write_weights
from tests.system.harness import ServerProcess

MAP = {
    "AutoConfig": "evil.EvilConfig",
    "AutoModel": "evil.EvilModel",
    "AutoModelForCausalLM": "evil.EvilModel",
    "AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"],
    "AutoProcessor": "evil.EvilProcessor",
    "AutoImageProcessor": "other/repo--evil.EvilProcessor",
}
NAMES = (
    "evil.py",
    "modeling_evil.py",
    "configuration_evil.py",
    "tokenization_evil.py",
    "processing_evil.py",
    "__init__.py",
    "setup.py",
    "conftest.py",
    "sitecustomize.py",
    "usercustomize.py",
    # Modules that server, engine and the workers for templates and grammars import.
    "msgspec.py",
    "zmq.py",
    "numpy.py",
    "jinja2.py",
    "torch.py",
    "llguidance.py",
    "tokenizers.py",
    "json.py",
    "tupelo_cpu.py",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The tiny model, with code wherever a loader might look for some."""
    folder = write_byte_model(_made(tmp_path / "model"))
    write_weights(folder)
    code = f"import os\nos.makedirs({str(tmp_path / 'ran')!r} + '/' + __name__, exist_ok=True)\n"
    for name in NAMES:
        (folder / name).write_text(code)
    nested = {"model_type": "evil", "auto_map": MAP, "trust_remote_code": True}
    config = {**CONFIG, "auto_map": MAP, "trust_remote_code": True, "sub_model": nested}
    (folder / "config.json").write_text(json.dumps({**config, "custom_pipelines": MAP}))
    for name in ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        file = folder / name
        values = json.loads(file.read_text()) if file.exists() else {}
        kinds = {"tokenizer_class": "EvilTokenizer", "processor_class": "EvilProcessor"}
        file.write_text(json.dumps({**values, **kinds, "auto_map": MAP}))
    for name in ("sentence_bert_config.json", "adapter_config.json", "generation_config.json"):
        (folder / name).write_text(json.dumps({"auto_map": MAP, "custom_generate": "evil"}))
    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.EvilModule"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_the_code_would_leave_a_mark(model: Path, tmp_path: Path) -> None:
    """Else this file would prove nothing."""
    subprocess.run([sys.executable, "-c", "import evil"], cwd=model, check=True)
    assert (tmp_path / "ran" / "evil").is_dir()


def test_no_code_of_a_model_runs(model: Path, tmp_path: Path) -> None:
    """Served from within the folder, where Python would look for modules too."""
    (model / "modules.json").unlink()  # it makes an embedding model of this
    words = [w for pair in OPTIONS.items() if pair[0] != "--load-format" for w in pair]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]
    server = ServerProcess(
        ".",
        _made(tmp_path / "log"),
        *words,
        environment={"OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(paths)},
        working_folder=model,
    )
    with server:
        chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=chat, timeout=60)
        assert reply.status_code == 200
        regex = {"prompt": "a", "regex": "[ab]{3}", "max_tokens": 9}
        assert httpx.post(f"{server.url}/v1/completions", json=regex, timeout=60).status_code < 500
        assert "brings Python code of its own; it is not run" in server.log
    assert not (tmp_path / "ran").exists(), list((tmp_path / "ran").iterdir())


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
