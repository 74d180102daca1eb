"""Which command is meant, before anything of it is imported: `train` by its task, `predict` by the run."""

from anyres.cli.table import COMMANDS, HEAD_ON_RECORDS, PREDICT, TRAIN, Command
from anyres.errors import check_choice


def choose(name: str, arguments: list[str]) -> tuple[Command, list[str]]:
    """The command of that name, of the kind that its arguments ask for, and the arguments that are options of it.

    Raises:
        ValueError: unknown command or task (the nearest are suggested), or a run that holds no model.
    """
    check_choice("command", name, COMMANDS)
    if name == "train":
        return _train(arguments)
    if name in ("predict", "evaluate") and _without("--task", arguments)[0] is not None:
        raise ValueError(f"--task is no option of {name}: the run says what it was trained for; leave it out")
    if name == "predict":
        return _predict(arguments), arguments
    return COMMANDS[name], arguments


def _train(arguments: list[str]) -> tuple[Command, list[str]]:
    task, rest = _without("--task", arguments)
    if task in (None, "classification") and _without("--from-records", rest)[0] is not None:
        return HEAD_ON_RECORDS, rest
    if task is None:
        return COMMANDS["train"], rest
    check_choice("task", task, TRAIN)
    return TRAIN[task], rest


def _predict(arguments: list[str]) -> Command:
    run = _without("--run", arguments)[0] or _without("--model", arguments)[0]
    if run is None or run.endswith((".onnx", ".xml")):
        return COMMANDS["predict"]
    from anyres.models.weights.record import architecture_in

    found = architecture_in(run)
    if found.name not in PREDICT:
        raise ValueError(f"{run} holds a {found.name}; allowed to predict: {', '.join(PREDICT)}; {found.advice}")
    return PREDICT[found.name]


def _without(option: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """What an option is given, None if it is not there, and the arguments without it; both forms, `=` and a space."""
    parts = [part for each in arguments for part in (each.split("=", 1) if each.startswith(f"{option}=") else [each])]
    if option not in parts:
        return None, arguments
    place = parts.index(option)
    return " ".join(parts[place + 1 : place + 2]), parts[:place] + parts[place + 2 :]
