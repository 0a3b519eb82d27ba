"""What the live tests share with those of the endpoint picker."""

from tests.epp.conftest import _grpc_is_up

__all__ = ["_grpc_is_up"]
