"""Weights from a checkpoint's index and headers: exact where the files are there, scaled where only the index is."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from estimator import EstimatorError, load_model
from estimator.safetensors_index import INDEX_NAME
from estimator.weights import weights

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 640,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
SIZES = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "I32": 4, "U8": 1}


def entries(tensors: Mapping[str, tuple[str, list[int]]]) -> dict[str, object]:
    """What a header says of tensors, one behind the other."""
    found: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, (kind, shape) in tensors.items():
        size = SIZES[kind]
        for side in shape:
            size *= side
        found[name] = {"dtype": kind, "shape": shape, "data_offsets": [place, place + size]}
        place += size
    return found


def write(path: Path, content: object) -> None:
    """A file with nothing but its header."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def folder(path: Path, **config: object) -> Path:
    """A folder with a configuration."""
    (path / "config.json").write_text(json.dumps(CONFIG | config))
    return path


def layer(i: int, kind: str = "BF16") -> dict[str, tuple[str, list[int]]]:
    """A layer's tensors."""
    name = f"model.layers.{i}"
    return {
        f"{name}.self_attn.q_proj.weight": (kind, [128, 128]),
        f"{name}.self_attn.k_proj.weight": (kind, [64, 128]),
        f"{name}.self_attn.v_proj.weight": (kind, [64, 128]),
        f"{name}.self_attn.o_proj.weight": (kind, [128, 128]),
        f"{name}.mlp.gate_proj.weight": (kind, [256, 128]),
        f"{name}.mlp.up_proj.weight": (kind, [256, 128]),
        f"{name}.mlp.down_proj.weight": (kind, [128, 256]),
        f"{name}.input_layernorm.weight": ("BF16", [128]),
        f"{name}.post_attention_layernorm.weight": ("BF16", [128]),
    }


ENDS = {"model.embed_tokens.weight": ("BF16", [640, 128]), "lm_head.weight": ("BF16", [640, 128])}
ENDS |= {"model.norm.weight": ("BF16", [128])}
PARAMS_16 = 2 * (6 * 128 * 64 + 3 * 128 * 256) + 2 * 640 * 128 + 5 * 128


def test_headers_agree_with_the_configuration(tmp_path: Path) -> None:
    """For a plain model both ways give the same, on one GPU and on two."""
    write(folder(tmp_path) / "model.safetensors", entries(layer(0) | layer(1) | ENDS))
    stored, said = load_model(tmp_path), load_model(tmp_path / "config.json")
    assert weights(stored, loaded=False).bytes_per_gpu == 2 * PARAMS_16
    for tp in (1, 2, 4):
        assert weights(stored, tp=tp) == weights(said, tp=tp)
    assert stored.attentions == said.attentions


def test_an_index_joins_its_files(tmp_path: Path) -> None:
    """Named itself or by its folder; a model of 8-bit weights with scales beside them."""
    quant = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    scales = {"model.layers.0.mlp.up_proj.weight_scale_inv": ("F32", [2, 1])}
    files = {"a.safetensors": layer(0, "F8_E4M3") | scales, "b.safetensors": layer(1, "F8_E4M3") | ENDS}
    write_index(folder(tmp_path, quantization_config=quant), files)
    for path in (tmp_path, tmp_path / INDEX_NAME):
        model = load_model(path)
        found = weights(model, loaded=False)
        linear = 2 * (6 * 128 * 64 + 3 * 128 * 256)
        assert (found.params, found.bytes_per_gpu) == (PARAMS_16, linear + 2 * (PARAMS_16 - linear) + 8)
        assert model.quantization.method == "fp8"


def write_index(path: Path, files: Mapping[str, Mapping[str, tuple[str, list[int]]]]) -> None:
    """Files, and an index over them."""
    for name, tensors in files.items():
        write(path / name, entries(tensors))
    listed = {tensor: name for name, tensors in files.items() for tensor in tensors}
    (path / INDEX_NAME).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": listed}))


def test_packed_weights_count_as_what_they_unpack_to(tmp_path: Path) -> None:
    """Eight 4-bit weights in each 32-bit element; scales and zero points weigh, but are no parameters."""
    quant = {"quant_method": "awq", "bits": 4, "group_size": 128}
    name = "model.layers.0.mlp.up_proj"
    packed = {f"{name}.qweight": ("I32", [128, 32]), f"{name}.qzeros": ("I32", [1, 32])}
    packed[f"{name}.scales"] = ("BF16", [1, 256])
    write(folder(tmp_path, quantization_config=quant) / "model.safetensors", entries(packed))
    found = weights(load_model(tmp_path), loaded=False)
    assert (found.params, found.bytes_per_gpu) == (128 * 256, 128 * 32 * 4 + 32 * 4 + 256 * 2)


def test_weights_of_32_bits_are_served_in_16(tmp_path: Path) -> None:
    """As engines do."""
    write(folder(tmp_path, torch_dtype="float32") / "model.safetensors", entries(layer(0, "F32")))
    assert weights(load_model(tmp_path), loaded=False).bytes_per_gpu == 2 * (6 * 128 * 64 + 3 * 128 * 256 + 256)


def test_draft_layers_and_towers_have_places_of_their_own(tmp_path: Path) -> None:
    """Layers beyond the model's last are drafts, but not those of a tower."""
    tower = {"vision_tower.encoder.layers.7.mlp.fc1.weight": ("BF16", [64, 64])}
    write(folder(tmp_path) / "model.safetensors", entries(layer(0) | layer(2) | tower))
    model = load_model(tmp_path)
    assert dict(weights(model, loaded=False).by_role)["vision"] == 8192
    assert "draft layers take" in model.notes[-1]


def test_an_index_alone_gives_the_whole(tmp_path: Path) -> None:
    """Before anything large is downloaded; also for a model whose parameters do not follow from its fields."""
    index = {"metadata": {"total_size": 10**6}, "weight_map": dict.fromkeys(layer(0), "a.safetensors")}
    (folder(tmp_path) / INDEX_NAME).write_text(json.dumps(index))
    model = load_model(tmp_path)
    assert weights(model, loaded=False).bytes_per_gpu == pytest.approx(10**6, abs=2)
    assert "scaled by" in model.notes[-1]
    folder(tmp_path, intermediate_size=None)
    assert not load_model(tmp_path / "config.json").parts
    assert weights(load_model(tmp_path), loaded=False).bytes_per_gpu == 10**6


MAP = {"weight_map": {"x": "a.safetensors"}}


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (b"{", "holds no valid JSON"),
        (b"[]", "holds no JSON object"),
        (b"[" * 100_000, "holds no valid JSON"),
        (b"{}", "has no 'weight_map'"),
        (b'{"weight_map": []}', "has no 'weight_map'"),
        (b'{"weight_map": {"x": "../a.safetensors"}}', "names '../a.safetensors' as the file of 'x'"),
        (b'{"weight_map": {"x": 5}}', "names '5' as the file"),
        (json.dumps(MAP).encode(), "no usable 'metadata.total_size': it is None"),
        (json.dumps({**MAP, "metadata": {"total_size": -5}}).encode(), "it is -5"),
        (json.dumps({**MAP, "metadata": {"total_size": 1e300}}).encode(), "it is 1e"),
        (json.dumps({**MAP, "metadata": {"total_size": True}}).encode(), "it is True"),
    ],
)
def test_a_bad_index_is_named(tmp_path: Path, index: bytes, words: str) -> None:
    """File and field."""
    (folder(tmp_path) / INDEX_NAME).write_bytes(index)
    with pytest.raises(EstimatorError, match=rf"{INDEX_NAME} .*{words}"):
        load_model(tmp_path)


def test_a_half_finished_download_is_refused(tmp_path: Path) -> None:
    """Files that are listed but not there; an index without a configuration; one that is none at all."""
    write_index(folder(tmp_path), {"a.safetensors": layer(0), "b.safetensors": layer(1)})
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(EstimatorError, match=r"the file b.safetensors, which is not there \(1 of 2 missing\)"):
        load_model(tmp_path)
    with pytest.raises(EstimatorError, match=r"other.safetensors.index.json cannot be read"):
        load_model(tmp_path / "other.safetensors.index.json")
    (tmp_path / "config.json").unlink()
    with pytest.raises(EstimatorError, match=r"config.json cannot be read"):
        load_model(tmp_path / INDEX_NAME)


def one(**changed: object) -> dict[str, object]:
    """A header of one tensor, a field of it changed."""
    return {"x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]} | changed}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (one(dtype="F99"), "'dtype' of 'x' is 'F99'"),
        (one(dtype=[]), "'dtype' of 'x'"),
        (one(shape=[-4]), "'shape' or 'data_offsets' of 'x'"),
        (one(shape=[2**60]), "'shape' or 'data_offsets' of 'x'"),
        (one(shape="4"), "'shape' or 'data_offsets' of 'x'"),
        (one(data_offsets=[0]), "'shape' or 'data_offsets' of 'x'"),
        (one(data_offsets=[8, 0]), "span -8 bytes"),
        (one(data_offsets=[0, 2**49]), "span 562,949,953,421,312 bytes"),
        ({"x": 5}, "'dtype' of 'x' is 'None'"),
        (b"{,", "holds no valid JSON"),
        (b"[]", "holds no JSON object"),
        (b"", "states a header of 0 bytes"),
    ],
)
def test_a_bad_header_is_named(tmp_path: Path, content: object, words: str) -> None:
    """File, tensor and field."""
    write(folder(tmp_path) / "model.safetensors", content)
    with pytest.raises(EstimatorError, match=rf"model.safetensors.* {words}"):
        load_model(tmp_path)


def test_lengths_are_not_believed(tmp_path: Path) -> None:
    """A header of 2^60 bytes is not allocated; one that is cut off is told."""
    path = folder(tmp_path) / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(EstimatorError, match="states a header of 1,152,921,504,606,846,976 bytes"):
        load_model(tmp_path)
    path.write_bytes(struct.pack("<Q", 100) + b"{}")
    with pytest.raises(EstimatorError, match="is cut off: its header has 2 of 100 bytes"):
        load_model(tmp_path)
