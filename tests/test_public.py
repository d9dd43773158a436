"""The names that `import impasto` promises."""

import logging
import subprocess
import sys

import pytest

import impasto


@pytest.mark.parametrize("name", impasto.__all__)
def test_every_name_is_there(name):
    assert getattr(impasto, name).__name__ == name


def test_the_surface_is_frozen():
    assert impasto.__all__ == [
        "Generator", "Item", "MMDiTGenerator", "Request", "Sampling", "Score", "Scorer", "Spec",
        "generate", "load_generator",
    ]  # fmt: skip


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'Generater'"):
        _ = impasto.Generater


def test_importing_is_light():
    code = "import sys, impasto; print({'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("logger, words", [
    ("torchao", "Failed to load /a/torchao/_C.so: none"),
    ("torch.utils._pytree", "%s is an Enum subclass and is now natively supported"),
    ("diffusers.quantizers.torchao.torchao_quantizer",
     "Unable to import `torchao` Tensor objects. This"),
    ("bitsandbytes.backends.cpu.ops",
     "Failed to load CPU gemm_4bit_forward from kernels-community: %s."),
])  # fmt: skip
def test_of_libraries_only_the_known_words_are_left_out(logger, words):
    def heard(text):
        record = logging.LogRecord(logger, logging.WARNING, "", 0, text, (), None)
        return bool(logging.getLogger(logger).filter(record))

    assert not heard(words) and heard("Another warning") and heard(f"It is said: {words}")
