"""The command line. It needs the extra ``cli``, and nothing in the library needs it.

main.py       main(): runs the command line, or says how to install what is missing
group.py      the list of commands, exit codes, the text of errors
output.py     tables, JSON lines and colours, for all commands
loading.py    "module:attribute" → App
commands/     one file for each command, imported when it is used
"""
