"""How weights are stored, as configurations and logs say it."""

from typing import Any

import pytest

from estimator import EstimatorError
from estimator.config_fields import ConfigFields
from estimator.quantization import UNQUANTIZED, Quantization, named_quantization, read_quantization


def read(said: dict[str, Any], **fields: Any) -> Quantization:
    """What a configuration with four layers says."""
    whole = ConfigFields("m", {"quantization_config": said})
    return read_quantization(whole, ConfigFields("m", {"num_hidden_layers": 4} | fields))


@pytest.mark.parametrize(
    ("name", "method", "bits"),
    [
        ("awq_marlin", "awq", 4.15625),
        ("gptq/int4", "gptq", 4.15625),
        ("gptq-int8", "gptq-int8", 8.1875),
        ("compressed-tensors fp8", "fp8", 8),
        ("modelopt nvfp4", "nvfp4", 4.5),
        ("mxfp4 (Marlin)", "mxfp4", 4.25),
        ("bitsandbytes-4bit", "bitsandbytes", 4.5),
        ("experts_int8", "int8", 8),
    ],
)
def test_methods_by_the_names_of_logs(name: str, method: str, bits: float) -> None:
    """Scales of the usual group size are in the bits."""
    found = named_quantization(name)
    assert (found.method, found.bits) == (method, bits)
    assert found.bits_of("experts") == bits
    assert found.bits_of("embedding") == found.bits_of("norm") == 16


def test_some_methods_take_the_experts_alone() -> None:
    """And kernels pad them: by 256, or Marlin's by 128 and 256."""
    own, marlin = named_quantization("mxfp4"), named_quantization("mxfp4 (Marlin)")
    assert own.bits_of("attention") == 16
    assert (own.width_step, own.hidden_step, marlin.width_step, marlin.hidden_step) == (256, 1, 128, 256)
    assert named_quantization("experts_int8").bits_of("mlp") == 16


def test_small_groups_cost_more() -> None:
    """A scale and a zero point per group."""
    assert named_quantization("awq", 32).bits == 4.625


def test_an_unknown_method_is_an_error_that_lists_the_known() -> None:
    """Never a guess."""
    with pytest.raises(EstimatorError, match="Quantisation 'zip' is not known: use one of fp8"):
        named_quantization("zip")


def test_configurations_without_it() -> None:
    """Or with a method that changes nothing here."""
    assert read_quantization(ConfigFields("m", {}), ConfigFields("m", {})) is UNQUANTIZED
    assert read({"quant_method": "quanto-nothing"}) is UNQUANTIZED


def test_plain_methods() -> None:
    """FP8 in blocks, AWQ and GPTQ with their bits."""
    assert read({"quant_method": "fp8", "weight_block_size": [128, 128]}).bits == 8
    assert read({"quant_method": "awq", "bits": 4, "group_size": 64}).bits == 4 + 20 / 64
    assert read({"quant_method": "gptq", "bits": 8, "group_size": 128}).method == "gptq-int8"
    assert read({"quant_method": "bitsandbytes", "load_in_8bit": True}).bits == 8


def test_grouped_methods_say_bits_and_group_size() -> None:
    """compressed-tensors and modelopt."""
    weights = {"num_bits": 4, "type": "int", "group_size": 32}
    assert read({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}).bits == 4.5
    floats = {"num_bits": 4, "type": "float", "group_size": 16}
    assert read({"quant_method": "modelopt", "config_groups": {"group_0": {"weights": floats}}}).method == "nvfp4"
    eight = {"num_bits": 8, "type": "float"}
    assert read({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": eight}}}).bits == 8
    assert read({"quant_method": "compressed-tensors"}) is UNQUANTIZED


def test_ignored_layers_stay_in_16_bits() -> None:
    """By pattern for all layers, by number for some, or whole layers."""
    found = read({"quant_method": "fp8", "ignore": ["lm_head", "re:.*self_attn.*", "model.layers.0.mlp.experts"]})
    assert found.bits_of("attention") == found.bits_of("latent") == 16
    assert found.bits_of("experts") == 0.25 * 16 + 0.75 * 8
    whole = read({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0*", "model.layers.1.*"]})
    assert whole.bits_of("mlp") == whole.bits_of("attention") == 12
    norms = read({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp.gate_norm"]})
    assert norms.bits_of("mlp") == 8


def test_mixed_precision_is_read_layer_by_layer() -> None:
    """Attention in fp8, experts in nvfp4, the rest as it was."""
    layers = {
        "model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"},
        "model.layers.0.mlp.experts": {"quant_algo": "W4A16_NVFP4"},
        "lm_head": {"quant_algo": "W4A16_NVFP4"},
    }
    found = read({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers})
    assert (found.bits_of("attention"), found.bits_of("experts"), found.bits_of("head")) == (8, 4.5, 4.5)
    assert found.bits_of("shared") == 16
    experts = read({"quant_method": "fp8", "quant_algo": "MIXED_PRECISION", "moe_quant_algo": "NVFP4"})
    assert (experts.bits_of("attention"), experts.bits_of("experts")) == (8, 4.5)
