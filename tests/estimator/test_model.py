"""Finding a model's description wherever it stands."""

import json
from pathlib import Path

import pytest

from estimator import EstimatorError, load_model

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}


def test_file_folder_and_object_give_the_same_layers(tmp_path: Path) -> None:
    """The name is the folder's, the file's, or the object's own."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "other.json").write_text(json.dumps(CONFIG))
    models = [load_model(folder), load_model(str(folder / "config.json")), load_model(tmp_path / "other.json")]
    models += [load_model(CONFIG), load_model(CONFIG | {"_name_or_path": "org/named"})]
    assert [model.name for model in models] == ["tiny", "tiny", "other", "this model", "org/named"]
    assert {model.attentions for model in models} == {models[0].attentions}
    assert models[0].source == str(folder / "config.json")


def test_catalogue_names_are_kept(tmp_path: Path) -> None:
    """The same object each time: the gateway asks per request."""
    assert load_model("llama-3.1-8b") is load_model("llama-3.1-8b")
    assert load_model("llama-3.1-8b").name == "meta-llama/Meta-Llama-3.1-8B"


def test_what_cannot_be_read_is_an_error_with_its_path(tmp_path: Path) -> None:
    """Missing file, folder without one, no JSON, no object, too long a name."""
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name, words in {
        "": "config.json cannot be read: No such file",
        "none.json": "none.json cannot be read: No such file",
        "list.json": "holds no JSON object",
        "broken.json": "is not valid JSON",
        "binary.json": "is not valid JSON",
        "deep.json": "is not valid JSON",
        "x" * 5000: "is no model",
    }.items():
        with pytest.raises(EstimatorError, match=words):
            load_model(tmp_path / name)


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    """Configurations are small; weights given by mistake are not parsed."""
    path = tmp_path / "weights.json"
    with path.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(EstimatorError, match="no model configuration"):
        load_model(path)
