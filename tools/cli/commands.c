/* SPDX-License-Identifier: Apache-2.0 */
/* The table of commands. Help, docs/cli.md and its test follow from it. */
#include <stddef.h>

#include "tools/cli/cli.h"

const struct command cli_commands[] = {
    {"doctor", "[--state DIR]", "check whether this machine can run sandboxes, and how well",
     "  --state DIR       look at the disk that holds DIR (default /var/lib/dormouse)\n"
     "\n"
     "Exit code: 0 if a Linux guest can run here, 1 if not.\n",
     cmd_doctor},
    {"version", "", "print the version", "", cmd_version},
};

const size_t cli_num_commands = sizeof(cli_commands) / sizeof(cli_commands[0]);
