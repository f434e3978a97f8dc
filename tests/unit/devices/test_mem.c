/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-mem: plugging, unplugging, and drivers that ask for what is not theirs. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "rig.h"

#define VERSION_1 (1ULL << 32)
#define GPA	  0x100000000ull
#define BLOCK	  DEVICE_MEM_BLOCK
#define REGION	  (64 * BLOCK)
#define USABLE	  (8 * BLOCK)

enum { PLUG, UNPLUG, UNPLUG_ALL, STATE };
enum { ACK, NACK, BUSY, ERROR };

static struct rig r;
static uint8_t *ram;
static unsigned int changes;

static void changed(void *opaque)
{
	(void)opaque;
	changes++;
}

static void setup(void)
{
	struct device_config c = {.kind = DEVICE_MEM,
				  .mem = {.gpa = GPA, .region_bytes = REGION, .changed = changed}};

	ram = mmap(NULL, USABLE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(ram, MAP_FAILED);
	rig_init(&r, &c);
	cr_assert_eq(guest_mem_set(&r.mem, GPA, ram, USABLE), 0);
	device_mem_set_usable(r.d, USABLE);
	cr_assert_eq(rig_start(&r, VERSION_1, 8), 15);
}

static void teardown(void)
{
	rig_fini(&r);
	munmap(ram, USABLE);
}

TestSuite(mem, .init = setup, .fini = teardown);

static uint16_t ask(uint16_t type, uint64_t addr, uint16_t blocks, uint16_t *state)
{
	struct rig_buf b[] = {{RIG_DATA, 24, false}, {RIG_DATA + 64, 10, true}};
	uint64_t req[3] = {type, addr, blocks};
	uint16_t resp[5];

	memcpy(rig_ptr(&r, RIG_DATA), req, sizeof(req));
	rig_send(&r, 0, b, 2);
	cr_assert_eq(rig_wait(&r, 0), 10);
	memcpy(resp, rig_ptr(&r, RIG_DATA + 64), sizeof(resp));
	if (state)
		*state = resp[4];
	return resp[0];
}

static uint64_t config(uint32_t offset)
{
	return rig_get(&r, 0x100 + offset) | (uint64_t)rig_get(&r, 0x104 + offset) << 32;
}

static uint64_t plugged(void)
{
	struct device_mem_info info;

	device_mem_get(r.d, &info);
	cr_expect_eq(config(40), info.plugged_bytes);
	return info.plugged_bytes;
}

Test(mem, config_space_says_what_there_is)
{
	uint32_t generation = rig_get(&r, 0xfc);

	cr_expect_eq(config(0), BLOCK);
	cr_expect_eq(config(16), GPA);
	cr_expect_eq(config(24), REGION);
	cr_expect_eq(config(32), USABLE);
	cr_expect_eq(config(48), 0);
	rig_irqs(&r);
	device_mem_request(r.d, 3 * BLOCK);
	cr_expect_eq(config(48), 3 * BLOCK);
	cr_expect_eq(rig_irqs(&r), 1);
	cr_expect_neq(rig_get(&r, 0xfc), generation);
	device_mem_request(r.d, 3 * BLOCK);
	cr_expect_eq(rig_irqs(&r), 0, "nothing has changed");
}

Test(mem, blocks_are_plugged_and_unplugged)
{
	uint16_t state;

	device_mem_request(r.d, 4 * BLOCK);
	cr_expect_eq(ask(PLUG, GPA + BLOCK, 2, NULL), ACK);
	cr_expect_eq(plugged(), 2 * BLOCK);
	cr_expect_eq(changes, 1);
	cr_expect_eq(ask(STATE, GPA + BLOCK, 2, &state), ACK);
	cr_expect_eq(state, 0, "plugged");
	cr_expect_eq(ask(STATE, GPA, 2, &state), ACK);
	cr_expect_eq(state, 2, "mixed");
	cr_expect_eq(ask(STATE, GPA + 3 * BLOCK, 5, &state), ACK);
	cr_expect_eq(state, 1, "unplugged");
	cr_expect_not(device_mem_is_plugged(r.d, 0));
	cr_expect(device_mem_is_plugged(r.d, 2 * BLOCK));
	cr_expect_not(device_mem_is_plugged(r.d, REGION), "beyond it");
	memset(ram, 1, USABLE);
	cr_expect_eq(ask(UNPLUG, GPA + 2 * BLOCK, 1, NULL), ACK);
	cr_expect_not(device_mem_is_plugged(r.d, 2 * BLOCK));
	cr_expect_eq(plugged(), BLOCK);
	cr_expect_eq(ram[2 * BLOCK], 0, "it is given back");
	cr_expect_eq(ram[3 * BLOCK - 1], 0);
	cr_expect_eq(ram[3 * BLOCK], 1);
	cr_expect_eq(ram[2 * BLOCK - 1], 1);
	cr_expect_eq(ask(UNPLUG_ALL, 0, 0, NULL), ACK);
	cr_expect_eq(plugged(), 0);
	cr_expect_eq(ram[BLOCK], 0);
	cr_expect_eq(ram[0], 1, "it was not plugged");
}

Test(mem, no_more_than_requested)
{
	device_mem_request(r.d, 3 * BLOCK);
	cr_expect_eq(ask(PLUG, GPA, 4, NULL), NACK);
	cr_expect_eq(ask(PLUG, GPA, 2, NULL), ACK);
	cr_expect_eq(ask(PLUG, GPA + 2 * BLOCK, 2, NULL), NACK);
	cr_expect_eq(ask(PLUG, GPA + 2 * BLOCK, 1, NULL), ACK);
	device_mem_request(r.d, BLOCK);
	cr_expect_eq(ask(PLUG, GPA + 3 * BLOCK, 1, NULL), NACK);
	cr_expect_eq(plugged(), 3 * BLOCK, "only the driver unplugs");
}

Test(mem, what_is_not_its_own_is_an_error)
{
	static const struct {
		uint16_t type;
		uint64_t addr;
		uint16_t blocks;
	} bad[] = {
	    {PLUG, GPA + 4096, 1},
	    {PLUG, GPA, 0},
	    {PLUG, GPA - BLOCK, 1},
	    {PLUG, 0, 1},
	    {PLUG, GPA + USABLE, 1},
	    {PLUG, GPA + USABLE - BLOCK, 2},
	    {PLUG, GPA, 0xffff},
	    {PLUG, ~0ull - BLOCK + 1, 2},
	    {PLUG, ~0ull, 1},
	    {PLUG, GPA, 2}, /* one of them is */
	    {UNPLUG, GPA, 2},
	    {UNPLUG, GPA + USABLE, 1},
	    {UNPLUG, GPA + REGION, 1},
	    {STATE, GPA + USABLE - BLOCK, 2},
	    {4, GPA, 1},
	    {0xffff, GPA, 1},
	};

	device_mem_request(r.d, USABLE);
	cr_assert_eq(ask(PLUG, GPA, 1, NULL), ACK);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_expect_eq(ask(bad[i].type, bad[i].addr, bad[i].blocks, NULL), ERROR, "%zu", i);
	cr_expect_eq(plugged(), BLOCK);
	cr_expect(device_active(r.d));
}

Test(mem, a_request_that_is_too_short_needs_reset)
{
	struct rig_buf shorter[] = {{RIG_DATA, 23, false}, {RIG_DATA + 64, 10, true}};
	struct rig_buf no_room[] = {{RIG_DATA, 24, false}, {RIG_DATA + 64, 9, true}};

	rig_send(&r, 0, shorter, 2);
	cr_expect_not(device_active(r.d));
	rig_set(&r, 0x70, 0);
	cr_assert_eq(rig_start(&r, VERSION_1, 8), 15);
	memset(rig_ptr(&r, RIG_DATA), 0, 24);
	rig_send(&r, 0, no_room, 2);
	cr_expect_not(device_active(r.d));
}

Test(mem, a_reset_of_the_device_leaves_memory_plugged_and_one_of_the_machine_does_not)
{
	device_mem_request(r.d, USABLE);
	cr_assert_eq(ask(PLUG, GPA, 3, NULL), ACK);
	rig_set(&r, 0x70, 0);
	cr_expect_eq(plugged(), 3 * BLOCK);
	devices_reset(r.ds);
	cr_expect_eq(plugged(), 0);
	cr_expect_eq(config(48), USABLE, "what is wanted stays");
	cr_expect_eq(config(32), USABLE);
}

Test(mem, an_impossible_region_is_refused)
{
	struct devices_env env = {.mem = &r.mem, .loop = &r.loop};
	struct device_config c = {.kind = DEVICE_MEM, .mem = {.gpa = 4096, .region_bytes = REGION}};
	struct devices *ds;
	struct err e;

	cr_expect_eq(devices_create(&ds, &env, &c, 1, &e), -EINVAL);
	c.mem.gpa = GPA;
	c.mem.region_bytes = DEVICE_MEM_MAX_BYTES + BLOCK;
	cr_expect_eq(devices_create(&ds, &env, &c, 1, &e), -EINVAL);
}
