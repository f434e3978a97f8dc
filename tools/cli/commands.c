/* SPDX-License-Identifier: Apache-2.0 */
/* The table of commands. Help, docs/cli.md and its test follow from it. */
#include <stddef.h>

#include "tools/cli/cli.h"

const struct command cli_commands[] = {
    {"serve", "[OPTIONS OF dormoused]", "run the server",
     "Runs dormoused, which is looked for beside this program and then in PATH, with all\n"
     "the options given. `dormoused --help` lists them.\n",
     cmd_serve},
    {"create", "[OPTIONS]", "make a sandbox, start it and print its id",
     "  --template T      what it is made from (default base)\n"
     "  --memory MB       RAM\n"
     "  --cpus N          virtual CPUs\n"
     "  --disk MB         size of its disk\n"
     "  -e, --env K=V     environment of all its processes; K alone: the value it has here\n"
     "  --timeout S       end it after S idle seconds; 0: never (default: the server's, 300)\n"
     "  --metadata K=V    a label, shown by ls and info\n"
     "\n"
     "-e and --metadata may be repeated. --json prints the server's answer.\n",
     cmd_create},
    {"ls", "[--status STATUS]", "list the sandboxes",
     "  --status STATUS   only those that are running, hibernated, stopped or error\n"
     "\n"
     "--json prints the server's list.\n",
     cmd_ls},
    {"info", "ID", "show all about one sandbox", "", cmd_info},
    {"exec", "[OPTIONS] ID [--] CMD [ARGS...]", "run a command in a sandbox",
     "  -e, --env K=V     environment of the command; K alone: the value it has here\n"
     "  -w, --workdir DIR where it runs (default: the home directory)\n"
     "  --timeout S       kill it after S seconds; 0: never (default)\n"
     "\n"
     "CMD is run as it is, with its ARGS. A CMD without ARGS is a line for the shell:\n"
     "dormouse exec ID 'ls | wc -l'. Output appears while the command runs. Its standard\n"
     "input is empty. Ctrl-C kills it. Options go before ID.\n"
     "\n"
     "--json prints {\"exitCode\":N,\"stdout\":\"...\",\"stderr\":\"...\"} at the end.\n"
     "\n"
     "Exit code: that of the command (128+N if signal N ended it; 126 not executable, 127\n"
     "not found), 124 if --timeout ended it, 125 if it could not be run or its end is not\n"
     "known, 130 after Ctrl-C, 2 for wrong usage.\n",
     cmd_exec},
    {"cp", "SRC DST", "copy files and directories into or out of a sandbox",
     "One of the two is ID:PATH, the other a local path, or - for standard input or output.\n"
     "A PATH that does not begin with / is relative to the sandbox's home directory. A\n"
     "directory is copied with all that is in it. What is copied goes into DST if that is a\n"
     "directory. Write ./a:b for a local file with a colon.\n"
     "\n"
     "Not preserved: modes, owners, times, hard links, holes. A symbolic link to a file is\n"
     "copied as that file; links to directories, sockets, pipes and devices are skipped,\n"
     "named on stderr, and make the exit code 1.\n"
     "\n"
     "--json prints {\"files\":N,\"directories\":N,\"bytes\":N,\"skipped\":N}.\n",
     cmd_cp},
    {"kill", "ID...", "end sandboxes for good",
     "Prints the ids as they end. Exit code 1 if one of them could not be ended.\n"
     "--json prints [{\"sandboxID\":ID,\"killed\":BOOL,\"error\":TEXT}].\n",
     cmd_kill},
    {"logs", "ID", "print what a sandbox wrote to its console",
     "On a terminal, control characters are shown as ?.\n"
     "--json prints {\"sandboxID\":ID,\"console\":TEXT}.\n",
     cmd_logs},
    {"doctor", "[--state DIR]", "check whether this machine can run sandboxes, and how well",
     "  --state DIR       look at the disk that holds DIR (default /var/lib/dormouse)\n"
     "\n"
     "Exit code: 0 if a Linux guest can run here, 1 if not. The form of --json is described\n"
     "in docs/cli.md.\n",
     cmd_doctor},
    {"version", "", "print the version", "", cmd_version},
};

const size_t cli_num_commands = sizeof(cli_commands) / sizeof(cli_commands[0]);
