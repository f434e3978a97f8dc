/* SPDX-License-Identifier: Apache-2.0 */
/* Flatten, import, export, check. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk_kit.h"
#include "snapshot/disk_image.h"
#include "snapshot/layer.h"

static uint8_t content[KIT_SIZE_BYTES], other[KIT_SIZE_BYTES];
static const struct disk_image_env plain, over = {.replace = true};

static uint8_t in_content(uint64_t offset)
{
	return content[offset];
}

static void write_chain(struct disk_kit *k, unsigned int layers)
{
	static const struct {
		uint64_t offset, len;
	} pieces[] = {{0, 4096},
		      {4096 * 3 + 512, 1024},
		      {4096 * 10, 4096 * 9},
		      {KIT_BASE_BYTES - 512, 4096},
		      {KIT_SIZE_BYTES - 1024, 1024}};

	cr_assert_eq(kit_open(k, KIT_SIZE_BYTES, NULL), 0);
	for (unsigned int i = 0; i <= layers; i++) {
		for (size_t p = 0; p < sizeof(pieces) / sizeof(pieces[0]); p++) {
			uint8_t buf[4096 * 9];

			if ((p + i) % 3 == 0)
				continue;
			memset(buf, (int)(i * 16 + p + 1), pieces[p].len);
			cr_assert_eq(kit_write(k, pieces[p].offset, buf, pieces[p].len), 0);
		}
		cr_assert_eq(kit_do(k, DISK_DISCARD, 4096ull * (12 + i), 4096), 0);
		cr_assert_eq(kit_do(k, DISK_FLUSH, 0, 0), 0);
		if (i == layers)
			break;
		cr_assert_eq(kit_switch(k, NULL), 0);
		cr_assert_eq(kit_wait_sealed(k), 0);
	}
	cr_assert_eq(kit_read(k, 0, content, KIT_SIZE_BYTES), 0);
	kit_close(k);
}

/* A chain of @layers immutable ones and a top; `content` is what the disk has. Closed. */
static void make_chain(struct disk_kit *k, unsigned int layers)
{
	kit_init_in_memory(k, KIT_BASE_BYTES);
	write_chain(k, layers);
}

/* The immutable layers @from to @to of the kit. */
struct part_of {
	const char *paths[KIT_LAYERS];
	struct disk_image_source s;
};

static struct disk_image_source *part(struct part_of *p, struct disk_kit *k, bool base,
				      unsigned int from, unsigned int to)
{
	p->s = (struct disk_image_source){base ? k->base : NULL, p->paths, to - from};
	for (unsigned int i = from; i < to; i++)
		p->paths[i - from] = i < k->layers_n ? k->layers[i] : k->overlay;
	return &p->s;
}

static void expect_content(struct disk_kit *k, const char *what)
{
	struct err e;

	cr_assert_eq(kit_open(k, 0, &e), 0, "%s: %s", what, e.msg);
	kit_expect(k, 0, KIT_SIZE_BYTES, in_content, what);
	kit_close(k);
}

static void replace_layers(struct disk_kit *k, unsigned int from, unsigned int to, const char *by)
{
	snprintf(k->layers[from], sizeof(k->layers[from]), "%s", by);
	for (unsigned int i = to; i < k->layers_n; i++)
		memcpy(k->layers[i - (to - from) + 1], k->layers[i], sizeof(k->layers[i]));
	k->layers_n -= to - from - 1;
}

Test(disk_image, a_flattened_part_of_a_chain_takes_the_place_of_its_layers)
{
	static const unsigned int ranges[][2] = {{0, 6}, {0, 1}, {0, 2}, {2, 5}, {5, 6}, {3, 4}};

	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		unsigned int from = ranges[i][0], to = ranges[i][1];
		struct disk_image_info info;
		struct part_of p;
		struct disk_kit k;
		char out[128];
		struct err e;

		make_chain(&k, 6);
		snprintf(out, sizeof(out), "%s/flat", k.dir);
		cr_assert_eq(disk_layers_flatten(part(&p, &k, false, from, to), out, &plain, &e), 0,
			     "%s", e.msg);
		cr_assert_eq(disk_layers_describe(out, &info, &e), 0);
		cr_assert(info.sealed && info.flat);
		/* And nothing of the old files is needed. */
		for (unsigned int f = from; f < to; f++)
			unlink(k.layers[f]);
		replace_layers(&k, from, to, out);
		expect_content(&k, "flattened");
		kit_fini(&k);
	}
}

Test(disk_image, a_flattened_layer_in_the_newest_ones_place_leaves_the_chain_right)
{
	struct part_of p;
	struct disk_kit k;
	struct err e;

	make_chain(&k, 6);
	cr_assert_eq(disk_layers_flatten(part(&p, &k, true, 0, 3), k.layers[2], &plain, &e),
		     -EEXIST);
	cr_assert_eq(disk_layers_flatten(part(&p, &k, true, 0, 3), k.layers[2], &over, &e), 0, "%s",
		     e.msg);
	expect_content(&k, "with the void ones");
	cr_assert_eq(disk_layers_flatten(part(&p, &k, false, 3, 6), k.layers[5], &over, &e), 0,
		     "%s", e.msg);
	expect_content(&k, "with void ones twice");
	/* The second one's parent was not among the void ones, and is needed. */
	replace_layers(&k, 3, 6, k.layers[5]);
	expect_content(&k, "without the second void ones");
	unlink(k.layers[0]);
	unlink(k.layers[1]);
	expect_content(&k, "when the void ones are gone");
	replace_layers(&k, 0, 3, k.layers[2]);
	expect_content(&k, "without the void ones");
	unlink(k.layers[0]);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_expect_eq(kit_read(&k, 0, other, 4096 * 20), -EIO);
	kit_fini(&k);
}

Test(disk_image, a_flattened_layer_does_not_excuse_a_missing_parent)
{
	struct part_of p;
	struct disk_kit k;
	struct err e;

	make_chain(&k, 6);
	cr_assert_eq(disk_layers_flatten(part(&p, &k, false, 2, 4), k.layers[3], &over, &e), 0,
		     "%s", e.msg);
	/* Its parent, layer 1, is not there: 0 and 2 are passed over, and that is noticed. */
	replace_layers(&k, 1, 3, k.layers[2]);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_expect_eq(kit_read(&k, 0, other, KIT_SIZE_BYTES), -EIO);
	kit_fini(&k);
}

Test(disk_image, layers_in_use_by_a_machine_can_be_flattened_but_not_its_top)
{
	struct part_of p;
	struct disk_kit k;
	char out[128];
	struct err e;

	make_chain(&k, 3);
	snprintf(out, sizeof(out), "%s/flat", k.dir);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	kit_expect(&k, 0, KIT_SIZE_BYTES, in_content, "before");
	cr_assert_eq(disk_layers_flatten(part(&p, &k, true, 0, 3), out, &plain, &e), 0, "%s",
		     e.msg);
	kit_expect(&k, 0, KIT_SIZE_BYTES, in_content, "after");
	cr_expect_eq(disk_layers_flatten(part(&p, &k, true, 0, 4), out, &over, &e), -EBUSY);
	cr_expect_eq(disk_layers_seal(k.overlay, &plain, &e), -EBUSY);
	kit_fini(&k);
}

static void expect_file(const char *path, const uint8_t *want, uint64_t len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	cr_assert_eq(fstat(fd, &st), 0);
	cr_assert_eq((uint64_t)st.st_size, len);
	cr_assert_eq(pread(fd, other, len, 0), (ssize_t)len);
	cr_assert_eq(memcmp(other, want, len), 0);
	close(fd);
}

Test(disk_image, an_export_is_the_disk_and_an_import_of_it_too)
{
	char raw[128], layer[128], copy[128];
	struct disk_image_source s;
	struct part_of p;
	struct disk_kit k;
	struct err e;

	make_chain(&k, 4);
	snprintf(raw, sizeof(raw), "%s/raw", k.dir);
	snprintf(layer, sizeof(layer), "%s/imported", k.dir);
	snprintf(copy, sizeof(copy), "%s/copy", k.dir);
	cr_assert_eq(disk_layers_export(part(&p, &k, false, 0, 5), raw, &plain, &e), -EINVAL);
	cr_expect(strstr(e.msg, "base"), "%s", e.msg);
	cr_assert_eq(disk_layers_export(part(&p, &k, true, 0, 5), raw, &plain, &e), 0, "%s", e.msg);
	expect_file(raw, content, KIT_SIZE_BYTES);
	s = (struct disk_image_source){.base_path = raw};
	cr_assert_eq(disk_layers_import(&s, layer, &plain, &e), 0, "%s", e.msg);
	cr_assert_eq(disk_layers_export(&s, copy, &plain, &e), 0, "%s", e.msg);
	expect_file(copy, content, KIT_SIZE_BYTES);
	k.no_base = true;
	k.layers_n = 1;
	memcpy(k.layers[0], layer, sizeof(k.layers[0]));
	snprintf(k.overlay, sizeof(k.overlay), "%s/new", k.dir);
	expect_content(&k, "imported");
	kit_fini(&k);
}

Test(disk_image, a_large_disk_with_little_on_it_makes_small_files)
{
	char layer[128], raw[128];
	struct disk_image_source s;
	struct disk_kit k;
	struct stat st;
	struct err e;
	int fd;

	kit_init(&k, KIT_BASE_BYTES);
	snprintf(raw, sizeof(raw), "%s/raw", k.dir);
	snprintf(layer, sizeof(layer), "%s/layer", k.dir);
	/* Data at the start and near the end of 40 GiB. */
	fd = open(raw, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_eq(ftruncate(fd, 40ll << 30), 0);
	cr_assert_eq(pwrite(fd, "begin", 5, 0), 5);
	cr_assert_eq(pwrite(fd, "end", 3, (40ll << 30) - 5000), 3);
	close(fd);
	s = (struct disk_image_source){.base_path = raw};
	cr_assert_eq(disk_layers_import(&s, layer, &plain, &e), 0, "%s", e.msg);
	cr_assert_eq(stat(layer, &st), 0);
	cr_expect_leq(st.st_blocks * 512, 256 << 10);
	unlink(raw);
	s = (struct disk_image_source){.layers = (const char *const[]){layer}, .layers_n = 1};
	cr_assert_eq(disk_layers_export(&s, raw, &plain, &e), 0, "%s", e.msg);
	cr_assert_eq(stat(raw, &st), 0);
	cr_expect_eq(st.st_size, 40ll << 30);
	cr_expect_leq(st.st_blocks * 512, 128 << 10);
	kit_fini(&k);
}

/* --- check ---------------------------------------------------------------------------------- */

static char problems[2048];

static void note(void *opaque, const char *text)
{
	(void)opaque;
	snprintf(problems + strlen(problems), sizeof(problems) - strlen(problems), "%s\n", text);
}

static int check(struct disk_kit *k, bool base)
{
	struct part_of p;
	struct err e;

	problems[0] = '\0';
	return disk_layers_check(part(&p, k, base, 0, k->layers_n + 1), note, NULL, &plain, &e);
}

Test(disk_image, a_check_finds_each_kind_of_damage_and_nothing_in_a_good_chain)
{
	struct layer_header h = {.magic = ""};
	char keep[sizeof(((struct disk_kit *)0)->base)];
	struct disk_kit k;

	make_chain(&k, 3);
	cr_assert_eq(check(&k, true), 0, "%s", problems);
	cr_assert_eq(check(&k, false), 0, "%s", problems);
	kit_patch(k.layers[2], LAYER_DATA + 4096 * 11 + 5, "\xee", 1);
	cr_expect_eq(check(&k, true), 1, "%s", problems);
	cr_expect(strstr(problems, "cluster 11"), "%s", problems);
	kit_patch(k.layers[0], LAYER_MAP + 3, "\xee", 1);
	cr_expect_eq(check(&k, true), 2, "%s", problems);
	cr_expect(strstr(problems, "map sector 0"), "%s", problems);
	/* A map that was lost as a whole is a good map of nothing, but not the sealed one. */
	kit_patch(k.layers[0], LAYER_MAP, &(struct layer_sector){.reserved = 0}, 512);
	cr_expect_eq(check(&k, true), 2, "%s", problems);
	cr_expect(strstr(problems, "not the one that was sealed"), "%s", problems);
	kit_patch(k.layers[1], 0, &h, sizeof(h));
	cr_expect_eq(check(&k, true), 3, "%s", problems);
	memcpy(keep, k.base, sizeof(keep));
	snprintf(k.base, sizeof(k.base), "%s/none", k.dir);
	cr_expect_geq(check(&k, true), 3, "%s", problems);
	memcpy(k.base, keep, sizeof(keep));
	kit_fini(&k);
}

Test(disk_image, damage_is_not_copied)
{
	struct part_of p;
	struct disk_kit k;
	char out[128];
	struct err e;

	make_chain(&k, 3);
	snprintf(out, sizeof(out), "%s/out", k.dir);
	kit_patch(k.layers[2], LAYER_DATA + 4096 * 11 + 5, "\xee", 1);
	cr_expect_eq(disk_layers_flatten(part(&p, &k, true, 0, 3), out, &plain, &e), -EIO);
	cr_expect_eq(disk_layers_export(part(&p, &k, true, 0, 3), out, &plain, &e), -EIO);
	cr_expect_lt(access(out, F_OK), 0);
	strcat(out, ".part");
	cr_expect_lt(access(out, F_OK), 0);
	kit_fini(&k);
}

/* --- kill -9, and a full host, at every point ---------------------------------------------------
 */

struct faults {
	unsigned int seen, at;
	int error; /* 0: SIGKILL */
};

static int fault_at(void *opaque, const char *name)
{
	struct faults *f = opaque;

	(void)name;
	if (++f->seen != f->at)
		return 0;
	if (!f->error)
		raise(SIGKILL);
	return f->error;
}

/* Flatten 1 to 5 of 6 in place of 4. Return: 0 or -errno. */
static int flatten_in_place(struct disk_kit *k, struct faults *f)
{
	struct disk_image_env env = {.replace = true, .fault = fault_at, .fault_opaque = f};
	struct part_of p;
	struct err e;

	return disk_layers_flatten(part(&p, k, false, 1, 5), k->layers[4], &env, &e);
}

static bool flatten_dies_at(unsigned int at)
{
	struct faults f = {.at = at};
	struct disk_kit k;
	int status;
	pid_t pid;

	make_chain(&k, 6);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (!pid)
		_exit(flatten_in_place(&k, &f) ? 1 : 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "point %u", at);
	expect_content(&k, "old or new");
	cr_assert_eq(check(&k, true), 0, "point %u: %s", at, problems);
	/* And what the dead one left is not in the way. */
	f.at = 0;
	cr_assert_eq(flatten_in_place(&k, &f), 0, "point %u", at);
	expect_content(&k, "at the second try");
	kit_fini(&k);
	return WIFSIGNALED(status);
}

Test(disk_image, flattening_survives_kill_9_at_every_point, .timeout = 300)
{
	unsigned int at = 1;

	while (flatten_dies_at(at))
		at++;
	cr_expect_gt(at, 8, "only %u points were passed", at);
}

Test(disk_image, flattening_on_a_full_host_leaves_the_old_layer_and_no_rubbish)
{
	for (unsigned int at = 1;; at++) {
		struct faults f = {.at = at, .error = -ENOSPC};
		struct disk_kit k;
		char rubbish[128];
		int rc;

		make_chain(&k, 6);
		rc = flatten_in_place(&k, &f);
		cr_assert(rc == -ENOSPC || (rc == 0 && f.seen < at), "point %u: %d", at, rc);
		snprintf(rubbish, sizeof(rubbish), "%s.part", k.layers[4]);
		cr_assert_lt(access(rubbish, F_OK), 0, "point %u", at);
		expect_content(&k, "old");
		kit_fini(&k);
		if (rc == 0)
			break;
	}
}
