"""``dovetail completion bash | zsh | fish``."""

from __future__ import annotations

import argparse
import re

from dovetail.cli.parsing.command_tree import Argument, Command, read_commands
from dovetail.kernel.registry import Registry

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to run the script: bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    from dovetail.cli.main import COMMANDS, build_parser

    commands = list(read_commands(build_parser(COMMANDS), Registry.load()))
    scripts = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}
    print(scripts[args.shell](commands), end="")
    return 0


# bash: functions that work with bash 3.2, too.


def bash_script(commands: list[Command]) -> str:
    """A script that registers completion with bash."""
    flags = "\n".join(
        f'        "{" ".join(c.words)}") echo "{" ".join([*_names(c), *c.commands])}" ;;' for c in commands
    )
    values = "\n".join(
        f'        "{" ".join(c.words)} {name}") echo "{_bash_value(a)}" ;;'
        for c in commands
        for a in c.flags
        if a.value
        for name in a.names
    )
    places = "\n".join(
        f'        "{" ".join(c.words)}") echo "{_bash_value(c.places[0])}" ;;' for c in commands if c.places
    )
    words = " ".join(f'"{" ".join(c.words)}"' for c in commands[1:])
    return f"""# bash completion of dovetail

_dovetail_words() {{ # flags and commands of a command
    case "$1" in
{flags}
    esac
}}

_dovetail_value() {{ # what a flag takes: its values, or @ for a path and : for anything else; nothing for a switch
    case "$1" in
{values}
    esac
}}

_dovetail_place() {{ # what stands without a flag
    case "$1" in
{places}
    esac
}}

_dovetail_paths() {{
    local IFS=$'\\n'
    COMPREPLY=($(compgen -f -- "$1"))
    compopt -o filenames 2> /dev/null
}}

_dovetail() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="" command="dovetail" word value index
    for ((index = 1; index < COMP_CWORD; index++)); do
        word="${{COMP_WORDS[index]}}"
        for value in {words}; do
            [ "$command $word" = "$value" ] && command="$value"
        done
        before="$word"
    done
    # bash may split at the = of --flag=value.
    if [ "$before" = "=" ]; then
        before="${{COMP_WORDS[COMP_CWORD - 2]}}"
    elif [ "$current" = "=" ]; then
        current=""
    fi
    COMPREPLY=()
    value=""
    case "$before" in -*) value="$(_dovetail_value "$command $before")" ;; esac
    if [ -z "$value" ]; then
        case "$current" in
            -*) value="$(_dovetail_words "$command")" ;;
            *)
                value="$(_dovetail_words "$command" | tr ' ' '\\n' | grep -v '^-' | tr '\\n' ' ')"
                value="${{value% }}"
                [ -z "$value" ] && value="$(_dovetail_place "$command")"
                ;;
        esac
    fi
    case "$value" in
        @) _dovetail_paths "$current" ;;
        :) ;;
        *) COMPREPLY=($(compgen -W "$value" -- "$current")) ;;
    esac
}}

complete -F _dovetail dovetail
"""


def _names(command: Command) -> list[str]:
    return [name for argument in command.flags for name in argument.names]


def _bash_value(argument: Argument) -> str:
    return " ".join(argument.choices) or ("@" if argument.path else ":")


# zsh


def zsh_script(commands: list[Command]) -> str:
    """A script for ``compdef``, or for a file ``_dovetail`` in a folder of ``$fpath``."""
    functions = "\n\n".join(_zsh_function(c) for c in commands)
    return f"""#compdef dovetail

{functions}

if [ "$funcstack[1]" = "_dovetail" ]; then
    _dovetail "$@"
else
    compdef _dovetail dovetail
fi
"""


def _zsh_function(command: Command) -> str:
    specs = [_zsh_flag(a) for a in command.flags]
    if not command.commands:
        specs += [f"'{place}:{a.value or 'argument'}:{_zsh_value(a)}'" for place, a in enumerate(command.places, 1)]
        return f"{_zsh_name(command)}() {{\n    _arguments -s {_zsh_lines(specs)}\n}}"
    below = "\n".join(f"        {name}) {_zsh_name(command)}_{name.replace('-', '_')} ;;" for name in command.commands)
    texts = "\n".join(f"        '{name}:{_zsh_text(text)}'" for name, text in command.commands.items())
    return f"""{_zsh_name(command)}() {{
    local context state line curcontext="$curcontext"
    local -A opt_args
    local -a commands=(
{texts}
    )
    _arguments -C {_zsh_lines([*specs, "'1: :->command'", "'*:: :->arguments'"])}
    case "$state" in
        command) _describe -t commands command commands ;;
        arguments)
            case "$line[1]" in
{below}
            esac
            ;;
    esac
}}"""


def _zsh_name(command: Command) -> str:
    return "_" + "_".join(word.replace("-", "_") for word in command.words)


def _zsh_lines(specs: list[str]) -> str:
    return "".join(f"\\\n        {spec} " for spec in specs).rstrip()


def _zsh_flag(argument: Argument) -> str:
    tail = f"[{_zsh_text(argument.help)}]" + (f":{argument.value}:{_zsh_value(argument)}" if argument.value else "")
    if len(argument.names) == 1:
        return f"'*{argument.names[0]}{_zsh_equals(argument, argument.names[0])}{tail}'"
    # One value for several spellings.
    names = ",".join(f"{name}{_zsh_equals(argument, name)}" for name in argument.names)
    return f"'*'{{{names}}}'{tail}'"


def _zsh_equals(argument: Argument, name: str) -> str:
    return "=" if argument.value and name.startswith("--") else ""


def _zsh_value(argument: Argument) -> str:
    return f"({' '.join(argument.choices)})" if argument.choices else "_files" if argument.path else " "


def _zsh_text(text: str) -> str:
    """Escape a text for a specification in single quotes."""
    return re.sub(r"([\\\[\]:])", r"\\\1", text).replace("'", "'\\''")


# fish


def fish_script(commands: list[Command]) -> str:
    """A script for ``~/.config/fish/completions/dovetail.fish``."""
    lines = ["# fish completion of dovetail", FISH_FUNCTION, "complete -c dovetail -f"]
    for command in commands:
        inside = f"-n '{_fish_condition(command)}'"
        for name, text in command.commands.items():
            lines.append(f"complete -c dovetail {inside} -a {name} -d {_fish_text(text)}")
        for argument in command.flags:
            names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in argument.names)
            lines.append(f"complete -c dovetail {inside} {names}{_fish_value(argument)} -d {_fish_text(argument.help)}")
        for argument in command.places[:1]:
            if argument.path:
                lines.append(f"complete -c dovetail {inside} -F")
            elif argument.choices:
                lines.append(f"complete -c dovetail {inside} -a '{' '.join(argument.choices)}'")
    return "\n".join(lines) + "\n"


FISH_FUNCTION = """
function __dovetail_at --description 'whether the words before the cursor are these; with more behind them, unless --only'
    argparse only -- $argv
    set -l words (string match --invert -- '-*' (commandline -opc))[2..]
    set -q _flag_only; and test (count $words) -ne (count $argv); and return 1
    test (count $argv) -eq 0; and return 0
    test "$words[1..$(count $argv)]" = "$argv" 2> /dev/null
end
"""


def _fish_condition(command: Command) -> str:
    # A command that has commands has no flags behind theirs.
    return " ".join(["__dovetail_at", *(["--only"] if command.commands else []), *command.words[1:]])


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_value(argument: Argument) -> str:
    if not argument.value:
        return ""
    if argument.choices:
        return f" -x -a '{' '.join(argument.choices)}'"
    return " -r -F" if argument.path else " -x"
