"""Finds the network among the tensors of a checkpoint, wherever it is nested, and says what is not part of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.checkpoints.families import FAMILIES, Family, detect_family, is_dense, listed
from model.errors import CheckpointError, CheckpointMismatch

Averaged = Literal["auto", "on", "off"]
Numbers = tuple[float, float, float]

_AVERAGED = re.compile(r"(^|[._])(ema|averaged|averaging|avg|swa|teacher|shadow|momentum)\d*([._]|$)|module_ema|ema_")
_HARMLESS = re.compile(
    r"(^|[._])(loss|losses|loss_fn|criterion|metric|metrics|accuracy|acc|acc\d|auroc|f1|confusion|normalize|normalizer"
    r"|normalization|data_preprocessor|mean|std|mu|sigma|n_averaged|step|steps|epoch|class_weights?|pos_weight|initted)"
    r"(?=[._\d]|$)"
)
_WRAPPER = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_OPTIMIZER = re.compile(r"opt(im(izer)?)?s?(_states?)?(_dict)?\.")
_TRANSPOSED = (".W", ".kernel", ".fc")  # the classifiers of some losses
_NORMALIZATION = re.compile(r"(^|[._])(mean|mu|std|sigma)$")
_MEASURED = re.compile(r"(^|[._])(\w*loss|criterion|metrics?|callbacks)[._]")
_OF_PIXELS = re.compile(r"normali|pixel|image|preproc|transform")
_FOREIGN = {  # layers that change what the network computes
    re.compile(r"(^|[._])(lora|loha|lokr|hada|ia3|oft)_|\.(base_layer|modules_to_save)\."): (
        "adapters (LoRA or similar)",
        "merge them, as with merge_and_unload() of PEFT, and save the state_dict of the network",
    ),
    re.compile(r"\.(SCB|qweight|qzeros|absmax|_packed_params|(weight|input)_(scale|zero_point))(\.|_|$)"): (
        "quantized layers",
        "save the state_dict of the network before quantization",
    ),
}
_SCALING = re.compile(r"(^|[._])(temperature|logit_scale|logit_bias|gem|pool|pooling)([._]|$)|(^|\.)scale$")
_WEIGHT = re.compile(r"weight(_v)?$|weight\.original\d$")
_SHOWN = 8
_EVALUATED = {"state_dict_ema.": "", "model_ema.": "n_averaged"}
"""The averages that timm and torchvision evaluate, and a key in them that only the latter's have."""
_SWAPPED = {"ema_state_dict.": "ema_state_dict.steps", "current_model_state.": None}
"""Where mmengine and Lightning keep the weights that were not averaged, as their ``state_dict`` has the averaged ones,
and a key that only their files have."""


@dataclass(frozen=True)
class FoundNetwork:
    """The tensors of one network by its family's keys, and what was ignored.

    ``normalization`` has the mean and the standard deviation by which a layer before the network normalizes, on the
    scale of 0 to 1.
    """

    family: Family
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...]
    normalization: tuple[Numbers, Numbers] | None = None


@dataclass(frozen=True)
class _Candidate:
    family: Family
    prefix: str
    tensors: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        return self.prefix.rstrip(".") or "the top level"


def find_network(tensors: Mapping[str, Tensor], source: str, averaged: Averaged = "auto") -> FoundNetwork:
    """Returns the one ConvNeXt in the tensors of a file.

    Of a network and its exponential moving average, ``averaged`` selects one; auto is what the library that saved the
    file evaluates: the average in timm's ``state_dict_ema`` and torchvision's ``model_ema``, else the network itself.
    Raises ``CheckpointError`` if there is no network of a known family or several, and ``CheckpointMismatch`` if other
    layers belong to it.
    """
    tensors = _unwrapped(tensors)
    _reject_foreign(tensors, source)
    candidates = _candidates(tensors)
    if not candidates:
        detect_family(tensors, source)
    chosen, notes = _choose(candidates, source, averaged, tensors)
    beside, others = _beside(tensors, chosen, candidates)
    unexpected = [key for key in beside if _belongs(key, beside, chosen)]
    ignored = sorted({_group(key) for key in (*beside, *others) if key not in unexpected})
    if ignored:
        more = f" and {len(ignored) - _SHOWN} more" if len(ignored) > _SHOWN else ""
        notes.append(f"ignored what is not part of the network: {', '.join(ignored[:_SHOWN])}{more}")
    found = _with_linear_head(dict(chosen.tensors), chosen.family, source, notes)
    _check_head(found, chosen, beside, source)
    if unexpected:
        raise CheckpointMismatch(
            f"{source} ({chosen.family.name}): beside the network, {chosen.name}, there is {listed(unexpected)}; if "
            "its outputs do not depend on that, save the state_dict of the network alone, else it cannot be served"
        )
    normalization = _normalization(beside, source)
    return FoundNetwork(chosen.family, found, tuple(notes), normalization)


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes the names of wrappers (torch.compile, FSDP, checkpointing), and the state of optimizers."""
    return {_WRAPPER.sub("", key): tensor for key, tensor in tensors.items() if not _OPTIMIZER.match(key)}


def _reject_foreign(tensors: Mapping[str, Tensor], source: str) -> None:
    for pattern, (kind, remedy) in _FOREIGN.items():
        for key in filter(pattern.search, tensors):
            raise CheckpointMismatch(f"{source} has {kind}, as {key}, which are not supported; {remedy}")


def _normalization(beside: Mapping[str, Tensor], source: str) -> tuple[Numbers, Numbers] | None:
    found: dict[str, set[Numbers]] = {"mean": set(), "std": set()}
    for key, tensor in beside.items():
        name = None if _MEASURED.search(key) else _NORMALIZATION.search(key)
        is_scalar = tensor.numel() == 1 and _OF_PIXELS.search(key)  # for all channels
        if name and (tensor.numel() == 3 or is_scalar) and not tensor.is_complex() and is_dense(tensor):
            red, green, blue = (round(number, 6) for number in tensor.double().flatten().expand(3).tolist())
            found["mean" if name[2] in ("mean", "mu") else "std"].add((red, green, blue))
    if not (found["mean"] and found["std"]):
        return None
    if len(found["mean"]) > 1 or len(found["std"]) > 1:
        raise CheckpointError(f"{source} has several normalizations: {found}; save only the state_dict of the network")
    mean, std = found["mean"].pop(), found["std"].pop()
    scale = 255 if max(std) > 1 else 1
    is_possible = all(0 <= number <= scale for number in mean) and all(0 < number <= scale for number in std)
    if not is_possible or (scale == 255 and 0 < max(mean) <= 1):
        raise CheckpointError(
            f"{source} has a layer that normalizes by mean {mean} and std {std}, which are not of pixels; save only "
            "the state_dict of the network, and describe its preprocessing in a config.json"
        )
    return _divided(mean, scale), _divided(std, scale)


def _divided(numbers: Numbers, scale: int) -> Numbers:
    red, green, blue = numbers
    return red / scale, green / scale, blue / scale


def _beside(
    tensors: Mapping[str, Tensor], chosen: _Candidate, candidates: list[_Candidate]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that are in no network, and the first key of each other network."""
    own = {candidate.prefix + key for candidate in candidates for key in candidate.tensors}
    others = [c.prefix + next(iter(c.tensors)) for c in candidates if c is not chosen]
    return {key: tensor for key, tensor in tensors.items() if key not in own}, others


def _belongs(key: str, beside: Mapping[str, Tensor], chosen: _Candidate) -> bool:
    """Whether a tensor beside the network could be part of it, so that the network alone computes something else."""
    inside = key.removeprefix(chosen.prefix).partition(".")[0] if key.startswith(chosen.prefix) else None
    if inside in {own.partition(".")[0] for own in chosen.tensors} or _SCALING.search(key):
        return True
    if _AVERAGED.search(key.removeprefix(chosen.prefix)):
        return False
    if _takes_outputs(key, beside[key], chosen):
        return True
    return not _HARMLESS.search(key) and (inside is not None or _is_layer(key, beside))


def _is_layer(key: str, beside: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is the weight of a layer; weights without a bias may be those of the classes in a loss."""
    return bool(_WEIGHT.search(key)) and (beside[key].ndim >= 2 or _WEIGHT.sub("bias", key) in beside)


def _takes_outputs(key: str, tensor: Tensor, chosen: _Candidate) -> bool:
    """Whether a matrix could be a layer after the network, such as the classifier in the loss of ArcFace."""
    if tensor.ndim != 2 or tensor.shape[0 if key.endswith(_TRANSPOSED) else 1] not in _outputs(chosen):
        return False
    if key.endswith("weight") and not _HARMLESS.search(key):
        return True
    return 1 not in tensor.shape and tensor.shape[0] != tensor.shape[1]  # not a mean or a confusion matrix


def _outputs(chosen: _Candidate) -> list[int]:
    return [size for key, t in chosen.tensors.items() if _name(chosen, key) == "head.fc.weight" for size in t.shape[:1]]


def _check_head(found: Mapping[str, Tensor], chosen: _Candidate, beside: Mapping[str, Tensor], source: str) -> None:
    """Raises ``CheckpointMismatch`` if a classifier is outside of a network that has none."""
    if any(_name(chosen, key) == "head.fc.weight" for key in found):
        return
    widths = [size for key, t in found.items() if _name(chosen, key) == "head.norm.weight" for size in t.shape]
    layers = [key for key, t in beside.items() if t.ndim == 2 and t.shape[1] in widths and key.endswith("weight")]
    if layers:
        raise CheckpointMismatch(
            f"{source} ({chosen.family.name}): the network, {chosen.name}, has no classifier of its own, but there is "
            f"{layers[0]} beside it; if that takes the normalized features, rename it to "
            f"{chosen.prefix}{chosen.family.key('head.fc')}.weight (and its bias)"
        )


def _candidates(tensors: Mapping[str, Tensor]) -> list[_Candidate]:
    """Every network, with the first family of those that fit at a place."""
    places: dict[str, Family] = {}
    for family in FAMILIES:
        anchor = re.compile(rf"(?:^|\.)(?={family.anchor})")
        for found in filter(None, map(anchor.search, tensors)):
            prefix = found.string[: found.end()]
            if not any(prefix in (place, place + known.inner) for place, known in places.items()):
                places[prefix] = family
    return [_Candidate(family, prefix, _own(tensors, family, prefix)) for prefix, family in places.items()]


def _own(tensors: Mapping[str, Tensor], family: Family, prefix: str) -> dict[str, Tensor]:
    """The tensors that the family has, and all others of its head."""
    keys = {key: key.removeprefix(prefix) for key in tensors if key.startswith(prefix)}
    root = family.key("head.fc").partition(".")[0] + "."
    return {rest: tensors[key] for key, rest in keys.items() if family.canonical_name(rest) or rest.startswith(root)}


def _choose(
    candidates: list[_Candidate], source: str, averaged: Averaged, tensors: Mapping[str, Tensor]
) -> tuple[_Candidate, list[str]]:
    swapped = tuple(prefix for prefix, mark in _SWAPPED.items() if mark is None or mark in tensors)
    is_swapped = any(candidate.prefix.startswith(swapped) for candidate in candidates)
    groups: dict[bool, list[_Candidate]] = {True: [], False: []}
    for candidate in candidates:
        flag = not candidate.prefix.startswith(swapped) if is_swapped else bool(_AVERAGED.search(candidate.prefix))
        groups[flag].append(candidate)
    if averaged == "on" and not groups[True]:
        raise CheckpointError(f"{source} has no averaged weights")
    evaluated = tuple(prefix for prefix, mark in _EVALUATED.items() if not mark or prefix + mark in tensors)
    prefers_average = is_swapped or any(c.prefix.startswith(evaluated) for c in groups[True])
    wanted = prefers_average if averaged == "auto" else averaged == "on"
    group = groups[wanted] or groups[not wanted]
    chosen = _only(group, source)
    notes = []
    if groups[True] and groups[False]:
        names = " and ".join(candidate.name for candidate in candidates)
        notes.append(f"the file has {names}; using {chosen.name} (CONVNEXT_EMA selects averaged weights or not)")
    return chosen, notes


def _only(candidates: list[_Candidate], source: str) -> _Candidate:
    """The one network, of which others may be copies or parts."""
    by_name = [{_name(c, key) or key: tensor for key, tensor in c.tensors.items()} for c in candidates]
    whole = max(by_name, key=len)
    for part in by_name:
        if part is not whole and not all(name in whole and _equal(t, whole[name]) for name, t in part.items()):
            names = ", ".join(candidate.name for candidate in candidates)
            raise CheckpointError(f"{source} has several networks: {names}; save the state_dict of one of them")
    return next(c for c, part in zip(candidates, by_name, strict=True) if part is whole)


def _equal(first: Tensor, second: Tensor) -> bool:
    return is_dense(first) and is_dense(second) and torch.equal(first, second)


def _name(candidate: _Candidate, key: str) -> str:
    return candidate.family.canonical_name(key) or ""


def _group(key: str) -> str:
    """The first parts of a key, up to the one that says what it is."""
    parts = key.split(".")
    return ".".join(parts[: 2 if len(parts) > 2 else 1])


def _with_linear_head(tensors: dict[str, Tensor], family: Family, source: str, notes: list[str]) -> dict[str, Tensor]:
    """Renames the one linear layer of a head that also has layers without parameters, and notes that they are dropout.

    Raises ``CheckpointMismatch`` for a head with several layers, and if there is none.
    """
    fc = family.key("head.fc")
    root = fc.partition(".")[0] + "."
    matrices = [k for k, t in tensors.items() if k.startswith(root) and k.endswith("weight") and t.ndim in (2, 4)]
    matrices = [key for key in matrices if tensors[key].ndim == 2 or tensors[key].shape[2:] == (1, 1)]
    if len(matrices) > 1:
        raise CheckpointMismatch(
            f"{source} ({family.name}): its head is an MLP with the layers {', '.join(matrices)}; "
            "only a single linear layer is supported"
        )
    if not matrices or matrices[0] == f"{fc}.weight":
        return tensors
    layer = matrices[0].removesuffix(".weight")
    if others := [key for key in tensors if key.startswith(f"{fc}.") and not key.startswith(f"{layer}.")]:
        raise CheckpointMismatch(
            f"{source} ({family.name}): its head has {', '.join(others)} beside {matrices[0]}; "
            "only a single linear layer is supported"
        )
    notes.append(
        f"the classifier is {layer}; assuming that what is beside it without parameters is dropout, not an activation"
    )
    renamed = {f"{layer}.weight": f"{fc}.weight", f"{layer}.bias": f"{fc}.bias"}
    return {renamed.get(key, key): tensor for key, tensor in tensors.items()}
