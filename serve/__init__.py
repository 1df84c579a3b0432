"""The service: a trained run behind HTTP. Ray Serve holds one vLLM engine with backbone and adapter."""
