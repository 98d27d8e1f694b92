"""The export list of codec is complete, sorted and importable."""

import codec


def test_every_export_exists_and_the_list_is_sorted() -> None:
    assert codec.__all__ == sorted(codec.__all__)
    for name in codec.__all__:
        assert getattr(codec, name).__name__ == name.split(".")[-1]


def test_importing_codec_does_not_load_torch() -> None:
    import subprocess
    import sys

    program = "import sys, codec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_embedded_codec_needs_no_library_that_takes_seconds_to_import() -> None:
    import subprocess
    import sys

    slow = {"diffusers", "transformers", "accelerate", "huggingface_hub", "torchvision", "torch._dynamo"}
    program = f"import sys, codec; codec.Codec.load(); sys.exit(', '.join({slow!r} & sys.modules.keys()) or 0)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
