"""The contract of a task: its signature, compiled once and enforced on every call.

    decoration   compile_contract(greet)      a signature that cannot be kept                      InvalidContract
    caller       pack(args, kwargs)           what does not fit never leaves                       InvalidArguments
    worker       unpack(payload, version)     what does not fit never reaches the function         InvalidArguments
                 invoke(function, arguments)  the call itself
                 pack_result(value)           what does not fit is not stored                      UnencodableResult
                 pack_error(error)            only classes that the task declares in ``raises``    None
    caller       unpack_result, unpack_error  the typed value, the typed error

Rule 1: a refusal names everything that is wrong at once, where it stands, and the contract.
Rule 2: what is accepted arrives equal; ``codec`` says how that is known.
Rule 3: nothing is imported, and no class is chosen, because a payload says so.

A payload is a JSON object: the arguments by name, all of them, defaults included; sets are sorted, dicts are not. A
reader fills in defaults that a sender left out, and refuses parameters that it does not know (inside a dataclass,
msgspec ignores unknown fields). Without annotation, or with ``Any``, a parameter takes plain JSON data: None, bool,
int, float, str, lists of these, and dicts of these with str keys.
"""

from taskcore.contract.compile import compile_contract
from taskcore.contract.contract import Arguments, Contract, Injected, Upcast

__all__ = ["Arguments", "Contract", "Injected", "Upcast", "compile_contract"]
