"""The fidelity gate: an outcome is shown only beside the fidelity of the simulator it comes from.

The synthetic society is its own reference: what happens in it is exact, and says nothing of real
people. A language model's population needs a measured distance to a real one, from the result that
``mfenv bench fidelity`` wrote for this very backbone and method; a surrogate, its calibration
report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.planners.setting import Setting, surrogate_name
from mfenv.dynamics.surrogate.find import build_surrogate
from mfenv.envs.scenarios import SYNTHETIC
from mfenv.errors import DataError, MfenvError

__all__ = ["Fidelity", "fidelity_of", "measured_fidelity", "same_model", "stated_fidelity"]

_IDENTITY = ("name", "revision")
_SHIPPED = Path(__file__).parent.parent / "results"


@dataclass(frozen=True, slots=True)
class Fidelity:
    """What is known of a simulator."""

    simulator: str
    statement: str
    """One sentence that stands beside every claim."""
    source: str | None = None
    """Name of the result it comes from."""
    kl: Mapping[str, float | None] | None = None
    """Mean KL(real ‖ simulated) in nats with its interval; of a surrogate that of its rollouts to
    those of its tier."""
    floor: float | None = None
    persistence: float | None = None

    @property
    def short(self) -> str:
        """The same in a few words, for a cell."""
        if self.kl is None:
            return "exact, not of people"
        parts = {"KL": self.kl["mean"], "floor": self.floor, "persistence": self.persistence}
        return ", ".join(f"{name} {x:.3f}" for name, x in parts.items() if x is not None)

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def fidelity_of(
    setting: Setting, backbone: Mapping[str, Any] | None, given: Sequence[Path] = ()
) -> Fidelity:
    """The fidelity of a setting's simulator, whose models are at hand.

    ``backbone`` is its description; ``given`` are results of ``mfenv bench fidelity``, else those
    that come with the project are looked through. Raises ``MfenvError`` that names the command to
    measure it where it is not known.
    """
    models: dict[str, Mapping[str, Any]] = {} if backbone is None else {"backbone": backbone}
    if setting.dynamics == "surrogate":
        name = surrogate_name(setting)
        revision = build_surrogate(name).revision
        models["surrogate"] = {"name": Path(name).name, "revision": revision}
    return stated_fidelity(setting, models, given)


def stated_fidelity(
    setting: Setting, models: Mapping[str, Mapping[str, Any]], given: Sequence[Path] = ()
) -> Fidelity:
    """The same from what an entry states of its models; none of them is built."""
    if setting.dynamics == "society":
        return Fidelity(
            "synthetic society",
            "exact: the synthetic society is its own reference; it is a stylised model with known "
            "rules, not a model of people",
        )
    if setting.dynamics == "surrogate":
        return _surrogate(models.get("surrogate", {}), given)
    backbone = models.get("backbone", {})
    name, method = str(backbone.get("name", setting.backbone)), setting.method
    # What was measured on synthetic events comes first where such events are played.
    synthetic = setting.events in (None, SYNTHETIC)
    paths = list(given) or sorted(
        _SHIPPED.glob("*.json"), key=lambda p: (p.name.startswith(SYNTHETIC) != synthetic, p.name)
    )
    for path in paths:
        value = _read(path, strict=bool(given))
        if value is None or not same_model(value.get("backbone"), backbone):
            continue
        if method in value.get("kl", {}):
            return measured_fidelity(path.name, value, f"{name} ({method})", method)
    where = ", ".join(p.name for p in given) if given else "no result that comes with the project"
    raise MfenvError(
        f"the fidelity of {name} (revision {backbone.get('revision', 'unknown')}) with the method "
        f"{method} is unknown ({where} has it), so its outcomes are not shown; measure it with: "
        f"mfenv bench fidelity --track pheme --data FILE --backbone {setting.backbone} --methods "
        f"{method}, then give the result: --fidelity FILE.json"
    )


def _surrogate(stated: Mapping[str, Any], given: Sequence[Path]) -> Fidelity:
    """What the calibration report says of the surrogate, for its very parameters."""
    name, revision = str(stated.get("name", "?")), stated.get("revision")
    for path in list(given) or sorted(_SHIPPED.glob("surrogate-*.json")):
        value = _read(path, strict=bool(given))
        if value is None or revision is None or value.get("revision") != revision:
            continue
        try:
            step, felt = value["one step"], value.get("response")
            last = max(value["rollout, steps"].items(), key=lambda x: int(x[0].split()[0]))
            kl = {"mean": float(last[1]["surrogate"]), "low": None, "high": None}
            floor, persistence = float(last[1]["floor"]), float(last[1]["persistence"])
            text = (
                f"one-step KL to held-out episodes of its tier {step['surrogate']:.3f} nats "
                f"(continuing the last shares {step['persistence']:.3f}, noise floor "
                f"{step['floor']:.3f}); rollout, steps {last[0]}: {last[1]['surrogate']:.3f} "
                f"({last[1]['persistence']:.3f}, {last[1]['floor']:.3f})"
            )
            if felt:
                text += (
                    f"; response to interventions: correlation {felt['correlation']:.2f}, slope "
                    f"{felt['slope']:.2f} on the tier's own"
                )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            problem = f"no report of mfenv train surrogate: {error}"
            raise DataError(str(path), "(all)", "one step", problem) from None
        return Fidelity(f"surrogate {name}", text, path.name, kl, floor, persistence)
    raise MfenvError(
        f"the fidelity of the surrogate {name!r} (revision {revision or 'not stated'}) is unknown, "
        f"so its outcomes are not shown; give the report that mfenv train surrogate wrote: "
        f"--fidelity FILE.json"
    )


def _read(path: Path, strict: bool) -> dict[str, Any] | None:
    """A result, or ``None`` where a file is none and need not be."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        if strict:
            raise DataError(str(path), "(all)", "(all)", f"no JSON: {error}") from None
        return None
    if isinstance(value, dict):
        return value
    if strict:
        raise DataError(str(path), "(all)", "(all)", "no result of mfenv bench fidelity")
    return None


def same_model(measured: Any, backbone: Mapping[str, Any]) -> bool:
    """Whether a result is of this backbone: the same name and revision."""
    models = measured if isinstance(measured, list) else []
    return any(
        isinstance(m, dict)
        and all(m.get(k) is not None and str(m[k]) == str(backbone.get(k)) for k in _IDENTITY)
        for m in models
    )


def measured_fidelity(
    source: str, value: Mapping[str, Any], simulator: str, method: str
) -> Fidelity:
    """The fidelity of a method, from a result of ``mfenv bench fidelity`` that has it.

    Raises ``DataError`` where ``value`` is no such result.
    """
    others, row = value["kl"], value["kl"][method]
    track = str(value.get("track") or value.get("suite") or Path(source).stem)
    try:
        kl = {k: row[k] for k in ("mean", "low", "high")}
        floor, persistence = (
            None if name not in others else float(others[name]["mean"])
            for name in ("noise floor", "persistence")
        )
        if floor is None:
            floor = float(row["mean"]) - float(row["excess"]["mean"])
        text = f"mean KL to the real population {kl['mean']:.3f} nats on {track}"
    except (KeyError, TypeError, ValueError) as error:
        problem = f"no result of mfenv bench fidelity: {error}"
        raise DataError(source, "(all)", "kl", problem) from None
    if kl["low"] is not None and kl["high"] is not None:
        text += f" [{kl['low']:.3f}, {kl['high']:.3f}]"
    text += f"; noise floor {floor:.3f}"
    if persistence is not None:
        text += f"; continuing the warm-up's shares {persistence:.3f}"
        if kl["mean"] > persistence:
            text += ", which is closer: this simulator is not a good forecaster of real people"
    return Fidelity(simulator, text, source, kl, floor, persistence)
