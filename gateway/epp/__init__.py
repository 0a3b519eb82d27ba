"""The endpoint picker: the gateway's admission as an ext_proc service for Envoy. Only this room knows gRPC."""
