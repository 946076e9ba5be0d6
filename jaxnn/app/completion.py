"""`jaxnn completion SHELL`: a script by which a shell completes commands and flags.

eval "$(jaxnn completion bash)"     # likewise in zsh
jaxnn completion fish | source
"""

from jaxnn.app import config as settings
from jaxnn.app.config import CompletionConfig
from jaxnn.app.demo import TUTORIALS
from jaxnn.app.flags import flat
from jaxnn.app.settings import flag

EVERYWHERE = ["--help", "--help-all", "--config", "--device", "--dpi", "--use"]


def completion_run(config: CompletionConfig) -> None:
    """Print the script."""
    found, zsh = words(), "autoload -U +X bashcompinit && bashcompinit\n"
    if config.shell == "fish":
        print(_fish(found))
    else:
        print((zsh if config.shell == "zsh" else "") + _bash(found))


def words() -> dict[str, list[str]]:
    """The flags of each command."""
    from jaxnn.cli import COMMANDS  # which starts this command

    found = {}
    for name, command in COMMANDS.items():
        kind = getattr(settings, command.settings, None)
        known = flat(kind) if kind else {}
        flags = [flag(n) for n, row in known.items() if not row.typed.by_place]
        recipe = ["--recipe"] if name in ("train", "sweep") else []
        found[name] = [*flags, *recipe, *EVERYWHERE]
    found["demo"] = [*TUTORIALS, "--record", "--copy", "--help"]
    return found


def _bash(found) -> str:
    cases = "\n".join(
        f'    {name}) words="{" ".join(flags)}" ;;' for name, flags in found.items()
    )
    return f"""_jaxnn() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=""
  case $COMP_CWORD:${{COMP_WORDS[1]}} in
    1:*) words="{" ".join(found)}" ;;
    *) case ${{COMP_WORDS[1]}} in
{cases}
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  if [[ ${{#COMPREPLY[@]}} -eq 0 ]]; then COMPREPLY=($(compgen -f -- "$word")); fi
}}
complete -o filenames -F _jaxnn jaxnn"""


def _fish(found) -> str:
    lines = [f"complete -c jaxnn -n __fish_use_subcommand -f -a '{' '.join(found)}'"]
    lines += [
        f"complete -c jaxnn -n '__fish_seen_subcommand_from {name}' "
        f"-l {word.removeprefix('--')}"
        for name, flags in found.items()
        for word in flags
        if word.startswith("--")
    ]
    lines.append(
        "complete -c jaxnn -n '__fish_seen_subcommand_from demo' -f "
        f"-a '{' '.join(TUTORIALS)}'"
    )
    return "\n".join(lines)
