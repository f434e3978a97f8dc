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
     "  --timeout S       hibernate it after S idle seconds; 0: never (default: the server's, "
     "300)\n"
     "  --metadata K=V    a label, shown by ls and info\n"
     "  --no-network      it reaches nothing but the metadata service\n"
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
     "  -i, --interactive pass standard input on, and its end\n"
     "  -d, --detach      start it, print its id, and leave it: see attach\n"
     "  -e, --env K=V     environment of the command; K alone: the value it has here\n"
     "  -w, --workdir DIR where it runs (default: the home directory)\n"
     "  --timeout S       kill it after S seconds; 0: never (default)\n"
     "\n"
     "CMD is run as it is, with its ARGS. A CMD without ARGS is a line for the shell:\n"
     "dormouse exec ID 'ls | wc -l'. Output appears while the command runs. Without -i its\n"
     "standard input is empty. Ctrl-C kills it. Options go before ID.\n"
     "\n"
     "--json prints {\"exitCode\":N,\"stdout\":\"...\",\"stderr\":\"...\"} at the end; with -d "
     "the\n"
     "server's answer. Not with -i.\n"
     "\n"
     "Exit code: that of the command (128+N if signal N ended it; 126 not executable, 127\n"
     "not found), 124 if --timeout ended it, 125 if it could not be run or its end is not\n"
     "known, 130 after Ctrl-C, 2 for wrong usage.\n",
     cmd_exec},
    {"attach", "[-i] ID SESSION", "show the output of a command that was started",
     "  -i, --interactive pass standard input on, and its end\n"
     "\n"
     "SESSION is what exec -d has printed. First comes the last MiB of what it has said, then\n"
     "what it says. Ctrl-C leaves it, and it runs on. Any number of clients can be attached.\n"
     "\n"
     "Exit code: that of the command, as for exec; 130 after Ctrl-C.\n",
     cmd_attach},
    {"shell", "[OPTIONS] ID [[--] CMD [ARGS...]]", "open a terminal in a sandbox",
     "  -e, --env K=V     environment of the program; K alone: the value it has here\n"
     "  -w, --workdir DIR where it runs (default: the home directory)\n"
     "  --attach TERMINAL go on with one that was detached from\n"
     "\n"
     "Without CMD the program is bash, or sh in images without it. A CMD without ARGS is a line\n"
     "for sh. Ctrl-] d detaches: the terminal goes on, for 5 minutes or until it is attached to\n"
     "again. Ctrl-] Ctrl-] is Ctrl-]. When the sandbox hibernates, the next key wakes it, and all\n"
     "goes on; so it does after a restart of the server. Options go before ID. There is no "
     "--json.\n"
     "\n"
     "Exit code: that of the program (128+N if signal N ended it), 0 after Ctrl-] d, 125 if it\n"
     "could not be run or its end is not known, 128+N if signal N ended this command, 2 for\n"
     "wrong usage.\n",
     cmd_shell},
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
    {"forward", "ID [LOCAL:]PORT", "reach a port of a sandbox at a local port",
     "Listens on 127.0.0.1:LOCAL (default: the same number as PORT; 0: any that is free) until\n"
     "Ctrl-C, and prints where. Each connection goes to PORT on the loopback of the sandbox,\n"
     "whatever it speaks, through the server and with its key. The first one wakes a sandbox that\n"
     "hibernates; those that are open then go on.\n",
     cmd_forward},
    {"kill", "ID...", "end sandboxes for good",
     "Prints the ids as they end. Exit code 1 if one of them could not be ended.\n"
     "--json prints [{\"sandboxID\":ID,\"killed\":BOOL,\"error\":TEXT}].\n",
     cmd_kill},
    {"logs", "ID", "print what a sandbox wrote to its console",
     "On a terminal, control characters are shown as ?.\n"
     "--json prints {\"sandboxID\":ID,\"console\":TEXT}.\n",
     cmd_logs},
    {"checkpoint", "[OPTIONS] ID NAME", "take a checkpoint of a running sandbox",
     "  --disk-only       its disk alone; otherwise memory and running processes, too\n"
     "  --keep N          delete its oldest checkpoints of this kind, so that N are left\n"
     "  -w, --wait        until it is written out; otherwise that goes on behind\n"
     "\n"
     "The sandbox stops for a moment and runs on. NAME is free, but there is one of it per\n"
     "sandbox. Prints the id of the checkpoint; --json prints the server's answer.\n",
     cmd_checkpoint},
    {"checkpoints", "ID", "list the checkpoints of a sandbox", "--json prints the server's list.\n",
     cmd_checkpoints},
    {"restore", "ID CHECKPOINT", "take a sandbox back to one of its checkpoints",
     "CHECKPOINT is an id or a name. Disk, memory and processes are as they were then; what\n"
     "came later is gone, but for other checkpoints: any of them can be restored next. Of\n"
     "a checkpoint of the disk alone, the sandbox boots. Returns when it runs.\n"
     "--json prints {\"sandboxId\":ID,\"checkpointId\":ID,\"status\":\"running\"}.\n",
     cmd_restore},
    {"fork", "[OPTIONS] SANDBOX|CHECKPOINT", "make new sandboxes that go on from where one is",
     "  -n N              how many (default 1); they all begin at the same instant\n"
     "  --memory MB       RAM (not less than it has)\n"
     "  --cpus N          virtual CPUs\n"
     "  -e, --env K=V     more environment; K alone: the value it has here\n"
     "  --timeout S       hibernate it after S idle seconds; 0: never\n"
     "  --metadata K=V    a label, shown by ls and info\n"
     "\n"
     "Of a running sandbox, or of a checkpoint: its id, or SANDBOX:NAME. The sandbox of a\n"
     "checkpoint need not exist any more. Processes run on in each fork, with an identity of\n"
     "its own. -e and --metadata may be repeated. Prints the ids of the forks.\n"
     "--json prints an array of the server's answers.\n",
     cmd_fork},
    {"tree", "[--ascii] [ID]", "draw the checkpoints of one sandbox, or of all",
     "  --ascii           no line drawing characters, whatever the locale\n"
     "\n"
     "The full mark is the checkpoint that the sandbox has gone on from.\n"
     "--json prints the server's answer, without ID an array of them.\n",
     cmd_tree},
    {"rm-checkpoint", "ID CHECKPOINT...", "delete checkpoints of a sandbox",
     "CHECKPOINT is an id or a name. Forks of them, and later checkpoints, stay whole.\n"
     "Prints the ids. Exit code 1 if one of them could not be deleted.\n"
     "--json prints [{\"checkpoint\":ID,\"removed\":BOOL}].\n",
     cmd_rm_checkpoint},
    {"patch", "add|ls|rm [-d TEXT] CHECKPOINT [FILE|PATCH]",
     "scripts that run in each fork of a checkpoint",
     "  -d, --description TEXT   add: what it is for\n"
     "\n"
     "patch add CHECKPOINT FILE adds the script in FILE (-: standard input); prints its id.\n"
     "patch ls CHECKPOINT lists them, patch rm CHECKPOINT PATCH removes one.\n"
     "CHECKPOINT is an id, or SANDBOX:NAME. They run in order, as root, before a fork is\n"
     "handed out, and when one made earlier wakes from hibernation.\n",
     cmd_patch},
    {"image", "build|import|ls|rm [FILE|HASH...]", "build and import images, list and forget them",
     "image build FILE builds what the manifest in FILE (JSON; -: standard input) says, shows the\n"
     "log on stderr, and prints the hash. Steps that were built before are not run again.\n"
     "image ls lists what is there, image rm HASH forgets images: 8 digits are enough.\n"
     "Sandboxes and snapshots of them stay. After Ctrl-C the build goes on.\n"
     "image import [--name NAME] [--ref REF] FILE|DIR makes a template of a container image: an "
     "OCI\n"
     "image layout (a directory, or a tar of one), or an archive of docker save (-: standard "
     "input).\n"
     "Prints its name, which is the file's without --name. REF: which one, if there are several.\n"
     "docs/images.md describes manifests and imports.\n"
     "\n"
     "--json prints the server's answer; of rm [{\"image\":HASH,\"removed\":BOOL}].\n",
     cmd_image},
    {"snapshot", "create|ls|rm [NAME...] [FILE]", "images with names, to create sandboxes from",
     "snapshot create NAME FILE builds an image, as image build does, and gives it a name, for\n"
     "dormouse create --template NAME. Prints the name. snapshot ls lists them, snapshot rm NAME\n"
     "deletes some; their sandboxes stay.\n"
     "\n"
     "--json prints the server's answer; of rm [{\"snapshot\":NAME,\"removed\":BOOL}].\n",
     cmd_snapshot},
    {"hibernate", "ID...", "store sandboxes on disk and free their CPU and memory",
     "All goes on where it was when it is woken: by wake, or by whatever needs it.\n"
     "Prints the ids as they are done. Exit code 1 if one of them could not be stored.\n"
     "--json prints [{\"sandboxID\":ID,\"hibernated\":BOOL,\"error\":TEXT}].\n",
     cmd_hibernate},
    {"wake", "[--timeout S] ID...", "let hibernated sandboxes run on",
     "  --timeout S       hibernate it after S idle seconds; 0: never (default: as it was)\n"
     "\n"
     "Prints the ids as they run. Where the stored memory cannot be used, the sandbox boots\n"
     "from its disk, and stderr says so. Exit code 1 if one of them could not be woken.\n"
     "--json prints [{\"sandboxID\":ID,\"awake\":BOOL,\"error\":TEXT}].\n",
     cmd_wake},
    {"reboot", "ID...", "restart the kernels of sandboxes",
     "Disk, environment and settings stay; processes end. Returns when commands run again.\n"
     "--json prints [{\"sandboxID\":ID,\"rebooted\":BOOL,\"error\":TEXT}].\n",
     cmd_reboot},
    {"power-cycle", "ID...", "replace the machines of sandboxes and boot from their disks",
     "As reboot, but with a new VMM process: for a sandbox that hangs.\n"
     "--json prints [{\"sandboxID\":ID,\"powerCycled\":BOOL,\"error\":TEXT}].\n",
     cmd_power_cycle},
    {"scale", "[OPTIONS] ID [MB]", "change or show how much memory and CPU time a sandbox has",
     "  --cpu PERCENT     with MB: processor time, 100 for one processor\n"
     "  --auto MIN:MAX    scale its memory by what it uses, between these; off: no more\n"
     "  --lock, --unlock  refuse to scale it, or no longer\n"
     "\n"
     "MB takes effect while it runs, also below what it was made with, and switches --auto off.\n"
     "Without MB and options: what it has, and what it uses. --json prints the server's answer.\n",
     cmd_scale},
    {"top", "[-d S] [-n N]", "watch what the running sandboxes take of the server",
     "  -d, --delay S     seconds between two looks (default 2)\n"
     "  -n N              look N times (default: until Ctrl-C on a terminal, else once)\n"
     "\n"
     "CPU% is of one processor, since the look before; at first, since the sandbox began.\n"
     "MEMORY is what its VMM process holds in RAM, shared pages included.\n"
     "--json prints the server's list with cpuPercent, one line for each look.\n",
     cmd_top},
    {"store", "[gc|verify]", "show what images and layers take on the server's disk",
     "store gc removes what nothing refers to, store verify reads all and checks it.\n"
     "--json prints the server's answer.\n",
     cmd_store},
    {"doctor", "[--state DIR]", "check whether this machine can run sandboxes, and how well",
     "  --state DIR       look at the disk that holds DIR (default /var/lib/dormouse)\n"
     "\n"
     "Exit code: 0 if a Linux guest can run here, 1 if not. The form of --json is described\n"
     "in docs/cli.md.\n",
     cmd_doctor},
    {"version", "", "print the version", "", cmd_version},
};

const size_t cli_num_commands = sizeof(cli_commands) / sizeof(cli_commands[0]);
