# Dormouse: build, test and demo. `make help` lists the goals.
#
# Every folder is one static library (build/lib<folder>.a) plus, where it has a
# main.c, one program. Sources are found by wildcard: a new file needs no edit here.
# Several builds of a source exist side by side: obj (release), static (the agent), asan (unit
# tests), tsan (races), fuzz (clang, libFuzzer).

.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:

B       := build
CC      := gcc
CLANG   := clang
WARN    := -Wall -Wextra -Wconversion -Wno-sign-conversion -Wshadow -Wvla -Wmissing-prototypes -Wstrict-prototypes -Werror
CPPFLAGS:= -D_GNU_SOURCE -I.
CFLAGS  := -std=gnu11 -g $(WARN)
RELEASE := -O2 -D_FORTIFY_SOURCE=3 -fstack-protector-strong -fstack-clash-protection -fcf-protection -fPIE
LDREL   := -pie -Wl,-z,relro,-z,now
# Half of the time that a dynamic VMM takes to start, and memory of each, went to finding its libraries.
LDVMM   := -static-pie -Wl,-z,relro,-z,now
ASAN    := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
TSAN    := -O1 -fsanitize=thread -fno-omit-frame-pointer
# The last warning is about the shape of KVM's own structures.
FUZZING := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined \
           -Wno-unknown-warning-option -Wno-gnu-variable-sized-type-not-at-end
# The agent runs as process 1 of a guest whose libraries are not ours: static.
STATIC  := -O2 -D_FORTIFY_SOURCE=3 -fstack-protector-strong

# --- sources by folder ------------------------------------------------------
src_lib      := $(wildcard lib/*.c)
src_devices  := $(wildcard devices/*.c)
src_snapshot := $(wildcard snapshot/*.c)
src_vmm      := $(filter-out vmm/main.c,$(wildcard vmm/*.c))
src_vmm      += $(B)/gen/seccomp_filters.c
src_server   := $(filter-out server/main.c server/net/% server/oci/%,$(wildcard server/*.c server/*/*.c))
# Ranges of addresses in its options.
src_server   += server/net/addr.c
src_net      := $(filter-out server/net/main.c,$(wildcard server/net/*.c)) $(B)/gen/seccomp_net.c
# Environments of images are written in one way.
src_oci      := $(filter-out server/oci/main.c,$(wildcard server/oci/*.c)) $(B)/gen/seccomp_oci.c \
                server/manager/step.c
src_agent    := $(filter-out guest-kernel/agent/main.c,$(wildcard guest-kernel/agent/*.c))
src_cli      := $(filter-out tools/cli/main.c,$(wildcard tools/cli/*.c tools/doctor/*.c))
src_bench    := $(filter-out tools/bench/main.c,$(wildcard tools/bench/*.c))
# The part of lib/ that goes into the guest: no JSON, no library but libc.
src_guestlib := $(filter-out $(wildcard lib/json*.c lib/vmm_client.c lib/state.c),$(src_lib))

folders := lib devices snapshot vmm server net oci agent cli bench

libs_json   := -ljansson
libs_vmm    := -lfdt -luring -ljansson -lz -lpthread
libs_server := -lmicrohttpd -lhttp_parser -lwslay -lsqlite3 -ljansson -lcrypto -lpthread
libs_net    := -lslirp -lhttp_parser -ljansson
libs_oci    := -larchive -lext2fs -lcom_err -ljansson -lcrypto
libs_bench  := -ljansson -lm -lpthread
libs_cli    := -lcurl -lwslay -ljansson -luring -lcrypto -lpthread

arch = $(foreach f,$(2),$(B)/$(1)/lib$(f).a)
objs = $(patsubst %.c,$(B)/$(1)/%.o,$(2))

# --- programs ---------------------------------------------------------------
PROGRAMS := $(if $(wildcard vmm/main.c),$(B)/dormouse-vmm) \
            $(if $(wildcard server/main.c),$(B)/dormoused) \
            $(if $(wildcard server/net/main.c),$(B)/dormouse-net) \
            $(if $(wildcard server/oci/main.c),$(B)/dormouse-oci) \
            $(if $(wildcard tools/cli/main.c),$(B)/dormouse) \
            $(if $(wildcard tools/bench/main.c),$(B)/dormouse-bench) \
            $(if $(wildcard tools/ram/main.c),$(B)/dormouse-ram) \
            $(if $(wildcard tools/img/main.c),$(B)/dormouse-img) \
            $(if $(wildcard guest-kernel/agent/main.c),$(B)/dormouse-agent)

.PHONY: all help
all: $(PROGRAMS)

help:
	@sed -n 's/^## //p' Makefile

## make            build dormouse-vmm, dormoused, dormouse-net, dormouse-oci, dormouse, dormouse-ram, dormouse-img and dormouse-agent into build/
## make deps       install the Debian packages that build and tests need (root), or print the command
## make images     build (or take from the cache) the guest kernel and the root images
## make demo       run the npm client against a server, end to end
## make test       all tests, one suite after the other (docs/testing.md); the last line is the totals
## make unit       unit tests under ASan and UBSan
## make fuzz       every fuzz target for a bounded number of runs
## make fault      programs killed, and disks full, at every durable write (FAULT_POINTS=N: at N of them)
## make kvm        tiny guests on the native /dev/kvm
## make img        dormouse-img, on layers that the test writes after docs/disk-format.md
## make load       10 000 mixed requests of 50 clients at once, alone and in a crowd: percentiles, and no failure
## make race       fewer of them, with a dormoused that was built with ThreadSanitizer
## make wrapper    the guest's side of agent sessions, with a stand-in for the SDK
## make lab        does the lab notice its own death, and keep output apart and complete
## make api         the server's API natively, with a stand-in for the VMM
## make vm         Linux guests (in the lab where there is no hardware KVM)
## make archive    packages of the real archive in an image, if it can be reached
## make sdk        the published npm client against the server
## make bench      times of fork, checkpoint, rollback, wake against their promises, with a picture
## make bench-lab  Linux guests: boot, create and wake beside QEMU microvm, commands beside posix_spawn,
##                 creates from an image beside plain ones
## make lint       clang-format, clang-tidy, shellcheck, pyflakes, the rule which folder may include which
## make clean      remove build/ (the caches outside the checkout stay)

$(B)/dormouse-vmm: $(B)/obj/vmm/main.o $(call arch,obj,vmm snapshot devices lib)
	$(CC) $(LDVMM) -o $@ $^ $(libs_vmm)
$(B)/dormoused: $(B)/obj/server/main.o $(call arch,obj,server lib)
	$(CC) $(LDREL) -o $@ $^ $(libs_server)
$(B)/dormouse-net: $(B)/obj/server/net/main.o $(call arch,obj,net lib)
	$(CC) $(LDREL) -o $@ $^ $(libs_net)
$(B)/dormouse-oci: $(B)/obj/server/oci/main.o $(call arch,obj,oci lib)
	$(CC) $(LDREL) -o $@ $^ $(libs_oci)
$(B)/dormouse: $(B)/obj/tools/cli/main.o $(call arch,obj,cli lib)
	$(CC) $(LDREL) -o $@ $^ $(libs_cli)
$(B)/dormouse-bench: $(B)/obj/tools/bench/main.o $(call arch,obj,bench lib)
	$(CC) $(LDREL) -o $@ $^ $(libs_bench)
$(B)/dormouse-ram: $(B)/obj/tools/ram/main.o $(call arch,obj,snapshot devices lib)
	$(CC) $(LDREL) -o $@ $^ $(libs_vmm)
$(B)/dormouse-img: $(B)/obj/tools/img/main.o $(call arch,obj,snapshot devices lib)
	$(CC) $(LDREL) -o $@ $^ $(libs_vmm)
# Without an id, which would be that of the folder of the checkout: images are named by what is in it.
$(B)/dormouse-agent: $(B)/static/guest-kernel/agent/main.o $(call arch,static,agent guestlib)
	$(CC) -static -Wl,--build-id=none -o $@ $^ -lpthread
	@strip $@

# --- system call filters of dormouse-vmm: made of the comments "#syscalls" in its sources ---------
$(B)/host/seccomp: tools/seccomp/main.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -O1 -o $@ $< -lseccomp
syscall_sources := $(filter-out $(B)/%,$(src_lib) $(src_devices) $(src_snapshot) $(src_vmm) vmm/main.c)
$(B)/gen/seccomp_filters.c: $(B)/host/seccomp $(syscall_sources)
	@mkdir -p $(@D)
	cat $(syscall_sources) | grep '#syscalls' | $(B)/host/seccomp >$@

$(B)/gen/seccomp_net.c: $(B)/host/seccomp $(wildcard server/net/*.c)
	@mkdir -p $(@D)
	cat $(wildcard server/net/*.c) | grep '#syscalls' | $(B)/host/seccomp >$@

$(B)/gen/seccomp_oci.c: $(B)/host/seccomp $(wildcard server/oci/*.c)
	@mkdir -p $(@D)
	cat $(wildcard server/oci/*.c) | grep '#syscalls' | $(B)/host/seccomp >$@

# --- objects and archives: one rule per flavour -------------------------------
define flavour
$(B)/$(1)/%.o: %.c
	@mkdir -p $$(@D)
	$(2) $$(CPPFLAGS) $$(CFLAGS) $(3) -MMD -MP -c -o $$@ $$<
endef
$(eval $(call flavour,obj,$(CC),$(RELEASE)))
$(eval $(call flavour,static,$(CC),$(STATIC)))
$(eval $(call flavour,asan,$(CC),$(ASAN)))
$(eval $(call flavour,tsan,$(CC),$(TSAN)))
$(eval $(call flavour,fuzz,$(CLANG),$(FUZZING)))

define archive
$(B)/$(1)/lib$(2).a: $(call objs,$(1),$(src_$(2)))
	@mkdir -p $$(@D)
	@rm -f $$@
	ar rcs $$@ $$^
endef
$(foreach fl,obj static asan tsan fuzz,$(foreach f,$(folders) guestlib,$(eval $(call archive,$(fl),$(f)))))

# --- unit tests: tests/unit/<folder>/*.c is one Criterion program per folder ---
UNIT := $(foreach f,$(folders),$(if $(wildcard tests/unit/$(f)/*.c),$(B)/test/unit-$(f)))
needs_lib      := lib
needs_devices  := devices lib
needs_snapshot := snapshot devices lib
needs_vmm      := vmm snapshot devices lib
needs_server   := server agent lib
needs_net      := net lib
needs_oci      := oci lib
needs_agent    := agent lib
needs_cli      := cli lib
needs_bench    := bench lib
ulibs_lib      := $(libs_json) -lz
ulibs_devices  := $(libs_vmm)
ulibs_snapshot := $(libs_vmm)
ulibs_vmm      := $(libs_vmm)
ulibs_server   := $(libs_server)
ulibs_net      := $(libs_net)
ulibs_oci      := $(libs_oci)
ulibs_agent    := $(libs_json)
ulibs_cli      := $(libs_cli)
ulibs_bench    := $(libs_bench)
define unit_program
$(B)/test/unit-$(1): $(call objs,asan,$(wildcard tests/unit/$(1)/*.c)) $(call arch,asan,$(needs_$(1)))
	@mkdir -p $$(@D)
	$(CC) $(ASAN) -o $$@ $$^ -lcriterion $(ulibs_$(1)) -lpthread
endef
$(foreach f,$(folders),$(eval $(call unit_program,$(f))))

.PHONY: unit
unit: $(UNIT)
	@tests/run unit $(UNIT)

# --- fuzz targets: tests/fuzz/<folder>_<what>.c, corpus in tests/fuzz/corpus/<folder>_<what> ---
FUZZ := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(wildcard tests/fuzz/*.c))
$(B)/fuzz/lib_%:      $(B)/fuzz/tests/fuzz/lib_%.o      $(call arch,fuzz,lib)
	$(CLANG) -fsanitize=fuzzer,address,undefined -o $@ $^ $(libs_json) -lz -lpthread
$(B)/fuzz/devices_%:  $(B)/fuzz/tests/fuzz/devices_%.o  $(call arch,fuzz,devices lib)
	$(CLANG) -fsanitize=fuzzer,address,undefined -o $@ $^ $(libs_vmm)
$(B)/fuzz/snapshot_%: $(B)/fuzz/tests/fuzz/snapshot_%.o $(call arch,fuzz,snapshot devices lib)
	$(CLANG) -fsanitize=fuzzer,address,undefined -o $@ $^ $(libs_vmm)
$(B)/fuzz/vmm_%:      $(B)/fuzz/tests/fuzz/vmm_%.o      $(call arch,fuzz,vmm snapshot devices lib)
	$(CLANG) -fsanitize=fuzzer,address,undefined -o $@ $^ $(libs_vmm)
$(B)/fuzz/server_%:   $(B)/fuzz/tests/fuzz/server_%.o   $(call arch,fuzz,server lib)
	$(CLANG) -fsanitize=fuzzer,address,undefined -o $@ $^ $(libs_server)
$(B)/fuzz/net_%:    $(B)/fuzz/tests/fuzz/net_%.o    $(call arch,fuzz,net lib)
	$(CLANG) -fsanitize=fuzzer,address,undefined -o $@ $^ $(libs_net) -lpthread
$(B)/fuzz/oci_%:      $(B)/fuzz/tests/fuzz/oci_%.o      $(call arch,fuzz,oci lib)
	$(CLANG) -fsanitize=fuzzer,address,undefined -o $@ $^ $(libs_oci)
$(B)/fuzz/agent_%:    $(B)/fuzz/tests/fuzz/agent_%.o    $(call arch,fuzz,agent lib)
	$(CLANG) -fsanitize=fuzzer,address,undefined -o $@ $^ $(libs_json) -lpthread

.PHONY: fuzz
fuzz: $(FUZZ)
	@tests/run fuzz $(FUZZ)

# --- dormouse-img from outside ---------------------------------------------------
.PHONY: img
img: $(B)/dormouse-img
	@tests/run tap img tests/img/run

# --- the cache of kernels and images, with stand-ins ------------------------------
.PHONY: artifacts
artifacts:
	@tests/run tap artifacts tests/artifacts/run

# --- kvm: tiny guests through dormouse-vmm and its control socket, on the native /dev/kvm ---
GUEST_LINK = $(CC) -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,max-page-size=4096 \
	-Wl,--no-warn-rwx-segments -T tests/guests/guest.ld
GUESTS := $(patsubst tests/guests/%.S,$(B)/guests/%.elf,$(wildcard tests/guests/*.S))
$(B)/guests/%.elf: tests/guests/%.S tests/guests/guest.ld $(wildcard tests/guests/*.inc)
	@mkdir -p $(@D)
	$(GUEST_LINK) -o $@ $<
$(B)/test/kvm: $(call objs,obj,$(wildcard tests/kvm/*.c)) $(call arch,obj,lib)
	@mkdir -p $(@D)
	$(CC) $(LDREL) -o $@ $^ $(libs_json) -lpthread
# Machines within the test's own process: what no controller can see.
$(B)/test/kvm-state: $(B)/obj/tests/kvm/state/main.o $(B)/obj/tests/kvm/harness.o \
		$(call arch,obj,vmm snapshot devices lib)
	@mkdir -p $(@D)
	$(CC) $(LDREL) -o $@ $^ $(libs_vmm)
# Machines that are saved and go on: time travel, cold memory images, timers.
SAVED_TESTS := $(addprefix $(B)/test/kvm-,travel cold time size)
$(SAVED_TESTS): $(B)/test/kvm-%: $(B)/obj/tests/kvm/%/main.o \
		$(B)/obj/tests/kvm/dirty/dirty.o $(B)/obj/tests/kvm/harness.o \
		$(call arch,obj,snapshot devices lib)
	@mkdir -p $(@D)
	$(CC) $(LDREL) -o $@ $^ $(libs_vmm)

KVM_TESTS := $(addprefix $(B)/test/,kvm kvm-state) $(SAVED_TESTS)
.PHONY: kvm
kvm: $(KVM_TESTS) $(GUESTS) $(B)/dormouse-vmm $(B)/dormouse-ram
	@tests/run tap kvm sh -c 'rc=0; for t in $(KVM_TESTS); do $$t || rc=1; done; exit $$rc'

# --- speed promises, on the native /dev/kvm (docs/benchmarks.md); BENCH=options of dormouse-bench ---
.PHONY: bench
bench: $(PROGRAMS) $(B)/guests/bench.elf
	@tests/bench/native.py $(BENCH)

# --- faults: programs under a shim that counts durable writes, and kills at the n-th -----------
$(B)/test/fault.so: tests/fault/shim.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -O2 -fPIC -shared -o $@ $<

# The shim reaches a program only where its calls go through the dynamic linker.
$(B)/fault/dormouse-vmm: $(B)/obj/vmm/main.o $(call arch,obj,vmm snapshot devices lib)
	@mkdir -p $(@D)
	$(CC) $(LDREL) -o $@ $^ $(libs_vmm)

# What a real ext4 writes, recorded once, and a guest that writes it again.
$(B)/test/ext4.trace: tests/fault/record | kernel
	@mkdir -p $(@D)
	tests/fault/record $(B)/kernel $(B)/test/ext4.base $@
$(B)/test/replay.elf: tests/fault/replay.S tests/guests/guest.ld $(wildcard tests/guests/*.inc) $(B)/test/ext4.trace
	$(GUEST_LINK) -I. -o $@ $<

.PHONY: fault
fault: $(PROGRAMS) $(B)/fault/dormouse-vmm $(B)/test/fault.so $(B)/test/replay.elf $(GUESTS)
	@tests/run tap fault tests/fault/run

# --- the lab (docs/lab.md) and the tests that need Linux guests ------------------
$(B)/test/lab-ring0: tests/lab/ring0.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(RELEASE) $(LDREL) -o $@ $<

# This one runs in the guest: static, like the agent.
$(B)/test/vm-witness: $(B)/static/tests/vm/witness.o
	@mkdir -p $(@D)
	$(CC) -static -o $@ $^

$(B)/test/bench-%: $(B)/static/tests/bench/%.o
	@mkdir -p $(@D)
	$(CC) -static -o $@ $^

$(B)/test/vm-guest: $(B)/obj/tests/vm/guest.o $(call arch,obj,lib)
	@mkdir -p $(@D)
	$(CC) $(LDREL) -o $@ $^ -lpthread

.PHONY: lab vm archive bench-lab
lab: $(B)/test/lab-ring0
	@tests/run tap lab tests/lab/run
vm: $(PROGRAMS) $(addprefix $(B)/test/,vm-guest vm-witness kvm-time) $(B)/guests/timer.elf
	@tests/run tap vm tests/vm/run
# What needs the outside network: skipped where there is none.
archive: $(PROGRAMS) server-artifacts
	@tests/run tap archive tests/archive/run
bench-lab: $(PROGRAMS) $(addprefix $(B)/test/,vm-guest bench-spawn bench-connect)
	@rc=0; for b in boot travel exec images net; do tests/bench/$$b || rc=1; done; exit $$rc

# --- the server, under ASan and UBSan, with a stand-in for the VMM (tests/api/fake-vmm) ---
.PHONY: api
$(B)/asan/dormoused: $(B)/asan/server/main.o $(call arch,asan,server lib)
	$(CC) $(ASAN) -o $@ $^ $(libs_server)
api: $(B)/asan/dormoused $(B)/dormouse-agent $(B)/dormouse-net $(B)/dormouse-oci
	@DORMOUSED=$(CURDIR)/$(B)/asan/dormoused tests/run tap api tests/api/run

# --- many clients at once; LOAD=options of tests/load/run ------------------------------
.PHONY: load
load: $(B)/dormoused $(B)/dormouse-agent $(B)/dormouse-net
	@tests/run tap load tests/load/run $(LOAD)

# --- the same crowd, with an eye on what threads do to each other -----------------------
$(B)/tsan/dormoused: $(B)/tsan/server/main.o $(call arch,tsan,server lib)
	$(CC) $(TSAN) -o $@ $^ $(libs_server) -lz
.PHONY: race
race: $(B)/tsan/dormoused $(B)/dormouse-agent
	@DORMOUSED=$(CURDIR)/$(B)/tsan/dormoused tests/run tap race tests/load/race

# --- the guest's side of agent sessions ------------------------------------------
.PHONY: wrapper
wrapper:
	@tests/run tap wrapper tests/wrapper/run

# --- packages of the build machine (tools/deps.list) ---------------------------
.PHONY: deps
deps:
	@tools/deps

# --- the published npm client, the demo, everything at once --------------------
.PHONY: server-artifacts sdk demo test
# What a server needs besides the programs; without hardware KVM, that is a lab, too.
server-artifacts: $(B)/dormouse-agent
	@guest-kernel/artifacts build --link $(B) kernel image-base \
		$$([ "$$(tools/lab/lab mode)" = direct ] || echo lab-kernel)
sdk: $(PROGRAMS) server-artifacts
	@tests/run tap sdk tests/sdk/run
demo:
	@tests/demo/run
# In this order: what is quick and close to the cause first.
test:
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-12} FAULT_POINTS=$${FAULT_POINTS:-8} tests/total deps all images lab-kernel unit fuzz img artifacts kvm fault lint api load race wrapper lab sdk+vm,archive

# --- kernels and root images: cached outside the checkout (docs/guest.md) ---------------
ARTIFACTS := guest-kernel/artifacts build --link $(B)

.PHONY: images kernel lab-kernel image-mini image-base image-docker
images: $(B)/dormouse-agent
	@$(ARTIFACTS) kernel image-mini image-base image-docker
image-mini image-base image-docker: $(B)/dormouse-agent
	@$(ARTIFACTS) $@
kernel lab-kernel:
	@$(ARTIFACTS) $@

# --- checks of the source tree ---------------------------------------------------
.PHONY: lint
lint:
	@tests/run tap lint tools/lint

.PHONY: clean
clean:
	rm -rf $(B)

-include $(shell find $(B) -name '*.d' 2>/dev/null)
