"""What a model's weights take on each GPU, by precision and by how they are shared out."""

from __future__ import annotations

from dataclasses import dataclass

from estimator.architecture import Model
from estimator.errors import EstimatorError
from estimator.parts import Part
from estimator.quantization import Quantization


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes on the fullest GPU."""

    bytes_per_gpu: int
    params: int
    """Of the whole model."""
    by_role: tuple[tuple[str, int], ...]
    """Bytes per GPU of each part."""
    doubts: tuple[str, ...] = ()

    @property
    def gib_per_gpu(self) -> float:
        """The same in GiB, as engines print it."""
        return self.bytes_per_gpu / 2**30


def weights(
    model: Model,
    *,
    tp: int = 1,
    pp: int = 1,
    ep: int = 1,
    quantization: Quantization | None = None,
    drafts: int = 0,
    loaded: bool = True,
) -> Weights:
    """Estimate from the configuration.

    Args:
        model: from `load_model`.
        tp: tensor-parallel ranks.
        pp: pipeline stages; the fullest counts.
        ep: ranks that share whole experts, where it is not the tensor-parallel ranks that share each.
        quantization: how the weights are stored, where it is not as the configuration says.
        drafts: draft layers to load as well.
        loaded: whether to count what engines make of the weights while they load; False for the size of a file.

    Raises:
        EstimatorError: where the description lacks what the parameters follow from, or `tp` does not fit.
    """
    if not model.parts:
        raise EstimatorError(model.parts_missing or f"{model.name} has no description of its parameters.")
    model.check_tp(tp)
    if pp < 1 or ep < 1:
        raise EstimatorError(f"pp is {pp} and ep is {ep}: both must be 1 or more.")
    how = model.quantization if quantization is None else quantization
    parts = [part for part in model.parts if loaded or not part.extra]
    ranks = [_stage(model, parts, how, (tp, ep), (stage, pp), drafts) for stage in {0, pp - 1}]
    fullest = max(ranks, key=lambda roles: sum(roles.values()))
    return Weights(
        bytes_per_gpu=round(sum(fullest.values())),
        params=sum(part.params for part in model.parts if not part.extra),
        by_role=tuple((role, round(size)) for role, size in fullest.items()),
        doubts=model.doubts,
    )


def _stage(
    model: Model, parts: list[Part], how: Quantization, ranks: tuple[int, int], stage: tuple[int, int], drafts: int
) -> dict[str, float]:
    """Bytes by part on one rank of a pipeline stage."""
    (tp, ep), (number, stages) = ranks, stage
    roles: dict[str, float] = {}
    for part in parts:
        share = part.share(tp, ep)
        if part.layers:
            share *= -(-part.layers // stages) / part.layers
        elif stages > 1 and (part.role == "head") != (number == stages - 1):
            continue  # embeddings and towers stand before the first layer, the output after the last
        bits = 16.0 if part.extra else how.bits_of(part.role)
        roles[part.role] = roles.get(part.role, 0.0) + part.params * share * _padding(model, part, how) * bits / 8
    if drafts and (layers := _layer_parts(model)):
        per_layer = sum(part.params * part.share(tp, ep) * how.bits_of(part.role) / 8 / part.layers for part in layers)
        roles["draft"] = drafts * per_layer
    return roles


def _padding(model: Model, part: Part, how: Quantization) -> float:
    """How much larger kernels make experts: both sides are padded to what they can multiply."""
    if part.role != "experts" or not part.width or not model.hidden_size:
        return 1.0
    width, hidden = (
        -(-size // step) * step / size
        for size, step in ((part.width, how.width_step), (model.hidden_size, how.hidden_step))
    )
    return width * hidden


def _layer_parts(model: Model) -> list[Part]:
    return [part for part in model.parts if part.layers and part.role != "state"]
