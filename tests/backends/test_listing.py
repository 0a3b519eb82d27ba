import pytest
from hypothesis import given, strategies as st

from gateway.backends.listing import MODELS_MAX, ListedModel, parse_listing
from tests.backends.pages import recorded


def test_real_vllm() -> None:
    """vLLM says how long a sequence may be."""
    assert parse_listing(recorded("vllm/models.json"))[0].context_tokens == 512


def test_real_llamacpp() -> None:
    """llama.cpp lists the alias; its second list, Ollama's form, is not taken."""
    assert [model.id for model in parse_listing(recorded("llamacpp/models-unified.json"))] == ["tiny"]


def test_novita() -> None:
    """The fields that Novita documents beyond OpenAI's."""
    body = (
        b'{"data":[{"created":1,"id":"deepseek/deepseek-v3.2","object":"model","title":"t","description":"d",'
        b'"context_size":163840,"input_token_price_per_m":2690,"output_token_price_per_m":4000}]}'
    )
    model = ListedModel(
        "deepseek/deepseek-v3.2",
        context_tokens=163840,
        input_price_per_million=2690.0,
        output_price_per_million=4000.0,
    )
    assert parse_listing(body) == (model,)


def test_odd_fields_are_left_out_and_odd_names_too() -> None:
    """One strange entry does not cost the others."""
    body = (
        b'{"data":[{"id":"a","max_model_len":"many","input_token_price_per_m":-1},{"id":"b\\n"},{"id":"c","root":3}]}'
    )
    assert parse_listing(body) == (ListedModel("a"), ListedModel("c"))


def test_a_list_without_end_is_cut() -> None:
    """Names become labels and rows: there is a limit."""
    body = b'{"data":[' + b",".join(b'{"id":"m%d"}' % n for n in range(MODELS_MAX + 5)) + b"]}"
    assert len(parse_listing(body)) == MODELS_MAX


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b'{"data":null}', b'{"data":[{}]}', b'{"data":[1]}', b"[" * 5000]
)
def test_anything_else_is_no_list(body: bytes) -> None:
    """Other shapes are refused."""
    with pytest.raises(ValueError):  # noqa: PT011 - texts are msgspec's
        parse_listing(body)


@given(st.binary(max_size=100))
def test_any_bytes_give_models_or_value_error(body: bytes) -> None:
    """Garbage never raises anything else."""
    try:
        parse_listing(body)
    except ValueError:
        return
