"""The inference engine behind the server: the only package of Attune that knows vLLM.

`port` and `record` are what the rest of the server may use; they import no engine. `memory` implements the port
without vLLM.
"""
